"""The round, played by hand: who is invited, when it closes, what a crash costs. Sentences quote ``round``'s own."""

from dataclasses import replace

import pytest

from prunefleet_coordinator.events import (
    AcceptControl,
    AcceptSlimBase,
    AnnounceAbandoned,
    AnnounceDecision,
    AnnounceEnd,
    AnnounceJoined,
    AnnouncePaused,
    AnnounceResumed,
    Defer,
    DeviceCheckedIn,
    End,
    Invite,
    OfferDecision,
    OperatorControlled,
    Reject,
    Reply,
    SaveClosing,
    SaveSlimBase,
    SaveSnapshot,
    SlimBasePublished,
    SumMessageReceived,
    TrainerAsked,
)
from prunefleet_coordinator.round import CampaignRound
from prunefleet_coordinator.state import ENDINGS, NEXT_PHASE, Happening, Snapshot
from prunefleet_coordinator.testing import counting_ids, outcome_payload, small_campaign, vote_payload
from prunefleet_shared.campaign import CohortPolicy, Level, SlimBase
from prunefleet_shared.documents import canonical_bytes, read_document
from prunefleet_shared.errors import ConfigError, LocalProtocolError, RejectReason
from prunefleet_shared.messages import Awaited, CheckIn, Contribute, Control, Ending, Phase, Readiness, SessionKind
from prunefleet_shared.sum_messages import ContributionCounted

CAMPAIGN = small_campaign()
DEADLINE_S = CAMPAIGN.cohort.deadline_ms / 1000
DEVICES = ("d1", "d2", "d3")
TRAINER = "trainer"


class Player:
    """Drives one round and, for ``restart``, remembers what it was told to save."""

    def __init__(self, campaign=CAMPAIGN):
        self.campaign = campaign
        self.ids = counting_ids()
        self.round = CampaignRound(campaign, self.ids)
        self.saved = None
        self.now_s = 0.0

    def do(self, event=None):
        commands = self.round.receive(event, self.now_s) if event else self.round.tick(self.now_s)
        for command in commands:
            self.saved = getattr(command, "snapshot", self.saved)
        return commands

    def check_in(self, device_id, readiness=Readiness.READY):
        fingerprint = self.campaign.layout.fingerprint()
        return self.do(DeviceCheckedIn(device_id, CheckIn(self.campaign.campaign_id, fingerprint, readiness)))

    def invite(self, device_id):
        invitation = self.check_in(device_id)[-1]
        assert isinstance(invitation, Invite), invitation
        return invitation

    def contribute(self, invitation, device_id=None):
        is_vote = invitation.kind is SessionKind.VOTE
        payload = vote_payload(self.campaign, seed=int(invitation.device_id[1:])) if is_vote else outcome_payload()
        message = Contribute(invitation.session_id, payload)
        return self.do(SumMessageReceived(device_id or invitation.device_id, message))

    def gather(self, devices=DEVICES):
        """All check in and contribute; returns the commands of the last contribution."""
        invitations = [self.invite(device) for device in devices]
        return [self.contribute(invitation) for invitation in invitations][-1]

    def slim_base(self):
        decision = self.round.snapshot.decisions[-1]
        return SlimBase(decision.campaign_id, decision.level, decision.fingerprint, "00" * 32, 100)

    def publish(self, slim_base=None):
        return self.do(SlimBasePublished(TRAINER, slim_base or self.slim_base()))

    def control(self, control):
        return self.do(OperatorControlled("boss", control))

    def after(self, seconds):
        self.now_s += seconds
        return self

    def restart(self):
        snapshot = self.saved and read_document(canonical_bytes(self.saved), Snapshot)
        self.round = CampaignRound(self.campaign, self.ids, snapshot)
        return self


@pytest.fixture
def player():
    return Player()


def kinds(commands):
    return [type(command) for command in commands]


def counted(invitation):
    device_id, session_id = invitation.device_id, invitation.session_id
    return [Reply(device_id, ContributionCounted(session_id)), AnnounceJoined(device_id, session_id)]


def reason(commands):
    assert isinstance(commands[-1], Reject), commands
    return commands[-1].rejection.reason


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


# --- the trainer ----------------------------------------------------------------------------------------------------


def test_the_trainer_waits_for_devices_and_devices_for_the_trainer(player):
    assert player.do(TrainerAsked(TRAINER, CAMPAIGN.campaign_id)) == [Defer(TRAINER, 1000, Awaited.DEVICES)]
    player.gather()
    assert player.do(TrainerAsked(TRAINER, CAMPAIGN.campaign_id)) == [OfferDecision(TRAINER, 0)]
    assert player.check_in("d1") == [Defer("d1", 1000, Awaited.TRAINER)]


def test_the_trainer_must_name_the_campaign(player):
    assert reason(player.do(TrainerAsked(TRAINER, "another"))) == RejectReason.WRONG_CAMPAIGN


def test_a_slim_base_is_taken_once_and_its_repetition_accepted(player):
    player.gather()
    slim_base = player.slim_base()
    player.publish(slim_base)
    assert player.publish(slim_base) == [AcceptSlimBase(TRAINER, 0)]
    assert reason(player.publish(replace(slim_base, model_digest="11" * 32))) == RejectReason.WRONG_DECISION
    assert player.round.snapshot.slim_bases == (slim_base,)


def test_a_slim_base_for_another_decision_is_turned_down(player):
    player.gather()
    wrong = replace(player.slim_base(), decision_fingerprint="11" * 32)
    assert reason(player.publish(wrong)) == RejectReason.WRONG_DECISION
    assert player.round.snapshot.phase is Phase.RETRAINING


# --- the operator ---------------------------------------------------------------------------------------------------


def test_a_paused_campaign_invites_nobody_until_it_is_resumed(player):
    assert kinds(player.control(Control.PAUSE)) == [SaveSnapshot, AcceptControl, AnnouncePaused]
    assert player.check_in("d1") == [Defer("d1", 5000, Awaited.OPERATOR)]
    assert player.restart().check_in("d1") == [Defer("d1", 5000, Awaited.OPERATOR)]
    assert player.round.progress.is_paused
    assert kinds(player.control(Control.RESUME)) == [SaveSnapshot, AcceptControl, AnnounceResumed]
    assert kinds(player.gather()) == [SaveClosing, Reply, AnnounceJoined, AnnounceDecision]


def test_an_open_session_may_finish_while_the_campaign_is_paused_and_the_trainer_may_publish(player):
    invitations = [player.invite(device) for device in DEVICES]
    player.control(Control.PAUSE)
    assert player.check_in("d4") == [Defer("d4", 5000, Awaited.OPERATOR)]
    assert player.invite("d2") == invitations[1]  # its answer was lost
    assert kinds([player.contribute(invitation) for invitation in invitations][-1]) == [
        SaveClosing,
        Reply,
        AnnounceJoined,
        AnnounceDecision,
    ]
    assert player.check_in("d1") == [Defer("d1", 1000, Awaited.TRAINER)]
    assert kinds(player.publish()) == [SaveSlimBase, AcceptSlimBase]
    assert player.check_in("d1") == [Defer("d1", 5000, Awaited.OPERATOR)]


def test_a_session_that_starves_during_a_pause_costs_no_attempt(player):
    for _ in range(CAMPAIGN.cohort.max_attempts):
        player.invite("d1")
        player.control(Control.PAUSE)
        assert kinds(player.after(DEADLINE_S).do()) == [SaveSnapshot, AnnounceAbandoned]
        player.control(Control.RESUME)
    assert (player.round.snapshot.attempts_failed, player.round.has_ended) == (0, False)


@pytest.mark.parametrize("phase", [Phase.VOTING, Phase.RETRAINING, Phase.MEASURING])
def test_stopping_is_for_ever_and_for_everyone(player, phase):
    for step in (player.gather, player.publish):
        if player.round.snapshot.phase is not phase:
            step()
    invitation = player.invite("d1") if phase is not Phase.RETRAINING else None
    commands = player.control(Control.STOP)
    assert kinds(commands) == [SaveSnapshot, AcceptControl, AnnounceEnd]
    assert commands[-1].ending is Ending.STOPPED
    player.restart()
    assert player.round.next_deadline_s is None
    assert player.check_in("d1") == [End("d1", Ending.STOPPED)]
    assert player.do(TrainerAsked(TRAINER, CAMPAIGN.campaign_id)) == [End(TRAINER, Ending.STOPPED)]
    if invitation:
        assert reason(player.contribute(invitation)) == RejectReason.WRONG_SESSION  # after the restart; LATE before


def test_a_contribution_to_a_stopped_campaign_comes_too_late(player):
    invitation = player.invite("d1")
    player.control(Control.STOP)
    assert reason(player.contribute(invitation)) == RejectReason.LATE


def test_a_wish_said_twice_is_granted_twice_and_changes_nothing(player):
    for control in (Control.RESUME, Control.PAUSE, Control.PAUSE, Control.RESUME, Control.RESUME, Control.STOP):
        player.control(control)
        before = player.round.snapshot
        assert player.control(control) == [AcceptControl("boss", control)]
        assert player.round.snapshot == before


@pytest.mark.parametrize("control", Control)
def test_a_campaign_that_has_completed_cannot_be_controlled(player, control):
    for step in (player.gather, player.publish) * 2 + (player.gather,):
        step()
    assert reason(player.control(control)) == RejectReason.WRONG_CAMPAIGN
    assert player.round.snapshot.phase is Phase.COMPLETED


# --- crashes --------------------------------------------------------------------------------------------------------


def test_a_session_in_flight_is_lost_and_a_restart_eats_no_attempt(player):
    for attempt in range(1, 10):
        invitation = player.invite("d1")
        assert invitation.attempt == attempt
        player.contribute(invitation)
        player.restart()
        assert reason(player.contribute(invitation)) == RejectReason.WRONG_SESSION
    player.invite("d1")
    assert kinds(player.after(DEADLINE_S).do()) == [SaveSnapshot, AnnounceAbandoned]
    assert player.round.snapshot.attempts_failed == 1
    assert kinds(player.gather()) == [SaveClosing, Reply, AnnounceJoined, AnnounceDecision]


def test_a_restart_forgives_no_failed_attempt(player):
    for _ in range(CAMPAIGN.cohort.max_attempts):
        player.invite("d1")
        player.after(DEADLINE_S).do()
        player.restart()
    assert player.round.has_ended


def test_a_restart_after_every_step_gives_the_same_decisions_and_counts_nobody_twice():
    through, interrupted = Player(), Player()
    for player, pause in ((through, lambda: None), (interrupted, interrupted.restart)):
        for step in (player.gather, player.publish) * 2 + (player.gather,):
            step()
            pause()
    assert interrupted.round.snapshot == through.round.snapshot
    assert all(closed.total.num_devices == len(DEVICES) for closed in interrupted.round.snapshot.closed_rounds)


def test_a_snapshot_of_another_campaign_is_the_operators_mistake():
    with pytest.raises(ConfigError, match="use another store"):
        CampaignRound(CAMPAIGN, counting_ids(), Snapshot("another"))


def test_a_campaign_that_cannot_be_carried_out_is_refused_at_once():
    with pytest.raises(ConfigError, match="cannot be met"):
        CampaignRound(small_campaign(levels=(Level(1, 1),)), counting_ids())


def test_a_call_that_raises_changes_nothing(player):
    player.after(10).contribute(player.invite("d1"))
    before = (player.round.snapshot, player.round.progress, player.round.next_deadline_s)
    player.now_s = 9.0
    with pytest.raises(LocalProtocolError, match="clock went back"):
        player.check_in("d2")
    assert (player.round.snapshot, player.round.progress, player.round.next_deadline_s) == before
