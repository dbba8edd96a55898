"""The pictures of an evaluation: curves of every part, and the worst misses and false alarms."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rad3d.datasets.sample import Sample
from rad3d.files import atomic_file
from rad3d.geometry import inverse, look_at, transform_points, unit
from rad3d.io import specimen_name
from rad3d.prediction import PointPrediction, ViewPrediction
from rad3d.scoring import Judged, PartScores, on_image
from rad3d.viewers.figures import PRO_LIMIT, precision_recall_curve, pro_curve, roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORST = 4
"""Specimens of each kind on the sheet."""
DOTS = 20_000
"""Points drawn of a surface."""


def write_curves(title: str, scores: Mapping[str, PartScores], folder: Path) -> None:
    """ROC, precision-recall and PRO curves of every part, as PNG and SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    for part, score in scores.items():
        if not score.curves:
            continue
        figure = Figure(figsize=(12, 4), layout="constrained")
        roc, precision, overlap = figure.subplots(1, 3)
        for name, curve in score.curves.items():
            exact, rate = score.values, curve["false_positive_rate"]
            roc_curve(rate, curve["recall"], label=name, area=exact[f"{name} AUROC"], ax=roc)
            average, shared = exact[f"{name} AP"], exact.get(f"{name} AUPRO@{PRO_LIMIT:g}")
            precision_recall_curve(curve["recall"], curve["precision"], label=name, area=average, ax=precision)
            if shared is not None:  # specimens and images have no regions
                pro_curve(rate, curve["overlap"], label=name, area=shared, ax=overlap)
        overlap.set_visible(overlap.has_data())
        figure.suptitle(f"{title}, {part}", parse_math=False)
        for suffix in ("png", "svg"):
            with (
                atomic_file(folder / f"{specimen_name(part)}.{suffix}") as new,
                rc_context({"svg.fonttype": "none"}),
            ):
                figure.savefig(new, format=suffix, dpi=100)


def write_worst(title: str, judged: Judged, path: Path) -> None:
    """Lowest defective and highest good specimens: the view that scored highest, or the surface, with its scores."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ranked = sorted((_or(load().score, np.inf * (1 - 2 * sample.label)), n) for n, (sample, load) in enumerate(judged))
    of_label = {label: [n for _, n in ranked if judged[n][0].label == label] for label in (0, 1)}
    if not ranked:
        return
    misses, alarms = (
        [(judged[n][0], judged[n][1]()) for n in chosen] for chosen in (of_label[1][:WORST], of_label[0][::-1][:WORST])
    )
    figure = Figure(figsize=(3 * WORST, 11), layout="constrained")
    grid = figure.subplots(4, WORST, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    scored = [v.scores for _, p in misses + alarms for v in (p.views if p.points is None else (p.points,))]
    highest = max((_or(float(np.nanmax(scores, initial=0)), 0) for scores in scored), default=1)
    for row, chosen, what in ((0, misses, "lowest defective"), (2, alarms, "highest good")):
        for column, (sample, prediction) in enumerate(chosen):
            shown = (grid[row, column], grid[row + 1, column])
            shown[0].set_title(
                f"{what}: {sample.part}\n{sample.specimen} {prediction.score:.3f}", fontsize=8, parse_math=False
            )
            if prediction.points is not None:
                _show_points(shown, sample, prediction.points, highest)
            elif prediction.views:
                _show_view(shown, sample, prediction.views, highest)
    figure.suptitle(f"{title}: nearest to a miss, nearest to a false alarm", parse_math=False)
    _save(FigureCanvasAgg(figure), path)


def _show_view(axes: tuple["Axes", "Axes"], sample: Sample, views: Sequence[ViewPrediction], highest: float) -> None:
    """The view that scored highest, and its map."""
    from rad3d.captured import read_image

    index = max(range(len(views)), key=lambda i: _or(views[i].score, -np.inf))
    image, view = read_image(sample.views[index].image), views[index]
    axes[0].imshow(image)
    axes[1].imshow(on_image(view.scores, view.box, image.shape[:2]), vmin=0, vmax=highest, cmap="magma")


def _show_points(axes: tuple["Axes", "Axes"], sample: Sample, points: PointPrediction, highest: float) -> None:
    """The labelled points, and the scores, from the flat side on which the highest one lies; the nearest drawn last."""
    vertices, scores = points.vertices_mm - points.vertices_mm.mean(axis=0), np.nan_to_num(points.scores, nan=0.0)
    labels = sample.load_point_labels()
    flat = np.linalg.eigh(vertices.T @ vertices)[1][:, 0]
    worst = vertices[scores.argmax()]
    side = np.copysign(1.0, flat @ worst) * flat + 0.7 * unit(worst)
    x, y, depth = transform_points(inverse(look_at(side, np.zeros(3))), vertices).T
    some = np.argsort(-depth)[:: max(1, len(depth) // DOTS)]
    instance = np.zeros(len(vertices), int) if labels is None else labels.instance
    for axis, values, top in ((axes[0], instance > 0, 1.0), (axes[1], scores, highest)):
        axis.scatter(x[some], -y[some], c=values[some], s=2, vmin=0, vmax=top, cmap="magma", rasterized=True)
        axis.set_aspect("equal")


def _or(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value


def _save(canvas: Any, path: Path) -> None:
    with atomic_file(path) as new:
        canvas.print_png(str(new))
