"""What can be shown on a part, and in which colours; the same in figures, report and live viewer.

All maps are readable for the colour-blind and keep their order in grey print (https://matplotlib.org/stable/users/
explain/colors/colormaps.html); verdicts take the Okabe-Ito palette (https://jfly.uni-koeln.de/color/) and always come
with a symbol.
"""

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from rad3d.arrays import Colours, Values
from rad3d.result import Inspection, Verdict, heat_colours, table_colours

VERDICT_COLOURS: dict[Verdict, str] = {"pass": "#00795a", "fail": "#b34700", "incomplete": "#5b6b85"}
VERDICT_SYMBOLS: dict[Verdict, str] = {"pass": "✓", "fail": "✕", "incomplete": "?"}
CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

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
        values: (n,) float32; NaN is shown grey as not inspected.
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
        if self.scale == "heat":
            return heat_colours(self.values, self.high / 2)
        return mapped_colours(self.values, self.low, self.high, self.scale)


def mapped_colours(values: Values, low: float, high: float, scale: Scale) -> Colours:
    """Values (n,) -> (n, 3) uint8 of the scale's map from `low` to `high`; grey for NaN.

    >>> mapped_colours(np.array([0.0, np.nan]), -1.0, 1.0, "diverging")
    array([[247, 246, 246],
           [128, 128, 128]], dtype=uint8)
    """
    return table_colours(COLOUR_MAPS[scale], values, low, high)


def colour_stops(scale: Scale) -> list[str]:
    """The scale's map as evenly spaced hexadecimal colours, first to last."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colormaps[COLOUR_MAPS[scale]](np.linspace(0, 1, STOPS))]


def quantities(inspection: Inspection) -> tuple[Quantity, ...]:
    """Everything the inspection holds per vertex: the score first, then the deviation where there is one."""
    names = [f.name for f in fields(inspection.points) if f.name != "defect_id"]  # a number, but no quantity
    present = [name for name in names if getattr(inspection.points, name) is not None]
    ordered = sorted(present, key=lambda name: list(_KNOWN).index(name) if name in _KNOWN else len(_KNOWN))
    return tuple(_quantity(inspection, name) for name in ordered)


def _quantity(inspection: Inspection, name: str) -> Quantity:
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
        # the 99.5th percentile, so that a few stray points do not turn the rest white
        high = float(np.percentile(np.abs(finite), 99.5)) if len(finite) else 0.0
        high = high or 1.0
        low = -high
    else:
        low = 0.0
        high = 1.0 if name == "agreement" else (float(finite.max()) if len(finite) else 0.0) or 1.0
    return Quantity(name, label, unit, scale, values, low, high)
