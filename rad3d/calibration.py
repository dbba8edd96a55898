"""From the scores of good specimens to thresholds, with the false-reject rate they guarantee.

Specimen level: each good specimen is scored against the others, a new one against all. As far as those scores are
exchangeable (they nearly are: the reference and the scale of scores have seen every good one), a new good specimen
ranks among them at random, so the k-th smallest of n is exceeded with rate (n + 1 - k) / (n + 1) (conformal, Vovk et
al. 2005; by leaving one out, Barber et al. 2021). The smallest rate n
specimens can guarantee is 1 / (n + 1); for less, the tail is extrapolated: the logarithms of the scores are taken
as normal and the threshold is Student's prediction bound for one more of them.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from rad3d.arrays import Values
from rad3d.errors import SettingsError

Method = Literal["conformal", "extrapolated", "none"]


@dataclass(frozen=True)
class FalseReject:
    """What was asked, and what the good specimens guarantee."""

    asked: float
    guaranteed: float | None
    n_good: int
    method: Method

    def to_dict(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)

    def sentence(self) -> str:
        """For people.

        >>> FalseReject(0.05, 0.2, 4, "extrapolated").sentence()
        '0.05 asked; 4 good specimens guarantee 0.20; 19 are needed'
        """
        if self.method == "conformal":
            return f"{self.asked:g} asked and guaranteed by {self.n_good} good specimens"
        needed = int(np.ceil(1 / self.asked - 1 - 1e-9)) if self.asked else "infinitely many"
        guarantee = "nothing" if self.guaranteed is None else f"{self.guaranteed:.2f}"
        learned = "1 good specimen guarantees" if self.n_good == 1 else f"{self.n_good} good specimens guarantee"
        return f"{self.asked:g} asked; {learned} {guarantee}; {needed} are needed"


def specimen_threshold(good_scores: Values, false_reject: float) -> tuple[float, FalseReject]:
    """The score above which a specimen fails, from leave-one-out scores (n,) of the good ones.

    >>> threshold, rate = specimen_threshold(np.arange(1.0, 20.0), 0.05)
    >>> threshold, rate.method
    (19.0, 'conformal')

    Raises:
        SettingsError: no finite good score.
    """
    scores = np.sort(good_scores[np.isfinite(good_scores)])
    n = len(scores)
    if not n:
        raise SettingsError(
            "calibration",
            expected="scores of good specimens",
            got="none",
            remedy="fit with good specimens that register",
        )
    rank = max(int(np.ceil((n + 1) * (1 - false_reject) - 1e-9)), 1)
    if rank <= n:
        return float(scores[rank - 1]), FalseReject(false_reject, false_reject, n, "conformal")
    if n == 1:
        return float(scores[0] * SINGLE_FACTOR), FalseReject(false_reject, None, n, "extrapolated")
    mean, spread = _tail(scores)
    bound = mean + stats.t.ppf(1 - max(false_reject, 1e-6), n - 1) * spread
    return float(max(np.exp(bound), scores[-1])), FalseReject(false_reject, 1 / (n + 1), n, "extrapolated")


def p_value(good_scores: Values, score: float) -> float:
    """How often one more good specimen scores this high: by rank among the good ones, beyond them by their tail.

    Args:
        good_scores: (n,) leave-one-out scores of the good ones; with a single one NaN.
        score: of a defect or a specimen.

    >>> p_value(np.array([1.0, 2.0, 4.0]), 1.5), p_value(np.array([1.0, 2.0, 4.0]), 1000.0) < 0.02
    (0.75, True)
    """
    scores = np.sort(good_scores[np.isfinite(good_scores)])
    n = len(scores)
    if n < 2:
        return float("nan")
    by_rank = (1 + int((scores >= score).sum())) / (n + 1)
    if score <= scores[-1]:
        return by_rank
    mean, spread = _tail(scores)
    return float(min(by_rank, stats.t.sf((np.log(max(score, 1e-6)) - mean) / spread, n - 1)))


def _tail(scores: Values) -> tuple[float, float]:
    """Mean of the good scores' logarithms, and the standard deviation of one more about it."""
    logs = np.log(np.maximum(scores, 1e-6))
    spread = max(float(logs.std(ddof=1)), LEAST_LOG_SPREAD)
    return float(logs.mean()), spread * float(np.sqrt(1 + 1 / len(scores)))


LEAST_LOG_SPREAD = 0.08
"""Few specimens may agree by chance; their scores are never taken to vary by less than 8 %."""

SINGLE_FACTOR = 4.0
"""With a single good specimen nothing tells how good ones vary: its score, seen a second time, gets this margin."""


def point_threshold(good_scores: list[Values], false_positive: float = 0.002) -> float:
    """The score that good surface points exceed at this rate: the mean over specimens of their quantiles."""
    quantiles = [np.nanquantile(scores, 1 - false_positive) for scores in good_scores if np.isfinite(scores).any()]
    return float(np.mean(quantiles))
