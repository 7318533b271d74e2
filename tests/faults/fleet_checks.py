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
from prunefleet_shared.campaign import SUM
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
    is_complete = len(closed_rounds) == 1 + len(world.campaign.levels)
    assert world.is_stopped or is_complete == (world.ending is Ending.COMPLETED), "a round was never closed"
    for closed in closed_rounds:
        _check_sum(world, closed)
    _check_what_was_said(world)
    _check_releases(world, closed_rounds)


def _possible_endings(world: World) -> set[Ending]:
    if world.is_stopped:
        return {Ending.STOPPED}
    rounds = ["vote", *(round_key(SessionKind.OUTCOME, level) for level in range(len(world.campaign.levels)))]
    num_closed = len(world.closed_rounds())
    spent = world.watch.spent[rounds[num_closed]] if num_closed < len(rounds) else set()
    is_hopeless = world.fleet.mode == SUM and world.fleet.devices - len(spent) < world.fleet.fewest
    return {Ending.COMPLETED, *([Ending.FAILED] if is_hopeless else [])}


def _check_sum(world: World, closed: ClosedRound) -> None:
    key, names = round_key(closed.kind, closed.level), set(closed.contributors)
    for block, lanes in world.campaign.lanes_of(closed.kind).split(closed.total.lanes).items():
        if block.startswith("width/") or block == "accuracy_gain":
            assert lanes.max() <= 1, f"{key}: somebody was counted twice in {block}: {lanes}"
            seen = {f"device-{i}" for i in np.flatnonzero(lanes)}
            assert seen == names, f"{key}: {block} says {sorted(seen)}, contributors {sorted(names)}"
    assert world.fleet.fewest <= closed.total.num_devices == len(closed.contributors) <= world.fleet.cohort
    table = world.campaign.lanes_of(closed.kind)
    meant = {device: payload for device, session, payload in world.said if session == closed.session_id}
    expected = sum(unpack(table, meant[device]) for device in names)
    assert np.array_equal(closed.total.lanes, expected), f"{key}: not the sum of what its contributors meant"
    told = {device for device, session in world.counted if session == closed.session_id}
    assert told <= names, f"{key}: {sorted(told - names)} were told that they counted, and did not"


def _check_what_was_said(world: World) -> None:
    payloads: dict[tuple[str, str], set[bytes]] = defaultdict(set)
    sessions: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    latest: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for device, session_id, payload in world.said:
        to = world.invitations[session_id]
        key = round_key(to.kind, to.level)
        payloads[device, key].add(payload)
        sessions[device, key, to.attempt].add(session_id)
        place = (int(to.kind), to.level)
        assert place >= latest[device], f"{device} spoke in {key} after a later round had begun"
        latest[device] = place
    for (device, key), different in payloads.items():
        assert len(different) == 1, f"{device} said {len(different)} different things in {key}"
    for (device, key, attempt), spoken_to in sessions.items():
        assert len(spoken_to) == 1, f"{device} spoke to {len(spoken_to)} sessions of attempt {attempt} of {key}"


def _check_releases(world: World, closed_rounds: list[ClosedRound]) -> None:
    """No device helped to release two sums of votes, and each knows who was in the one."""
    for index, store in enumerate(world.device_stores):
        released = store.releases()
        assert len(released) <= 1, f"device-{index} helped to release {len(released)} sums of votes"
        session_id = world.watch.unmasked.get((f"device-{index}", "vote"))
        if released and closed_rounds and session_id == closed_rounds[0].session_id:
            assert released[0] == set(closed_rounds[0].contributors), f"device-{index} remembers {released[0]}"
