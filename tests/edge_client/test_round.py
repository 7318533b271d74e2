"""The device's round: its story, its rules, and that a wrong call changes nothing; a private sum's stages are in
``test_round_sum``.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from round_parts import OneMessageSum, drive

from prunefleet_edge.backoff import MAX_REST_S, MIN_REST_S, Backoff, RetryPolicy
from prunefleet_edge.device_state import Contribution, DeviceState
from prunefleet_edge.events import (
    Event,
    Invited,
    LinkFailed,
    OutcomeMeasured,
    Personalise,
    PrepareVote,
    Refused,
    Rest,
    SaveState,
    SendToSum,
    Stop,
    SumAnswered,
    ToldToComeBack,
    VotePrepared,
)
from prunefleet_edge.invitation_rules import why_decision_impossible
from prunefleet_edge.round import ACCEPTED_EVENTS, CHECK_IN_AGAIN, DeviceRound, Phase
from prunefleet_shared.errors import (
    CarrierError,
    LayoutError,
    LocalProtocolError,
    Rejection,
    RejectReason,
    RemoteProtocolError,
)
from prunefleet_shared.layout import CostTable, CostTerm
from prunefleet_shared.limits import Limits
from prunefleet_shared.messages import Awaited, CampaignEnded, Ending, SessionKind
from prunefleet_shared.sum_messages import Contribute, ContributionCounted
from prunefleet_shared.testing import invitation, outcome_invitation, tiny_campaign, tiny_decision, tiny_slim_base

CAMPAIGN = tiny_campaign()
VOTE = bytes(range(CAMPAIGN.lanes_of(SessionKind.VOTE).packed_bytes))
OUTCOME = bytes(CAMPAIGN.lanes_of(SessionKind.OUTCOME).packed_bytes)


def make_round(state: DeviceState | None = None, **options: RetryPolicy) -> DeviceRound:
    return DeviceRound(CAMPAIGN, CAMPAIGN.layout.fingerprint(), state, random.Random(1), OneMessageSum, **options)


def contributed(session: int, payload: bytes) -> SendToSum:
    return SendToSum(Contribute(f"{session:032x}", payload))


def vote_invited(attempt: int = 1, session: int = 1) -> Invited:
    return Invited(invitation(SessionKind.VOTE, attempt=attempt, session=session))


def outcome_invited(level: int = 0, attempt: int = 1, session: int = 2) -> Invited:
    decision = tiny_decision(CAMPAIGN, level)
    to = outcome_invitation(decision, attempt=attempt, session=session)
    return Invited(to, decision, tiny_slim_base(decision)[0])


def counted(session: int) -> SumAnswered:
    return SumAnswered(ContributionCounted(f"{session:032x}"))


def test_the_whole_story() -> None:
    device = make_round()
    assert drive(device, vote_invited()) == [PrepareVote()]
    save, send = drive(device, VotePrepared(VOTE))
    assert isinstance(save, SaveState), "saved before it is sent"
    assert send == contributed(1, VOTE)
    assert save.state.contribution is not None
    assert save.state.contribution.payload == VOTE
    assert drive(device, counted(1)) == [Rest(MIN_REST_S, "counted")]

    closing, personalise = drive(device, outcome_invited())
    assert closing == SaveState(DeviceState(CAMPAIGN.campaign_id, spent=("vote",))), "the vote is spent and deleted"
    assert isinstance(personalise, Personalise)
    assert drive(device, OutcomeMeasured(OUTCOME))[-1] == contributed(2, OUTCOME)
    drive(device, counted(2))

    save, stop = drive(device, CampaignEnded(Ending.COMPLETED))
    assert save == SaveState(DeviceState(CAMPAIGN.campaign_id, spent=("outcome/0", "outcome/1", "vote")))
    assert stop == Stop(Ending.COMPLETED)
    assert device.phase is Phase.STOPPED
    assert device.tick(1e9) == []


def test_a_new_attempt_gets_the_stored_vote() -> None:
    device = make_round()
    drive(device, vote_invited(), VotePrepared(VOTE), Refused(Rejection(RejectReason.LATE)))
    save, send = drive(device, vote_invited(attempt=2, session=7))
    assert isinstance(save, SaveState)
    assert save.state.contribution is not None
    assert (save.state.contribution.attempt, save.state.contribution.session_id) == (2, f"{7:032x}")
    assert send == contributed(7, VOTE)


def test_a_restart_resumes_with_the_stored_vote() -> None:
    before = make_round()
    drive(before, vote_invited(), VotePrepared(VOTE))
    after = make_round(DeviceState.from_bytes(before.state.to_bytes()))
    assert drive(after, vote_invited()) == [contributed(1, VOTE)], "same session: nothing new to save"


@pytest.mark.parametrize(
    ("again", "words"),
    [
        (vote_invited(attempt=1, session=9), "second session of attempt 1"),
        (outcome_invited(), None),
    ],
)
def test_a_second_session_of_an_attempt_is_declined(again: Invited, words: str | None) -> None:
    device = make_round()
    drive(device, vote_invited(), VotePrepared(VOTE), Refused(Rejection(RejectReason.LATE)))
    commands = drive(device, again)
    if words is None:
        assert isinstance(commands[-1], Personalise)
    else:
        assert isinstance(commands[0], Rest)
        assert words in commands[0].why


def test_a_spent_round_is_declined_for_ever() -> None:
    device = make_round(DeviceState(CAMPAIGN.campaign_id, spent=("outcome/0", "vote")))
    for closed in (vote_invited(attempt=5, session=9), outcome_invited(attempt=5, session=9)):
        (rest,) = drive(device, closed)
        assert isinstance(rest, Rest)
        assert "closed for this device" in rest.why


def test_a_second_decision_of_a_level_is_declined() -> None:
    device = make_round()
    drive(device, outcome_invited(), OutcomeMeasured(OUTCOME), counted(2))
    decision = replace(tiny_decision(CAMPAIGN), fingerprint="f" * 64)
    to = outcome_invitation(decision, attempt=2, session=8)
    (rest,) = drive(device, Invited(to, decision, tiny_slim_base(decision)[0]))
    assert isinstance(rest, Rest)
    assert "second decision" in rest.why


def test_duplicate_means_counted() -> None:
    device = make_round()
    drive(device, vote_invited(), VotePrepared(VOTE))
    assert drive(device, Refused(Rejection(RejectReason.DUPLICATE))) == [Rest(MIN_REST_S, "counted")]


@pytest.mark.parametrize("reason", list(RejectReason))
def test_every_refusal_has_its_consequence(reason: RejectReason) -> None:
    device = make_round()
    drive(device, vote_invited(), VotePrepared(VOTE))
    (command,) = drive(device, Refused(Rejection(reason)))
    if reason in CHECK_IN_AGAIN or reason is RejectReason.DUPLICATE:
        assert isinstance(command, Rest)
    else:
        assert isinstance(command, Stop)
        assert isinstance(command.error, RemoteProtocolError)


def test_duplicate_to_a_check_in_is_an_error() -> None:
    (command,) = drive(make_round(), Refused(Rejection(RejectReason.DUPLICATE)))
    assert isinstance(command, Stop)


def test_rests_are_jittered_by_a_quarter_and_bounded() -> None:
    device = make_round()
    delays = set()
    for _ in range(50):
        (rest,) = drive(device, ToldToComeBack(8.0, Awaited.DEVICES))
        assert isinstance(rest, Rest)
        assert 6.0 <= rest.delay_s <= 10.0
        delays.add(rest.delay_s)
    assert len(delays) > 40
    for after_s, bound_s in ((-5.0, MIN_REST_S), (1e12, MAX_REST_S)):
        (rest,) = drive(device, ToldToComeBack(after_s, Awaited.NOTHING))
        assert isinstance(rest, Rest)
        assert rest.delay_s == bound_s


def test_failures_back_off_and_then_give_up() -> None:
    policy = RetryPolicy(first_s=1.0, max_s=10.0, give_up_after_s=100.0)
    backoff = Backoff(policy, random.Random(3))
    delays = [backoff.next_delay_s(now_s=1.0) for _ in range(200)]
    assert all(delay is not None and delay <= min(10.0, 2.0**n) for n, delay in enumerate(delays))
    assert backoff.next_delay_s(now_s=102.0) is None
    backoff.reset()
    assert backoff.next_delay_s(now_s=102.0) is not None

    device = make_round(retries=RetryPolicy(give_up_after_s=-1.0))
    drive(device, LinkFailed("cut", retryable=True))
    (stop,) = drive(device, LinkFailed("cut", retryable=True))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, CarrierError)


def test_a_permanent_failure_stops_at_once() -> None:
    (stop,) = drive(make_round(), LinkFailed("no such host", retryable=False))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, CarrierError)
    assert not stop.error.retryable


DECISION = tiny_decision(CAMPAIGN)
SLIM_BASE = tiny_slim_base(DECISION)[0]
TO = outcome_invitation(DECISION)


@pytest.mark.parametrize(
    ("invited", "reason"),
    [
        (Invited(replace(TO, level=2), DECISION, SLIM_BASE), RejectReason.MALFORMED),
        (Invited(replace(TO, attempt=0), DECISION, SLIM_BASE), RejectReason.MALFORMED),
        (Invited(TO, DECISION, None), RejectReason.MALFORMED),
        (Invited(TO, None, SLIM_BASE), RejectReason.MALFORMED),
        (Invited(TO, replace(DECISION, campaign_id="ff" * 16), SLIM_BASE), RejectReason.WRONG_CAMPAIGN),
        (Invited(TO, DECISION, replace(SLIM_BASE, campaign_id="ff" * 16)), RejectReason.WRONG_CAMPAIGN),
        (Invited(TO, replace(DECISION, level=1), SLIM_BASE), RejectReason.WRONG_DECISION),
        (Invited(TO, DECISION, replace(SLIM_BASE, decision_fingerprint="00")), RejectReason.WRONG_DECISION),
        (Invited(TO, replace(DECISION, widths=(1,)), SLIM_BASE), RejectReason.WRONG_DECISION),
        (Invited(TO, replace(DECISION, widths=(0, 1)), SLIM_BASE), RejectReason.WRONG_DECISION),
        (Invited(TO, replace(DECISION, prior=((0,) * 8, tuple(range(16)))), SLIM_BASE), RejectReason.WRONG_DECISION),
        (Invited(TO, replace(DECISION, cost=DECISION.cost - 1), SLIM_BASE), RejectReason.WRONG_DECISION),
        (
            Invited(TO, replace(DECISION, widths=(8, 16), cost=CAMPAIGN.cost_table.cost((8, 16))), SLIM_BASE),
            RejectReason.WRONG_DECISION,
        ),
    ],
)
def test_an_invitation_that_contradicts_the_campaign_stops_the_device(invited: Invited, reason: RejectReason) -> None:
    device = make_round()
    (stop,) = drive(device, invited)
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, RemoteProtocolError)
    assert stop.error.rejection.reason is reason
    assert device.state == DeviceState(CAMPAIGN.campaign_id), "nothing was spent"


WIDE = replace(DECISION, widths=(2, 4), cost=CAMPAIGN.cost_table.cost((2, 4)))
TIGHT = CostTable("parameters", (CostTerm(1, (0, 1)),))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limits": Limits(round_to=4)}, "conv1 has 2 channels; the limits allow 4, 8"),
        ({"limits": Limits(skipped=frozenset({"conv2"}))}, "conv2 has 4 channels; the limits allow 16"),
        (
            {"further_tables": (TIGHT,), "levels": tuple(replace(s, further_budgets=(7,)) for s in CAMPAIGN.levels)},
            "cost 8, budget 7 parameters",
        ),
    ],
)
def test_a_device_checks_every_budget_and_limit_of_the_signed_campaign(changes: dict[str, Any], words: str) -> None:
    assert why_decision_impossible(CAMPAIGN, WIDE) is None
    assert why_decision_impossible(replace(CAMPAIGN, **changes), WIDE) == words


def test_counted_in_another_session_stops_the_device() -> None:
    device = make_round()
    drive(device, vote_invited(), VotePrepared(VOTE))
    (stop,) = drive(device, counted(99))
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, RemoteProtocolError)


ONE_OF_EACH: list[Event] = [
    vote_invited(),
    ToldToComeBack(1.0, Awaited.DEVICES),
    CampaignEnded(Ending.COMPLETED),
    counted(1),
    VotePrepared(VOTE),
    OutcomeMeasured(OUTCOME),
    Refused(Rejection(RejectReason.LATE)),
    LinkFailed("cut", retryable=True),
]
WAY_TO: dict[Phase, list[Event]] = {
    Phase.CHECKING_IN: [],
    Phase.VOTING: [vote_invited()],
    Phase.PERSONALISING: [outcome_invited()],
    Phase.SUMMING: [vote_invited(), VotePrepared(VOTE)],
    Phase.AWAITING_STAGE: [vote_invited(), VotePrepared(VOTE), ToldToComeBack(1.0, Awaited.DEVICES)],
    Phase.STOPPED: [CampaignEnded(Ending.FAILED)],
}
PHASES = [phase for phase in Phase if phase is not Phase.FOLLOWING]  # in judged campaigns: see ``test_rulings``


def in_phase(phase: Phase) -> DeviceRound:
    device = make_round()
    if phase is not Phase.RESTING:
        device.tick(0.0)
        drive(device, *WAY_TO[phase])
    assert device.phase is phase
    return device


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_an_event_out_of_place_raises_and_changes_nothing(phase: Phase, event: Event) -> None:
    device = in_phase(phase)
    if isinstance(event, ACCEPTED_EVENTS[phase]):
        assert device.receive(event, 0.0)
        return
    before = dict(vars(device))
    with pytest.raises(LocalProtocolError, match=phase.value):
        device.receive(event, 0.0)
    assert vars(device) == before


def test_a_payload_of_the_wrong_length_raises_and_changes_nothing() -> None:
    device = in_phase(Phase.VOTING)
    before = dict(vars(device))
    with pytest.raises(LocalProtocolError, match="takes"):
        device.receive(VotePrepared(VOTE + b"\0"), 0.0)
    assert vars(device) == before


def test_another_layout_or_another_campaigns_state_cannot_start() -> None:
    with pytest.raises(LayoutError, match="traced 000000000000"):
        DeviceRound(CAMPAIGN, "0" * 64, None, random.Random(1), OneMessageSum)
    with pytest.raises(LocalProtocolError, match="given to campaign"):
        make_round(DeviceState("ff" * 16))


def test_the_first_check_in_is_due_at_once_and_rests_are_kept() -> None:
    device = make_round()
    assert device.next_wakeup_s is not None
    assert device.next_wakeup_s < 0.0
    device.tick(5.0)
    assert device.next_wakeup_s is None
    (rest,) = device.receive(ToldToComeBack(8.0, Awaited.TRAINER), 5.0)
    assert isinstance(rest, Rest)
    assert device.next_wakeup_s == 5.0 + rest.delay_s
    assert device.tick(device.next_wakeup_s - 0.001) == []
    assert len(device.tick(device.next_wakeup_s)) == 1


def test_state_survives_serialising() -> None:
    said = Contribution(SessionKind.OUTCOME, 1, "ab" * 32, "cd" * 16, 3, "00ff")
    state = DeviceState("c0" * 16, ("outcome/0", "vote"), said)
    assert DeviceState.from_bytes(state.to_bytes()) == state
    assert said.payload == b"\x00\xff"
