"""How good anomaly scores are: AUROC, AP, F1 and AUPRO, all exact, on images, specimens, pixels and points.

Higher scores are worse. A score that is NaN was not inspected and ranks below every other. Where only one class is
labelled a metric is undefined and is NaN, never 0 or 1.

Every metric here changes only where a defective element is passed when the threshold falls. So the defect-free scores
are sorted once, in place, and each defective score is looked up among them: O(n log n) time, and beside the caller's
arrays 4 bytes a defect-free element and about 20 a defective one, whatever the number of thresholds.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

import numpy as np
from scipy.ndimage import label as connected_components
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from rad3d.arrays import Flags, Indices, Mask, Points, Values
from rad3d.errors import ResultError

AUPRO_LIMITS = (0.3, 0.05, 0.01)
"""False positive rates up to which AUPRO integrates."""
MATCH_DISTANCE_MM = 3.0
MATCH_AREA_FACTOR = 4.0

_CHUNK = 1 << 22
_EIGHT_NEIGHBOURS = np.ones((3, 3), int)


def label_regions(mask: Mask) -> np.ndarray:
    """(H, W) int32, 0 where defect-free, 1.. the 8-connected components of the mask.

    >>> label_regions(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], bool)).max()
    np.int32(2)
    """
    return np.asarray(connected_components(mask, structure=_EIGHT_NEIGHBOURS, output=np.int32)[0])


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scored elements with their labels, sorted once for all metrics. Made by `rank`.

    Args:
        good: scores of defect-free elements, ascending, NaN as -inf.
        bad: scores of defective elements, ascending, NaN as -inf.
        region: in the order of `bad`, the region each belongs to.
        good_below: (len(good) + 1) weight of the elements before each, None when every element weighs 1.
        bad_weights: in the order of `bad`, or None.
    """

    good: Values
    bad: Values
    region: Indices
    good_below: Values | None = None
    bad_weights: Values | None = None

    @cached_property
    def _bad_below(self) -> Values | None:
        return None if self.bad_weights is None else _cumulative(self.bad_weights)

    @property
    def _total_good(self) -> float:
        return float(len(self.good) if self.good_below is None else self.good_below[-1])

    @property
    def _total_bad(self) -> float:
        return float(len(self.bad) if self._bad_below is None else self._bad_below[-1])

    @property
    def defined(self) -> bool:
        """Whether both classes are there."""
        return self._total_good > 0 and self._total_bad > 0

    def _good_from(self, thresholds: Values, *, strict: bool = False) -> Values:
        """Weight of the defect-free elements at or above (strict: above) each threshold."""
        return _weight_from(self.good, self.good_below, thresholds, strict)

    def _bad_from(self, thresholds: Values, *, strict: bool = False) -> Values:
        """Weight of the defective elements at or above (strict: above) each threshold."""
        return _weight_from(self.bad, self._bad_below, thresholds, strict)

    def _pieces(self) -> Iterator[tuple[slice, Values]]:
        """The defective elements piece by piece, which keeps temporary arrays small, with their weights."""
        for start in range(0, len(self.bad), _CHUNK):
            piece = slice(start, start + _CHUNK)
            ones = np.ones(len(self.bad[piece]))
            yield piece, ones if self.bad_weights is None else self.bad_weights[piece]

    def _areas(self, limits: Sequence[float], share: Values | None = None) -> Values:
        """Areas, up to each limit of the false positive rate, under the curve of the defective weight passed.

        Passing an element lifts the curve by its weight (times its region's `share`). Where it is tied with
        defect-free elements the curve rises linearly over their part of the rate (one step), otherwise at once.
        """
        areas = np.zeros(len(limits))
        for piece, weights in self._pieces():
            first = self._good_from(self.bad[piece], strict=True) / self._total_good
            last = self._good_from(self.bad[piece]) / self._total_good
            lift = weights if share is None else weights * share[self.region[piece]]
            slope = 1 / np.where(last > first, last - first, 1.0)
            for i, limit in enumerate(limits):
                inside = np.minimum(last, limit)
                ramp = inside - np.minimum(first, limit)
                areas[i] += lift @ (limit - inside + ramp * ramp * slope / 2)
        return areas

    def auroc(self) -> float:
        """Area under the ROC curve; ties count half."""
        return float(self._areas([1.0])[0] / self._total_bad) if self.defined else np.nan

    def average_precision(self) -> float:
        """Mean over defective elements of the precision at their own score (no interpolation, as scikit-learn)."""
        if not self.defined:
            return np.nan
        total = 0.0
        for piece, weights in self._pieces():
            true = self._bad_from(self.bad[piece])
            positive = true + self._good_from(self.bad[piece])
            total += weights @ np.divide(true, positive, out=np.zeros(len(true)), where=positive > 0)
        return float(total / self._total_bad)

    def f1_max(self) -> tuple[float, float]:
        """The largest F1 over all thresholds, and the threshold above which elements count as defective there.

        Chosen on the data it is measured on, so an upper bound.
        """
        if not self.defined:
            return np.nan, np.nan
        best, lowest = -1.0, -np.inf
        for piece, _ in self._pieces():
            true = self._bad_from(self.bad[piece])
            f1 = 2 * true / (true + self._good_from(self.bad[piece]) + self._total_bad)
            top = int(f1.argmax())
            if f1[top] > best:
                best, lowest = float(f1[top]), self.bad[piece][top]
        return best, float(np.nextafter(lowest, -np.inf, dtype=self.bad.dtype))

    def f1_at(self, threshold: float) -> float:
        """F1 when everything above `threshold` (at -inf: everything) counts as defective."""
        if not self.defined:
            return np.nan
        at, strict = np.array([threshold]), threshold > -np.inf
        true, false = self._bad_from(at, strict=strict)[0], self._good_from(at, strict=strict)[0]
        return float(2 * true / (true + false + self._total_bad))

    @cached_property
    def _region_share(self) -> Values:
        """Per region 1 / (its weight x number of regions): elements so weighted add up to the mean overlap."""
        sizes = np.bincount(self.region, weights=self.bad_weights)
        shares = np.divide(1.0, sizes * (sizes > 0).sum(), out=np.zeros(len(sizes)), where=sizes > 0)
        return np.asarray(shares)

    def aupro(self, limits: Sequence[float] = AUPRO_LIMITS) -> tuple[float, ...]:
        """Area under the mean overlap of regions against the false positive rate, per limit, divided by the limit."""
        if not self.defined:
            return tuple(np.nan for _ in limits)
        areas = self._areas(limits, self._region_share) / np.asarray(limits)
        return tuple(float(area) for area in np.minimum(areas, 1.0))  # 1 + 1e-16 is rounding

    def curves(self, count: int = 512) -> dict[str, Values]:
        """Points for plots, threshold falling: false_positive_rate, recall, precision, overlap."""
        if not self.defined:
            return {name: np.empty(0) for name in ("false_positive_rate", "recall", "precision", "overlap")}
        at_recall = self.bad[np.linspace(0, len(self.bad) - 1, count).astype(int)]
        at_rate = self.good[((1 - np.geomspace(1e-5, 1, count)) * (len(self.good) - 1)).astype(int)]
        thresholds = np.unique(np.concatenate([at_recall, at_rate]))[::-1]
        true, false = self._bad_from(thresholds), self._good_from(thresholds)
        weights = 1.0 if self.bad_weights is None else self.bad_weights
        overlap = _weight_from(self.bad, _cumulative(self._region_share[self.region] * weights), thresholds, False)
        precision = np.divide(true, true + false, out=np.ones(len(true)), where=true + false > 0)
        return {
            "false_positive_rate": np.append(0.0, false / self._total_good),
            "recall": np.append(0.0, true / self._total_bad),
            "precision": np.append(precision[0], precision),
            "overlap": np.append(0.0, overlap),
        }


def _cumulative(weights: Values) -> Values:
    return np.concatenate([[0.0], np.cumsum(weights, dtype=float)])


def _weight_from(ascending: Values, below: Values | None, thresholds: Values, strict: bool) -> Values:
    """Weight of the elements at or above (strict: above) each threshold."""
    index = np.searchsorted(ascending, thresholds, "right" if strict else "left")
    if below is None:
        return np.asarray(len(ascending) - index, float)
    return np.asarray(below[-1] - below[index])


def rank(
    scores: Iterable[np.ndarray], regions: Iterable[np.ndarray], weights: Iterable[np.ndarray] | None = None
) -> Ranking:
    """Pool scored elements of many images or clouds; they may come from generators, so that all are never in memory.

    Args:
        scores: per image or cloud, any shape; float32 stays float32; NaN = not inspected.
        regions: of the same shapes; bool (an image's defects are then one region) or region ids with 0 = defect-free.
            The ids of one image mean nothing in another.
        weights: of the same shapes, e.g. the surface in mm² a point stands for; None = every element weighs 1.

    Raises:
        ResultError: shapes that differ, negative region ids, weights that are negative or not finite.
    """
    pieces: dict[str, list[np.ndarray]] = {"good": [], "bad": [], "region": [], "good_weights": [], "bad_weights": []}
    regions_so_far = 0
    pairs = zip(scores, regions, strict=True)
    for i, ((score, ids), weight) in enumerate(
        zip(pairs, repeat(None)) if weights is None else zip(pairs, weights, strict=True)
    ):
        score, ids = np.asarray(score), np.asarray(ids)
        weight = None if weight is None else np.asarray(weight, float)
        _check_piece(i, score, ids, weight)
        is_bad = ids > 0
        names, named = np.unique(ids[is_bad], return_inverse=True)
        pieces["good"].append(_nan_lowest(score[~is_bad]))
        pieces["bad"].append(_nan_lowest(score[is_bad]))
        pieces["region"].append(named.astype(np.int32) + np.int32(regions_so_far))
        regions_so_far += len(names)
        if weight is not None:
            pieces["good_weights"].append(weight[~is_bad])
            pieces["bad_weights"].append(weight[is_bad])
    good, bad, region = (_joined(pieces[name]) for name in ("good", "bad", "region"))
    order = np.argsort(bad)
    bad, region = bad[order], region[order].astype(np.int32)
    if weights is None:
        good.sort()
        return Ranking(good, bad, region)
    bad_weights = _joined(pieces["bad_weights"])[order]
    order = np.argsort(good)
    return Ranking(good[order], bad, region, _cumulative(_joined(pieces["good_weights"])[order]), bad_weights)


def _check_piece(i: int, score: np.ndarray, ids: np.ndarray, weight: np.ndarray | None) -> None:
    """Raise ResultError unless labels and weights fit the scores."""
    for name, array in (("labels", ids), ("weights", weight)):
        if array is not None and array.shape != score.shape:
            raise ResultError(
                f"{name} {i}",
                expected=f"the shape {score.shape} of the scores",
                got=f"{array.shape}",
                remedy="compare each score map with its own mask",
            )
    if ids.dtype != bool and ids.size and ids.min() < 0:
        raise ResultError(f"labels {i}", expected="region ids from 0", got=f"{ids.min()}", remedy="0 is defect-free")
    if weight is not None and not (np.isfinite(weight) & (weight >= 0)).all():
        raise ResultError(
            f"weights {i}",
            expected="finite weights from 0",
            got="negative or not finite ones",
            remedy="check the areas",
        )


def _nan_lowest(scores: np.ndarray) -> np.ndarray:
    """Floats with NaN as -inf."""
    scores = scores if scores.dtype == np.float32 else scores.astype(np.float64)
    scores[np.isnan(scores)] = -np.inf
    return scores


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """Concatenate, giving each piece's memory back as soon as it is copied."""
    if not pieces:
        return np.empty(0, np.float32)
    result = np.empty(sum(map(len, pieces)), np.result_type(*{piece.dtype for piece in pieces}))
    at = len(result)
    while pieces:
        piece = pieces.pop()
        result[at - len(piece) : at] = piece
        at -= len(piece)
    return result


def auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Area under the ROC curve; ties count half; NaN where only one class is labelled.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    return _rank_one(scores, labels, weights).auroc()


def average_precision(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Average precision, not interpolated; NaN where only one class is labelled.

    >>> round(average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])), 4)
    0.8333
    """
    return _rank_one(scores, labels, weights).average_precision()


def f1_max(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """The largest F1 over all thresholds and the threshold above which it is reached: an upper bound, for it is chosen
    on the data it is measured on. NaN where only one class is labelled.

    >>> round(f1_max(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))[0], 4)
    0.8
    """
    return _rank_one(scores, labels, weights).f1_max()


def f1_at(scores: np.ndarray, labels: np.ndarray, threshold: float, weights: np.ndarray | None = None) -> float:
    """F1 when everything above `threshold` counts as defective; NaN where only one class is labelled."""
    return _rank_one(scores, labels, weights).f1_at(threshold)


def _rank_one(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> Ranking:
    return rank([scores], [np.asarray(labels) > 0], None if weights is None else [weights])


def aupro(
    scores: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    limits: Sequence[float] = AUPRO_LIMITS,
    weights: Sequence[np.ndarray] | None = None,
) -> tuple[float, ...]:
    """Exact area under the per-region overlap curve, one value a limit, each from 0 to 1.

    Regions are the 8-connected components of a bool mask (H, W), or given as ids (any shape, 0 = defect-free, e.g. the
    defect instance of each point). The false positive rate is pooled over all defect-free elements of all maps. Equal
    scores are one step; at the limit the curve is interpolated linearly. NaN where only one class is labelled.
    (Bergmann et al., IJCV 2021, section 6.)

    >>> mask = np.array([[True, False, False, False]])
    >>> aupro([np.array([[0.9, 0.95, 0.2, 0.1]])], [mask], limits=(1.0,))
    (0.6666666666666667,)
    """
    regions = (label_regions(mask) if mask.dtype == bool and mask.ndim == 2 else mask for mask in masks)
    return rank(scores, regions, weights).aupro(limits)


def aupro_rad(scores: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> float:
    """AUPRO as the RAD authors' code computes it: only for comparison with their tables.

    200 equidistant thresholds from the least to the largest score, no point at the limit or at rate 0, and the rate
    divided by the largest one below 0.3 that a threshold happens to reach: not exact, and sensitive to outliers.

    Args:
        scores: (H, W) maps without NaN.
        masks: (H, W) bool.
    """
    maps = np.stack([np.asarray(score) for score in scores])
    regions = [label_regions(np.asarray(mask) > 0) for mask in masks]
    labels = np.stack(regions) > 0
    if not labels.any() or labels.all():
        return np.nan
    low, high = maps.min(), maps.max()
    if low == high:
        return np.nan
    thresholds = np.arange(low, high, (high - low) / 200)
    good = np.sort(maps[~labels])
    rate = 1 - np.searchsorted(good, thresholds, "right") / len(good)
    overlaps = []
    for score, region in zip(maps, regions, strict=True):
        for index in range(1, int(region.max()) + 1):
            inside = np.sort(score[region == index])
            overlaps.append(1 - np.searchsorted(inside, thresholds, "right") / len(inside))
    below = rate < 0.3
    rate, overlap = rate[below], np.mean(overlaps, axis=0)[below]
    if len(rate) < 2 or rate.max() == 0:
        return np.nan
    return float(-np.trapezoid(overlap, rate / rate.max()))


def specimen_scores(scores: Values, defective: Flags, complete: Flags) -> Values:
    """Scores of specimens for a ranking in which an incomplete or failed one is worst for its label.

    Args:
        scores: (n,) NaN where inspection failed.
        defective: (n,) the labels.
        complete: (n,) False where the verdict is incomplete. A NaN score is never complete.

    >>> specimen_scores(np.array([0.2, 0.9, np.nan]), np.array([False, True, True]), np.array([False, True, True]))
    array([ inf,  0.9, -inf])
    """
    bad = np.asarray(defective, bool)
    missing = ~np.asarray(complete, bool) | np.isnan(scores)
    return np.where(missing, np.where(bad, -np.inf, np.inf), scores)


@dataclass(frozen=True)
class InstanceCounts:
    """Defects found and labelled, matched one to one; counts of specimens add up with `+`.

    >>> (InstanceCounts(1, 1, 0) + InstanceCounts(1, 0, 2)).f1
    0.5714285714285714
    """

    matched: int = 0
    false_alarms: int = 0
    missed: int = 0

    def __add__(self, other: "InstanceCounts") -> "InstanceCounts":
        return InstanceCounts(
            self.matched + other.matched, self.false_alarms + other.false_alarms, self.missed + other.missed
        )

    @property
    def precision(self) -> float:
        """Share of found defects that are labelled; NaN when none was found."""
        return _ratio(self.matched, self.matched + self.false_alarms)

    @property
    def recall(self) -> float:
        """Share of labelled defects that were found; NaN when none is labelled."""
        return _ratio(self.matched, self.matched + self.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN when there is neither a found nor a labelled defect."""
        return _ratio(2 * self.matched, 2 * self.matched + self.false_alarms + self.missed)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else np.nan


def match_defects(
    centroids_mm: Points, areas_mm2: Values, labelled_points_mm: Sequence[Points], labelled_areas_mm2: Values
) -> tuple[InstanceCounts, list[tuple[int, int]]]:
    """Assign found defects of one specimen to labelled ones, one to one: as many pairs as possible, then the nearest.

    A pair may match when the found centroid lies within 3 mm of the labelled region and the areas differ by less than
    a factor of 4. Every other found defect is a false alarm (on good specimens: all), every other labelled one missed.

    Args:
        centroids_mm: (f, 3) of the found defects.
        areas_mm2: (f,) of the found defects.
        labelled_points_mm: per labelled instance its surface points (n, 3), same frame.
        labelled_areas_mm2: (l,) of the labelled instances.

    Returns:
        The counts and the pairs (found, labelled).
    """
    found, labelled = len(areas_mm2), len(labelled_areas_mm2)
    if not found or not labelled:
        return InstanceCounts(0, found, labelled), []
    distance = np.stack([cKDTree(points).query(np.asarray(centroids_mm))[0] for points in labelled_points_mm], axis=1)
    ours, theirs = np.asarray(areas_mm2, float)[:, None], np.asarray(labelled_areas_mm2, float)[None]
    allowed = (
        (distance <= MATCH_DISTANCE_MM) & (ours < MATCH_AREA_FACTOR * theirs) & (theirs < MATCH_AREA_FACTOR * ours)
    )
    # all allowed pairs together cost less than one that is not allowed: so the number of matches comes first
    cost = np.where(allowed, distance / (MATCH_DISTANCE_MM * (min(found, labelled) + 1)), 1.0)
    rows, columns = linear_sum_assignment(cost)
    pairs = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if allowed[i, j]]
    return InstanceCounts(len(pairs), found - len(pairs), labelled - len(pairs)), pairs
