"""From a sum to a decision: orders, ties, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from golden_decisions import VECTOR, decisions_of, read_case

from prunefleet_coordinator.aggregation import channel_order, decide, margins_milli
from prunefleet_coordinator.testing import random_vote, small_campaign, vote_vector
from prunefleet_coordinator.totals import combined_total
from prunefleet_shared.campaign import SUM_DP, NoiseTerms, PrivacyTerms
from prunefleet_shared.decision_rules import ORDER_RULES, DecisionRules
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.layout import ChannelGroup, Layout
from prunefleet_shared.messages import SessionKind, Total

CAMPAIGN = small_campaign()


def total_of(*vectors):
    return Total(tuple(int(lane) for lane in np.sum(vectors, axis=0)), len(vectors))


def test_channels_come_by_descending_grade_within_each_group():
    layout = Layout((ChannelGroup("a", 3), ChannelGroup("b", 2)))
    assert channel_order(layout, [1, 9, 5, 0, 4], [(0, 1, 2), (0, 1)]) == ((1, 2, 0), (1, 0))


def test_ties_fall_to_the_public_order():
    layout = Layout((ChannelGroup("a", 4),))
    assert channel_order(layout, [5, 5, 7, 5], [(3, 0, 2, 1)]) == ((2, 3, 0, 1),)


def test_a_decision_stays_within_budget_and_names_its_facts():
    campaign = small_campaign()
    total = total_of(*(random_vote(campaign, seed) for seed in range(5)))
    for level, step in enumerate(campaign.levels):
        decision = decide(campaign, total, level)
        assert decision.cost == campaign.cost_table.cost(decision.widths) <= step.budget
        assert (decision.level, decision.num_devices) == (level, 5)
        assert [sorted(order) for order in decision.prior] == [sorted(order) for order in campaign.public_order]
        assert decision.tally_digest == digest(canonical_bytes(total.lanes))


def test_levels_decide_from_their_own_width_votes():
    campaign = small_campaign()
    total = total_of(*(random_vote(campaign, seed) for seed in range(5)))
    first, second = decide(campaign, total, 0), decide(campaign, total, 1)
    assert first.prior == second.prior
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("level", [-1, 2])
def test_a_level_outside_the_schedule_is_our_bug(level):
    campaign = small_campaign()
    with pytest.raises(LocalProtocolError, match="2 levels"):
        decide(campaign, total_of(random_vote(campaign, 1)), level)


def test_a_sum_no_devices_could_have_made_is_refused():
    campaign = small_campaign()
    honest = total_of(random_vote(campaign, 1), random_vote(campaign, 2))
    with pytest.raises(LocalProtocolError, match="grade/stem"):
        decide(campaign, Total((honest.lanes[0] + 1, *honest.lanes[1:]), 2), 0)
    with pytest.raises(LocalProtocolError, match="no device voted"):
        decide(campaign, Total((0,) * len(honest.lanes), 0), 0)


OPTIONS = ((0, 1, 2), (0, 0, 0))


def test_public_votes_count_as_devices_that_vote_the_public_widths():
    campaign = small_campaign(public_options=OPTIONS)
    votes = [random_vote(campaign, seed) for seed in range(3)]
    public = vote_vector(campaign, range(33), [[2, 3, 2], [2, 2, 1]])  # those options, in channels
    for level in range(2):
        fused = decide(replace(campaign, rules=DecisionRules(public_votes=4)), total_of(*votes), level)
        assert fused.widths == decide(campaign, total_of(*votes, *[public] * 4), level).widths
        assert fused.num_devices == 3


def test_public_votes_beyond_any_fleet_leave_nothing_of_its_order():
    campaign = small_campaign(public_options=OPTIONS, rules=DecisionRules(public_votes=10**9))
    total = total_of(*(random_vote(campaign, seed) for seed in range(5)))
    by_name = decide(replace(campaign, rules=DecisionRules("public")), total, 0)
    assert decide(campaign, total, 0).prior == by_name.prior == campaign.public_order


def test_borda_needs_the_cohorts_and_no_other_rule_looks_at_them():
    cohorts = [total_of(*(random_vote(CAMPAIGN, seed) for seed in seeds)) for seeds in ((1, 2), (3, 4, 5), (6, 7, 8))]
    total = combined_total(CAMPAIGN, SessionKind.VOTE, cohorts)
    priors = {}
    for order in ORDER_RULES:
        campaign = replace(CAMPAIGN, rules=DecisionRules(order))
        with_cohorts, without = decide(campaign, total, 0, cohorts), decide(campaign, total, 0)
        assert decide(campaign, total, 0, cohorts[::-1]) == with_cohorts
        assert (with_cohorts.prior == without.prior) == (order != "borda")
        priors[order] = with_cohorts.prior
    assert len(set(priors.values())) == len(ORDER_RULES), "they differ, or this compares nothing"


def test_near_ties_are_left_to_the_public_order_at_each_levels_own_cut():
    total = total_of(*(random_vote(CAMPAIGN, seed) for seed in range(5)))
    campaign = replace(CAMPAIGN, rules=DecisionRules(near_tie_milli=1000))
    clear, near = decide(CAMPAIGN, total, 0), decide(campaign, total, 0)
    assert clear.widths == near.widths
    assert clear.prior != near.prior
    margins = zip(margins_milli(CAMPAIGN, total, clear), clear.prior, near.prior, strict=True)
    for margin, before, after in margins:
        assert (before == after) or (margin is not None and margin < 1000)


def test_with_noise_the_public_rule_leaves_widths_to_the_fleet_and_nothing_else():
    noise = NoiseTerms(epsilon_milli=8_000, delta_power=6, num_outcomes=2, multiplier_milli=10)
    noisy = small_campaign(privacy=PrivacyTerms(SUM_DP, 3, noise))
    lanes = [100 * value for value in [1, 0] * 8 + [1, 0] * 6 + [1, 1, 1, 0, 0] + [0, 0, 0, 1, 0, 0, 0, 0] * 6]
    total = Total(tuple(lanes), 100)
    mean, public = (decide(replace(noisy, rules=DecisionRules(order)), total, 0) for order in ("mean", "public"))
    assert public.prior == noisy.public_order != mean.prior
    assert public.widths == mean.widths


CASES = json.loads(VECTOR.read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_golden_decisions(case):
    """Any machine, any release: these campaigns and sums give these decisions. A change here breaks every replay."""
    assert decisions_of(*read_case(case)) == case["decisions"]
