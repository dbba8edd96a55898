"""Thresholds from good specimens keep what they promise."""

import numpy as np
import pytest

from rad3d.calibration import point_threshold, specimen_threshold
from rad3d.errors import SettingsError


@pytest.mark.parametrize("n", [19, 20, 39])
def test_conformal_rate_holds_whatever_the_scores_look_like(n):
    """Monte Carlo over three very different tails: a fresh good specimen fails in at most the asked share."""
    rng = np.random.default_rng(n)
    for draw in (rng.exponential, rng.random, lambda size: rng.standard_t(2, size) ** 2):
        fails = []
        for _ in range(3000):
            scores = draw(size=n + 1)
            threshold, rate = specimen_threshold(scores[:n], 0.05)
            fails.append(scores[n] > threshold)
            assert rate.method == "conformal"
        assert np.mean(fails) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 3000)


def test_four_specimens_cannot_guarantee_five_percent_and_say_so():
    threshold, rate = specimen_threshold(np.array([3.0, 4.0, 5.0, 4.5]), 0.05)
    assert rate.method == "extrapolated"
    assert rate.guaranteed == pytest.approx(0.2)
    assert "4 good specimens guarantee 0.20; 19 are needed" in rate.sentence()
    assert threshold > 5.0


def test_extrapolation_keeps_its_rate_when_its_tail_model_is_right():
    rng = np.random.default_rng(0)
    draws = np.exp(1.0 + 0.3 * rng.standard_normal((4000, 5)))
    fails = np.mean([row[4] > specimen_threshold(row[:4], 0.05)[0] for row in draws])
    assert fails == pytest.approx(0.05, abs=0.012)


def test_no_good_score_is_an_error():
    with pytest.raises(SettingsError):
        specimen_threshold(np.array([np.nan]), 0.05)


def test_point_threshold_is_a_quantile_of_good_points():
    scores = np.arange(10_001.0)
    assert point_threshold([scores, scores + 100], 0.01) == pytest.approx(9950)
