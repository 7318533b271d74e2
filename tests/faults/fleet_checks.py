"""What must hold of a run of ``fleet_world``, whatever happened in it.

**A run fails when**
- a closed sum holds a lane above 1: every device's contribution is one-hot in a lane of its own, so somebody was
  counted twice;
- the ones of a closed sum are not exactly its contributors, or a device that was told "counted" in the session that
  closed is not among them: somebody was lost;
- a device said two different things in one round, or spoke in two sessions of one attempt, or in a round after a later
  one had begun;
- a stranger got into a sum; a sum is not that of what its contributors meant to say; a rule of ``sum_watch`` is broken;
- more devices were invited to a session than over-selection allows, or more were counted than the cohort has;
- a session was opened while the campaign was paused; anybody was invited or counted after it was stopped; anybody was
  told another ending than the one in the store;
- in a judged campaign: an outcome was not ruled on, or not as the devices found it; two sums of one decision have a
  device in common; a device has not followed the last ruling, or has a network in service, or on trial, that does not
  hold; the campaign is completed, and a device lacks the network for all;
- the campaign does not complete within a simulated day (unless it was stopped), or everything waits for something that
  never comes.

**Not a failure**: a session given up below quorum (the next attempt does it); a device left out of a cohort or a sum; a
vote computed twice, as long as only one ever left; messages turned down as late, duplicate or of an unknown session; a
device that was restarted after the end, and waits for the next campaign. In mode ``sum``, a campaign that fails because
shares were given away for a sum that the coordinator then lost, and too few devices are left that may still speak.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from prunefleet_coordinator.state import ClosedRound
from prunefleet_edge.device_state import round_key
from prunefleet_shared.acceptance import NO_LEVEL
from prunefleet_shared.campaign import PLAIN, SUM
from prunefleet_shared.lanes import unpack
from prunefleet_shared.messages import Ending, SessionKind

if TYPE_CHECKING:
    from fleet_world import World


def check_world(world: World) -> None:
    """Raise AssertionError for the first failure condition met."""
    assert not world.bugs, world.bugs
    world.watch.check()
    assert world.ending in _possible_endings(world)
    for session_id, devices in world.invited.items():
        assert len(devices) <= world.campaign.cohort.max_invited, f"{len(devices)} were invited to {session_id}"
    closed_rounds = world.closed_rounds()
    if world.fleet.acceptance is None:
        is_complete = len(closed_rounds) == 1 + len(world.campaign.levels)
        assert world.is_stopped or is_complete == (world.ending is Ending.COMPLETED), "a round was never closed"
    else:
        _check_rulings(world, closed_rounds)
    for closed in closed_rounds:
        _check_sum(world, closed)
    _check_what_was_said(world)
    _check_releases(world, closed_rounds)


def _possible_endings(world: World) -> set[Ending]:
    if world.is_stopped:
        return {Ending.STOPPED}
    is_hopeless = world.fleet.mode == SUM and any(
        world.fleet.devices - len(spent) < world.fleet.fewest for spent in _spent_in_open_rounds(world)
    )
    return {Ending.COMPLETED, *([Ending.FAILED] if is_hopeless else [])}


def _spent_in_open_rounds(world: World) -> list[set[str]]:
    rounds = ["vote", *(round_key(SessionKind.OUTCOME, level) for level in range(len(world.campaign.levels)))]
    if world.fleet.acceptance is not None:  # a rollout's say may have been given away among the canaries
        return [world.watch.spent[key] for key in rounds]
    num_closed = len(world.closed_rounds())
    return [world.watch.spent[rounds[num_closed]]] if num_closed < len(rounds) else []


def _check_sum(world: World, closed: ClosedRound) -> None:
    key, names = round_key(closed.kind, closed.level), set(closed.contributors)
    for block, lanes in world.campaign.lanes_of(closed.kind).split(closed.total.lanes).items():
        if block.startswith("width/") or block == "accuracy_gain":
            assert lanes.max() <= 1, f"{key}: somebody was counted twice in {block}: {lanes}"
            seen = {f"device-{i}" for i in np.flatnonzero(lanes)}
            assert seen == names, f"{key}: {block} says {sorted(seen)}, contributors {sorted(names)}"
    cohort = world.campaign.cohort_of(closed.kind)
    fewest = cohort.quorum if world.fleet.mode == PLAIN else world.fleet.fewest
    assert fewest <= closed.total.num_devices == len(closed.contributors) <= cohort.size
    table = world.campaign.lanes_of(closed.kind)
    meant = {device: payload for device, session, payload in world.said if session == closed.session_id}
    expected = sum(unpack(table, meant[device]) for device in names)
    assert np.array_equal(closed.total.lanes, expected), f"{key}: not the sum of what its contributors meant"
    told = {device for device, session in world.counted if session == closed.session_id}
    assert told <= names, f"{key}: {sorted(told - names)} were told that they counted, and did not"


def _check_what_was_said(world: World) -> None:
    payloads: dict[tuple[str, str], set[bytes]] = defaultdict(set)
    sessions: dict[tuple[str, str, int, int], set[str]] = defaultdict(set)
    latest: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for device, session_id, payload in world.said:
        to = world.invitations[session_id]
        key = round_key(to.kind, to.level)
        payloads[device, key].add(payload)
        sessions[device, key, int(to.kind), to.attempt].add(session_id)
        place = (int(to.kind), to.level)
        if world.fleet.acceptance is None:  # a search goes up and down the schedule, and rolls out in between
            assert place >= latest[device], f"{device} spoke in {key} after a later round had begun"
        latest[device] = place
    for (device, key), different in payloads.items():
        assert len(different) == 1, f"{device} said {len(different)} different things in {key}"
    for (device, key, _, attempt), spoken_to in sessions.items():
        assert len(spoken_to) == 1, f"{device} spoke to {len(spoken_to)} sessions of attempt {attempt} of {key}"


def _check_rulings(world: World, closed_rounds: list[ClosedRound]) -> None:
    rulings, judged = world.rulings, [closed for closed in closed_rounds if closed.kind is not SessionKind.VOTE]
    assert len(rulings) == len(judged), f"{len(judged)} outcomes, {len(rulings)} rulings"
    for ruling in rulings:
        assert ruling.is_promoted == (ruling.level < world.fleet.missed_from), ruling
    asked = [(closed.level, name) for closed in judged for name in closed.contributors]
    assert len(asked) == len(set(asked)), f"a device is in two sums of one decision: {asked}"
    for index, kept in enumerate(world.kept):
        _check_kept(world, index, {level for _, level in kept.in_service})


def _check_kept(world: World, index: int, in_service: set[int]) -> None:
    state = world.device_stores[index].load(world.campaign.campaign_id)
    if not world.rulings or state is None:
        return
    last = world.rulings[-1]
    heard = state.rulings_heard
    assert heard == last.number, f"device-{index} has heard {heard} of {last.number} rulings"
    assert in_service <= set(last.levels_held), f"device-{index} has {in_service} in service, {last.levels_held} hold"
    on_trial = {level for _, level in world.kept[index].on_trial}
    # Nobody ruled on what was tried last, if the campaign was stopped; it is dropped with the next campaign.
    assert not on_trial or world.ending is not Ending.COMPLETED, f"device-{index} has {on_trial} on trial for ever"
    assert last.level_for_all in {NO_LEVEL, *in_service}, f"device-{index} lacks the network for all"


def _check_releases(world: World, closed_rounds: list[ClosedRound]) -> None:
    """No device helped to release two sums of votes, and each knows who was in the one."""
    for index, store in enumerate(world.device_stores):
        released = store.releases()
        assert len(released) <= 1, f"device-{index} helped to release {len(released)} sums of votes"
        session_id = world.watch.unmasked.get((f"device-{index}", "vote"))
        if released and closed_rounds and session_id == closed_rounds[0].session_id:
            assert released[0] == set(closed_rounds[0].contributors), f"device-{index} remembers {released[0]}"
