"""Faults that once broke something, or that a planted bug was found by, each under the name of what it does."""

from __future__ import annotations

from fault_ops import Duplicate, Late, LoseRequest, LoseResponse, Nth, RestartCoordinator, RestartDevice, Stranger
from fleet_world import Fleet, run_world

from prunefleet_shared.messages import CheckIn, Contribute

FIRST_CONTRIBUTION = Nth(0, Contribute)
FIRST_OUTCOME = Nth(3, Contribute)


def test_a_contribution_that_arrives_twice_is_counted_once() -> None:
    world = run_world([Duplicate(FIRST_CONTRIBUTION)])
    assert len(world.counted) == 3 * 3


def test_a_contribution_whose_answer_was_lost_is_counted_once() -> None:
    run_world([LoseResponse(FIRST_CONTRIBUTION), LoseResponse(FIRST_OUTCOME)])


def test_a_device_killed_before_its_vote_arrived_says_the_same_vote_again() -> None:
    world = run_world([LoseRequest(FIRST_CONTRIBUTION), RestartDevice(FIRST_CONTRIBUTION)])
    device = world.said[0][0]
    votes = [payload for who, _, payload in world.said if who == device][:2]
    assert votes[0] == votes[1]


def test_a_coordinator_killed_while_sessions_are_open_opens_a_new_attempt() -> None:
    world = run_world([RestartCoordinator(Nth(1, Contribute))])
    attempts = {world.invitations[session].attempt for _, session, _ in world.said}
    assert attempts == {1, 2}


def test_a_coordinator_killed_between_closing_and_answering_does_not_close_twice() -> None:
    run_world([RestartCoordinator(Nth(2, Contribute))], Fleet(devices=3, cohort=3, quorum=3))


def test_a_late_contribution_joins_the_next_attempt_unchanged() -> None:
    world = run_world([Late(FIRST_CONTRIBUTION)], Fleet(devices=2, cohort=2, quorum=2))
    votes = [payload for who, _, payload in world.said if who == "device-0"]
    assert votes[0] == votes[1]


def test_a_stranger_is_not_counted() -> None:
    run_world([Stranger(FIRST_CONTRIBUTION), Stranger(FIRST_OUTCOME)])


def test_a_device_whose_every_answer_is_lost_for_a_while_still_finishes() -> None:
    run_world([LoseResponse(Nth(n, kind)) for n in range(9) for kind in (CheckIn, Contribute)])
