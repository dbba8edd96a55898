"""Predictions and labels of a part -> metrics, on specimens, images, pixels, points and defect instances.

Everything labelled counts: what was not inspected scores lowest, and an incomplete specimen ranks worst for its label.
"(inspected)" columns stand beside, on inspected pixels or points only, with the share left out. A metric whose classes
are not both there is NaN.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import tee

import numpy as np
from PIL import Image as PilImage

from rad3d.arrays import Mask, ScoreMap, Values
from rad3d.baselines import RAD_CROP
from rad3d.datasets.sample import Sample
from rad3d.instances import labelled_regions
from rad3d.metrics import (
    AUPRO_LIMITS,
    InstanceCounts,
    Ranking,
    aupro_rad,
    label_regions,
    match_defects,
    rank,
    specimen_scores,
)
from rad3d.prediction import WHOLE, Box, Prediction

Judged = Sequence[tuple[Sample, Callable[[], Prediction]]]
"""Test samples, each with how to load its prediction; so that never all maps are in memory."""

PIXELS, PART, AUTHORS = "pixel", "pixel of the part", "pixel, authors' crop at 256"
"""What counts: all pixels of the whole image, those of the part (with all that is labelled), or as RAD's authors do."""

_Piece = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Scores, region ids and weights of one image or cloud."""


@dataclass(frozen=True, eq=False)
class PartScores:
    """Metrics of one part.

    Args:
        values: by column; NaN where undefined.
        curves: points for plots by what is ranked; see `Ranking.curves`.
        counts: matched, found and labelled defects.
    """

    values: dict[str, float]
    curves: dict[str, dict[str, Values]]
    instances: InstanceCounts


def score_part(judged: Judged) -> PartScores:
    """All metrics of a part's test samples."""
    values: dict[str, float] = {}
    curves: dict[str, dict[str, Values]] = {}

    def add(name: str, ranking: Ranking, *, regions: bool) -> None:
        values.update({f"{name} {metric}": v for metric, v in _metrics(ranking, regions).items()})
        if ranking.defined:
            curves[name] = ranking.curves()

    labels = np.array([sample.label for sample, _ in judged], bool)
    summaries = [_summary(load()) for _, load in judged]
    values["good specimens"], values["defective specimens"] = float((~labels).sum()), float(labels.sum())
    values["incomplete specimens"] = float(sum(not summary.complete for summary in summaries))
    scores = np.array([summary.score for summary in summaries])
    complete = np.array([summary.complete for summary in summaries], bool)
    add("specimen", rank([specimen_scores(scores, labels, complete)], [labels]), regions=False)
    verdicts = [summary.fails for summary in summaries]
    if any(fails is not None for fails in verdicts):
        values["specimen F1 at threshold"] = _verdict_f1(labels, [bool(fails) for fails in verdicts])
    if any(summary.view_scores for summary in summaries):
        image_scores, image_labels = _images(judged, summaries)
        add("image", rank([image_scores], [image_labels]), regions=False)
        frames = [PIXELS] + [PART] * any(s.has_part for s in summaries) + [AUTHORS] * all(s.is_rad for s in summaries)
        for frame in frames:
            _add_with_inspected(values, frame, partial(_pixels, judged, frame), add)
        if AUTHORS in frames:
            pieces = list(_pixels(judged, AUTHORS))
            values[f"{AUTHORS} AUPRO (authors' code)"] = aupro_rad([p[0] for p in pieces], [p[1] > 0 for p in pieces])
    instances = InstanceCounts()
    if any(summary.has_points for summary in summaries):
        for name, weighted in (("point", False), ("point by area", True)):
            _add_with_inspected(values, name, partial(_points, judged, weighted), add, weighted=weighted)
            if any(summary.has_defects for summary in summaries):
                values[f"{name} F1 of found defects"] = _found_f1(judged, weighted)
    if any(summary.has_defects for summary in summaries):
        instances = sum((_instances(sample, load()) for sample, load in judged), InstanceCounts())
        values["defect precision"] = instances.precision
        values["defect recall"] = instances.recall
        values["defect F1"] = instances.f1
    return PartScores(values, curves, instances)


@dataclass(frozen=True)
class _Summary:
    """What of a prediction is small enough to keep."""

    score: float
    complete: bool
    fails: bool | None
    view_scores: tuple[float, ...]
    has_part: bool
    is_rad: bool
    has_points: bool
    has_defects: bool


def _summary(prediction: Prediction) -> _Summary:
    return _Summary(
        prediction.score,
        prediction.complete,
        prediction.fails,
        tuple(view.score for view in prediction.views),
        any(view.part is not None for view in prediction.views),
        bool(prediction.views) and all(view.box == RAD_CROP for view in prediction.views),
        prediction.points is not None,
        prediction.centroids_mm is not None,
    )


def _metrics(ranking: Ranking, regions: bool) -> dict[str, float]:
    best, _ = ranking.f1_max()
    values = {"AUROC": ranking.auroc(), "AP": ranking.average_precision(), "F1-max": best}
    if regions:
        aupro = ranking.aupro()
        values |= {f"AUPRO@{limit:g}": value for limit, value in zip(AUPRO_LIMITS, aupro, strict=True)}
    return values


def _ranked(pieces: Iterator[_Piece], weighted: bool) -> Ranking:
    """Pool them, holding one at a time."""
    scores, regions, *weights = tee(pieces, 3 if weighted else 2)
    return rank(
        (piece[0] for piece in scores),
        (piece[1] for piece in regions),
        (np.asarray(piece[2]) for piece in weights[0]) if weighted else None,
    )


def _add_with_inspected(
    values: dict[str, float],
    name: str,
    pieces: Callable[[], Iterator[_Piece]],
    add: Callable[..., None],
    *,
    weighted: bool = False,
) -> None:
    """All, and beside it the inspected ones only with the share left out."""
    add(name, _ranked(pieces(), weighted), regions=True)
    left_out = total = 0.0
    for score, _, weight in pieces():
        weight = np.ones(score.shape) if weight is None else weight
        left_out, total = left_out + float(weight[np.isnan(score)].sum()), total + float(weight.sum())
    values[f"{name} not inspected"] = left_out / total if total else np.nan
    if left_out:
        inspected = ((s[k], r[k], None if w is None else w[k]) for s, r, w in pieces() for k in [~np.isnan(s)])
        ranking = _ranked(inspected, weighted)
        values.update({f"{name} (inspected) {m}": v for m, v in _metrics(ranking, True).items()})


def _verdict_f1(labels: np.ndarray, fails: Sequence[bool]) -> float:
    """F1 of the calibrated verdicts; an incomplete specimen was not failed."""
    if labels.all() or not labels.any():
        return np.nan
    hits = int((labels & np.array(fails)).sum())
    return 2 * hits / (int(labels.sum()) + sum(fails))


def _images(judged: Judged, summaries: Sequence[_Summary]) -> tuple[Values, np.ndarray]:
    """Score and label of every view; unlabelled views of defective specimens with several are left out."""
    scores: list[float] = []
    labels: list[int] = []
    for (sample, _), summary in zip(judged, summaries, strict=True):
        if len(sample.views) == 1 or sample.label == 0:
            scores += summary.view_scores
            labels += [sample.label] * len(summary.view_scores)
            continue
        for score, labelled in zip(summary.view_scores, sample.load_view_labels(), strict=True):
            if labelled is not None:
                scores.append(score)
                labels.append(int(labelled.mask.any()))
    bad = np.array(labels, bool)
    missing = np.isnan(np.array(scores))
    return specimen_scores(np.array(scores), bad, ~missing), bad


def _pixels(judged: Judged, frame: str) -> Iterator[_Piece]:
    """Scores and regions of every labelled view."""
    for sample, load in judged:
        for view, labelled in zip(load().views, sample.load_view_labels(), strict=True):
            if labelled is None:
                continue
            if frame == AUTHORS:
                yield view.scores, label_regions(authors_mask(labelled.mask)), None
                continue
            scores, regions = on_image(view.scores, view.box, labelled.mask.shape), label_regions(labelled.mask)
            if frame == PART:
                counts = (labelled.mask | view.part) if view.part is not None else np.ones(scores.shape, bool)
                scores, regions = scores[counts], regions[counts]
            yield scores, regions, None


def on_image(scores: ScoreMap, box: Box, size_hw: tuple[int, ...]) -> ScoreMap:
    """A map of a box of the image at every pixel of the image, bilinear; NaN outside the box.

    >>> on_image(np.array([[1.0, 3.0]], np.float32), (0.0, 0.0, 0.5, 1.0), (1, 4))
    array([[ 1.,  3., nan, nan]], dtype=float32)
    """
    if box == WHOLE and scores.shape == size_hw:
        return scores
    left, top, width, height = box
    lines = []
    axes = ((size_hw[0], top, height, scores.shape[0]), (size_hw[1], left, width, scores.shape[1]))
    for length, start, extent, count in axes:
        share = ((np.arange(length) + 0.5) / length - start) / extent
        at = np.clip(share * count - 0.5, 0, count - 1)
        low = np.minimum(at.astype(int), max(count - 2, 0))
        lines.append((low, np.minimum(low + 1, count - 1), (at - low).astype(np.float32), (share >= 0) & (share <= 1)))
    (r0, r1, rw, rows), (c0, c1, cw, columns) = lines
    along = scores[r0] * (1 - rw)[:, None] + scores[r1] * rw[:, None]
    result = along[:, c0] * (1 - cw) + along[:, c1] * cw
    result[~rows], result[:, ~columns] = np.nan, np.nan
    return np.asarray(result, np.float32)


def authors_mask(mask: Mask) -> Mask:
    """A mask (H, W) as RAD's code sees it, (256, 256): squashed to 512 (bilinear, antialiased), middle 448, then every
    256th of it (nearest); whatever is above 0 is defective, so that defects grow by about a pixel."""
    pixels = PilImage.fromarray(mask.astype(np.uint8) * 255).resize((512, 512), PilImage.Resampling.BILINEAR)
    middle = np.asarray(pixels)[32:480, 32:480]
    nearest = np.arange(256) * 448 // 256
    return np.asarray(middle[np.ix_(nearest, nearest)] > 0)


def _points(judged: Judged, weighted: bool) -> Iterator[_Piece]:
    for sample, load in judged:
        labels, prediction = sample.load_point_labels(), load()
        if labels is not None and prediction.points is not None:
            points = prediction.points
            yield points.scores, labels.instance, points.areas_mm2 if weighted else None


def _found_f1(judged: Judged, weighted: bool) -> float:
    """F1 of the points that belong to found defects, as labelled ones; NaN without labels."""
    hits = found = labelled = 0.0
    for sample, load in judged:
        labels, prediction = sample.load_point_labels(), load()
        points = prediction.points
        if labels is not None and points is not None and points.defect_id is not None:
            weight = points.areas_mm2 if weighted else np.ones(len(points.areas_mm2))
            ours, theirs = points.defect_id > 0, labels.instance > 0
            hits += float(weight[ours & theirs].sum())
            found, labelled = found + float(weight[ours].sum()), labelled + float(weight[theirs].sum())
    return 2 * hits / (found + labelled) if labelled else np.nan


def _instances(sample: Sample, prediction: Prediction) -> InstanceCounts:
    """Defects found against labelled instances."""
    if prediction.centroids_mm is None or prediction.defect_areas_mm2 is None:
        return InstanceCounts()
    regions, areas = labelled_regions(sample, prediction)
    return match_defects(prediction.centroids_mm, prediction.defect_areas_mm2, regions, areas)[0]
