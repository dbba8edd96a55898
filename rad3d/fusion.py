"""Several views -> one score per surface point, with how many saw it and how far they agree."""

from dataclasses import dataclass

import numpy as np

from rad3d.arrays import Values
from rad3d.backproject import PointViews
from rad3d.settings import FusionRule

NO_EVIDENCE = 0.5
"""Weight of the assumption that a point is good: as much as one view at an incidence of 60 degrees."""

LONE = 1.5
"""Standard deviations by which one of several views may exceed the next: more is a glint or a shadow."""


@dataclass(frozen=True, eq=False)
class Fused:
    """One score per point.

    Args:
        score: (n,) float32, NaN where no view saw the point.
        agreement: (n,) float32 share of the views that see the point and find it anomalous; NaN unseen.
        views_seen: (n,) int32.
    """

    score: Values
    agreement: Values
    views_seen: np.ndarray


def fuse(views: PointViews, rule: FusionRule, threshold: float | None = None) -> Fused:
    """Combine what the views say of each point.

    Rules: `consistent`, the mean weighted by the cosine of incidence and drawn to 0 where few views, or only grazing
    ones, see the point (the posterior mean of a normal model with prior weight `NO_EVIDENCE`), after a view that
    exceeds all others by more than `LONE` was taken back to that; `mean`; `weighted` mean, by the cosine of incidence
    alone; `median`; `second` highest (the only one where a single view saw the point); `max`.
    A point is anomalous to a view above `threshold`; without one agreement is NaN.

    >>> views = PointViews(np.array([[1.0], [3.0], [np.nan]]), np.array([[1.0], [0.5], [0.0]]))
    >>> float(fuse(views, "mean", 2.0).score[0]), float(fuse(views, "mean", 2.0).agreement[0])
    (2.0, 0.5)
    """
    seen = np.isfinite(views.score)
    count = seen.sum(axis=0)
    lowest = np.where(seen, views.score, -np.inf)
    match rule:
        case "consistent":
            weight = views.incidence * seen
            most = np.where(count > 1, _second_highest(lowest) + LONE, np.inf)
            score = (np.where(seen, np.minimum(views.score, most), 0) * weight).sum(axis=0) / (
                weight.sum(axis=0) + NO_EVIDENCE
            )
        case "mean":
            score = _divide(np.where(seen, views.score, 0).sum(axis=0), count)
        case "weighted":
            weight = views.incidence * seen
            score = _divide((np.where(seen, views.score, 0) * weight).sum(axis=0), weight.sum(axis=0))
        case "median":
            ordered = np.sort(np.where(seen, views.score, np.inf), axis=0)
            low, high = np.maximum(count - 1, 0) // 2, count // 2
            pick = [np.take_along_axis(ordered, np.minimum(i, len(ordered) - 1)[None], 0)[0] for i in (low, high)]
            score = np.where(count > 0, (pick[0] + pick[1]) / 2, np.nan)
        case "second":
            score = np.where(count > 1, _second_highest(lowest), lowest.max(axis=0))
        case "max":
            score = lowest.max(axis=0)
    score = np.where(count > 0, score, np.nan).astype(np.float32)
    above = np.where(seen, views.score, -np.inf) > (np.inf if threshold is None else threshold)
    agreement = (
        _divide(above.sum(axis=0).astype(float), count) if threshold is not None else np.full(len(count), np.nan)
    )
    return Fused(score, agreement.astype(np.float32), count.astype(np.int32))


def _second_highest(scores: np.ndarray) -> Values:
    """(n,) of (v, n); of a single view its own."""
    second = max(len(scores) - 2, 0)
    return np.asarray(np.partition(scores, second, axis=0)[second])


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0))
