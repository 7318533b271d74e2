"""Hypothesis makes up faults and shrinks them; ``fleet_world`` says what must hold whatever happens."""

from __future__ import annotations

import os

from fault_ops import (
    AdvanceTime,
    CrashAtSave,
    Duplicate,
    Late,
    LoseRequest,
    LoseResponse,
    Nth,
    Op,
    Pause,
    Reorder,
    RestartCoordinator,
    RestartDevice,
    SaveFails,
    StopCampaign,
    Stranger,
)
from fleet_world import Fleet, run_world
from hypothesis import given, settings
from hypothesis import strategies as st

from prunefleet_shared.messages import CheckIn, Contribute

NUM_EXAMPLES = int(os.environ.get("PRUNEFLEET_FAULT_EXAMPLES", "100"))
"""Enough for every planted bug we tried; the nightly run asks for thousands."""
CALLS = st.one_of(
    st.builds(Nth, st.integers(0, 80)),  # an undisturbed campaign of three devices takes 73 messages
    st.builds(Nth, st.integers(0, 40), st.just(CheckIn)),  # 34 of them, most from devices that work
    st.builds(Nth, st.integers(0, 11), st.just(Contribute)),  # 9 of them
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
        st.builds(Pause, call, st.sampled_from([2.0, 30.0, 300.0])),
    )
    return draw(st.lists(faults, min_size=1, max_size=3))


SAVES = st.integers(0, 14)  # an undisturbed campaign of two levels saves 9 times
SAVE_FAULTS = st.one_of(st.builds(SaveFails, SAVES, st.booleans()), st.builds(CrashAtSave, SAVES))
OPS = st.builds(
    lambda groups, saves: [*(op for group in groups for op in group), *saves],
    st.lists(incidents(), max_size=6),
    st.lists(SAVE_FAULTS, max_size=4),
)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    devices = draw(st.integers(2, 5))
    quorum = draw(st.integers(1, devices))
    overselection_permille = draw(st.sampled_from([1000, 1300, 2000]))
    cohort = draw(st.integers(quorum, devices + 1))
    return Fleet(devices, cohort, quorum, overselection_permille=overselection_permille)


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


@settings(max_examples=max(20, NUM_EXAMPLES // 4), deadline=None, derandomize=True)
@given(OPS, st.builds(StopCampaign, CALLS), fleets())
def test_a_campaign_stopped_amid_faults_counts_nobody_afterwards(ops: list[Op], stop: Op, fleet: Fleet) -> None:
    run_world([*ops, stop], fleet)
