"""The device's round in a private sum of five stages: what is saved when, what is said again, and when it leaves."""

from __future__ import annotations

import random

import pytest

from prunefleet_edge.backoff import MIN_REST_S
from prunefleet_edge.device_state import DeviceState, Release
from prunefleet_edge.events import (
    Command,
    Event,
    Invited,
    LinkFailed,
    OutcomeMeasured,
    Personalise,
    PrepareVote,
    Refused,
    Rest,
    SaveState,
    SendCheckIn,
    SendToSum,
    Stop,
    SumAnswered,
    ToldToComeBack,
    VotePrepared,
)
from prunefleet_edge.round import CHECK_IN_AGAIN, NUM_STAGES, STAGE_REST_S, DeviceRound, Phase
from prunefleet_shared.campaign import SUM_DP, Campaign, NoiseTerms, PrivacyTerms
from prunefleet_shared.errors import LocalProtocolError, Rejection, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.messages import Awaited, SessionKind, SumDown, SumUp
from prunefleet_shared.sum_messages import (
    Advertise,
    Confirmations,
    ConfirmSurvivors,
    Contribute,
    ContributionCounted,
    PeerShares,
    Roster,
    RosterEntry,
    ShareKeys,
    Survivors,
    Unmask,
)
from prunefleet_shared.testing import invitation, outcome_invitation, tiny_campaign, tiny_decision, tiny_slim_base

CAMPAIGN = tiny_campaign()
NOISY = tiny_campaign(privacy=PrivacyTerms(SUM_DP, 3, NoiseTerms(8000, 6, 2, 1500)))
FINGERPRINT = CAMPAIGN.layout.fingerprint()
VOTE = bytes(range(CAMPAIGN.lanes_of(SessionKind.VOTE).packed_bytes))
OUTCOME = bytes(CAMPAIGN.lanes_of(SessionKind.OUTCOME).packed_bytes)
SURVIVORS = frozenset({"device-2", "device-1", "device-3"})
ANSWERS = [Roster(()), PeerShares(b"", b"", b""), Survivors(b"\7"), Confirmations(b"\7", b""), ContributionCounted("")]
FORGED, STRANGERS = ContributionCounted("a lie"), ContributionCounted("somebody whom nobody vouches for")
LATER, LOST = ToldToComeBack(1.0, Awaited.DEVICES), LinkFailed("cut", retryable=True)
EVERY_STAGE = pytest.mark.parametrize("stage", range(NUM_STAGES))
BEFORE_UNMASK = pytest.mark.parametrize("stage", range(NUM_STAGES - 1))


class ScriptedSum:
    """Says five messages, whatever it hears; at ``FORGED`` and ``STRANGERS`` it finds a rule broken.

    Attributes:
        heard: The answers it was given.
        is_aborted: Whether it was told to forget its keys.
    """

    survivor_names = SURVIVORS

    def __init__(self, invited: Invited, payload: bytes) -> None:
        session_id = invited.invitation.session_id
        entry = RosterEntry(b"d" * 32, b"m" * 32, b"s" * 32, b"")
        self.messages: list[SumUp] = [
            Advertise(session_id, (), entry, b""),
            ShareKeys(session_id, b"", b""),
            Contribute(session_id, payload),
            ConfirmSurvivors(session_id, b""),
            Unmask(session_id, b"", b""),
        ]
        self.heard: list[SumDown] = []
        self.is_aborted = False

    def start(self) -> SumUp:
        return self.messages[0]

    def receive(self, answer: SumDown) -> SumUp | None:
        assert not self.is_aborted
        if answer in {FORGED, STRANGERS}:
            raise reject(RejectReason.BAD_ROSTER if answer == FORGED else RejectReason.STRANGER)
        self.heard.append(answer)
        return self.messages[len(self.heard)] if len(self.heard) < NUM_STAGES else None

    def abort(self) -> None:
        self.is_aborted = True


class Device:
    """A device's round; ``sums`` are those it opened, ``contributed`` for which payloads, ``now_s`` the time."""

    def __init__(self, state: DeviceState | None = None, campaign: Campaign = CAMPAIGN) -> None:
        self.sums: list[ScriptedSum] = []
        self.contributed: list[bytes] = []
        self.now_s = 0.0
        self.round = DeviceRound(campaign, FINGERPRINT, state, random.Random(1), self._open)

    def _open(self, invited: Invited, payload: bytes) -> ScriptedSum:
        self.sums.append(ScriptedSum(invited, payload))
        self.contributed.append(payload)
        return self.sums[-1]

    def hear(self, *events: Event) -> list[Command]:
        """Feed events; whenever the device rests between check-ins, it is woken first. The last one's commands."""
        commands: list[Command] = []
        for event in events:
            if self.round.phase is Phase.RESTING:
                assert isinstance(self.round.tick(1e9)[0], SendCheckIn)
            commands = self.round.receive(event, self.now_s)
        return commands

    def wake(self) -> list[Command]:
        assert self.round.next_wakeup_s is not None
        return self.round.tick(self.round.next_wakeup_s)


def invited(attempt: int = 1, session: int = 1) -> Invited:
    return Invited(invitation(SessionKind.VOTE, attempt=attempt, session=session))


def voting(stage: int = 0) -> Device:
    """A device that has said the message of ``stage`` (from 0) in the vote's session."""
    device = Device()
    device.hear(invited(), VotePrepared(VOTE), *map(SumAnswered, ANSWERS[:stage]))
    return device


# --- the story -------------------------------------------------------------------------------------------------------


def test_the_contribution_is_saved_before_the_first_message() -> None:
    device = Device()
    assert device.hear(invited()) == [PrepareVote()]
    save, send = device.hear(VotePrepared(VOTE))
    assert isinstance(save, SaveState)
    assert save.state.contribution is not None
    assert (save.state.contribution.payload, save.state.spent, save.release) == (VOTE, (), None)
    assert send == SendToSum(device.sums[0].messages[0])


def test_each_answer_brings_the_next_message_and_nothing_else_until_the_masks_come_off() -> None:
    device = voting()
    for answer, message in zip(ANSWERS[:3], device.sums[0].messages[1:4], strict=True):
        assert device.hear(SumAnswered(answer)) == [SendToSum(message)]
    assert device.round.state.spent == ()
    save, send = device.hear(SumAnswered(ANSWERS[3]))
    release = Release(("device-1", "device-2", "device-3"))
    assert save == SaveState(DeviceState(CAMPAIGN.campaign_id, spent=("vote",)), release), "spent, and the vote is gone"
    assert send == SendToSum(device.sums[0].messages[4])
    assert device.hear(SumAnswered(ANSWERS[4])) == [Rest(MIN_REST_S, "counted")]
    assert device.sums[0].heard == ANSWERS
    assert device.sums[0].is_aborted, "its keys are forgotten"


def test_an_outcome_is_spent_likewise_but_only_votes_are_remembered_as_released() -> None:
    device, decision = Device(), tiny_decision(CAMPAIGN)
    commands = device.hear(Invited(outcome_invitation(decision), decision, tiny_slim_base(decision)[0]))
    assert isinstance(commands[-1], Personalise)
    device.hear(OutcomeMeasured(OUTCOME), *map(SumAnswered, ANSWERS[:3]))
    save, send = device.hear(SumAnswered(ANSWERS[3]))
    assert save == SaveState(DeviceState(CAMPAIGN.campaign_id, spent=("outcome/0", "vote")))
    assert isinstance(send, SendToSum)
    assert isinstance(send.message, Unmask)


# --- said again ------------------------------------------------------------------------------------------------------


@EVERY_STAGE
def test_the_same_is_said_again_while_others_are_awaited_or_an_answer_is_lost(stage: int) -> None:
    device = voting(stage)
    state, cohort_sum = device.round.state, device.sums[0]
    for event in (LATER, LATER, LOST, LATER):
        (rest,) = device.hear(event)
        assert isinstance(rest, Rest)
        assert device.round.phase is Phase.AWAITING_STAGE
        (again,) = device.wake()
        assert isinstance(again, SendToSum)
        assert again.message is cohort_sum.messages[stage], "the very same, or the egress would not let it out"
    assert (device.round.state, len(cohort_sum.heard), len(device.sums)) == (state, stage, 1)
    assert not cohort_sum.is_aborted


def test_a_stage_is_asked_for_at_once_and_not_before_its_rest_is_over() -> None:
    device = voting()
    device.now_s = 5.0
    assert device.hear(LATER) == [Rest(STAGE_REST_S, "waiting for other devices")]
    assert device.round.tick(5.0) == []
    assert device.round.next_wakeup_s == 5.0 + STAGE_REST_S


@EVERY_STAGE
def test_duplicate_means_counted_and_the_session_is_over(stage: int) -> None:
    device = voting(stage)
    assert device.hear(Refused(Rejection(RejectReason.DUPLICATE))) == [Rest(MIN_REST_S, "counted")]
    assert device.sums[0].is_aborted
    assert device.round.phase is Phase.RESTING


# --- another attempt -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", sorted(CHECK_IN_AGAIN))
@BEFORE_UNMASK
def test_a_late_device_checks_in_again_and_a_new_attempt_has_a_new_sum(stage: int, reason: RejectReason) -> None:
    device = voting(stage)
    (rest,) = device.hear(Refused(Rejection(reason)))
    assert isinstance(rest, Rest)
    assert device.sums[0].is_aborted
    assert device.round.state.contribution is not None
    assert device.round.state.contribution.payload == VOTE
    save, send = device.hear(invited(attempt=2, session=9))
    assert isinstance(save, SaveState)
    assert send == SendToSum(device.sums[1].messages[0])
    assert device.contributed == [VOTE, VOTE]
    assert not device.sums[1].is_aborted


def test_once_shares_were_given_away_nothing_is_said_in_that_round_again() -> None:
    device = voting(stage=4)
    device.hear(Refused(Rejection(RejectReason.LATE)))
    for again in (invited(attempt=2, session=9), invited(attempt=1, session=1)):
        (rest,) = device.hear(again)
        assert isinstance(rest, Rest)
        assert "the round vote is closed for this device" in rest.why
    assert len(device.sums) == 1


@pytest.mark.parametrize(("stage", "num_sums"), [(0, 1), (3, 1), (4, 0)])
def test_a_restart_begins_the_session_anew_unless_the_round_is_spent(stage: int, num_sums: int) -> None:
    saved = DeviceState.from_bytes(voting(stage).round.state.to_bytes())
    device = Device(saved)
    device.hear(invited())
    assert device.contributed == [VOTE] * num_sums


def test_a_noisy_vote_is_said_to_one_session_and_its_round_spent_before_it_is_said() -> None:
    """The same noise in two sums could be taken away; fresh noise each time could be averaged out."""
    device = Device(campaign=NOISY)
    vote = bytes(NOISY.vote_lanes.packed_bytes)
    device.hear(invited(), VotePrepared(vote), SumAnswered(ANSWERS[0]))
    assert device.round.state.spent == ()
    save, send = device.hear(SumAnswered(ANSWERS[1]))
    assert save == SaveState(DeviceState(CAMPAIGN.campaign_id, spent=("vote",)))
    assert send == SendToSum(Contribute(f"{1:032x}", vote))
    assert device.hear(SumAnswered(ANSWERS[2])) == [SendToSum(device.sums[0].messages[3])]
    release, _ = device.hear(SumAnswered(ANSWERS[3]))
    assert isinstance(release, SaveState)
    assert release.release is not None
    device.hear(Refused(Rejection(RejectReason.LATE)), invited(attempt=2, session=9))
    assert len(device.sums) == 1


# --- what ends it ----------------------------------------------------------------------------------------------------


@EVERY_STAGE
def test_a_rule_that_the_coordinator_broke_stops_the_device_and_forgets_the_keys(stage: int) -> None:
    device = voting(stage)
    state = device.round.state
    (stop,) = device.hear(SumAnswered(FORGED))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, RemoteProtocolError)
    assert stop.error.rejection.reason is RejectReason.BAD_ROSTER
    assert device.sums[0].is_aborted
    assert device.round.phase is Phase.STOPPED
    assert device.round.state == state, "nothing more is spent"


@BEFORE_UNMASK
def test_a_peer_whose_certificate_has_ended_is_no_reason_to_stop(stage: int) -> None:
    device = voting(stage)
    (rest,) = device.hear(SumAnswered(STRANGERS))
    assert isinstance(rest, Rest)
    assert device.round.phase is Phase.RESTING
    assert device.sums[0].is_aborted
    device.hear(invited(attempt=2, session=9))
    assert device.contributed == [VOTE, VOTE]


@EVERY_STAGE
@pytest.mark.parametrize("event", [LATER, LOST], ids=["awaited", "lost"])
def test_a_session_takes_no_longer_than_its_deadline_and_its_stages(stage: int, event: Event) -> None:
    device = voting(stage)
    limit_s = (60_000 + NUM_STAGES * CAMPAIGN.cohort.stage_ms) / 1000
    device.now_s = limit_s - 60.0
    device.hear(event)
    assert device.round.phase is Phase.AWAITING_STAGE
    device.wake()
    device.now_s = limit_s
    (rest,) = device.hear(event)
    assert isinstance(rest, Rest)
    assert "until the session was over" in rest.why
    assert device.round.phase is Phase.RESTING
    assert device.sums[0].is_aborted
    assert isinstance(device.wake()[0], SendCheckIn)


def test_a_line_that_is_gone_for_good_stops_the_device_and_forgets_the_keys() -> None:
    device = voting(stage=2)
    (stop,) = device.hear(LinkFailed("no such host", retryable=False))
    assert isinstance(stop, Stop)
    assert device.sums[0].is_aborted


def test_a_sum_that_cannot_be_opened_saves_nothing() -> None:
    def closed(_invited: Invited, _payload: bytes) -> ScriptedSum:
        raise LocalProtocolError("no certificate")

    device = DeviceRound(CAMPAIGN, FINGERPRINT, None, random.Random(1), closed)
    device.tick(0.0)
    device.receive(invited(), 0.0)
    before = dict(vars(device))
    with pytest.raises(LocalProtocolError, match="no certificate"):
        device.receive(VotePrepared(VOTE), 0.0)
    assert vars(device) == before
