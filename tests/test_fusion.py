"""Several views of one point: every rule by hand, and what must not matter."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rad3d.backproject import PointViews
from rad3d.fusion import LONE, fuse
from rad3d.settings import FusionRule

NAN = np.nan
SCORES = np.array([[1.0, NAN, 5.0, NAN], [2.0, 7.0, 6.0, NAN], [9.0, NAN, 1.0, NAN]], np.float32)
INCIDENCE = np.where(np.isnan(SCORES), 0, [[1.0], [0.5], [0.25]]).astype(np.float32)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean", [4.0, 7.0, 4.0, NAN]),
        ("consistent", [(1 + 1 + (2 + LONE) / 4) / 2.25, 3.5 / 1.0, (5 + 3 + 0.25) / 2.25, NAN]),
        ("weighted", [(1 + 2 * 0.5 + 9 * 0.25) / 1.75, 7.0, (5 + 6 * 0.5 + 1 * 0.25) / 1.75, NAN]),
        ("median", [2.0, 7.0, 5.0, NAN]),
        ("second", [2.0, 7.0, 5.0, NAN]),
        ("max", [9.0, 7.0, 6.0, NAN]),
    ],
)
def test_each_rule_by_hand(rule, expected):
    fused = fuse(PointViews(SCORES, INCIDENCE), rule, 4.5)
    np.testing.assert_allclose(fused.score, expected, rtol=1e-6)
    np.testing.assert_allclose(fused.agreement, [1 / 3, 1.0, 2 / 3, NAN], rtol=1e-6)
    assert fused.views_seen.tolist() == [3, 1, 3, 0]


@given(st.permutations(range(5)), st.sampled_from(get_args(FusionRule)), st.integers(0, 99))
def test_order_of_views_does_not_matter(order, rule, seed):
    rng = np.random.default_rng(seed)
    score = np.where(rng.random((5, 7)) < 0.4, NAN, rng.random((5, 7)))
    incidence = np.where(np.isnan(score), 0, rng.random((5, 7)))
    straight = fuse(PointViews(score, incidence), rule, 0.5)
    shuffled = fuse(PointViews(score[order], incidence[order]), rule, 0.5)
    np.testing.assert_allclose(straight.score, shuffled.score, rtol=1e-6)
    np.testing.assert_array_equal(straight.agreement, shuffled.agreement)


def test_a_glint_in_one_view_does_not_decide():
    """A highlight seen by one of six views: the maximum and the mean make a defect of it, the other rules do not."""
    score = np.zeros((6, 1))
    score[2] = 50.0
    views = PointViews(score, np.ones((6, 1)))
    assert fuse(views, "median").score[0] == 0
    assert fuse(views, "second").score[0] == 0
    assert fuse(views, "consistent").score[0] < 0.5
    assert fuse(views, "mean").score[0] > 8
    assert fuse(views, "max").score[0] == 50
    seen_by_all = PointViews(np.full((6, 1), 50.0), np.ones((6, 1)))
    assert fuse(seen_by_all, "consistent").score[0] > 45


def test_one_grazing_view_says_less_than_many_square_ones():
    """The same score from one view at 70 degrees, and from five that look straight at the point."""
    one = fuse(PointViews(np.array([[8.0]]), np.array([[0.34]])), "consistent").score[0]
    five = fuse(PointViews(np.full((5, 1), 8.0), np.ones((5, 1))), "consistent").score[0]
    assert one < 0.5 * five < 8
