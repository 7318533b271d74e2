"""What holds for every order rule, whatever the votes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunefleet_coordinator.order_rules import RULES, CohortVotes, GroupVotes, abstain, margin_milli, order_by
from prunefleet_shared.masks import NUM_MASKS, grades_by_rank

every_rule = pytest.mark.parametrize("name", RULES)


@st.composite
def group_votes(draw: st.DrawFn, max_public_votes: int = 5) -> GroupVotes:
    """Votes of honest devices, in one cohort or several."""
    num, rng = draw(st.integers(1, 40)), random.Random(draw(st.integers(0, 2**32)))
    by_rank = [int(grade) for grade in grades_by_rank(num)]
    cohorts = []
    for _ in range(draw(st.integers(1, 4))):
        devices = [rng.sample(by_rank, num) for _ in range(draw(st.integers(1, 6)))]
        cohorts.append(CohortVotes([sum(grades) for grades in zip(*devices, strict=True)], len(devices)))
    tally = [sum(grades) for grades in zip(*(cohort.tally_C for cohort in cohorts), strict=True)]
    num_devices = sum(cohort.num_devices for cohort in cohorts)
    public_votes = draw(st.integers(0, max_public_votes))
    several = cohorts if len(cohorts) > 1 else ()
    return GroupVotes(tally, num_devices, tuple(rng.sample(range(num), num)), public_votes, NUM_MASKS, several)


@every_rule
@given(group_votes())
def test_every_channel_comes_once(name, votes):
    assert sorted(order_by(RULES[name], votes)) == list(range(len(votes.public_order)))


@every_rule
@given(group_votes(), st.randoms(use_true_random=False))
def test_names_of_channels_do_not_matter(name, votes, rng):
    """Channels renumbered on the way in come out renumbered."""
    new = rng.sample(range(len(votes.public_order)), len(votes.public_order))
    old = {number: channel for channel, number in enumerate(new)}

    def moved(tally_C):
        return [tally_C[old[number]] for number in range(len(new))]

    cohorts = [CohortVotes(moved(cohort.tally_C), cohort.num_devices) for cohort in votes.cohorts]
    public = tuple(new[channel] for channel in votes.public_order)
    renamed = replace(votes, tally_C=moved(votes.tally_C), cohorts=cohorts, public_order=public)
    order = order_by(RULES[name], votes)
    assert order_by(RULES[name], renamed) == tuple(new[channel] for channel in order)
    width = max(1, len(new) // 2)
    near = abstain(order, votes, width, 1500)
    assert abstain([new[c] for c in order], renamed, width, 1500) == tuple(new[c] for c in near)


@every_rule
@given(group_votes(), st.randoms(use_true_random=False))
def test_the_order_of_cohorts_does_not_matter(name, votes, rng):
    shuffled = replace(votes, cohorts=rng.sample(list(votes.cohorts), len(votes.cohorts)))
    assert order_by(RULES[name], shuffled) == order_by(RULES[name], votes)


@every_rule
@given(group_votes())
def test_public_votes_beyond_any_fleet_give_the_public_order(name, votes):
    # The next channel of the public order is 8 / C of a grade behind, and n devices can say 7 n against it.
    enough = NUM_MASKS * votes.num_devices * len(votes.public_order) + 1
    assert order_by(RULES[name], replace(votes, public_votes=enough)) == votes.public_order


@given(group_votes(max_public_votes=0))
def test_without_public_votes_the_mean_is_the_order_of_summed_grades(votes):
    plain = sorted(votes.public_order, key=lambda channel: -votes.tally_C[channel])
    assert order_by(RULES["mean"], votes) == tuple(plain)


@given(group_votes())
def test_over_one_cohort_borda_is_the_mean(votes):
    one = [CohortVotes(votes.tally_C, votes.num_devices)]
    assert order_by(RULES["borda"], replace(votes, cohorts=one)) == order_by(RULES["mean"], votes)


@given(group_votes(), st.integers(2, 5))
def test_cohorts_that_all_say_the_same_make_borda_the_mean(votes, count):
    """Also with public votes: they are shared out among cohorts, not given to each."""
    one = CohortVotes(votes.tally_C, votes.num_devices)
    total = [count * tally for tally in votes.tally_C]
    alike = replace(votes, tally_C=total, num_devices=count * votes.num_devices, cohorts=[one] * count)
    assert order_by(RULES["borda"], alike) == order_by(RULES["mean"], alike)


@given(group_votes(), st.integers(2, 6))
def test_only_the_ratio_of_devices_and_public_votes_matters(votes, times):
    scaled = replace(
        votes,
        tally_C=[times * tally for tally in votes.tally_C],
        num_devices=times * votes.num_devices,
        public_votes=times * votes.public_votes,
        cohorts=(),
    )
    for name in ("mean", "majority", "public"):
        assert order_by(RULES[name], scaled) == order_by(RULES[name], votes)


@every_rule
@given(group_votes(), st.integers(0, 4000), st.data())
def test_abstaining_reorders_only_the_near_tie_and_as_the_public_order_does(name, votes, near_tie_milli, data):
    order = order_by(RULES[name], votes)
    width = data.draw(st.integers(1, len(order)))
    after = abstain(order, votes, width, near_tie_milli)
    moved = [index for index, (one, other) in enumerate(zip(order, after, strict=True)) if one != other]
    if not moved:
        return
    low, high = moved[0], moved[-1] + 1
    place = votes.public_order.index
    assert [place(c) for c in after[low:high]] == sorted(place(c) for c in order[low:high])
    fused, limit = votes.fused_grades, near_tie_milli * votes.device_say
    assert all(1000 * (fused[channel] - fused[order[width]]) < limit for channel in order[low:width])
    assert all(1000 * (fused[order[width - 1]] - fused[channel]) < limit for channel in order[width:high])


@given(group_votes(), st.data())
def test_by_the_mean_margins_are_never_negative_and_a_clear_one_is_left_alone(votes, data):
    order = order_by(RULES["mean"], votes)
    width = data.draw(st.integers(1, len(order)))
    margin = margin_milli(order, votes, width)
    if margin is not None:
        assert margin >= 0
        assert abstain(order, votes, width, margin) == order
