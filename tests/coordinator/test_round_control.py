"""The coordinator's round: trainer, operator, crashes."""

from dataclasses import replace

import pytest
from round_steps import CAMPAIGN, DEADLINE_S, DEVICES, TRAINER, Player, kinds, reason

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
    End,
    OfferDecision,
    Reply,
    SaveClosing,
    SaveSlimBase,
    SaveSnapshot,
    TrainerAsked,
)
from prunefleet_coordinator.round import CampaignRound
from prunefleet_coordinator.state import Snapshot
from prunefleet_coordinator.testing import counting_ids, small_campaign
from prunefleet_shared.campaign import Level
from prunefleet_shared.errors import ConfigError, LocalProtocolError, RejectReason
from prunefleet_shared.messages import Awaited, Control, Ending, Phase


@pytest.fixture
def player():
    return Player()


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
