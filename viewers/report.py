"""Results as one HTML file that opens from disk, asks no network, and can be sent on.

The 3D part is drawn by three.js, read from trimesh when the report is written: trimesh carries a copy for its own
notebook view. Compressed it takes 0.15 MB of the file (plotly.js: 1.5 MB, k3d: 0.8 MB), starts at once, and shades
flat machined faces as they are.
"""

import base64
import datetime
import gzip
import secrets
from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rad3d.defects import oriented_box
from rad3d.errors import DependencyError, ResultError
from rad3d.files import atomic_file
from rad3d.result import Defect, Inspection, versions
from rad3d.viewers.colours import STAGE, UNSEEN, VERDICT_SYMBOLS, Quantity, colour_stops, deviation_reach
from rad3d.viewers.display import Display, display_of
from rad3d.viewers.figures import deviation_histogram, score_histogram
from rad3d.viewers.measures import defect_measures, number, percent, view_title, worst_first
from rad3d.viewers.pictures import (
    camera_of_defect,
    cameras_of_part,
    close_up,
    cut_out,
    drawn,
    overlay,
    pair_caption,
    patch_pair,
    reduced,
    webp,
)
from rad3d.viewers.provenance import date_text, false_reject, inspected, provenance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 200_000
"""Vertices drawn of a single specimen; more specimens share `POINTS_OF_ALL`, so that the file stays small."""
POINTS_OF_ALL = 1_000_000
PICTURES_OF_ALL = 800
"""View pictures over all specimens; with many specimens each shows its most telling views."""
VIEW_PIXELS = 448
FIELD_OF_VIEW = 28
"""Degrees, narrow: a part looks as in a drawing."""
FRAME_HEIGHT = 720


def write_report(results: Sequence[Inspection], path: str | Path, *, title: str = "Inspection report") -> Path:
    """Write one self-contained HTML file with a section per specimen, and a summary where there are several.

    Raises:
        ResultError: no results, or the file cannot be written.
        DependencyError: the installed trimesh carries no three.js.
    """
    path = Path(path)
    page = report_html(results, title=title)
    with atomic_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def report_html(results: Sequence[Inspection], *, title: str = "Inspection report", views: bool = True) -> str:
    """The page that `write_report` writes; `views` = with the pictures of the views."""
    if not results:
        raise ResultError("report", expected="at least one result", got="none", remedy="name the results to show")
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_asset("report.html"))
    limit = min(POINTS, POINTS_OF_ALL // len(results))
    shown = max(2, PICTURES_OF_ALL // len(results) // 2) if views else 0
    results, reach = worst_first(results), deviation_reach(results)
    specimens = [_specimen(inspection, index, limit, shown, reach) for index, inspection in enumerate(results)]
    verdicts = [inspection.verdict for inspection in results]
    return page.render(
        title=title,
        date=date_text(datetime.datetime.now().astimezone()),
        specimens=specimens,
        counts=[(v, VERDICT_SYMBOLS[v], verdicts.count(v)) for v in ("fail", "incomplete", "pass") if v in verdicts],
        unseen=UNSEEN,
        stage=STAGE,
        style=_asset("report.css"),
        script=_asset("report.js"),
        three=_three(),
        nonce=secrets.token_urlsafe(16),
        version=versions()["rad3d"],
    )


def inspection_html(inspection: Inspection) -> str:
    """The report of one specimen as an element for a notebook, shut off from the notebook's own page."""
    page = report_html([inspection], title=inspection.specimen, views=False)
    return (
        f'<iframe srcdoc="{escape(page)}" sandbox="allow-scripts allow-downloads" title="Inspection"'
        f' style="width:100%;height:{FRAME_HEIGHT}px;border:0"></iframe>'
    )


def _specimen(inspection: Inspection, index: int, limit: int, views: int, reach_mm: float) -> dict[str, Any]:
    """Everything the template shows of one specimen."""
    shown: dict[str, Any] = {"stills": (), "defects": (), "scene": None}
    deviates = bool(np.isfinite(inspection.points.deviation_mm).any())
    if len(inspection.vertices_mm):
        shown = _shown(inspection, limit, reach_mm)
    return {
        "id": f"specimen-{index}",
        "inspection": inspection,
        "symbol": VERDICT_SYMBOLS[inspection.verdict],
        "score": number(inspection.score),
        "threshold": number(inspection.threshold),
        "share_of_bar": _share_of_bar(inspection),
        "coverage": percent(inspection.coverage),
        "coverage_total": percent(inspection.coverage_total),
        "least_coverage": inspection.settings.get("verdict", {}).get("min_coverage"),
        "false_reject": false_reject(inspection),
        "scores": _chart(lambda ax: score_histogram(inspection, ax=ax)),
        "deviations": _chart(lambda ax: deviation_histogram(inspection, reach_mm, ax=ax)) if deviates else "",
        "views": _views(inspection, views),
        "views_left_out": max(len(inspection.views) - views, 0) if views else 0,
        "inspected": inspected(inspection),
        "provenance": provenance(inspection),
        **shown,
    }


def _shown(inspection: Inspection, limit: int, reach_mm: float) -> dict[str, Any]:
    """What is drawn of the surface."""
    display = display_of(inspection, limit, reach_mm)
    cameras = cameras_of_part(display) + [camera_of_defect(display, defect) for defect in inspection.defects]
    main = [quantity for quantity in display.quantities if quantity.scale != "sequential"] or display.quantities[:1]
    front, back, *close = drawn(display, cameras, main)
    stills = [
        {
            "title": quantity.title,
            "pictures": [_picture(front[k]), _picture(back[k])],
            "colours": colour_stops(quantity.scale),
            "labels": [number(value) for value in np.linspace(quantity.low, quantity.high, 3)],
        }
        for k, quantity in enumerate(main)
    ]
    defects = [
        _defect(inspection, defect, _picture(pictures[0]))
        for defect, pictures in zip(inspection.defects, close, strict=True)
    ]
    return {"stills": stills, "defects": defects, "note": display.note, "scene": _scene(display, inspection)}


def _defect(inspection: Inspection, defect: Defect, picture: str) -> dict[str, Any]:
    found = close_up(inspection, defect)
    seen: dict[str, str] = {}
    if found is not None:
        cut = cut_out(*found)
        seen = {
            "view": view_title(cut.name),
            "image": _picture(cut.image, 200),
            "heat": _picture(overlay(cut, inspection.threshold), 200),
        }
    compared = patch_pair(inspection, defect)
    alike: dict[str, Any] = {}
    if compared is not None:
        pair, images = compared
        alike = {"pictures": [_picture(image, 160) for image in images], "caption": pair_caption(pair)}
    return {
        "id": defect.id,
        "picture": picture,
        "seen": seen,
        "alike": alike,
        "measures": defect_measures(defect, inspection),
    }


def _views(inspection: Inspection, most: int) -> list[dict[str, str]]:
    """The most anomalous views, in their own order; smaller where many specimens leave room for few."""
    peak = [float(np.nanmax(v.score)) if np.isfinite(v.score).any() else -np.inf for v in inspection.views]
    chosen = sorted(sorted(range(len(peak)), key=lambda i: -peak[i])[:most])
    longest = VIEW_PIXELS if most >= len(peak) else VIEW_PIXELS // 2
    shown = []
    for index in chosen:
        view = reduced(inspection.views[index], longest)
        heat = _picture(overlay(view, inspection.threshold), longest)
        said = f"peak {number(peak[index])}" if np.isfinite(peak[index]) else "not inspected"
        shown.append(
            {"name": view_title(view.name), "image": _picture(view.image, longest), "heat": heat, "said": said}
        )
    return shown


def _scene(display: Display, inspection: Inspection) -> dict[str, Any]:
    """What report.js draws: positions and values as 16-bit steps of their range, compressed."""
    centre, radius = display.sphere
    low = display.vertices_mm.min(axis=0)
    step = np.maximum(np.ptp(display.vertices_mm, axis=0) / 65535, 1e-12)
    faces = display.faces
    return {
        "count": len(display.vertices_mm),
        "low": low.tolist(),
        "step": step.tolist(),
        "vertices": _packed(np.round((display.vertices_mm - low) / step).astype("<u2")),
        "faces": None if faces is None or not len(faces) else _packed(faces.astype("<u4")),
        "centre": centre.tolist(),
        "radius": radius,
        "field_of_view": FIELD_OF_VIEW,
        "quantities": [_quantity(quantity, inspection) for quantity in display.quantities],
        "defects": [
            {
                "id": d.id,
                "at": list(d.centroid_mm),
                "normal": list(d.normal),
                "size": d.extent_mm[0],
                "box": _box(inspection, d),
                **_seen_from(display, d),
            }
            for d in inspection.defects
        ],
    }


def _box(inspection: Inspection, defect: Defect) -> list[list[float]]:
    """Corners of the box around a defect; none where the result does not know which vertices are its own."""
    own = inspection.vertices_mm[inspection.points.defect_id == defect.id]
    return np.round(oriented_box(own), 3).tolist() if len(own) else []


def _seen_from(display: Display, defect: Defect) -> dict[str, Any]:
    """Where the page's camera flies to: a direction and a distance."""
    radius = display.sphere[1]
    reach = float(np.clip(1.6 * defect.extent_mm[0], 0.18 * radius, radius)) / np.sin(np.deg2rad(FIELD_OF_VIEW / 2))
    side, free = display.outlook.of(defect.centroid_mm, defect.normal, reach)
    return {"side": side.tolist(), "distance": free}


def _quantity(quantity: Quantity, inspection: Inspection) -> dict[str, Any]:
    finite = np.isfinite(quantity.values)
    values = np.where(finite, quantity.values, 0)
    low = float(values.min(initial=0))
    step = max(float(values.max(initial=0)) - low, 1e-9) / 65534
    packed = np.where(finite, np.round((values - low) / step), 65535).astype("<u2")
    ticks = np.linspace(quantity.low, quantity.high, 5).tolist()
    return {
        "name": quantity.name,
        "title": quantity.title,
        "unit": quantity.unit,
        "values": _packed(packed),
        "low": low,
        "step": step,
        "from": quantity.low,
        "to": quantity.high,
        "ticks": ticks,
        "labels": [number(tick) for tick in ticks],
        "colours": colour_stops(quantity.scale),
        "marks": [{"value": inspection.threshold, "name": "threshold"}] if quantity.scale == "heat" else [],
    }


def _chart(draw: Callable[["Axes"], object]) -> str:
    """A figure of the page, as SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(6.4, 2.5))
        draw(figure.add_axes((0.14, 0.2, 0.82, 0.76)))
        file = StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    # the page's ink instead of black, so that it is readable on dark paper as well
    return svg[svg.index("<svg") :].replace("#262626", "currentColor")


def _share_of_bar(inspection: Inspection) -> float:
    """Where the score lies between a tenth of the threshold and ten times as much: the middle is the threshold."""
    if not inspection.threshold > 0 or not inspection.score > 0:
        return 0.0
    return float(np.clip(0.5 + 0.5 * np.log10(inspection.score / inspection.threshold), 0, 1))


def _asset(name: str) -> str:
    return resources.files("rad3d.viewers").joinpath(name).read_text(encoding="utf-8")


@cache
def _three() -> str:
    """three.js, compressed: the first part of the script in trimesh's own page, on one line."""
    import trimesh
    from trimesh.viewer.notebook import scene_to_html

    page = scene_to_html(trimesh.Scene(trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])))
    start = page.find("!function(t,e)")
    script = page[start : page.find("\n", start)]
    if start < 0 or "THREE={}" not in script:
        raise DependencyError(
            "report",
            expected="three.js in trimesh's notebook view",
            got=f"trimesh {trimesh.__version__} without it",
            remedy="install the version of trimesh that this version of rad3d was tested with",
        )
    return _base64(gzip.compress(script.encode(), 9, mtime=0))


def _packed(values: np.ndarray) -> str:
    """An array's bytes, compressed."""
    return _base64(gzip.compress(np.ascontiguousarray(values).tobytes(), 4, mtime=0))


def _picture(pixels: np.ndarray, longest: int = 480) -> str:
    """A picture as the address of an image."""
    return "data:image/webp;base64," + _base64(webp(pixels, longest))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
