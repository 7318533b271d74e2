"""Order rules on small tallies by hand: what each makes of them, margins, and near ties."""

from itertools import pairwise

import pytest

from prunefleet_coordinator.order_rules import (
    RULES,
    CohortVotes,
    GroupVotes,
    abstain,
    borda,
    majority,
    margin_milli,
    order_by,
)
from prunefleet_shared.decision_rules import ORDER_RULES
from prunefleet_shared.masks import grades_by_rank


def device_grades(order, top_grade=7):
    """The graded mask of a device with this order; the better half where masks have one bit."""
    by_rank = [int(grade) for grade in grades_by_rank(len(order))]
    grades = [0] * len(order)
    for channel, grade in zip(order, by_rank, strict=True):
        grades[channel] = grade if top_grade == 7 else int(grade > 3)
    return grades


def test_the_registry_has_every_rule_that_a_campaign_may_name():
    assert tuple(RULES) == ORDER_RULES


def test_the_mean_goes_by_summed_grades_and_breaks_ties_by_the_public_order():
    votes = GroupVotes([5, 9, 5, 2], 2, (3, 2, 1, 0))
    assert order_by(RULES["mean"], votes) == (1, 2, 0, 3)


def test_the_majority_counts_masks_and_forgets_how_large_it_was():
    votes = GroupVotes([14, 8, 7, 6, 0], 2, (4, 3, 2, 1, 0))  # of 14 masks, half are 7
    assert majority(votes) == [1, 1, 0, -1, -1]
    assert order_by(majority, votes) == (1, 0, 2, 4, 3)


def test_with_one_bit_the_majority_is_that_of_devices():
    votes = GroupVotes([3, 2, 1, 0], 3, (0, 1, 2, 3), top_grade=1)
    assert majority(votes) == [1, 1, -1, -1]


def test_borda_counts_places_in_each_cohort_not_by_how_far():
    shouting = CohortVotes([21, 0, 1], 3)
    others = [CohortVotes([8, 10, 9], 3), CohortVotes([9, 11, 10], 3)]
    votes = GroupVotes([38, 21, 20], 9, (0, 1, 2), cohorts=[shouting, *others])
    assert order_by(RULES["mean"], votes) == (0, 1, 2)
    assert borda(votes) == [3 * (2 - 2 - 2), 3 * (-2 + 2 + 2), 0]
    assert order_by(borda, votes) == (1, 2, 0)


def test_borda_weighs_a_cohort_by_its_devices_and_shares_points_among_equals():
    votes = GroupVotes([10, 10, 4], 5, (2, 1, 0), cohorts=[CohortVotes([7, 7, 0], 4), CohortVotes([3, 3, 4], 1)])
    assert borda(votes) == [4 * 1 - 1, 4 * 1 - 1, 4 * -2 + 2]


@pytest.mark.parametrize("top_grade", [7, 1])
@pytest.mark.parametrize("num_channels", [1, 2, 5, 8, 12, 16, 64, 100])
def test_a_public_vote_is_one_devices_grades_before_rounding(num_channels, top_grade):
    """However many nested masks there are: n0 public votes weigh as n0 devices."""
    order = tuple(reversed(range(num_channels)))
    votes = GroupVotes([0] * num_channels, 1, order, public_votes=1, top_grade=top_grade)
    for exact, rounded in zip(votes.fused_grades, device_grades(order, top_grade), strict=True):
        assert abs(exact - rounded * votes.unit) * 2 <= votes.unit, "within half a grade"


@pytest.mark.parametrize("num_devices", [1, 3, 10])
def test_as_many_public_votes_just_outweigh_devices_that_vote_the_reverse(num_devices):
    """It depends on who is more, not on how many masks a grade is made of. (Two of 16 channels share a grade.)"""
    public, contrary = tuple(range(16)), tuple(reversed(range(16)))
    against = [num_devices * grade for grade in device_grades(contrary)]

    def lead_of_the_better_pair(public_votes):
        fused = GroupVotes(against, num_devices, public, public_votes).fused_grades
        pairs = [fused[channel] + fused[channel + 1] for channel in range(0, 16, 2)]
        return {better - worse for better, worse in pairwise(pairs)}

    unit = 2 * GroupVotes(against, num_devices, public).unit
    for more in (-1, 0, 1, 2):
        assert lead_of_the_better_pair(num_devices + more) == {more * unit}, "one grade for each device that is more"


# --- margins and near ties -------------------------------------------------------------------------------------------


def test_a_margin_is_told_in_thousandths_of_one_devices_say():
    votes = GroupVotes([14, 10, 9, 0], 2, (0, 1, 2, 3))
    assert [margin_milli((0, 1, 2, 3), votes, width) for width in (1, 2, 3, 4)] == [571, 142, 1285, None]
    assert margin_milli((0, 2, 1, 3), votes, 2) == -143, "rounded down, and negative where the order is another"


def test_one_bit_of_one_device_is_its_whole_say():
    votes = GroupVotes([3, 1], 3, (1, 0), top_grade=1)
    assert margin_milli((0, 1), votes, 1) == 2000


def test_a_near_tie_is_left_to_the_public_order_and_the_rest_is_not():
    votes = GroupVotes([40, 31, 30, 29, 10], 6, (4, 3, 2, 1, 0))
    order = order_by(RULES["mean"], votes)
    assert order == (0, 1, 2, 3, 4)
    assert abstain(order, votes, 2, 1000) == (0, 3, 2, 1, 4), "2 leads by less than 7, 4 trails by more"
    assert abstain(order, votes, 2, 143) == (0, 2, 1, 3, 4), "1 of 7 grades is 142.9 thousandths"
    assert abstain(order, votes, 2, 142) == order
    assert abstain(order, votes, 1, 1000) == order, "0 leads by more than one device could turn around"


def test_without_a_threshold_or_a_cut_nothing_is_left_to_anybody():
    votes = GroupVotes([5, 5], 1, (1, 0))
    assert abstain((0, 1), votes, 1, 0) == (0, 1)
    assert abstain((0, 1), votes, 2, 10**9) == (0, 1)
