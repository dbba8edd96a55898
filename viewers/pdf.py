"""Results as a PDF to send on or print: the same content as the report, with rendered pictures."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill, shorten, wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from rad3d.arrays import Image
from rad3d.errors import ResultError
from rad3d.files import atomic_file
from rad3d.result import Inspection
from rad3d.viewers.colours import VERDICT_COLOURS, VERDICT_SYMBOLS, Quantity, colour_stops, deviation_reach, rgb
from rad3d.viewers.display import display_of
from rad3d.viewers.figures import contact_sheet_pages, deviation_histogram, score_histogram
from rad3d.viewers.measures import defect_measures, number, percent, short, view_title, worst_first
from rad3d.viewers.pictures import (
    camera_of_defect,
    cameras_of_part,
    close_up,
    cut_out,
    drawn,
    on_stage,
    overlay,
    pair_caption,
    patch_pair,
)
from rad3d.viewers.provenance import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

A4 = (8.27, 11.69)
POINTS = 150_000
POINTS_OF_ALL = 1_000_000
"""Vertices drawn of one specimen, and of all together, so that many specimens take no longer than people wait."""
SPECIMENS_PER_PAGE = 24
ROW = 0.034
"""Height of a specimen in the summary, as share of the page."""
LETTERS_OF_NAME = 34
"""Of a specimen, that fit into its column of the summary."""
DEFECTS_PER_PAGE = 3
LINES_PER_PAGE = 66
MUTED = "#5b646e"


def write_pdf(results: Sequence[Inspection], path: str | Path, *, title: str = "Inspection report") -> Path:
    """Write a PDF: a summary where there are several specimens, then per specimen its findings, views and origin.

    Raises:
        ResultError: no results, or the file cannot be written.
    """
    from matplotlib.backends.backend_pdf import PdfPages

    if not results:
        raise ResultError("report", expected="at least one result", got="none", remedy="name the results to show")
    path, results = Path(path), worst_first(results)
    with atomic_file(path) as partial, PdfPages(partial, metadata={"Title": title, "Creator": "rad3d"}) as pages:
        if len(results) > 1:
            for start in range(0, len(results), SPECIMENS_PER_PAGE):
                pages.savefig(_summary(results, start, title))
        points, reach = min(POINTS, POINTS_OF_ALL // len(results)), deviation_reach(results)
        for inspection in results:
            for figure in pages_of(inspection, points, reach):
                pages.savefig(figure)
    return path


def pages_of(inspection: Inspection, points: int = POINTS, reach_mm: float | None = None) -> list["Figure"]:
    """One specimen: what was found, its views, and where the result comes from.

    Args:
        points: vertices that are drawn.
        reach_mm: the deviation of the last colour; by default from this specimen alone.
    """
    views = contact_sheet_pages(inspection, A4) if inspection.views else []
    return [*_specimen(inspection, points, reach_mm), *views, *_provenance(inspection)]


def _page() -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=A4)


def _say(figure: "Figure", x: float, y: float, text: str, **style: Any) -> None:
    """Text from its upper left; names are never read as markup."""
    figure.text(x, y, text, va="top", parse_math=False, **style)


def _summary(results: Sequence[Inspection], start: int, title: str) -> "Figure":
    figure = _page()
    verdicts = [inspection.verdict for inspection in results]
    _say(figure, 0.08, 0.95, title, size=16, weight="bold")
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("fail", "incomplete", "pass") if v in verdicts)
    _say(figure, 0.08, 0.92, f"{len(results)} specimens: {counts}", size=10)
    columns = (0.08, 0.45, 0.6, 0.7, 0.8)
    for x, name in zip(columns, ("Specimen", "Verdict", "Score", "Defects", "Coverage"), strict=True):
        _say(figure, x, 0.885, name, size=9, color=MUTED)
    for row, inspection in enumerate(results[start : start + SPECIMENS_PER_PAGE]):
        y = 0.865 - ROW * row
        verdict = f"{VERDICT_SYMBOLS[inspection.verdict]} {inspection.verdict}"
        _say(figure, columns[0], y, short(inspection.specimen, LETTERS_OF_NAME), size=9)
        _say(figure, columns[1], y, verdict, size=9, color=VERDICT_COLOURS[inspection.verdict], weight="bold")
        cells = (number(inspection.score), str(len(inspection.defects)), percent(inspection.coverage))
        for x, cell in zip(columns[2:], cells, strict=True):
            _say(figure, x, y, cell, size=9)
        _say(figure, columns[0], y - 0.016, short(inspection.reason, 118), size=7, color=MUTED)
    return figure


def _specimen(inspection: Inspection, points: int, reach_mm: float | None) -> list["Figure"]:
    """Findings of one specimen, on as many pages as its defects need."""
    shown, close = _pictures(inspection, points, reach_mm) if len(inspection.vertices_mm) else ([], [])
    figure = _page()
    verdict = f"{VERDICT_SYMBOLS[inspection.verdict]} {inspection.verdict.upper()}"
    count = len(inspection.defects)
    _say(figure, 0.08, 0.96, short(inspection.specimen, 42), size=16, weight="bold")
    _say(figure, 0.08, 0.93, verdict, size=14, weight="bold", color=VERDICT_COLOURS[inspection.verdict])
    _say(figure, 0.3, 0.928, fill(shorten(inspection.reason, 220, placeholder=" …"), 56), size=10)
    _say(
        figure,
        0.08,
        0.865,
        f"Score {number(inspection.score)} (fails above {number(inspection.threshold)}), "
        f"{count} defect{'' if count == 1 else 's'}, {percent(inspection.coverage)} of the inspectable\n"
        f"and {percent(inspection.coverage_total)} of the whole surface judged",
        size=9,
        color=MUTED,
    )
    for row, (quantity, sides) in enumerate(shown):
        _scale(figure, 0.83 - 0.22 * row, quantity)
        for column, side in enumerate(sides):
            ax = figure.add_axes((0.08 + 0.425 * column, 0.615 - 0.22 * row, 0.42, 0.2))
            ax.imshow(side)
            ax.set_axis_off()
    score_histogram(inspection, ax=figure.add_axes((0.14, 0.24, 0.75, 0.12)))
    if np.isfinite(inspection.points.deviation_mm).any():
        deviation_histogram(inspection, reach_mm, ax=figure.add_axes((0.14, 0.06, 0.75, 0.12)))
    pages = [figure]
    for start in range(0, len(inspection.defects), DEFECTS_PER_PAGE):
        figure = _page()
        _say(figure, 0.08, 0.96, f"Defects of {short(inspection.specimen, 40)}", size=13, weight="bold")
        shown_defects = inspection.defects[start : start + DEFECTS_PER_PAGE]
        for row, (defect, picture) in enumerate(zip(shown_defects, close[start:], strict=False)):
            top = 0.92 - 0.3 * row
            ax = figure.add_axes((0.08, top - 0.16, 0.28, 0.16))
            ax.imshow(picture)
            ax.set_axis_off()
            lines = "\n".join(f"{name}: {value}" for name, value in defect_measures(defect, inspection))
            _say(figure, 0.4, top, f"Defect {defect.id}", size=10, weight="bold")
            _say(figure, 0.4, top - 0.02, lines, size=9)
            compared = patch_pair(inspection, defect)
            if compared is not None:
                pair, images = compared
                _side_by_side(figure, top, images, pair_caption(pair))
            found = close_up(inspection, defect)
            if found is not None:
                cut = cut_out(*found)
                pictures = [cut.image, overlay(cut, inspection.threshold)]
                _side_by_side(figure, top - 0.14, pictures, f"{view_title(cut.name)}, beside its heat map")
        pages.append(figure)
    return pages


def _side_by_side(figure: "Figure", top: float, pictures: Sequence[Image], said: str) -> None:
    """Two pictures at the right of a defect, with what they are."""
    ax = figure.add_axes((0.68, top - 0.078, 0.24, 0.078), anchor="NW")
    ax.imshow(np.concatenate(pictures, axis=1))
    ax.set_axis_off()
    _say(figure, 0.68, top - 0.08, fill(said, 48), size=6.5, color=MUTED)


def _scale(figure: "Figure", top: float, quantity: Quantity) -> None:
    """What the colours of the pictures below stand for."""
    _say(figure, 0.08, top, f"{quantity.title}; dark grey: not inspected", size=8)
    ax = figure.add_axes((0.62, top - 0.009, 0.2, 0.009))
    ax.imshow(np.stack([rgb(colour) for colour in colour_stops(quantity.scale)])[None], aspect="auto")
    ax.set_axis_off()
    _say(figure, 0.61, top, number(quantity.low), size=8, ha="right")
    _say(figure, 0.83, top, number(quantity.high), size=8)


def _pictures(
    inspection: Inspection, points: int, reach_mm: float | None
) -> tuple[list[tuple[Quantity, list[Image]]], list[Image]]:
    """The part from two sides in the colours of each quantity; and each defect close up."""
    display = display_of(inspection, points, reach_mm)
    cameras = cameras_of_part(display, (480, 640)) + [camera_of_defect(display, d) for d in inspection.defects]
    shown = [quantity for quantity in display.quantities if quantity.scale != "sequential"][:2]
    front, back, *close = drawn(display, cameras, shown)
    pictures = [(quantity, [on_stage(front[k]), on_stage(back[k])]) for k, quantity in enumerate(shown)]
    return pictures, [on_stage(found[0]) for found in close]


def _provenance(inspection: Inspection) -> list["Figure"]:
    """Where a result comes from, on as many pages as its views and settings need."""
    lines: list[tuple[str, str]] = []
    for name, value in provenance(inspection):
        first, *more = wrap(value, 80) or ["–"]
        lines += [(short(name, 34), first), *(("", line) for line in more)]
    pages = []
    for start in range(0, len(lines), LINES_PER_PAGE):
        figure = _page()
        _say(figure, 0.08, 0.96, f"Where {short(inspection.specimen, 36)} comes from", size=13, weight="bold")
        for row, (name, value) in enumerate(lines[start : start + LINES_PER_PAGE]):
            _say(figure, 0.08, 0.92 - 0.013 * row, name, size=8, color=MUTED)
            _say(figure, 0.36, 0.92 - 0.013 * row, value, size=8)
        pages.append(figure)
    return pages
