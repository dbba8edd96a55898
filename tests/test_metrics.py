"""Metrics against scikit-learn, against the slow twins, on cases worked out by hand, and under the known traps."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from rad3d import metrics
from rad3d.errors import ResultError
from rad3d.metrics import (
    InstanceCounts,
    aupro,
    aupro_rad,
    auroc,
    average_precision,
    f1_at,
    f1_max,
    label_regions,
    match_defects,
    rank,
    specimen_scores,
)

LIMITS = (1.0, 0.3, 0.05, 0.01)


@st.composite
def scored_maps(draw, weighted=False):
    """Some small maps with few distinct scores (so ties are common), regions, and both classes present."""
    count = draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shapes = [tuple(rng.integers(1, 7, 2)) for _ in range(count)]
    levels = draw(st.sampled_from([2, 5, 1000]))
    scores = [rng.integers(0, levels, shape) / levels for shape in shapes]
    regions = [rng.integers(0, 4, shape) * (rng.random(shape) < 0.5) for shape in shapes]
    scores.append(rng.integers(0, levels, (1, 2)) / levels)
    regions.append(np.array([[0, 1]]))  # both classes in any case
    weights = [rng.integers(1, 4, s.shape).astype(float) for s in scores] if weighted else None
    return scores, regions, weights


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


def lists(arrays):
    return [np.ravel(a).tolist() for a in arrays]


@given(scored_maps())
@settings(max_examples=60, deadline=None)
def test_agrees_with_scikit_learn(case):
    scores, regions, _ = case
    s, y = flat(scores), flat(regions) > 0
    assert auroc(s, y) == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    assert average_precision(s, y) == pytest.approx(average_precision_score(y, s), abs=1e-12)
    precision, recall, _ = precision_recall_curve(y, s)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert f1_max(s, y)[0] == pytest.approx(f1.max(), abs=1e-12)


@given(scored_maps(weighted=True))
@settings(max_examples=60, deadline=None)
def test_agrees_with_the_slow_twins_weighted_and_not(reference, case):
    scores, regions, weights = case
    for given_weights in (None, weights):
        all_ones = [np.ones(s.shape) for s in scores] if given_weights is None else given_weights
        s, y, w = flat(scores), flat(regions) > 0, flat(all_ones)
        ws = None if given_weights is None else w
        assert auroc(s, y, ws) == pytest.approx(reference.auroc(s, y, w), abs=1e-12)
        assert average_precision(s, y, ws) == pytest.approx(reference.average_precision(s, y, w), abs=1e-12)
        best, threshold = f1_max(s, y, ws)
        assert best == pytest.approx(reference.f1_max(s, y, w), abs=1e-12)
        assert f1_at(s, y, threshold, ws) == best  # "above the threshold" means the same everywhere
        slow = [reference.aupro(lists(scores), lists(regions), lists(all_ones), limit) for limit in LIMITS]
        assert aupro(scores, regions, LIMITS, given_weights) == pytest.approx(slow, abs=1e-12)


@given(scored_maps(weighted=True))
@settings(max_examples=40, deadline=None)
def test_a_weight_of_three_is_three_points(case):
    scores, regions, weights = case
    times = [np.ravel(w).astype(int) for w in weights]
    repeated_scores = [np.repeat(np.ravel(s), t) for s, t in zip(scores, times, strict=True)]
    repeated_regions = [np.repeat(np.ravel(r), t) for r, t in zip(regions, times, strict=True)]
    one, many = rank(scores, regions, weights), rank(repeated_scores, repeated_regions)
    assert one.auroc() == pytest.approx(many.auroc(), abs=1e-12)
    assert one.average_precision() == pytest.approx(many.average_precision(), abs=1e-12)
    assert one.f1_max() == pytest.approx(many.f1_max(), abs=1e-12)
    assert one.aupro(LIMITS) == pytest.approx(many.aupro(LIMITS), abs=1e-12)


@given(scored_maps())
@settings(max_examples=60, deadline=None)
def test_only_the_order_of_scores_matters_and_nothing_exceeds_one(case):
    scores, regions, _ = case
    before = rank(scores, regions)
    for change in (np.exp, lambda s: 5 * s - 3, lambda s: s.astype(np.float32)):
        after = rank([change(s) for s in scores], regions)
        assert after.auroc() == before.auroc()
        assert after.average_precision() == before.average_precision()
        assert after.f1_max()[0] == before.f1_max()[0]
        assert after.aupro(LIMITS) == before.aupro(LIMITS)
    values = [before.auroc(), before.average_precision(), before.f1_max()[0], *before.aupro((1.0, 0.3, 0.01, 1e-9))]
    assert all(0 <= v <= 1 for v in values)


def test_pieces_add_up(monkeypatch):
    """What is summed piece by piece for memory's sake is what is summed at once, for pieces that cut through ties."""
    rng = np.random.default_rng(3)
    scores, regions = [rng.integers(0, 9, (20, 20)) / 9], [rng.integers(0, 5, (20, 20))]
    weights = [rng.random((20, 20))]

    def everything():
        r = [rank(scores, regions), rank(scores, regions, weights)]
        return [[x.auroc(), x.average_precision(), *x.f1_max(), *x.aupro(LIMITS)] for x in r]

    whole = everything()
    monkeypatch.setattr(metrics, "_CHUNK", 7)
    np.testing.assert_allclose(everything(), whole, rtol=1e-12)


# --- AUPRO by hand


def test_aupro_worked_out_by_hand():
    """Two regions of 2 and 1 pixels, 4 good pixels. Falling scores:

    .9 (A) overlap 1/4 | .8 good rate 1/4 | .7 (B) overlap 3/4 | .6 good rate 1/2 | .5 (A) overlap 1 | .4 .3 good
    area to 1 = 1/4*1/4 + 1/4*3/4 + 1/2*1 = 3/4; to 0.3 = 1/16 + 0.05*3/4 = 0.1; at limit 0.1: 1/4.
    """
    scores = [np.array([[0.9, 0.5, 0.8, 0.7]]), np.array([[0.6, 0.4, 0.3]])]
    masks = [np.array([[True, True, False, True]]), np.zeros((1, 3), bool)]
    assert aupro(scores, masks, (1.0, 0.3, 0.1)) == pytest.approx((0.75, 0.1 / 0.3, 0.25), abs=1e-15)


def test_tied_scores_are_one_step():
    """All scores equal: the curve is the diagonal, so the area to a limit is limit / 2, whatever the order."""
    scores, masks = [np.zeros((4, 4))], [np.eye(4, dtype=bool)]
    assert aupro(scores, masks, (1.0, 0.3)) == pytest.approx((0.5, 0.15), abs=1e-15)
    assert aupro([s[::-1] for s in scores], masks, (1.0, 0.3)) == pytest.approx((0.5, 0.15), abs=1e-15)


def test_interpolated_at_the_limit_not_cut_before_it():
    """Ten good pixels tied with half the region, nothing else passed: a diagonal from (0, 0) to (1, 1/2)."""
    scores, mask = np.r_[np.full(10, 0.5), 0.5, 0.1][None], np.r_[np.zeros(10, bool), True, True][None]
    assert aupro([scores], [mask], (0.3,)) == pytest.approx((0.3 / 4,), abs=1e-15)


def test_a_perfect_map_is_exactly_one_even_with_few_good_pixels():
    """Dividing by the rate reached (here 0) instead of the limit, or leaving the limit out, breaks this."""
    scores, masks = [np.array([[0.9, 0.8, 0.1, 0.2, 0.3]])], [np.array([[True, True, False, False, False]])]
    assert aupro(scores, masks) == (1.0, 1.0, 1.0)


def test_divided_by_the_limit_not_by_the_rate_reached():
    """Rates jump from 0 to 1/2 at the tie: exact area to 0.3 under the line from (0, 0) to (1/2, 1)."""
    scores, masks = [np.array([[0.9, 0.9, 0.1]])], [np.array([[True, False, False]])]
    assert aupro(scores, masks, (0.3,)) == pytest.approx((0.3,), abs=1e-15)


def test_regions_touching_at_a_corner_are_one(reference):
    mask = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]], bool)
    assert label_regions(mask).max() == 3
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((9, 11)) < 0.4
        ours, theirs = label_regions(mask), reference.regions_of(mask)
        assert len(set(zip(ours.ravel(), theirs.ravel(), strict=True))) == ours.max() + 1 == theirs.max() + 1


def test_false_positive_rate_is_pooled_over_all_images():
    """A noisy good image costs the defect found in another: per-image rates would give 1."""
    defective = (np.array([[0.5, 0.1]]), np.array([[True, False]]))
    noisy = (np.full((1, 9), 0.9), np.zeros((1, 9), bool))
    assert aupro([defective[0]], [defective[1]], (0.3,)) == (1.0,)
    assert aupro([defective[0], noisy[0]], [defective[1], noisy[1]], (0.3,)) == (0.0,)


def test_every_region_counts_the_same_whatever_its_size():
    """A large region found and a pixel missed: overlap 1/2, though 100 of 101 pixels are found."""
    scores = np.r_[np.ones(100), 0.0, np.full(50, 0.5)][None]
    ids = np.r_[np.ones(100, int), 2, np.zeros(50, int)][None]
    assert aupro([scores], [ids], (0.3,)) == pytest.approx((0.5,), abs=1e-12)


def test_few_equidistant_thresholds_would_miss_this():
    """One hot pixel stretches the range so that 200 equidistant thresholds see next to nothing; exact does."""
    rng = np.random.default_rng(1)
    mask = np.zeros((64, 64), bool)
    mask[10:20, 10:20] = True
    score = rng.random((64, 64)) * 0.001 + 0.0005 * mask
    without = aupro([score], [mask], (0.3,))[0]
    score[40, 40] = 1000.0
    exact = aupro([score], [mask], (0.3,))[0]
    assert exact == pytest.approx(without, abs=0.01)
    assert np.isnan(aupro_rad([score], [mask])) or abs(aupro_rad([score], [mask]) - exact) > 0.1


def test_the_authors_variant(reference):
    rng = np.random.default_rng(5)
    masks = rng.random((3, 24, 24)) < 0.1
    maps = (rng.random((3, 24, 24)) + 0.7 * masks).astype(np.float32)
    assert aupro_rad(maps, masks) == pytest.approx(reference.aupro_rad(maps, masks), abs=1e-9)


# --- what counts


def test_one_class_is_undefined_never_zero_or_one():
    s = np.array([0.1, 0.2])
    for labels in (np.array([0, 0]), np.array([1, 1]), np.array([True, True])):
        assert np.isnan(
            [auroc(s, labels), average_precision(s, labels), *f1_max(s, labels), f1_at(s, labels, 0.0)]
        ).all()
        assert np.isnan(aupro([s], [labels])).all()
    assert np.isnan(aupro_rad([s[None]], [np.zeros((1, 2), bool)]))
    assert np.isnan(rank([], []).auroc())
    assert np.isnan(auroc(s, np.array([0, 1]), np.array([1.0, 0.0])))  # a class without weight is not there


def test_not_inspected_ranks_below_everything():
    scores, labels = np.array([np.nan, -5.0, 3.0, np.nan]), np.array([1, 0, 1, 0])
    lowest = np.array([-9.0, -5.0, 3.0, -9.0])
    assert auroc(scores, labels) == auroc(lowest, labels) == 0.625
    assert average_precision(scores, labels) == average_precision(lowest, labels)
    assert aupro([scores], [labels]) == aupro([lowest], [labels])
    assert np.isnan(scores).sum() == 2  # the caller's array is left alone


def test_f1_at_counts_what_lies_above_the_threshold():
    scores, labels = np.array([0.1, 0.5, 0.5, 0.9]), np.array([0, 0, 1, 1])
    assert f1_at(scores, labels, 0.5) == pytest.approx(2 / 3)  # one found, one missed
    assert f1_at(scores, labels, 0.4) == pytest.approx(0.8)
    assert f1_at(scores, labels, 2.0) == 0.0
    assert f1_at(scores, labels, -np.inf) == pytest.approx(2 / 3)


def test_curves_pass_through_known_points():
    scores, ids = np.array([0.9, 0.5, 0.8, 0.7, 0.6, 0.4, 0.3]), np.array([1, 1, 0, 2, 0, 0, 0])
    curves = rank([scores], [ids]).curves()
    points = set(zip(*(curves[k].round(6) for k in ("false_positive_rate", "recall", "overlap")), strict=True))
    assert {(0.0, 0.0, 0.0), (0.25, round(2 / 3, 6), 0.75), (1.0, 1.0, 1.0)} <= points
    assert all(np.diff(curves["false_positive_rate"]) >= 0)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ResultError, match=r"labels 1.*\(2, 3\)"):
        rank([np.zeros((2, 2)), np.zeros((2, 3))], [np.zeros((2, 2), int), np.zeros((3, 2), int)])
    with pytest.raises(ResultError, match="weights 0"):
        rank([np.zeros(2)], [np.zeros(2, int)], [np.array([1.0, -1.0])])
    with pytest.raises(ResultError, match="region ids"):
        rank([np.zeros(2)], [np.array([0, -1])])
    with pytest.raises(ValueError, match="zip"):
        rank([np.zeros(2)], [])


def test_pooling_needs_few_bytes_a_pixel():
    """200 million pixels within 3 GB leaves 15 bytes a pixel: 5 for float32 maps and masks, 10 for the rest."""
    maps = 40
    scores = np.random.default_rng(0).random((maps, 256, 256), np.float32)
    masks = scores > 0.98
    tracemalloc.start()
    try:
        ranking = rank(scores, (label_regions(mask) for mask in masks))
        values = [ranking.auroc(), ranking.average_precision(), *ranking.f1_max(), *ranking.aupro()]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert values[0] == values[1] == values[2] == 1.0
    assert peak / scores.size < 10


# --- specimens and instances


def test_an_incomplete_specimen_ranks_worst_for_its_label():
    scores = np.array([0.1, 0.2, np.nan, 0.9, 0.8, 0.95])
    defective = np.array([False, False, False, True, True, True])
    complete = np.array([True, False, True, True, False, True])
    ranked = specimen_scores(scores, defective, complete)
    assert ranked.tolist() == [0.1, np.inf, np.inf, 0.9, -np.inf, 0.95]
    assert auroc(ranked, defective) == pytest.approx(2 / 9)  # only (0.9, 0.1) and (0.95, 0.1) are in order


def disc(centre, radius, n=400):
    rng = np.random.default_rng(0)
    angle, r = rng.random(n) * 2 * np.pi, radius * np.sqrt(rng.random(n))
    return np.asarray(centre, float) + np.stack([r * np.cos(angle), r * np.sin(angle), np.zeros(n)], 1)


def test_one_found_defect_matches_one_labelled_only():
    """Two found halves of one labelled region: one match, one false alarm; the nearer one is taken."""
    labelled = [disc((0, 0, 0), 2.0)]
    counts, pairs = match_defects(
        np.array([[4.0, 0, 0], [0.5, 0, 0]]), np.array([10.0, 10.0]), labelled, np.array([12.0])
    )
    assert (counts.matched, counts.false_alarms, counts.missed) == (1, 1, 0)
    assert pairs == [(1, 0)]


def test_as_many_matches_as_possible_come_first():
    """Greedy nearest would give found 0 to label 0 (0.1 mm) and leave found 1, which reaches only label 0, alone."""
    labelled = [np.array([[0.0, 0, 0]]), np.array([[2.9, 0, 0]])]
    counts, pairs = match_defects(np.array([[0.1, 0, 0], [-2.9, 0, 0]]), np.ones(2), labelled, np.ones(2))
    assert counts == InstanceCounts(2, 0, 0)
    assert sorted(pairs) == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("distance", "area", "matches"),
    [(3.0, 1.0, 1), (3.01, 1.0, 0), (0.0, 3.9, 1), (0.0, 4.0, 0), (0.0, 0.25, 0), (0.0, 0.26, 1)],
)
def test_limits_of_a_match(distance, area, matches):
    """Within 3 mm of the region (not of its centre), areas differing by less than a factor of 4 either way."""
    region = np.stack([np.linspace(-10, 0, 50), np.zeros(50), np.zeros(50)], 1)
    counts, _ = match_defects(np.array([[distance, 0, 0]]), np.array([area]), [region], np.array([1.0]))
    assert counts.matched == matches


def test_good_specimens_and_empty_labels_count():
    counts, pairs = match_defects(np.zeros((3, 3)), np.ones(3), [], np.empty(0))
    assert (counts, pairs) == (InstanceCounts(0, 3, 0), [])
    counts, _ = match_defects(np.empty((0, 3)), np.empty(0), [disc((0, 0, 0), 1)], np.ones(1))
    assert counts == InstanceCounts(0, 0, 1)
    assert match_defects(np.zeros((1, 3)), np.ones(1), [np.empty((0, 3))], np.ones(1))[0] == InstanceCounts(0, 1, 1)
    total = InstanceCounts(3, 1, 0) + InstanceCounts(0, 2, 1)
    assert (total.precision, total.recall, total.f1) == (0.5, 0.75, 0.6)
    assert np.isnan([InstanceCounts().precision, InstanceCounts().recall, InstanceCounts().f1]).all()
