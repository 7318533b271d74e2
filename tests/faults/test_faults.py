"""Hypothesis makes up faults and shrinks them; ``fleet_world`` says what must hold whatever happens."""

from __future__ import annotations

import os

from fault_ops import (
    AdvanceTime,
    Duplicate,
    Late,
    LoseRequest,
    LoseResponse,
    Nth,
    Op,
    Reorder,
    RestartCoordinator,
    RestartDevice,
    Stranger,
)
from fleet_world import Fleet, run_world
from hypothesis import given, settings
from hypothesis import strategies as st

from prunefleet_shared.messages import CheckIn, Contribute

NUM_EXAMPLES = int(os.environ.get("PRUNEFLEET_FAULT_EXAMPLES", "100"))
"""Enough for every planted bug we tried; the nightly run asks for thousands."""
CALLS = st.one_of(
    st.builds(
        Nth, st.integers(0, 55)
    ),  # an undisturbed campaign of three devices takes 43 messages, 9 of each of these
    st.builds(Nth, st.integers(0, 11), st.sampled_from([CheckIn, Contribute])),
)


@st.composite
def incidents(draw: st.DrawFn) -> list[Op]:
    """One to three faults at the same message: what goes wrong together is what finds bugs."""
    call = st.just(draw(CALLS))
    faults = st.one_of(
        st.builds(LoseRequest, call),
        st.builds(LoseResponse, call),
        st.builds(Duplicate, call),
        st.builds(Reorder, call, st.sampled_from([0.5, 3.0, 20.0])),
        st.builds(Late, call),
        st.builds(AdvanceTime, call, st.sampled_from([1.0, 61.0, 4000.0])),
        st.builds(RestartCoordinator, call),
        st.builds(RestartDevice, call, st.one_of(st.none(), st.integers(0, 4))),
        st.builds(Stranger, call),
    )
    return draw(st.lists(faults, min_size=1, max_size=3))


OPS = st.lists(incidents(), max_size=6).map(lambda groups: [op for group in groups for op in group])


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    devices = draw(st.integers(2, 5))
    quorum = draw(st.integers(1, devices))
    return Fleet(devices, draw(st.integers(quorum, devices + 1)), quorum)


def test_an_undisturbed_campaign_counts_everybody_once() -> None:
    world = run_world([], Fleet(devices=3, cohort=3, quorum=3))
    assert len(world.counted) == 3 * 3  # one vote and two outcomes each
    assert len(world.said) == 3 * 3


def test_a_run_is_repeatable() -> None:
    ops = [LoseResponse(Nth(12)), RestartCoordinator(Nth(20)), Reorder(Nth(25)), RestartDevice(Nth(30), 1)]
    first, second = run_world(ops), run_world(ops)
    assert first.said == second.said
    assert first.num_calls == second.num_calls
    assert first.clock.now_s == second.clock.now_s


@settings(max_examples=NUM_EXAMPLES, deadline=None, derandomize=True)
@given(OPS, fleets())
def test_no_fault_loses_or_doubles_a_contribution(ops: list[Op], fleet: Fleet) -> None:
    run_world(ops, fleet)
