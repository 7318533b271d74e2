"""Hypothesis makes up faults and shrinks them; ``fleet_world`` says what must hold whatever happens."""

from __future__ import annotations

import os

import pytest
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

from prunefleet_shared.campaign import PLAIN, SUM
from prunefleet_shared.messages import CheckIn, Up
from prunefleet_shared.sum_messages import (
    Advertise,
    ConfirmSurvivors,
    Contribute,
    FetchCertificates,
    ShareKeys,
    Unmask,
)

SUM_MESSAGES: tuple[type[Up], ...] = (Advertise, FetchCertificates, ShareKeys, Contribute, ConfirmSurvivors, Unmask)
NUM_EXAMPLES = int(os.environ.get("PRUNEFLEET_FAULT_EXAMPLES", "100"))
"""Enough for every planted bug we tried; the nightly run asks for thousands."""
CALLS = st.one_of(
    st.builds(Nth, st.integers(0, 80)),  # an undisturbed campaign of three devices takes 73 messages
    st.builds(Nth, st.integers(0, 40), st.just(CheckIn)),  # 34 of them, most from devices that work
    st.builds(Nth, st.integers(0, 11), st.just(Contribute)),  # 9 of them
)
SUM_CALLS = st.one_of(
    st.builds(Nth, st.integers(0, 220)),  # an undisturbed campaign of five devices takes 207 messages
    st.builds(Nth, st.integers(0, 60), st.just(CheckIn)),
    st.builds(Nth, st.integers(0, 15), st.sampled_from(SUM_MESSAGES)),  # 15 of most of them
)


@st.composite
def incidents(draw: st.DrawFn, calls: st.SearchStrategy[Nth]) -> list[Op]:
    """One to three faults at the same message: what goes wrong together is what finds bugs."""
    call = st.just(draw(calls))
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


def schedules(calls: st.SearchStrategy[Nth]) -> st.SearchStrategy[list[Op]]:
    return st.builds(
        lambda groups, saves: [*(op for group in groups for op in group), *saves],
        st.lists(incidents(calls), max_size=6),
        st.lists(SAVE_FAULTS, max_size=4),
    )


OPS, SUM_OPS = schedules(CALLS), schedules(SUM_CALLS)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    devices = draw(st.integers(2, 5))
    quorum = draw(st.integers(1, devices))
    overselection_permille = draw(st.sampled_from([1000, 1300, 2000]))
    cohort = draw(st.integers(quorum, devices + 1))
    return Fleet(devices, cohort, quorum, overselection_permille=overselection_permille)


@st.composite
def sum_fleets(draw: st.DrawFn) -> Fleet:
    devices = draw(st.integers(3, 6))
    quorum = draw(st.integers(1, devices))
    overselection_permille = draw(st.sampled_from([1000, 1300, 2000]))
    cohort = draw(st.integers(max(3, quorum), devices + 1))
    return Fleet(devices, cohort, quorum, overselection_permille=overselection_permille, mode=SUM)


@pytest.mark.parametrize("mode", [PLAIN, SUM])
def test_an_undisturbed_campaign_counts_everybody_once(mode: str) -> None:
    world = run_world([], Fleet(devices=3, cohort=3, quorum=3, mode=mode))
    assert len(world.counted) == 3 * 3  # one vote and two outcomes each
    assert len(world.said) == 3 * 3


@pytest.mark.parametrize("mode", [PLAIN, SUM])
def test_a_run_is_repeatable(mode: str) -> None:
    ops = [LoseResponse(Nth(12)), RestartCoordinator(Nth(20)), Reorder(Nth(25)), RestartDevice(Nth(30), 1)]
    first, second = run_world(ops, Fleet(mode=mode)), run_world(ops, Fleet(mode=mode))
    assert (first.said, first.watch.vectors) == (second.said, second.watch.vectors)
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


@settings(max_examples=max(20, NUM_EXAMPLES // 4), deadline=None, derandomize=True)
@given(SUM_OPS, sum_fleets())
def test_no_fault_makes_a_private_sum_wrong_or_a_device_speak_when_it_is_spent(ops: list[Op], fleet: Fleet) -> None:
    run_world(ops, fleet)


@settings(max_examples=max(8, NUM_EXAMPLES // 12), deadline=None, derandomize=True)
@given(SUM_OPS, st.builds(StopCampaign, SUM_CALLS), sum_fleets())
def test_a_private_campaign_stopped_amid_faults_counts_nobody_afterwards(ops: list[Op], stop: Op, fleet: Fleet) -> None:
    run_world([*ops, stop], fleet)
