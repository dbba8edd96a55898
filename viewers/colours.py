"""What can be shown on a part, and in which colours; the same in figures, report and live viewer.

All maps are readable for the colour-blind and keep their order in grey print (https://matplotlib.org/stable/users/
explain/colors/colormaps.html); verdicts take the Okabe-Ito palette (https://jfly.uni-koeln.de/color/) and always come
with a symbol.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from rad3d.arrays import Colours, Values
from rad3d.result import Inspection, Verdict, table_colours

VERDICT_COLOURS: dict[Verdict, str] = {"pass": "#00795a", "fail": "#b34700", "incomplete": "#5b6b85"}
VERDICT_SYMBOLS: dict[Verdict, str] = {"pass": "✓", "fail": "✕", "incomplete": "?"}
CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

UNSEEN = "#5a5e64"
"""Not inspected: darker than any good surface under the light of the pictures, and without a hue."""
STAGE = "#dce2e9"
"""What the part stands before: neither the white of no deviation nor the yellow of a low score."""

Scale = Literal["heat", "diverging", "sequential"]
COLOUR_MAPS: dict[Scale, str] = {"heat": "YlOrRd", "diverging": "RdBu_r", "sequential": "viridis"}
STOPS = 33
"""Samples by which a colour map is handed to other software; odd, so that the middle of a diverging map is one."""

_KNOWN: dict[str, tuple[str, str, Scale]] = {
    "anomaly_score": ("Anomaly score", "", "heat"),
    "deviation_mm": ("Signed deviation", "mm", "diverging"),
    "agreement": ("Agreement", "", "sequential"),
    "views_seen": ("Coverage", "views", "sequential"),
    "raw_score": ("Raw score", "", "sequential"),
}


@dataclass(frozen=True, eq=False)
class Quantity:
    """One number per vertex, and how to show it.

    Args:
        name: field of the point scores.
        label: for people.
        unit: of the values, empty where they have none.
        scale: heat for scores with a threshold, diverging for signed values around 0, sequential otherwise.
        values: (n,) float32; NaN is shown dark grey as not inspected.
        low: value of the first colour.
        high: value of the last colour.
    """

    name: str
    label: str
    unit: str
    scale: Scale
    values: Values
    low: float
    high: float

    @property
    def title(self) -> str:
        """Label with unit."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label

    def colours(self) -> Colours:
        """(n, 3) uint8 for every vertex."""
        return mapped_colours(self.values, self.low, self.high, self.scale)


def rgb(colour: str) -> Colours:
    """A hexadecimal colour as (3,) uint8."""
    return np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)], np.uint8)


def mapped_colours(values: Values, low: float, high: float, scale: Scale) -> Colours:
    """Values (n,) -> (n, 3) uint8 of the scale's map from `low` to `high`; dark grey for NaN.

    >>> mapped_colours(np.array([0.0, np.nan]), -1.0, 1.0, "diverging")
    array([[247, 246, 246],
           [ 90,  94, 100]], dtype=uint8)
    """
    colours = table_colours(COLOUR_MAPS[scale], values, low, high)
    colours[np.isnan(values)] = rgb(UNSEEN)
    return colours


def colour_stops(scale: Scale) -> list[str]:
    """The scale's map as evenly spaced hexadecimal colours, first to last."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colormaps[COLOUR_MAPS[scale]](np.linspace(0, 1, STOPS))]


def deviation_reach(inspections: Sequence[Inspection]) -> float:
    """The deviation in mm of the last colour, the same for all specimens that are looked at together.

    The 99.5th percentile of the specimen that deviates most, so that a few stray points do not turn the rest white;
    but at least the deviation that scores twice the threshold in units of the good specimens' spread, so that a good
    specimen is not painted in full colours, and twice the least depth of a defect.
    """
    return max((_reach(inspection) for inspection in inspections), default=0.0) or 1.0


def _reach(inspection: Inspection) -> float:
    size, score = np.abs(inspection.points.deviation_mm), inspection.points.geometry_score
    known, scored = np.isfinite(size), score > 0
    widest = float(np.percentile(size[known], 99.5)) if known.any() else 0.0
    spread = float(np.median(size[known & scored] / score[known & scored])) if (known & scored).any() else 0.0
    threshold = inspection.threshold if np.isfinite(inspection.threshold) else 0.0
    least_depth = float(inspection.settings.get("verdict", {}).get("min_depth_mm", 0.0))
    return max(widest, 2 * threshold * spread, 2 * least_depth)


def quantities(inspection: Inspection, reach_mm: float | None = None) -> tuple[Quantity, ...]:
    """Everything the inspection holds per vertex: the score first, then the deviation where there is one.

    Args:
        reach_mm: the deviation of the last colour; by default this inspection's own `deviation_reach`.
    """
    reach_mm = deviation_reach([inspection]) if reach_mm is None else reach_mm
    names = [f.name for f in fields(inspection.points) if f.name != "defect_id"]  # a number, but no quantity
    present = [name for name in names if getattr(inspection.points, name) is not None]
    ordered = sorted(present, key=lambda name: list(_KNOWN).index(name) if name in _KNOWN else len(_KNOWN))
    return tuple(_quantity(inspection, name, reach_mm) for name in ordered)


def _quantity(inspection: Inspection, name: str, reach_mm: float) -> Quantity:
    values = np.asarray(getattr(inspection.points, name)).astype(np.float32)
    if name == "views_seen":
        values[values == 0] = np.nan  # unseen is not inspected, never a low value
    label, unit, scale = _KNOWN.get(name, (name.replace("_", " ").capitalize(), "", "sequential"))
    if name.endswith("_mm"):
        unit = "mm"
    finite = values[np.isfinite(values)]
    if scale == "heat":
        threshold = inspection.threshold
        low, high = 0.0, 2 * threshold if np.isfinite(threshold) and threshold > 0 else 1.0
    elif scale == "diverging":
        low, high = -reach_mm, reach_mm
    else:
        low = 0.0
        high = 1.0 if name == "agreement" else (float(finite.max()) if len(finite) else 0.0) or 1.0
    return Quantity(name, label, unit, scale, values, low, high)
