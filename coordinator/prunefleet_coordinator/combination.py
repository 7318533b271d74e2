"""From the sums of several cohorts to one total: added up, or robust against cohorts that were poisoned.

A private sum hides who added what, so one device that ignores the protocol can move its whole cohort's sum as far as
the sanity check lets it. What can be bounded is how many *cohorts* it reaches: the cohorts are put together lane by
lane by their middle, and a few bad ones do not move the middle. Integers only, the same on every machine and in every
order of the cohorts. Research: ``median`` and ``trimmed mean`` of Yin et al., "Byzantine-Robust Distributed Learning",
ICML 2018, definitions 1 and 2, over cohorts in place of devices.

**How many attackers.** With a share p of bad devices, drawn into cohorts of m by chance, a cohort is clean with
probability (1-p)^m. The median holds while more than half of the cohorts are clean, m <= 0.69 / p; the trimmed mean
(a quarter from each end) while more than three quarters are, m <= 0.28 / p:

| devices in a cohort | 8 | 16 | 32 | 64 | 128 |
|---|---|---|---|---|---|
| bad devices the median stands, at most | 8.3 % | 4.2 % | 2.1 % | 1.0 % | 0.5 % |
| bad devices the trimmed mean stands, at most | 3.5 % | 1.7 % | 0.8 % | 0.4 % | 0.2 % |

To stand means to stay between what clean cohorts said; near the limit the order still suffers (measured by
``benchmarks/attacks.py``), and a run with few cohorts can be unlucky. Small cohorts hide a device less: the operator
chooses. Votes that obey the protocol and lie are bounded by the vote itself (every device hands out the same grades),
whatever the rule.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np

from prunefleet_shared.campaign import MIN_ROBUST_COHORTS
from prunefleet_shared.errors import ConfigError, LocalProtocolError
from prunefleet_shared.lanes import LaneRule, LaneTable
from prunefleet_shared.masks import IntArray
from prunefleet_shared.messages import Total

MIN_COHORTS = MIN_ROBUST_COHORTS
TRIM_DIVISOR = 4
"""The trimmed mean leaves out a quarter of the cohorts at each end, at least one."""


class CombinationRule(enum.StrEnum):
    """How the sums of several cohorts become one."""

    SUM = "sum"  # every device counts the same; one bad cohort is enough
    MEDIAN = "median"  # stands while fewer than half of the cohorts are bad
    TRIMMED_MEAN = "trimmed_mean"  # stands while fewer than a quarter are; closer to the sum when none is


def combine(table: LaneTable, totals: Sequence[Total], rule: CombinationRule) -> Total:
    """One total for all cohorts.

    Under ``MEDIAN`` and ``TRIMMED_MEAN`` each cohort's lanes are first scaled to the number of all devices, rounded
    down. Histograms (width votes, outcomes) have ordered options and are combined as cumulative counts, each lane's
    "how many asked for at most this": so they stay histograms, with no negative count and with as many votes as
    devices, where the middle of each option by itself could leave none at all. Grades keep their order, not their sum:
    such a total is not one that devices could have made (``why_sum_impossible``), its parts are.

    Of an even number of cohorts the *lower* of the two middles is taken. Unlike their mean it is a value that a cohort
    really had; half of the cohorts cannot raise it, and what they lower stays within 0.

    Args:
        table: What was contributed.
        totals: One per cohort, at least one device in each; exact sums, not noisy ones.
        rule: How.

    Returns:
        Lanes, and the number of devices in all cohorts.

    Raises:
        ConfigError: Fewer than :data:`MIN_COHORTS` cohorts for a robust rule (the operator's to mend).
        LocalProtocolError: No cohort, or an empty one (our bug).
    """
    _check(totals, rule)
    num_devices = sum(total.num_devices for total in totals)
    lanes_KL = np.array([total.lanes for total in totals], dtype=np.int64)
    if rule is CombinationRule.SUM:
        return _total(lanes_KL.sum(axis=0), num_devices)
    counts_K = np.array([total.num_devices for total in totals], dtype=np.int64)
    scaled_KL = _cumulated(table, lanes_KL) * num_devices // counts_K[:, None]
    sorted_KL = np.sort(scaled_KL, axis=0)
    middle_L = _lower_median(sorted_KL) if rule is CombinationRule.MEDIAN else _trimmed_mean(sorted_KL)
    return _total(_differences(table, middle_L), num_devices)


def _check(totals: Sequence[Total], rule: CombinationRule) -> None:
    if not totals or any(total.num_devices < 1 for total in totals):
        msg = "combine() needs at least one cohort, and a device in each"
        raise LocalProtocolError(msg)
    if rule is not CombinationRule.SUM and len(totals) < MIN_COHORTS:
        msg = (
            f"combination {rule.value}: expected at least {MIN_COHORTS} cohorts, got {len(totals)}; "
            "wait for more cohorts, make them smaller, or choose the rule sum"
        )
        raise ConfigError(msg)


def _total(lanes: IntArray, num_devices: int) -> Total:
    return Total(tuple(int(lane) for lane in lanes), num_devices)


def _is_histogram(rule: LaneRule) -> bool:
    return rule in (LaneRule.ONE_HOT, LaneRule.AT_MOST_ONE)


def _cumulated(table: LaneTable, lanes_KL: IntArray) -> IntArray:
    """Histogram blocks as cumulative counts, other blocks as they are."""
    parts, start = [], 0
    for block in table.blocks:
        part = lanes_KL[:, start : start + block.length]
        parts.append(part.cumsum(axis=1) if _is_histogram(block.rule) else part)
        start += block.length
    return np.concatenate(parts, axis=1)


def _differences(table: LaneTable, lanes_L: IntArray) -> IntArray:
    """The inverse of :func:`_cumulated`. Middles of cumulative counts never fall, so no difference is negative."""
    parts = table.split(lanes_L)
    blocks = [(parts[block.name], _is_histogram(block.rule)) for block in table.blocks]
    combined: IntArray = np.concatenate(
        [np.diff(part, prepend=0) if is_histogram else part for part, is_histogram in blocks]
    )
    return combined


def _lower_median(sorted_KL: IntArray) -> IntArray:
    median_L: IntArray = sorted_KL[(len(sorted_KL) - 1) // 2]
    return median_L


def _trimmed_mean(sorted_KL: IntArray) -> IntArray:
    trim = max(1, len(sorted_KL) // TRIM_DIVISOR)
    kept_KL = sorted_KL[trim : len(sorted_KL) - trim]
    mean_L: IntArray = kept_KL.sum(axis=0) // len(kept_KL)
    return mean_L
