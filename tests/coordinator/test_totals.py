"""From closed sums to a round's total: what honest devices cannot have made is refused, and named."""

from dataclasses import replace

import numpy as np
import pytest

from prunefleet_coordinator.testing import random_vote, small_campaign
from prunefleet_coordinator.totals import combined_total, fewest_cohorts, why_total_impossible
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.messages import SessionKind, Total


def total_of(campaign, seeds):
    votes = np.sum([random_vote(campaign, seed) for seed in seeds], axis=0)
    return Total(tuple(int(lane) for lane in votes), len(seeds))


def campaign_of(count, rule):
    plain = small_campaign()
    return replace(plain, cohort=replace(plain.cohort, count=count, combination=rule))


@pytest.mark.parametrize("rule", ["sum", "median", "trimmed_mean"])
def test_the_cohort_that_no_honest_devices_could_have_made_is_named(rule):
    campaign = campaign_of(3, rule)
    totals = [total_of(campaign, range(start, start + 3)) for start in (0, 3, 6)]
    combined_total(campaign, SessionKind.VOTE, totals)
    totals[1] = replace(totals[1], lanes=(totals[1].lanes[0] + 1, *totals[1].lanes[1:]))
    with pytest.raises(LocalProtocolError, match="cohort 2 of 3: grade/stem"):
        combined_total(campaign, SessionKind.VOTE, totals)


def test_of_one_cohort_the_sum_is_the_total():
    campaign = campaign_of(1, "sum")
    total = total_of(campaign, range(4))
    assert combined_total(campaign, SessionKind.VOTE, [total]) is total


def test_a_middle_is_no_sum_and_is_not_asked_to_be_one():
    campaign = campaign_of(3, "median")
    totals = [total_of(campaign, range(start, start + 3)) for start in (0, 3, 6)]
    middle = combined_total(campaign, SessionKind.VOTE, totals)
    assert why_total_impossible(campaign, SessionKind.VOTE, middle) is None
    assert why_total_impossible(campaign_of(3, "sum"), SessionKind.VOTE, middle) is not None


@pytest.mark.parametrize(
    ("count", "rule", "fewest"), [(1, "sum", 1), (2, "sum", 2), (5, "sum", 3), (3, "median", 3), (9, "median", 5)]
)
def test_more_than_half_of_the_cohorts_are_needed_and_what_the_rule_wants(count, rule, fewest):
    assert fewest_cohorts(campaign_of(count, rule).cohort) == fewest
