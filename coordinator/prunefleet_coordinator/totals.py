"""From a closed private sum to its total: noise unwrapped, and a last check that honest devices could have made it."""

from __future__ import annotations

from collections.abc import Sequence

from prunefleet_coordinator.combination import MIN_COHORTS, CombinationRule, combine
from prunefleet_coordinator.fusion import why_noisy_sum_impossible
from prunefleet_shared.campaign import Campaign, CohortPolicy
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.lanes import LaneTable, why_sum_impossible
from prunefleet_shared.masks import IntArray
from prunefleet_shared.messages import SessionKind, Total
from prunefleet_shared.noise import lane_variances_milli, noisy_ranges, unwrapped
from prunefleet_shared.private_sum import CoordinatorSum, noise_shares
from prunefleet_shared.secure_sum.stages import SumFailedError


def total_of(campaign: Campaign, kind: SessionKind, cohort_sum: CoordinatorSum) -> Total:
    """Close a session's sum.

    Raises:
        SumFailedError: It cannot be had, or no honest devices could have made it.
    """
    table, num_devices = campaign.lanes_of(kind), len(cohort_sum.contributors)
    residues_L = cohort_sum.close()
    lanes_L = residues_L if campaign.privacy.noise is None else _unwrapped(campaign, table, residues_L)
    total = Total(tuple(int(lane) for lane in lanes_L), num_devices)
    why = _why_sum_impossible(campaign, kind, total)
    if why:
        msg = f"the sum is impossible: {why}; at least one device lied"
        raise SumFailedError(msg)
    return total


def combined_total(campaign: Campaign, kind: SessionKind, totals: Sequence[Total]) -> Total:
    """What the sums of a round's cohorts come to, by the campaign's rule; of one cohort, its sum.

    Raises:
        ConfigError: Too few cohorts for a robust rule (admission lets none in).
        LocalProtocolError: No honest devices could have made one of them (our bug, or a tampered file in a replay).
    """
    for number, total in enumerate(totals, start=1):
        why = _why_sum_impossible(campaign, kind, total)
        if why:
            msg = f"cohort {number} of {len(totals)}: {why}"
            raise LocalProtocolError(msg)
    if len(totals) == 1:
        return totals[0]
    return combine(campaign.lanes_of(kind), totals, CombinationRule(campaign.cohort_of(kind).combination))


def fewest_cohorts(cohort: CohortPolicy) -> int:
    """Cohorts without which a round has no sum: more than half, and what the rule needs."""
    needed = 1 if cohort.combination == CombinationRule.SUM else MIN_COHORTS
    return max(needed, cohort.count // 2 + 1)


def why_total_impossible(campaign: Campaign, kind: SessionKind, total: Total) -> str | None:
    """The first block of a round's total that honest devices could not have made; None if they could."""
    if campaign.cohort_of(kind).combination != CombinationRule.SUM:
        return None  # each cohort's sum was possible; their middle need not be
    return _why_sum_impossible(campaign, kind, total)


def _why_sum_impossible(campaign: Campaign, kind: SessionKind, total: Total) -> str | None:
    table = campaign.lanes_of(kind)
    if campaign.privacy.noise is None:
        return why_sum_impossible(table, total.lanes, total.num_devices)
    variances_milli = total_variances_milli(campaign, table, total)
    return why_noisy_sum_impossible(table, total.lanes, total.num_devices, variances_milli)


def total_variances_milli(campaign: Campaign, table: LaneTable, total: Total) -> list[int]:
    """Variance of the noise in each lane of a total, in thousandths; 0 where no noise was added."""
    terms = campaign.privacy.noise
    if terms is None:
        return [0] * table.num_lanes
    one_L = lane_variances_milli(table, terms.multiplier_milli, noise_shares(campaign))
    return [total.num_devices * int(variance) for variance in one_L]


def _unwrapped(campaign: Campaign, table: LaneTable, residues_L: IntArray) -> IntArray:
    terms = campaign.privacy.noise
    if terms is None:
        return residues_L
    lowest_L, bits_L = noisy_ranges(table, terms.multiplier_milli, noise_shares(campaign), campaign.cohort.size)
    return unwrapped(residues_L, lowest_L, bits_L)
