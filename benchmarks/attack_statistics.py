"""How well an attack tells two cases apart, and what that proves about a claimed epsilon. numpy and scipy only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, rankdata

CONFIDENCE = 0.95
Scores = npt.NDArray[np.float64]
Task = tuple[dict[str, Any], Callable[[], dict[str, Any]]]
"""The columns that say which row it is, and what measures the others; a row that is there is not measured again."""


def auc(scores_in: npt.ArrayLike, scores_out: npt.ArrayLike) -> float:
    """Probability that a score of the first kind is above one of the second; ties count half. 0.5 is chance.

    >>> auc([2, 3], [1, 2])
    0.875
    """
    first, second = np.asarray(scores_in, dtype=np.float64), np.asarray(scores_out, dtype=np.float64)
    ranks = rankdata(np.concatenate([first, second]))[: len(first)]
    return float((ranks.sum() - len(first) * (len(first) + 1) / 2) / (len(first) * len(second)))


def tpr_at_fpr(scores_in: npt.ArrayLike, scores_out: npt.ArrayLike, fpr: float) -> float:
    """Share of the first kind above a threshold that at most a share ``fpr`` of the second kind is above.

    >>> tpr_at_fpr([5, 6, 7, 1], [1, 2, 3, 4], fpr=0.25)
    0.75
    """
    descending = np.sort(np.asarray(scores_out, dtype=np.float64))[::-1]
    threshold = descending[min(int(fpr * len(descending)), len(descending) - 1)]
    return float((np.asarray(scores_in, dtype=np.float64) > threshold).mean())


def clopper_pearson(num_hits: int, num_trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact interval for a probability of which ``num_hits`` of ``num_trials`` were seen.

    Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26, 1934.
    """
    half = (1 - confidence) / 2
    low = float(beta.ppf(half, num_hits, num_trials - num_hits + 1)) if num_hits else 0.0
    high = float(beta.ppf(1 - half, num_hits + 1, num_trials - num_hits)) if num_hits < num_trials else 1.0
    return low, high


def epsilon_lower_bound(
    scores_in: npt.ArrayLike, scores_out: npt.ArrayLike, delta: float, confidence: float = CONFIDENCE
) -> float:
    """The largest epsilon that these scores refute, with ``confidence``; 0 if they refute none.

    (epsilon, delta)-DP allows no test more than P[in] <= e^epsilon P[out] + delta, and the same with in and out
    swapped (Kairouz et al. 2015, theorem 2.1). The threshold is chosen on the first half of the scores and both
    probabilities are bounded on the second, as Jagielski et al., "Auditing Differentially Private Machine Learning",
    NeurIPS 2020, do: so the choice costs no confidence.

    Args:
        scores_in: An attacker's statistic of releases with the canary, in the order drawn; higher speaks for it.
        scores_out: The same without.
        delta: Of the claim.
        confidence: That the true epsilon is not below the result.
    """
    inside, outside = np.asarray(scores_in, dtype=np.float64), np.asarray(scores_out, dtype=np.float64)
    (first_in, second_in), (first_out, second_out) = (map(np.sort, np.array_split(s, 2)) for s in (inside, outside))
    best = max(
        _thresholds(first_in, first_out),
        key=lambda threshold: _bound(first_in, first_out, threshold, delta, confidence),
    )
    return max(0.0, _bound(second_in, second_out, best, delta, confidence))


def _thresholds(sorted_in: Scores, sorted_out: Scores) -> list[float]:
    """Quantiles of both kinds, dense in the tails, where a large epsilon shows."""
    tail = np.geomspace(0.5, 1 / len(sorted_out), 60)
    places = np.concatenate([tail, 1 - tail])
    return np.unique(np.concatenate([np.quantile(sorted_out, places), np.quantile(sorted_in, places)])).tolist()


def _bound(sorted_in: Scores, sorted_out: Scores, threshold: float, delta: float, confidence: float) -> float:
    """Log ratio that holds with ``confidence`` at one threshold: of scores above it, or of the others swapped."""
    # Each of the two bounds fails with half of what is left of the confidence, so both hold together.
    in_low, _ = clopper_pearson(_num_above(sorted_in, threshold), len(sorted_in), confidence)
    _, out_high = clopper_pearson(_num_above(sorted_out, threshold), len(sorted_out), confidence)
    return max(_log_ratio(in_low - delta, out_high), _log_ratio(1 - out_high - delta, 1 - in_low))


def _num_above(ascending: Scores, threshold: float) -> int:
    return len(ascending) - int(np.searchsorted(ascending, threshold, side="right"))


def _log_ratio(above: float, below: float) -> float:
    return math.log(above / below) if above > 0 and below > 0 else -math.inf
