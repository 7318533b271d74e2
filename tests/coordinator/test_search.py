"""Which level comes next: every monotone fleet is searched to the smallest network that holds, in few trials."""

import itertools
import math

import pytest

from prunefleet_coordinator.search import Act, Judged, Step, level_for_all, levels_held, next_step
from prunefleet_shared.acceptance import NO_LEVEL, Search
from prunefleet_shared.layout import MAX_LEVELS

TRY, ROLL_OUT, END = Act


def play(num_levels, search, holds, holds_in_rollout=None):
    """All that is judged until the end, and the end; ``holds`` and ``holds_in_rollout`` say what a level does."""
    so_far, has_canaries = [], holds_in_rollout is not None
    for _ in range(4 * MAX_LEVELS):
        step = next_step(num_levels, search, so_far, has_canaries=has_canaries)
        if step.act is END:
            return so_far, step.level
        is_rollout = step.act is ROLL_OUT
        is_promoted = (holds_in_rollout if is_rollout else holds)(step.level)
        so_far.append(Judged(step.level, is_rollout, is_promoted))
    raise AssertionError(f"the search never ends: {so_far}")


SIZES = range(1, MAX_LEVELS + 1)


@pytest.mark.parametrize("search", Search)
@pytest.mark.parametrize(("num_levels", "num_holding"), [(n, k) for n in SIZES for k in range(n + 1)])
def test_the_smallest_network_that_holds_is_found(search, num_levels, num_holding):
    so_far, found = play(num_levels, search, lambda level: level < num_holding)
    assert found == num_holding - 1  # -1: none holds
    assert len({one.level for one in so_far}) == len(so_far), "a level was tried twice"
    most = num_holding + 1 if search is Search.DESCEND else math.ceil(math.log2(num_levels + 1))
    assert len(so_far) <= most


@pytest.mark.parametrize("search", Search)
@pytest.mark.parametrize("num_levels", SIZES)
def test_whatever_devices_say_the_search_ends_and_never_names_a_level_that_missed(search, num_levels):
    for answers in itertools.product([False, True], repeat=min(num_levels, 6)):
        so_far, found = play(num_levels, search, lambda level, answers=answers: answers[level % len(answers)])
        assert found == NO_LEVEL or Judged(found, False, True) in so_far
        assert not any(one.level == found and not one.is_promoted for one in so_far)


@pytest.mark.parametrize("search", Search)
@pytest.mark.parametrize("num_levels", SIZES)
def test_what_canaries_hold_is_rolled_out_and_what_is_rolled_back_there_gives_way_to_a_larger_one(search, num_levels):
    for num_held, num_rolled_out in itertools.product(range(num_levels + 1), repeat=2):
        so_far, found = play(
            num_levels,
            search,
            lambda level, held=num_held: level < held,
            lambda level, held=num_rolled_out: level < held,
        )
        assert found == min(num_held, num_rolled_out) - 1
        rolled_out = [one.level for one in so_far if one.is_rollout]
        assert rolled_out == sorted(rolled_out, reverse=True), "a smaller network was rolled out after a larger one"
        assert len(set(rolled_out)) == len(rolled_out)
        assert len(so_far) <= 2 * num_levels


def test_descending_stops_at_the_first_level_that_misses():
    assert next_step(3, Search.DESCEND, [], has_canaries=False) == Step(TRY, 0)
    one = [Judged(0, False, True)]
    assert next_step(3, Search.DESCEND, one, has_canaries=False) == Step(TRY, 1)
    two = [*one, Judged(1, False, False)]
    assert next_step(3, Search.DESCEND, two, has_canaries=False) == Step(END, 0)
    assert next_step(3, Search.DESCEND, two, has_canaries=True) == Step(ROLL_OUT, 0)


def test_bisecting_begins_in_the_middle():
    assert next_step(8, Search.BISECT, [], has_canaries=False) == Step(TRY, 3)
    assert next_step(8, Search.BISECT, [Judged(3, False, True)], has_canaries=False) == Step(TRY, 5)
    assert next_step(8, Search.BISECT, [Judged(3, False, False)], has_canaries=False) == Step(TRY, 1)


def test_a_level_that_was_rolled_back_holds_no_more():
    ruled = [Judged(0, False, True), Judged(1, False, True), Judged(1, True, False)]
    assert levels_held(ruled) == (0,)
    assert level_for_all(ruled, has_canaries=True) == NO_LEVEL  # level 0 was never rolled out
    assert level_for_all(ruled, has_canaries=False) == 0
