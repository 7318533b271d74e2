"""What bad devices do to a decision, by the rule that puts cohorts together. Arithmetic on real votes, no training.

Attackers are drawn by chance among the fleet, and the fleet into cohorts by chance. Attacks, from weak to strong:

- ``own_inverted``: obeys the protocol, hands out its own grades upside down and votes for the opposite widths;
- ``fleet_inverted``: the same with the fleet's consensus, which it is taken to know;
- ``blind_shift``: breaks the protocol within its cohort: adds what would turn the *expected* sum upside down, not
  knowing the others' votes; a sum that no devices could have made is refused, and the cohort is lost;
- ``knowing_shift``: the same knowing its cohort's honest sum, so that the result passes every check, however extreme:
  as if all devices of the cohort had voted for the worst. An upper bound.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from attack_statistics import Task
from attack_votes import Votes, World
from result_file import Row

from prunefleet_coordinator.aggregation import channel_order
from prunefleet_coordinator.budget import choose_widths
from prunefleet_coordinator.combination import MIN_COHORTS, CombinationRule, combine
from prunefleet_edge.ranking import keep_masks, masks_by_order, per_cost, rank_widths
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.lanes import LaneBlock, LaneRule, LaneTable, grade_lane, why_sum_impossible, width_lane
from prunefleet_shared.masks import BoolArray, FloatArray, IntArray, grade_channels, keep_counts
from prunefleet_shared.messages import Total

Array = Any
"""Integers of a vector, or floats of a mean one."""

FLEET = 512
COHORT_SIZES = (8, 16, 32)
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
IN_RANGE = ("own_inverted", "fleet_inverted")
ATTACKS = (*IN_RANGE, "blind_shift", "knowing_shift")
LEVEL = 0
BLIND_STRENGTH = 0.7
"""Of the way to the inverted sum; the whole way leaves the range of some lane almost always."""
WORSE = 0.95
"""A device counts as worse off when its network keeps less than this of the saliency it would have kept."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Honest votes of a fleet, and what its devices would lose.

    Attributes:
        campaign: What is voted on.
        votes_NL: One vector per device.
        saliency_DC: Each distinct device's Taylor saliency by channel, as shares of its sum.
        own_kept_D: Share of the saliency that a device's own choice keeps at the same budget.
    """

    campaign: Campaign
    votes_NL: IntArray
    saliency_DC: FloatArray
    own_kept_D: FloatArray


@dataclass(frozen=True, slots=True)
class Made:
    """A decision: for each group its channels in order, and the widths."""

    orders: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]

    @property
    def halves(self) -> BoolArray:
        """The better half of each group, bool [C]."""
        return np.concatenate(masks_by_order(self.orders, [keep_counts(len(order))[3] for order in self.orders]))

    @property
    def kept(self) -> BoolArray:
        """The channels of the slim network, bool [C]."""
        return np.concatenate(masks_by_order(self.orders, self.widths))


def poisoning_tasks(world: World, devices: Votes, seed: int) -> Iterator[Task]:
    """Every attack, share, cohort size and rule, against the decision of the honest fleet's plain sum."""
    fleet = draw_fleet(world.campaign, devices, np.random.default_rng([seed, 0]))
    honest = decision(fleet.campaign, [_total(fleet.votes_NL)], CombinationRule.SUM)
    for attack, share, size, rule in itertools.product(ATTACKS, SHARES, COHORT_SIZES, CombinationRule):
        key = {"attack": attack, "rule": rule.value, "cohort": size, "attackers": share}
        yield key, functools.partial(_poisoned, fleet, honest, attack, share, size, rule, seed)


def _poisoned(
    fleet: Fleet, honest: Made, attack: str, share: float, size: int, rule: CombinationRule, seed: int
) -> Row:
    rng = np.random.default_rng([seed, size])  # the same cohorts and, growing, the same attackers in every row
    cohorts = passed(fleet.campaign, poisoned_cohorts(fleet, attack, share, size, rng))
    counts = {"cohorts": FLEET // size, "cohorts_refused": FLEET // size - len(cohorts)}
    return counts | _measures(fleet, honest, decision(fleet.campaign, cohorts, rule))


def draw_fleet(campaign: Campaign, devices: Votes, rng: np.random.Generator) -> Fleet:
    """A fleet of :data:`FLEET` devices drawn with replacement from those that voted."""
    layout, table, budget = campaign.layout, campaign.cost_table, campaign.levels[LEVEL].budget
    saliency_DC = devices.scores_NC / per_cost(layout, table, np.ones(layout.num_channels))
    saliency_DC = saliency_DC / saliency_DC.sum(axis=1, keepdims=True)
    own = [
        np.concatenate(keep_masks(layout, scores, rank_widths(layout, table, scores, budget)))
        for scores in devices.scores_NC
    ]
    votes_NL = devices.lanes(is_one_bit=False)[rng.integers(len(devices), size=FLEET)]
    return Fleet(campaign, votes_NL, saliency_DC, (saliency_DC * np.array(own)).sum(axis=1))


# --- attacks ----------------------------------------------------------------------------------------------------------


def poisoned_cohorts(fleet: Fleet, attack: str, share: float, size: int, rng: np.random.Generator) -> list[Total]:
    """The sums of a fleet's cohorts, some of its devices attacking."""
    is_bad_N = rng.permutation(FLEET) < round(share * FLEET)
    cohorts_KM = rng.permutation(FLEET).reshape(-1, size)
    if attack in IN_RANGE:
        votes_NL = fleet.votes_NL.copy()
        votes_NL[is_bad_N] = _lies(fleet, attack, fleet.votes_NL[is_bad_N])
        return [_total(votes_NL[members]) for members in cohorts_KM]
    totals = [_total(fleet.votes_NL[members]) for members in cohorts_KM]
    is_hit_K = is_bad_N[cohorts_KM].any(axis=1)
    return [_shifted(fleet, attack, total) if is_hit else total for total, is_hit in zip(totals, is_hit_K, strict=True)]


def _lies(fleet: Fleet, attack: str, votes_NL: IntArray) -> IntArray:
    table = fleet.campaign.vote_lanes
    if attack == "own_inverted":
        inverted = [upside_down(table, vote) for vote in votes_NL]
        return np.array(inverted, dtype=np.int64).reshape(votes_NL.shape)
    return np.broadcast_to(upside_down(table, consensus(table, fleet.votes_NL.sum(axis=0))), votes_NL.shape)


def upside_down(table: LaneTable, vector_L: IntArray) -> IntArray:
    """A vote or a sum turned round in every block: the best lane gets the worst one's value, and so on.

    Both keep their rules: the values of a block stay the same ones.
    """
    return _by_block(table, vector_L, _inverted)


def consensus(table: LaneTable, total_L: IntArray) -> IntArray:
    """The vote that obeys the protocol and is likest to a total."""

    def nearest(block: LaneBlock, part: IntArray) -> IntArray:
        if block.rule is LaneRule.GRADES:
            return grade_channels(part)
        return (np.arange(len(part)) == part.argmax()).astype(np.int64)

    return _by_block(table, total_L, nearest)


def _inverted(block: LaneBlock, part: IntArray) -> IntArray:
    if block.rule is not LaneRule.GRADES:
        return part[::-1]
    found = np.empty_like(part)
    found[np.argsort(part, kind="stable")] = np.sort(part)[::-1]
    return found


def _shifted(fleet: Fleet, attack: str, honest: Total) -> Total:
    """A cohort's sum after one of its devices broke the protocol."""
    table, lanes_L = fleet.campaign.vote_lanes, np.array(honest.lanes, dtype=np.int64)
    if attack == "knowing_shift":
        worst_L = upside_down(table, consensus(table, fleet.votes_NL.sum(axis=0)))
        return Total(tuple((honest.num_devices * worst_L).tolist()), honest.num_devices)
    mean_L = fleet.votes_NL.mean(axis=0) * honest.num_devices
    wanted_L = BLIND_STRENGTH * (upside_down(table, mean_L) - mean_L)
    shift_L = _by_block(table, wanted_L, _whole_shift)
    return Total(tuple((lanes_L + shift_L).tolist()), honest.num_devices)


def _whole_shift(block: LaneBlock, part: FloatArray) -> IntArray:
    """Whole numbers that add up to 0, as the check on a block's sum demands; width votes are left alone."""
    shift = np.rint(part).astype(np.int64) * (block.rule is LaneRule.GRADES)
    shift[np.argmax(np.abs(shift))] -= shift.sum()
    return shift


def _by_block(table: LaneTable, vector_L: Array, change: Callable[[LaneBlock, Array], Array]) -> Array:
    ends = np.cumsum([block.length for block in table.blocks])
    parts = np.split(vector_L, ends[:-1])
    return np.concatenate([change(block, part) for block, part in zip(table.blocks, parts, strict=True)])


def passed(campaign: Campaign, totals: Sequence[Total]) -> list[Total]:
    """The cohorts whose sums honest devices could have made; a coordinator refuses the others."""
    return [t for t in totals if why_sum_impossible(campaign.vote_lanes, t.lanes, t.num_devices) is None]


# --- what comes of it -------------------------------------------------------------------------------------------------


def decision(campaign: Campaign, cohorts: Sequence[Total], rule: CombinationRule) -> Made | None:
    """What the coordinator decides; None when too few cohorts are left."""
    if len(cohorts) < (1 if rule is CombinationRule.SUM else MIN_COHORTS):
        return None
    layout, table = campaign.layout, campaign.vote_lanes
    parts = table.split(combine(table, cohorts, rule).lanes)
    grades_C = np.concatenate([parts[grade_lane(group.name)] for group in layout.groups]).tolist()
    votes_GO = [parts[width_lane(LEVEL, group.name)].tolist() for group in layout.groups]
    widths = choose_widths(layout, campaign.constraints(LEVEL), votes_GO, campaign.limits)
    return Made(channel_order(layout, grades_C, campaign.public_order), widths)


def _measures(fleet: Fleet, honest: Made, made: Made | None) -> Row:
    if made is None:
        return {"overlap": None}
    kept_D, would_D = (fleet.saliency_DC @ one.kept.astype(np.float64) for one in (made, honest))
    distance = sum(abs(a - b) for a, b in zip(made.widths, honest.widths, strict=True))
    return {
        "overlap": round(float((made.halves & honest.halves).sum() / honest.halves.sum()), 4),
        "widths_l1": round(distance / sum(honest.widths), 4),
        "saliency_kept": round(float(kept_D.mean()), 4),
        "saliency_kept_honest": round(float(would_D.mean()), 4),
        "worse_share": round(float((kept_D < WORSE * would_D).mean()), 4),
        "below_own_share": round(float((kept_D < fleet.own_kept_D).mean()), 4),
    }


def _total(votes_NL: IntArray) -> Total:
    return Total(tuple(votes_NL.sum(axis=0).tolist()), len(votes_NL))
