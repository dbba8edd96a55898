"""Figures for papers and reports, with matplotlib.

Every function draws on `ax` where one is given and on a new figure otherwise, and returns the axes; save with
`ax.figure.savefig("roc.svg")` (or .pdf, .png). No state of pyplot is touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PilImage

from rad3d.arrays import Image, Points, Values
from rad3d.geometry import bounding_sphere
from rad3d.memory import Memory
from rad3d.result import Inspection, ViewScores, heat_colours
from rad3d.viewers.colours import (
    CATEGORIES,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    colour_stops,
    deviation_reach,
    mapped_colours,
)
from rad3d.viewers.measures import number, short, view_title
from rad3d.viewers.pictures import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d import Axes3D

PRO_LIMIT = 0.3
"""Largest false positive rate of the PRO integral (Bergmann et al., IJCV 2021)."""
VIEWS_PER_ROW = 4
SHEET_DPI = 150
BETWEEN = 0.03
"""Between pictures of a contact sheet, as share of their width."""
INK = "#262626"
MOST_TICKS = 5
"""Along the longest axis of a memory map."""
HEAD, TITLE = 0.97, 0.3
"""Inches of a contact sheet for the verdict, and over each view for its name."""
LETTERS = 12
"""In an inch of a contact sheet, of a name that has to fit."""
LEAST_BAR = 0.5
"""Where the bars of a histogram with a logarithmic axis begin."""


def contact_sheet_figure(inspection: Inspection, *, ax: "Axes | None" = None) -> "Axes":
    """All views, each with its heat map beside it and the anomalous region outlined.

    On `ax` it is one picture, words and all, as `contact_sheet` writes it; a figure of its own keeps words as text.
    """
    if ax is not None:
        ax.set_axis_off()
        ax.imshow(_contact_picture(inspection))
        return ax
    return _pasted(*_sheet(inspection, _Grid.of(inspection.views))).axes[-1]


def contact_sheet_pages(inspection: Inspection, size: tuple[float, float]) -> list["Figure"]:
    """The same on pages of that width and height in inches, as many as the views need."""
    grid = _Grid.of(inspection.views, *size)
    each = grid.columns * max(1, int((size[1] - HEAD) / grid.row_height))
    parts = [inspection.views[start : start + each] for start in range(0, len(inspection.views), each)]
    return [_pasted(*_sheet(replace(inspection, views=views), grid)) for views in parts]


def _pasted(figure: "Figure", paper: Image) -> "Figure":
    ax = figure.add_axes((0, 0, 1, 1), zorder=-1)
    ax.set_axis_off()
    ax.imshow(paper, interpolation="none", aspect="auto")
    return figure


@dataclass(frozen=True)
class _Grid:
    """Where a contact sheet's pictures go, the same on all its pages; in inches, `side` being a picture's width."""

    width: float
    height: float
    columns: int
    side: float
    row_height: float

    @staticmethod
    def of(views: Sequence[ViewScores], width: float | None = None, height: float | None = None) -> "_Grid":
        """For a sheet of that size; by default as large as the views need."""
        columns = max(1, min(VIEWS_PER_ROW // 2, len(views)))
        width = width or 4.4 * columns
        side = 0.92 * width / (2 * columns * (1 + BETWEEN) - BETWEEN)
        ratio = views[0].image.shape[0] / views[0].image.shape[1] if views else 0.2
        row_height = side * ratio + TITLE
        if height is not None:
            return _Grid(width, height, columns, side, min(row_height, height - HEAD))
        return _Grid(width, HEAD + max(1, ceil(len(views) / columns)) * row_height, columns, side, row_height)


def _sheet(inspection: Inspection, grid: _Grid) -> tuple["Figure", Image]:
    """The words of a contact sheet, and its pictures as one: matplotlib is slow with many."""
    from matplotlib.figure import Figure

    views, width, height, side = inspection.views, grid.width, grid.height, grid.side
    paper = np.full((round(height * SHEET_DPI), round(width * SHEET_DPI), 3), 255, np.uint8)
    figure = Figure(figsize=(paper.shape[1] / SHEET_DPI, paper.shape[0] / SHEET_DPI))
    for index, view in enumerate(views):
        row, column = divmod(index, grid.columns)
        left, top = 0.01 * width + 2 * column * side * (1 + BETWEEN), HEAD + row * grid.row_height
        for picture in (view.image, overlay(view, inspection.threshold)):
            _paste(paper, picture, (left, top, side, grid.row_height - TITLE))
            left += side * (1 + BETWEEN)
        name = short(view_title(view.name), int(LETTERS * side))
        name = name if np.isfinite(view.score).any() else f"{name}, not inspected"
        at = (left - 2 * side * (1 + BETWEEN)) / width, 1 - (top - 0.04) / height
        figure.text(*at, name, size=8, va="bottom", parse_math=False)
    if not views:
        figure.text(0.01, 0.1, "This result holds no views.")
    figure.text(
        0.01,
        1 - 0.1 / height,
        f"{VERDICT_SYMBOLS[inspection.verdict]} {inspection.verdict.upper()}   ",
        color=VERDICT_COLOURS[inspection.verdict],
        weight="bold",
        size=13,
        va="top",
    )
    # parse_math: a name such as a$b$c is text, never markup
    name = short(inspection.specimen, int(LETTERS * (width - 2)))
    caption = f"{name}\nscore {number(inspection.score)}, threshold {number(inspection.threshold)}"
    figure.text(0.01 + 1.5 / width, 1 - 0.1 / height, caption, size=9, va="top", parse_math=False)
    _colour_bar(figure, inspection.threshold, (0.945, 0.15, 0.5 / width * 0.35, 0.6))
    return figure, paper


def _paste(paper: Image, picture: Image, box: tuple[float, float, float, float]) -> None:
    """The picture as large as fits into a box (left, top, width, height in inches), in its middle."""
    left, top, width, height = (SHEET_DPI * side for side in box)
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = round(scale * picture.shape[1]), round(scale * picture.shape[0])
    x, y = round(left + (width - size[0]) / 2), round(top + (height - size[1]) / 2)
    scaled = PilImage.fromarray(picture).resize(size, PilImage.Resampling.BILINEAR)
    paper[y : y + size[1], x : x + size[0]] = scaled


def contact_sheet(inspection: Inspection, path: str | Path) -> Path:
    """Write the views with heat maps and outlines as one picture; the suffix chooses PNG, PDF or SVG."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        _pasted(*_sheet(inspection, _Grid.of(inspection.views))).savefig(path)
        return path
    PilImage.fromarray(_contact_picture(inspection)).save(path, compress_level=4, dpi=(SHEET_DPI, SHEET_DPI))
    return path


def _contact_picture(inspection: Inspection) -> Image:
    """The contact sheet, drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure, paper = _sheet(inspection, _Grid.of(inspection.views))
    figure.set_dpi(SHEET_DPI)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    # words and pictures lie beside each other on white, so the darker one is what is there
    return np.asarray(np.minimum(np.asarray(canvas.buffer_rgba())[..., :3], paper))


def _colour_bar(figure: "Figure", threshold: float, box: tuple[float, float, float, float]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    high = 2 * threshold if threshold > 0 else 1.0
    axes = figure.add_axes(box)
    bar = figure.colorbar(ScalarMappable(Normalize(0, high), ListedColormap(colour_stops("heat"))), cax=axes)
    bar.set_label("anomaly score", size=7, labelpad=2)
    bar.ax.yaxis.set_label_position("left")  # on the right the tick labels fill the margin
    ticks = [0, threshold, high] if threshold > 0 else [0, high]
    bar.set_ticks(ticks, labels=[number(tick) for tick in ticks])
    bar.ax.tick_params(labelsize=6)
    bar.ax.axhline(threshold, color="black", linewidth=1)


def _axes(ax: "Axes | None", title: str, x: str, y: str) -> "Axes":
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(4.2, 3.6), layout="constrained").subplots()
    ax.set_title(title, size=10, color=INK)
    ax.set_xlabel(x, color=INK)
    ax.set_ylabel(y, color=INK)
    ax.tick_params(which="both", colors=INK)
    ax.grid(color=INK, linewidth=0.5, alpha=0.15)
    ax.set_axisbelow(True)
    for spine in ax.spines.values():
        spine.set_color(INK)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _next_colour(ax: "Axes") -> str:
    return CATEGORIES[len(ax.lines) % len(CATEGORIES)]


def score_histogram(inspection: Inspection, *, ax: "Axes | None" = None) -> "Axes":
    """How many surface points have which score, in the colours of the heat map, with the thresholds.

    The highest score of each good specimen, where known, is a tick below: what is usual.
    """
    ax = _axes(ax, "", "anomaly score", "surface points")
    scores = inspection.points.anomaly_score
    scores = scores[np.isfinite(scores)]
    good = np.empty(0) if inspection.good_scores is None else inspection.good_scores
    levels = [inspection.point_threshold, inspection.threshold]
    high = max(float(scores.max(initial=0)), *(level for level in (*levels, *good) if np.isfinite(level)), 0.0)
    high = 1.05 * high if high > 0 else 1.0
    counts, edges = np.histogram(scores, bins=60, range=(min(0.0, float(scores.min(initial=0))), high))
    colours = heat_colours((edges[:-1] + edges[1:]) / 2, inspection.threshold) / 255
    _bars(ax, counts, edges, colours)
    for level, name, style in zip(levels, ("region", "defect"), (":", "-"), strict=True):
        if np.isfinite(level):
            ax.axvline(level, color=INK, linewidth=1.2, linestyle=style, label=f"{name} threshold {number(level)}")
    if len(good):
        label = f"highest of each of {len(good)} good specimens" if len(good) > 1 else "highest of the good specimen"
        # across the axis, where no bar hides them
        (ticks,) = ax.plot(good, np.zeros(len(good)), "|", color=CATEGORIES[0], label=label, clip_on=False, zorder=5)
        ticks.set(markersize=14, markeredgewidth=1.8, transform=ax.get_xaxis_transform())
    ax.legend(loc="upper right", frameon=False, fontsize=8, labelcolor=INK)
    return ax


def deviation_histogram(inspection: Inspection, reach_mm: float | None = None, *, ax: "Axes | None" = None) -> "Axes":
    """How many surface points deviate by how much, in the colours of the deviation, with their middle 95 %.

    Args:
        inspection: with deviations.
        reach_mm: the deviation of the last colour, by default `deviation_reach`; what is beyond counts at the ends.
        ax: where to draw.
    """
    ax = _axes(ax, "", "signed deviation [mm]", "surface points")
    values = inspection.points.deviation_mm
    values = values[np.isfinite(values)]
    reach = deviation_reach([inspection]) if reach_mm is None else reach_mm
    counts, edges = np.histogram(np.clip(values, -reach, reach), bins=61, range=(-reach, reach))
    middle = (edges[:-1] + edges[1:]) / 2
    _bars(ax, counts, edges, mapped_colours(middle, -reach, reach, "diverging") / 255)
    if not len(values):
        return ax
    ax.set_ylim(top=8 * counts.max())  # room for words over the bars
    low, high = np.percentile(values, [2.5, 97.5])
    label = f"95 % from {number(low, 2)} to {number(high, 2)} mm"
    for place, said in ((low, label), (high, None)):
        ax.axvline(place, color=INK, linewidth=1.2, linestyle=":", label=said)
    least = inspection.settings.get("verdict", {}).get("min_depth_mm", 0.0)
    for place, said in ((-least, f"least depth of a defect {number(least)} mm"), (least, None)) if least else ():
        ax.axvline(place, color=INK, linewidth=1.2, label=said)
    ax.legend(loc="upper right", frameon=False, fontsize=8, labelcolor=INK)
    return ax


def _bars(ax: "Axes", counts: Values, edges: Values, colours: Values) -> None:
    """A histogram with a logarithmic axis, each bar in its colour; says so where nothing was counted."""
    from matplotlib.collections import PolyCollection
    from matplotlib.ticker import NullLocator

    # one collection: sixty bars of `ax.bar` take longer than the rest of the report's figures
    left, right, floor = edges[:-1], edges[1:], np.full(len(counts), LEAST_BAR)
    corners = np.array([[left, floor], [left, counts], [right, counts], [right, floor]]).transpose(2, 0, 1)
    bars = PolyCollection(list(corners[counts > 0]), facecolors=colours[counts > 0], edgecolors=INK, linewidths=0.3)
    ax.add_collection(bars, autolim=False)
    ax.set_xlim(left[0], right[-1])
    ax.set_ylim(LEAST_BAR, 1.2 * max(int(counts.max()), 1))
    if counts.any():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:,.0f}")  # powers of ten would be typeset as formulas, which takes a second
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        ax.text(0.5, 0.5, "nothing was inspected", transform=ax.transAxes, ha="center", color=INK)


def roc_curve(
    false_positive: Values,
    true_positive: Values,
    *,
    label: str = "",
    area: float | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Receiver operating characteristic from rates in 0..1, with the area in the legend.

    Here and below `area` is the exact value, where the points are only some of the curve; None = of the points.
    """
    ax = _axes(ax, "ROC", "false positive rate", "true positive rate")
    area = float(np.trapezoid(true_positive, false_positive)) if area is None else area
    ax.plot(false_positive, true_positive, color=_next_colour(ax), label=_legend(label, f"AUROC {area:.3f}"))
    _unit_square(ax)
    ax.legend(loc="lower right", frameon=False)
    return ax


def precision_recall_curve(
    recall: Values, precision: Values, *, label: str = "", area: float | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Precision against recall from rates in 0..1, recall rising, with the average precision in the legend."""
    ax = _axes(ax, "Precision and recall", "recall", "precision")
    average = float(np.sum(np.diff(recall, prepend=0.0) * precision)) if area is None else area
    ax.step(recall, precision, where="pre", color=_next_colour(ax), label=_legend(label, f"AP {average:.3f}"))
    _unit_square(ax)
    ax.legend(loc="lower left", frameon=False)
    return ax


def pro_curve(
    false_positive: Values,
    overlap: Values,
    *,
    limit: float = PRO_LIMIT,
    label: str = "",
    area: float | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Per-region overlap against the false positive rate; the area up to `limit`, as share of the best."""
    ax = _axes(ax, "Per-region overlap", "false positive rate", "per-region overlap")
    inside = false_positive < limit
    x = np.append(false_positive[inside], limit)
    y = np.append(overlap[inside], np.interp(limit, false_positive, overlap))
    area = float(np.trapezoid(y, x)) / limit if area is None else area
    colour = _next_colour(ax)
    ax.fill_between(x, y, color=colour, alpha=0.12, linewidth=0)
    ax.plot(false_positive, overlap, color=colour, label=_legend(label, f"AUPRO@{limit:g} {area:.3f}"))
    _unit_square(ax)
    ax.legend(loc="lower right", frameon=False)
    return ax


def calibration_plot(
    good: Values,
    threshold: float,
    *,
    others: Values | None = None,
    false_reject: float | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """The share of good specimens above each score, with the threshold.

    Args:
        good: (n,) leave-one-out scores of the good specimens.
        threshold: a specimen fails above it.
        others: (m,) scores of specimens under inspection, drawn as ticks; the axis is then logarithmic, since failed
            ones score many times the threshold.
        false_reject: the asked share of good specimens that fail, drawn as a level.
    """
    ax = _axes(ax, "Calibration", "specimen score", "share of good specimens above")
    ordered = np.sort(good)
    above = 1 - np.arange(1, len(ordered) + 1) / len(ordered)
    ax.step(ordered, above, where="post", color=CATEGORIES[0], label=f"good, n = {len(ordered)}")
    ax.plot(ordered, np.full(len(ordered), 0.0), "|", color=CATEGORIES[0], markersize=9)
    if others is not None and len(others):
        ax.plot(others, np.full(len(others), 0.0), "|", color=CATEGORIES[1], markersize=14, label="inspected")
        if min(ordered.min(), others.min()) > 0:
            ax.set_xscale("log")
    ax.axvline(threshold, color="black", linewidth=1, label=f"threshold {number(threshold)}")
    if false_reject is not None:
        ax.axhline(false_reject, color="black", linewidth=1, linestyle=":", label=f"asked {false_reject:.1%}")
    ax.set_ylim(-0.05, 1.02)
    ax.legend(loc="upper right", frameon=False, fontsize=8)
    return ax


def few_shot_curve(
    shots: Sequence[int],
    mean: Values,
    *,
    spread: Values | None = None,
    label: str = "",
    metric: str = "AUROC",
    ax: "Axes | None" = None,
) -> "Axes":
    """A metric against the number of good specimens, with `spread` (for example one standard deviation) as a band."""
    ax = _axes(ax, "Few-shot", "good specimens", metric)
    colour = _next_colour(ax)
    x = np.asarray(shots)
    ax.plot(x, mean, "o-", color=colour, markersize=4, label=label or metric)
    if spread is not None:
        ax.fill_between(x, np.asarray(mean) - spread, np.asarray(mean) + spread, color=colour, alpha=0.15, linewidth=0)
    ax.set_xscale("log", base=2)
    ax.set_xticks(x, [str(n) for n in shots])
    ax.legend(loc="lower right", frameon=False)
    return ax


def memory_map(memory: Memory, *, surface_mm: Points | None = None, ax: "Axes3D | None" = None) -> "Axes3D":
    """Where on the part the remembered patches lie, and from where the views that brought them looked.

    A view's patches and the triangle on its side of the part have one colour; no triangle is as far as its camera was.

    Args:
        memory: `Memory.load`, or `Inspector.memory`.
        surface_mm: (m, 3) points of the part, drawn faint.
        ax: axes with projection="3d".
    """
    from matplotlib.ticker import MaxNLocator

    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(5, 4.6)).add_subplot(projection="3d")
    positions = memory.points_mm.reshape(-1, 3)
    view = np.repeat(np.arange(len(memory)), len(positions) // max(len(memory), 1))
    placed = np.isfinite(positions).all(axis=1)
    positions, view = positions[placed], view[placed]
    if surface_mm is not None:
        faint = surface_mm[:: max(1, len(surface_mm) // 4000)]
        ax.scatter(*faint.T, s=1, c="#cccccc", depthshade=False)
    if len(positions):
        ax.scatter(*positions.T, s=5, c=view, cmap="viridis", vmin=0, vmax=len(memory), depthshade=False)
        middle, radius = bounding_sphere(positions.astype(float))
        beside = middle + 1.2 * radius * memory.directions
        ax.scatter(*beside.T, s=40, c=np.arange(len(memory)), cmap="viridis", vmin=0, vmax=len(memory), marker="^")
    ax.set_title(f"{len(positions):,} remembered patches of {len(memory)} views", size=10)
    for name, axis in zip("xyz", (ax.xaxis, ax.yaxis, ax.zaxis), strict=True):
        axis.set_label_text(f"{name} [mm]")
    ax.set_aspect("equal")
    spans = np.ptp([ax.get_xlim(), ax.get_ylim(), ax.get_zlim()], axis=1)
    for axis, share in zip((ax.xaxis, ax.yaxis, ax.zaxis), spans / spans.max(), strict=True):
        axis.set_major_locator(MaxNLocator(max(1, round(MOST_TICKS * share))))  # short axes have room for few
        axis.set_tick_params(labelsize=7)
    return ax


def _legend(label: str, value: str) -> str:
    return f"{label}: {value}" if label else value


def _unit_square(ax: Any) -> None:
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-0.01, 1.02)
