"""The coordinator's round: invitations, contributions, deadlines."""

from dataclasses import replace

import pytest
from round_steps import CAMPAIGN, DEADLINE_S, DEVICES, TRAINER, Player, counted, kinds, reason

from prunefleet_coordinator.events import (
    AcceptSlimBase,
    AnnounceAbandoned,
    AnnounceDecision,
    AnnounceEnd,
    AnnounceJoined,
    Defer,
    End,
    Invite,
    Reject,
    Reply,
    SaveClosing,
    SaveSlimBase,
    SaveSnapshot,
    SumMessageReceived,
    TrainerAsked,
)
from prunefleet_coordinator.state import ENDINGS, NEXT_PHASE, Happening, Snapshot
from prunefleet_coordinator.testing import small_campaign
from prunefleet_shared.campaign import CohortPolicy, SlimBase
from prunefleet_shared.errors import LocalProtocolError, RejectReason
from prunefleet_shared.messages import Awaited, Contribute, Control, Ending, Phase, Readiness, SessionKind


@pytest.fixture
def player():
    return Player()


# --- the whole story ------------------------------------------------------------------------------------------------


def test_a_campaign_from_the_first_vote_to_the_last_outcome(player):
    assert kinds(player.gather()) == [SaveClosing, Reply, AnnounceJoined, AnnounceDecision]
    assert kinds(player.publish()) == [SaveSlimBase, AcceptSlimBase]
    assert kinds(player.gather()) == [SaveClosing, Reply, AnnounceJoined, AnnounceDecision]
    assert kinds(player.publish()) == [SaveSlimBase, AcceptSlimBase]
    assert kinds(player.gather()) == [SaveClosing, Reply, AnnounceJoined, AnnounceEnd]
    assert player.check_in("d1") == [End("d1", Ending.COMPLETED)]

    end = player.round.snapshot
    assert end.phase is Phase.COMPLETED
    assert [(closed.kind, closed.level) for closed in end.closed_rounds] == [
        (SessionKind.VOTE, 0),
        (SessionKind.OUTCOME, 0),
        (SessionKind.OUTCOME, 1),
    ]
    assert all(closed.contributors == DEVICES for closed in end.closed_rounds)
    assert [decision.level for decision in end.decisions] == [slim.level for slim in end.slim_bases] == [0, 1]


def test_the_table_has_no_way_back_to_a_stored_sum():
    assert Phase.VOTING not in NEXT_PHASE.values()
    assert not {phase for phase, _ in NEXT_PHASE} & set(ENDINGS)
    with pytest.raises(LocalProtocolError, match="SUM_CLOSED cannot happen while RETRAINING"):
        Snapshot("c", phase=Phase.RETRAINING).moved_by(Happening.SUM_CLOSED)


# --- invitations ----------------------------------------------------------------------------------------------------


def test_a_session_opens_with_the_first_ready_device_and_is_saved_first(player):
    assert player.round.next_deadline_s is None
    assert player.check_in("d1", Readiness.BUSY) == [Defer("d1", 1000, Awaited.DEVICES)]
    assert player.round.next_deadline_s is None
    commands = player.after(5).check_in("d1")
    assert kinds(commands) == [SaveSnapshot, Invite]
    assert player.round.next_deadline_s == 5 + DEADLINE_S
    assert (commands[1].attempt, commands[1].kind, commands[1].remaining_ms) == (1, SessionKind.VOTE, 60_000)


def test_a_few_more_than_the_cohort_are_invited_and_the_next_comes_back_after_a_window(player):
    for device in (*DEVICES, "d4"):  # 1.3 times 3, rounded up
        player.invite(device)
    assert player.check_in("d5") == [Defer("d5", 15_000, Awaited.NOTHING, is_held=False)]
    assert player.after(58).check_in("d5") == [Defer("d5", 1_000, Awaited.NOTHING, is_held=False)]


def test_the_window_of_a_long_session_is_a_minute_at_most():
    player = Player(small_campaign(cohort=CohortPolicy(1, 1, 3_600_000, overselection_permille=1000)))
    player.invite("d1")
    assert player.check_in("d2") == [Defer("d2", 60_000, Awaited.NOTHING, is_held=False)]


def test_an_overselected_session_closes_at_the_cohorts_size_and_the_latecomer_hears_late(player):
    invitations = [player.invite(device) for device in (*DEVICES, "d4")]
    for invitation in invitations[:2]:
        player.contribute(invitation)
    closing = player.contribute(invitations[3])
    assert kinds(closing) == [SaveClosing, Reply, AnnounceJoined, AnnounceDecision]
    assert closing[0].closed.contributors == ("d1", "d2", "d4")
    assert reason(player.contribute(invitations[2])) == RejectReason.LATE
    assert player.check_in("d3") == [Defer("d3", 1000, Awaited.TRAINER)]


def test_a_device_that_works_hears_nothing_but_the_end(player):
    player.invite("d1")
    assert player.check_in("d1", Readiness.BUSY) == [Defer("d1", 1000, Awaited.DEVICES)]
    player.control(Control.STOP)
    assert player.check_in("d1", Readiness.BUSY) == [End("d1", Ending.STOPPED)]


def test_a_device_whose_answer_was_lost_gets_the_same_invitation(player):
    first = player.invite("d1")
    again = player.after(10).check_in("d1")
    assert again == [replace(first, remaining_ms=50_000)]


def test_a_device_that_has_contributed_waits_for_the_others(player):
    player.contribute(player.invite("d1"))
    assert player.check_in("d1") == [Defer("d1", 1000, Awaited.DEVICES)]
    assert player.round.progress.num_contributions == 1


def test_progress_says_what_is_awaited_and_since_when(player):
    def standing():
        progress = player.round.progress
        return progress.awaited, progress.since_s, progress.deadline_s

    player.after(3).do()
    assert standing() == (Awaited.DEVICES, 3, None)
    invitations = [player.after(2).invite("d1"), *map(player.after(1).invite, ("d2", "d3"))]
    assert standing() == (Awaited.DEVICES, 5, 5 + DEADLINE_S)
    for invitation in invitations:
        player.after(10).contribute(invitation)
    assert standing() == (Awaited.TRAINER, 36, None)
    player.after(1).control(Control.PAUSE)
    assert standing() == (Awaited.TRAINER, 36, None)
    player.after(1).publish()
    assert standing() == (Awaited.OPERATOR, 38, None)
    player.after(1).control(Control.STOP)
    assert standing() == (Awaited.NOTHING, 39, None)


def test_progress_says_who_is_awaited(player):
    player.contribute(player.invite("d2"))
    player.invite("d3")
    player.invite("d1")
    assert player.round.progress.awaited_ids == ("d1", "d3")


# --- contributions --------------------------------------------------------------------------------------------------


def test_a_replay_is_turned_down_and_changes_nothing(player):
    invitation = player.invite("d1")
    assert player.contribute(invitation) == counted(invitation)
    assert reason(player.contribute(invitation)) == RejectReason.DUPLICATE
    assert player.round.progress.num_contributions == 1


def test_a_replay_after_the_closing_hears_that_it_was_counted(player):
    invitation = player.invite("d1")
    player.contribute(invitation)
    player.gather(("d2", "d3"))
    assert reason(player.restart().contribute(invitation)) == RejectReason.DUPLICATE


def test_an_uninvited_device_cannot_contribute(player):
    assert reason(player.contribute(player.invite("d1"), device_id="d9")) == RejectReason.NOT_INVITED


def test_a_vector_that_breaks_the_lane_table_is_turned_down(player):
    session_id = player.invite("d1").session_id
    assert reason(player.do(SumMessageReceived("d1", Contribute(session_id, b"")))) == RejectReason.WRONG_LENGTH
    broken = bytes(CAMPAIGN.vote_lanes.packed_bytes)
    assert reason(player.do(SumMessageReceived("d1", Contribute(session_id, broken)))) == RejectReason.OUT_OF_RANGE
    assert player.round.progress.awaited_ids == ("d1",)


# --- deadlines ------------------------------------------------------------------------------------------------------


def test_at_the_deadline_a_quorum_is_enough(player):
    invitations = [player.invite(device) for device in DEVICES]
    for invitation in invitations[:2]:
        player.contribute(invitation)
    assert player.after(DEADLINE_S - 0.001).do() == []
    commands = player.after(0.001).do()
    assert kinds(commands) == [SaveClosing, AnnounceDecision]
    assert commands[0].closed.contributors == ("d1", "d2")
    assert reason(player.contribute(invitations[2])) == RejectReason.LATE


def test_a_message_at_the_deadline_finds_it_passed_whether_or_not_the_clock_ticked(player):
    invitations = [player.invite(device) for device in DEVICES]
    for invitation in invitations[:2]:
        player.contribute(invitation)
    commands = player.after(DEADLINE_S).contribute(invitations[2])
    assert kinds(commands) == [SaveClosing, AnnounceDecision, Reject]
    assert reason(commands) == RejectReason.LATE


def test_below_quorum_a_new_attempt_begins_and_devices_contribute_again(player):
    first = player.invite("d1")
    player.contribute(first)
    commands = player.after(DEADLINE_S).do()
    assert kinds(commands) == [SaveSnapshot, AnnounceAbandoned]
    assert reason(player.contribute(first)) == RejectReason.LATE
    second = player.invite("d1")
    assert (second.attempt, second.session_id) != (first.attempt, first.session_id)
    assert player.round.progress.num_contributions == 0
    assert player.contribute(second) == counted(second)


def test_the_campaign_fails_when_attempts_run_out(player):
    for attempt in range(1, CAMPAIGN.cohort.max_attempts + 1):
        assert player.invite("d1").attempt == attempt
        commands = player.after(DEADLINE_S).do()
    assert kinds(commands) == [SaveSnapshot, AnnounceAbandoned, AnnounceEnd]
    assert player.check_in("d1") == [End("d1", Ending.FAILED)]
    assert player.do(TrainerAsked(TRAINER, CAMPAIGN.campaign_id)) == [End(TRAINER, Ending.FAILED)]
    assert player.publish(SlimBase(CAMPAIGN.campaign_id, 0, "f", "m", 1))[0].rejection.reason == (
        RejectReason.WRONG_DECISION
    )


def test_attempts_are_counted_anew_in_the_next_round(player):
    player.invite("d1")
    player.after(DEADLINE_S).do()
    player.gather()
    player.publish()
    assert player.invite("d1").attempt == 1
    assert player.round.snapshot.attempts_failed == 0
