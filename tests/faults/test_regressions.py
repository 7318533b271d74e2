"""Faults that once broke something, or that a planted bug was found by, each under the name of what it does."""

from __future__ import annotations

import pytest
from fault_ops import (
    AdvanceTime,
    CrashAtSave,
    Duplicate,
    Late,
    LoseRequest,
    LoseResponse,
    Nth,
    Pause,
    RestartCoordinator,
    RestartDevice,
    SaveFails,
    StopCampaign,
    Stranger,
)
from fleet_world import Fleet, run_world

from prunefleet_shared.campaign import PLAIN, SUM
from prunefleet_shared.messages import CheckIn, Contribute, Ending
from prunefleet_shared.sum_messages import Advertise, ConfirmSurvivors, FetchCertificates, ShareKeys, Unmask

FIRST_CONTRIBUTION = Nth(0, Contribute)
FIRST_OUTCOME = Nth(3, Contribute)
SUM_MESSAGES = (Advertise, FetchCertificates, ShareKeys, Contribute, ConfirmSurvivors, Unmask)
FIVE_IN_A_SUM = Fleet(devices=5, cohort=5, quorum=3, mode=SUM)


@pytest.mark.parametrize("mode", [PLAIN, SUM])
def test_a_contribution_that_arrives_twice_is_counted_once(mode) -> None:
    world = run_world([Duplicate(FIRST_CONTRIBUTION)], Fleet(mode=mode))
    assert len(world.counted) == 3 * 3


@pytest.mark.parametrize("mode", [PLAIN, SUM])
def test_a_contribution_whose_answer_was_lost_is_counted_once(mode) -> None:
    run_world([LoseResponse(FIRST_CONTRIBUTION), LoseResponse(FIRST_OUTCOME)], Fleet(mode=mode))


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


@pytest.mark.parametrize("mode", [PLAIN, SUM])
def test_a_stranger_is_not_counted(mode) -> None:
    run_world([Stranger(FIRST_CONTRIBUTION), Stranger(FIRST_OUTCOME)], Fleet(mode=mode))


@pytest.mark.parametrize("mode", [PLAIN, SUM])
def test_a_device_whose_every_answer_is_lost_for_a_while_still_finishes(mode) -> None:
    kinds = (CheckIn, Contribute) if mode == PLAIN else (CheckIn, *SUM_MESSAGES)
    run_world([LoseResponse(Nth(n, kind)) for n in range(9) for kind in kinds], Fleet(mode=mode))


def test_a_start_that_was_stored_but_not_confirmed_is_carried_out_when_asked_again() -> None:
    run_world([SaveFails(0, is_stored=True)])


@pytest.mark.parametrize("save", range(9))
@pytest.mark.parametrize("fault", [SaveFails, lambda n: SaveFails(n, is_stored=True), CrashAtSave])
def test_every_single_save_may_fail_or_be_the_last(fault, save) -> None:
    run_world([fault(save)], Fleet(devices=3, cohort=3, quorum=3))


def test_a_crash_between_the_two_saves_of_one_batch_loses_only_the_session() -> None:
    """The deadline passes unnoticed (all machines sleep): one check-in gives a session up and opens the next."""
    world = run_world(
        [LoseRequest(FIRST_CONTRIBUTION), AdvanceTime(Nth(1, Contribute), 4000.0), CrashAtSave(2), CrashAtSave(3)]
    )
    assert {closed.total.num_devices for closed in world.closed_rounds()} <= {2, 3}


@pytest.mark.parametrize("mode", [PLAIN, SUM])
def test_an_overselected_session_takes_the_first_to_answer(mode) -> None:
    world = run_world([], Fleet(devices=5, cohort=3, quorum=3, overselection_permille=1600, mode=mode))
    assert max(len(devices) for devices in world.invited.values()) == 5
    assert [closed.total.num_devices for closed in world.closed_rounds()] == [3, 3, 3]
    voters = world.closed_rounds()[0].contributors
    assert voters == ("device-0", "device-1", "device-2")  # the others take longer


@pytest.mark.parametrize("mode", [PLAIN, SUM])
def test_a_pause_delays_and_loses_nothing(mode) -> None:
    world = run_world([Pause(Nth(0, Contribute), 3600.0)], Fleet(devices=3, cohort=3, quorum=3, mode=mode))
    assert len(world.counted) == 3 * 3
    assert world.clock.now_s > 3600.0


def test_a_pause_survives_a_restart_of_the_coordinator() -> None:
    run_world([Pause(FIRST_OUTCOME, 600.0), RestartCoordinator(Nth(4, Contribute)), RestartCoordinator(Nth(60))])


def test_devices_that_work_hear_within_seconds_that_the_campaign_is_stopped() -> None:
    world = run_world([StopCampaign(Nth(3, CheckIn))], Fleet(devices=3, cohort=3, quorum=3))
    assert world.ending is Ending.STOPPED
    assert world.said == []  # the fastest vote takes five seconds
    assert world.clock.now_s < 1000.0 + 15.0


# --- private sums ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SUM_MESSAGES)
def test_a_message_of_any_stage_may_be_lost_or_come_twice_and_nobody_is_left_out(kind) -> None:
    ops = [LoseRequest(Nth(1, kind)), LoseResponse(Nth(2, kind)), Duplicate(Nth(3, kind))]
    world = run_world(ops, FIVE_IN_A_SUM)
    assert [closed.total.num_devices for closed in world.closed_rounds()] == [5, 5, 5]


@pytest.mark.parametrize("kind", SUM_MESSAGES)
def test_a_device_killed_in_any_stage_delays_the_others_and_spoils_nothing(kind) -> None:
    world = run_world([RestartDevice(Nth(1, kind))], FIVE_IN_A_SUM)
    has_sent_its_vector = kind in (Advertise, Contribute, ConfirmSurvivors, Unmask)  # after its advert it joins again
    assert [closed.total.num_devices for closed in world.closed_rounds()] == [5 if has_sent_its_vector else 4, 5, 5]


@pytest.mark.parametrize("kind", [ShareKeys, Contribute])
def test_a_coordinator_killed_before_masks_come_off_opens_a_new_attempt(kind) -> None:
    world = run_world([RestartCoordinator(Nth(1, kind))], FIVE_IN_A_SUM)
    assert [closed.total.num_devices for closed in world.closed_rounds()] == [5, 5, 5]
    assert {to.attempt for to in world.invitations.values()} == {1, 2}


def test_a_coordinator_killed_when_devices_have_given_their_shares_away_never_asks_them_again() -> None:
    """What it lost it cannot have again: only the device whose answer died with it may still speak."""
    world = run_world([RestartCoordinator(Nth(1, ConfirmSurvivors))], FIVE_IN_A_SUM)
    assert (world.ending, world.closed_rounds()) == (Ending.FAILED, [])
    assert len(world.watch.spent["vote"]) == 4
    assert {session for _, session in world.watch.vectors} == {f"{1:032x}"}


def test_a_coordinator_killed_after_the_closing_has_its_sum() -> None:
    world = run_world([RestartCoordinator(Nth(4, Unmask))], FIVE_IN_A_SUM)
    assert [closed.total.num_devices for closed in world.closed_rounds()] == [5, 5, 5]


def test_a_device_that_dies_between_saving_and_sending_its_shares_is_spent() -> None:
    world = run_world([LoseRequest(Nth(1, Unmask)), RestartDevice(Nth(1, Unmask))], FIVE_IN_A_SUM)
    sessions_of = {device: session for (device, key), session in world.watch.unmasked.items() if key == "vote"}
    assert set(sessions_of.values()) == {world.closed_rounds()[0].session_id}


def test_each_device_remembers_the_one_sum_of_votes_it_helped_to_release() -> None:
    world = run_world([], FIVE_IN_A_SUM)
    voters = frozenset(world.closed_rounds()[0].contributors)
    released = [store.releases() for store in world.device_stores]
    assert all(sums in ((), (voters,)) for sums in released)
    assert sum(bool(sums) for sums in released) >= 4  # a fifth is not waited for


@pytest.mark.parametrize("save", range(9))
def test_every_single_save_may_be_the_last_while_sums_are_private(save) -> None:
    run_world([CrashAtSave(save)], Fleet(devices=3, cohort=3, quorum=3, mode=SUM))


@pytest.mark.parametrize("kind", [ShareKeys, Contribute])
def test_who_falls_asleep_in_a_stage_is_left_out_and_comes_back(kind) -> None:
    world = run_world([Late(Nth(1, kind))], FIVE_IN_A_SUM)
    assert world.closed_rounds()[0].total.num_devices == 4
