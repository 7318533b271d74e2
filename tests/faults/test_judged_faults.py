"""A judged fleet under faults: whatever breaks, every device ends with what was promoted, and with nothing else."""

from __future__ import annotations

import asyncio

import pytest
from fault_ops import CrashAtSave, LoseResponse, Nth, Op, RestartCoordinator, RestartDevice, SaveFails, StopCampaign
from fleet_checks import check_world
from fleet_world import Fleet, World, run_world
from hypothesis import given, settings
from hypothesis import strategies as st
from test_faults import CALLS, NUM_EXAMPLES, schedules

from prunefleet_shared.acceptance import NO_LEVEL, Acceptance
from prunefleet_shared.campaign import PLAIN, SUM
from prunefleet_shared.messages import CheckIn, Ending
from prunefleet_shared.testing import run_simulated

WAYS = [(search, canaries, missed) for search in ("descend", "bisect") for canaries in (0, 3) for missed in (0, 1, 2)]


def judged_fleet(search: str, canaries: int, missed_from: int, mode: str = PLAIN) -> Fleet:
    terms = Acceptance(50, 0, search, canaries)
    return Fleet(devices=7, cohort=3, quorum=3, mode=mode, acceptance=terms, missed_from=missed_from)


def levels_in_service(world: World) -> list[list[int]]:
    return [sorted(level for _, level in kept.in_service) for kept in world.kept]


@pytest.mark.parametrize(
    ("search", "canaries", "missed_from", "mode"), [*((*way, PLAIN) for way in WAYS), ("descend", 3, 1, SUM)]
)
def test_every_device_of_the_class_ends_with_the_smallest_network_that_holds(
    search: str, canaries: int, missed_from: int, mode: str
) -> None:
    world = run_world([], judged_fleet(search, canaries, missed_from, mode))
    assert (world.ending, world.rulings[-1].level_for_all) == (Ending.COMPLETED, missed_from - 1)
    for in_service in levels_in_service(world):
        assert in_service[-1:] == ([missed_from - 1] if missed_from else [])
    assert all(len(work.tried) == len(set(work.tried)) for work in world.works), "a decision was tried twice"


class LateWorld(World):
    """The last device is switched on when the campaign has ended."""

    def start_device(self, index: int) -> None:
        if index == self.fleet.devices - 1 and self.ending is None:
            self.device_tasks[index] = asyncio.create_task(self._later(index))
        else:
            super().start_device(index)

    async def _later(self, index: int) -> Ending:
        while self.ending is None:
            await asyncio.sleep(1.0)
        self.start_device(index)
        return await self.device_tasks[index]


@pytest.mark.parametrize("ops", [[], [CrashAtSave(13)], [RestartCoordinator(Nth(150))]])
def test_a_device_that_slept_through_it_all_is_given_the_network_for_all(ops: list[Op]) -> None:
    world = LateWorld(judged_fleet("descend", 3, 1), ops)
    run_simulated(world.run(), world.clock)
    check_world(world)
    assert (levels_in_service(world)[6], world.works[6].tried) == ([0], [0])
    assert not any(device == "device-6" for device, _, _ in world.said), "it said something of it"


@pytest.mark.parametrize(("n", "kind"), [(n, ("crash", "lost", "fails")[n % 3]) for n in range(24)])
def test_a_coordinator_that_dies_or_fails_at_any_save_rules_the_same(n: int, kind: str) -> None:
    op: Op = CrashAtSave(n) if kind == "crash" else SaveFails(n, is_stored=kind == "lost")
    world = run_world([op], judged_fleet("descend", 3, 1))
    assert world.rulings[-1].level_for_all == 0


@pytest.mark.parametrize("n", range(0, 60, 5))
def test_a_device_that_dies_at_any_check_in_follows_every_ruling_in_the_end(n: int) -> None:
    call = Nth(n, CheckIn)
    world = run_world([RestartDevice(call), LoseResponse(Nth(n + 3, CheckIn))], judged_fleet("bisect", 3, 1))
    assert world.rulings[-1].level_for_all == 0


@pytest.mark.parametrize("n", range(0, 150, 15))
def test_a_coordinator_that_dies_at_any_message_rules_the_same(n: int) -> None:
    world = run_world([RestartCoordinator(Nth(n))], judged_fleet("descend", 3, 2))
    assert world.rulings[-1].level_for_all == 1


@pytest.mark.parametrize("n", range(0, 150, 25))
def test_a_judged_campaign_that_is_stopped_gives_nobody_else_a_network(n: int) -> None:
    world = run_world([StopCampaign(Nth(n))], judged_fleet("descend", 3, 2))
    if world.ending is Ending.STOPPED:
        assert all(ruling.level_for_all == NO_LEVEL for ruling in world.rulings)


FLEETS = st.builds(judged_fleet, st.sampled_from(["descend", "bisect"]), st.sampled_from([0, 2, 3]), st.integers(0, 2))


@settings(max_examples=NUM_EXAMPLES // 3, deadline=None)
@given(schedules(CALLS), FLEETS)
def test_whatever_breaks_a_judged_fleet_ends_as_it_should(ops: list[Op], fleet: Fleet) -> None:
    run_world(ops, fleet)
