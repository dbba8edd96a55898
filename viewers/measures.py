"""Numbers for people: sensible digits, with units."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from rad3d.result import Defect, Inspection

_UNITS = {"_mm2": "mm²", "_mm3": "mm³", "_mm": "mm"}
_NAMES = {
    "area_mm2": "Area",
    "extent_mm": "Extent",
    "peak_score": "Peak score",
    "mean_score": "Mean score",
    "centroid_mm": "Centre",
    "kind": "Kind",
    "deviation_mm": "Height or depth",
    "volume_mm3": "Volume",
    "geometry_share": "Share of shape",
    "p_value": "p-value",
}
_LEFT_OUT = ("id", "normal", "normal_part", "centroid_part_mm")


def number(value: float, digits: int = 3) -> str:
    """Significant digits without an exponent where that is readable; a dash where there is no number.

    >>> number(1234.5), number(0.01234), number(2.0), number(float("nan"))
    ('1,234', '0.0123', '2', '–')
    """
    if not np.isfinite(value):
        return "–"
    value += 0.0  # never -0
    if abs(value) >= 10**digits:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.{digits - 1}e}"
    return f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """One digit after the point only where it matters: 100 % is said of everything, never of nearly everything."""
    if share is None or not np.isfinite(share):
        return "–"
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{min(max(100 * share, 0.1), 99.9):.1f}%"


def short(text: str, most: int) -> str:
    """Not more than so many characters; an ellipsis stands for the rest."""
    return text if len(text) <= most else text[: most - 1] + "…"


def view_title(name: str) -> str:
    """Rendered views have numbers for names.

    >>> view_title("010"), view_title("left camera")
    ('View 010', 'left camera')
    """
    return f"View {name}" if name.isdigit() else name


def worst_first(results: Sequence[Inspection]) -> list[Inspection]:
    """Failed ones, then incomplete ones, then good ones; of each the highest score first."""
    verdicts = ("fail", "incomplete", "pass")
    return sorted(results, key=lambda result: (verdicts.index(result.verdict), -np.nan_to_num(result.score)))


def defect_measures(defect: Defect, inspection: Inspection) -> list[tuple[str, str]]:
    """What there is to say about a defect, by name, with units; the known measures first, then any other."""
    extrapolated = inspection.false_reject.get("method") == "extrapolated"
    known = {f.name: getattr(defect, f.name) for f in fields(defect) if f.name not in _LEFT_OUT}
    present = [name for name, value in known.items() if value is not None and value == value]  # no NaN
    ordered = sorted(present, key=lambda name: list(_NAMES).index(name) if name in _NAMES else len(_NAMES))
    said = {name: _text(name, getattr(defect, name)) for name in ordered}
    if extrapolated and "p_value" in said:
        said["p_value"] += " (extrapolated)"
    return [(_NAMES.get(name, name.replace("_", " ").capitalize()), text) for name, text in said.items()]


def _text(name: str, value: object) -> str:
    unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
    if name == "geometry_share" and isinstance(value, float):
        text = percent(value)
    elif name == "centroid_mm" and isinstance(value, tuple):
        text = ", ".join(f"{round(x, 1) + 0.0:.1f}" for x in value)
    elif name == "extent_mm" and isinstance(value, tuple):
        sides = [round(side, 2) for side in value]
        text = " × ".join(number(side) for side in (*sides[:2], *(side for side in sides[2:] if side)))  # flat: two
    elif isinstance(value, int | float | np.number) and not isinstance(value, bool):
        text = number(float(value))
    else:
        text = str(value)
    return f"{text} {unit}".strip()
