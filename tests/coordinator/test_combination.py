"""Several cohorts, one total: the plain sum, and what a minority of bad cohorts cannot do to the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunefleet_coordinator.budget import choose_widths
from prunefleet_coordinator.combination import CombinationRule, combine
from prunefleet_coordinator.testing import random_vote, small_campaign
from prunefleet_shared.errors import ConfigError, LocalProtocolError
from prunefleet_shared.lanes import LaneBlock, LaneRule, LaneTable, grade_lane, width_lane
from prunefleet_shared.limits import Constraint
from prunefleet_shared.messages import Total

CAMPAIGN = small_campaign()
TABLE = CAMPAIGN.vote_lanes
ROBUST = (CombinationRule.MEDIAN, CombinationRule.TRIMMED_MEAN)
FLAGS = LaneTable((LaneBlock("flag", 1, 1, LaneRule.FLAG),))
WIDTHS = LaneTable((LaneBlock("width", 3, 1, LaneRule.ONE_HOT),))


def total_of(votes):
    return Total(tuple(int(lane) for lane in np.sum(votes, axis=0)), len(votes))


def cohorts_of(sizes, first_seed=0):
    seeds = iter(range(first_seed, first_seed + sum(sizes)))
    return [total_of([random_vote(CAMPAIGN, next(seeds)) for _ in range(size)]) for size in sizes]


def flags(*pairs):
    return [Total((lane,), num_devices) for lane, num_devices in pairs]


def test_the_sum_is_the_sum_of_all_devices():
    cohorts = cohorts_of([3, 1, 4])
    assert combine(TABLE, cohorts, CombinationRule.SUM) == total_of([random_vote(CAMPAIGN, seed) for seed in range(8)])


@pytest.mark.parametrize("rule", ROBUST)
def test_cohorts_that_agree_are_scaled_to_all_devices(rule):
    vote = random_vote(CAMPAIGN, 1)
    cohorts = [total_of([vote] * size) for size in (2, 3, 7)]
    assert combine(TABLE, cohorts, rule) == total_of([vote] * 12)


def test_lanes_are_compared_by_device_not_by_cohort_size():
    # Shares 1/1, 2/4, 0/2: the middle one is a half, of seven devices.
    assert combine(FLAGS, flags((1, 1), (2, 4), (0, 2)), CombinationRule.MEDIAN) == Total((3,), 7)


def test_of_four_cohorts_the_lower_middle_counts():
    assert combine(FLAGS, flags((0, 4), (1, 4), (3, 4), (4, 4)), CombinationRule.MEDIAN).lanes == (4,)


def test_the_trimmed_mean_leaves_out_a_quarter_at_each_end():
    cohorts = flags((0, 8), (0, 8), (1, 8), (2, 8), (3, 8), (4, 8), (8, 8), (8, 8))
    assert combine(FLAGS, cohorts, CombinationRule.TRIMMED_MEAN).lanes == ((8 + 16 + 24 + 32) // 4,)


def test_of_three_cohorts_the_trimmed_mean_leaves_out_one_at_each_end():
    assert combine(FLAGS, flags((0, 2), (1, 2), (2, 2)), CombinationRule.TRIMMED_MEAN).lanes == (3,)


@pytest.mark.parametrize("rule", ROBUST)
def test_cohorts_that_each_want_another_width_leave_every_vote_counted(rule):
    cohorts = [Total(lanes, 5) for lanes in ((5, 0, 0), (0, 5, 0), (0, 0, 5))]
    assert combine(WIDTHS, cohorts, rule) == Total((0, 15, 0), 15)


@pytest.mark.parametrize("rule", ROBUST)
def test_a_minority_of_bad_cohorts_stays_between_the_good_ones(rule):
    good = cohorts_of([8] * 7, first_seed=100)
    bad = total_of([reversed_grades(random_vote(CAMPAIGN, 1))] * 8)
    combined = parts_of(combine(TABLE, [*good, bad], rule))
    for group in CAMPAIGN.layout.groups:
        name = grade_lane(group.name)
        lanes_KC = np.array([parts_of(total)[name] for total in good]) * 8
        assert (combined[name] >= lanes_KC.min(axis=0)).all()
        assert (combined[name] <= lanes_KC.max(axis=0)).all()


def test_the_plain_sum_does_not_stay_there():
    good, bad = flags(*[(1, 8)] * 3), flags((8, 8))
    assert combine(FLAGS, good + bad, CombinationRule.SUM).lanes == (11,)
    assert combine(FLAGS, good + bad, CombinationRule.MEDIAN).lanes == (4,)


@given(st.lists(st.integers(1, 6), min_size=3, max_size=6), st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_histograms_stay_histograms_and_order_does_not_matter(sizes, first_seed, rng):
    cohorts = cohorts_of(sizes, first_seed)
    for rule in ROBUST:
        combined = combine(TABLE, cohorts, rule)
        assert combined == combine(TABLE, rng.sample(cohorts, len(cohorts)), rule)
        parts = parts_of(combined)
        for group in CAMPAIGN.layout.groups:
            for level in range(len(CAMPAIGN.levels)):
                votes = parts[width_lane(level, group.name)]
                assert votes.min() >= 0
                assert votes.sum() == combined.num_devices == sum(sizes)


@pytest.mark.parametrize("rule", ROBUST)
def test_widths_can_be_decided_from_it(rule):
    parts = parts_of(combine(TABLE, cohorts_of([4, 4, 4]), rule))
    for level, terms in enumerate(CAMPAIGN.levels):
        votes_GO = [parts[width_lane(level, group.name)].tolist() for group in CAMPAIGN.layout.groups]
        widths = choose_widths(CAMPAIGN.layout, [Constraint(CAMPAIGN.cost_table, terms.budget)], votes_GO)
        assert CAMPAIGN.cost_table.cost(widths) <= terms.budget


@pytest.mark.parametrize("rule", ROBUST)
def test_two_cohorts_have_no_robust_middle(rule):
    with pytest.raises(ConfigError, match="at least 3 cohorts, got 2"):
        combine(TABLE, cohorts_of([2, 2]), rule)


@pytest.mark.parametrize("cohorts", [[], [Total((0,), 0)]])
def test_no_devices_is_our_bug(cohorts):
    with pytest.raises(LocalProtocolError, match="a device in each"):
        combine(FLAGS, cohorts, CombinationRule.SUM)


def parts_of(total):
    return TABLE.split(total.lanes)


def reversed_grades(vote):
    # Every block of grades turned upside down keeps its rule, whatever is honest about it.
    vote, start = vote.copy(), 0
    for block in TABLE.blocks:
        if block.rule is LaneRule.GRADES:
            part = vote[start : start + block.length]
            order = np.argsort(part, kind="stable")
            vote[start + order] = np.sort(part)[::-1]
        start += block.length
    return vote
