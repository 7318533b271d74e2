"""One device in one campaign, as a state machine without I/O: events in, commands out.

The story: check in → be invited to the vote → prepare it → save it → take it through the stages of a private sum →
check in until a decision comes → try the decision on → save the outcome → sum it → … until the campaign ends. Five
rules carry all of it:

1. A device votes once per campaign and gives one outcome per decision. What it says is made once, saved before it is
   sent, and sent again byte for byte when a later *attempt* of the same round asks for it.
2. It never speaks to two sessions of one attempt, nor ever again in a round that it knows to be closed.
3. Before it gives away what unmasks a sum, it saves that the round is spent, for ever; with noise, before its vector
   leaves: others may unmask the sum without it, and every such sum costs privacy anew.
4. Before anything else it follows what was ruled (``kept_networks``), and only then saves that it has heard it.
5. Whatever goes wrong for a while (a lost answer, a late contribution, a restart), the way back is to check in.

Time and randomness are arguments; documents arrive already verified (``runner`` does that). What is heard and ordered
is in ``events``, what is remembered in ``device_state``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from prunefleet_edge.backoff import MIN_REST_S, Backoff, RetryPolicy, rest_s
from prunefleet_edge.device_state import Contribution, DeviceState, Release, round_key
from prunefleet_edge.events import (
    Command,
    Event,
    FollowRuling,
    Invited,
    LinkFailed,
    OutcomeMeasured,
    Personalise,
    PrepareVote,
    Refused,
    Rest,
    RulingFollowed,
    RulingHeard,
    SaveState,
    SendCheckIn,
    SendToSum,
    SlimBaseHeard,
    SlimBaseKept,
    Stop,
    SumAnswered,
    ToldToComeBack,
    VotePrepared,
)
from prunefleet_edge.invitation_rules import why_invitation_wrong, why_ruling_wrong
from prunefleet_edge.round_phases import ACCEPTED_EVENTS, CHECK_IN_AGAIN, WAITING_FOR, Phase
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.errors import (
    CarrierError,
    LayoutError,
    LocalProtocolError,
    PrunefleetError,
    Rejection,
    RejectReason,
    RemoteProtocolError,
)
from prunefleet_shared.messages import (
    Awaited,
    CampaignEnded,
    CheckIn,
    Ending,
    Readiness,
    SessionKind,
    SumUp,
)
from prunefleet_shared.private_sum import DeviceSum
from prunefleet_shared.sum_messages import Contribute, Unmask

OpenSum = Callable[[Invited, bytes], DeviceSum]
"""Opens this device's end of the session it was invited to, for a sealed contribution."""
NUM_STAGES = 5
STAGE_REST_S = 0.05
"""Between two tries at a stage that others are still at; the coordinator holds each for some seconds."""


class DeviceRound:
    """One device in one campaign; see the module's story.

    Args:
        campaign: The verified campaign.
        layout_fingerprint: Of the network this device traced, 64 hex digits.
        state: What was last saved for this campaign; None for a first start.
        rng: Draws rests and waits.
        open_sum: Opens private sums.
        retries: How long to keep trying; None for the default.

    Raises:
        LayoutError: The device traced another network than the campaign's.
        LocalProtocolError: ``state`` is another campaign's (our bug).
    """

    def __init__(
        self,
        campaign: Campaign,
        layout_fingerprint: str,
        state: DeviceState | None,
        rng: random.Random,
        open_sum: OpenSum,
        *,
        retries: RetryPolicy | None = None,
    ) -> None:
        self._campaign = campaign
        self._state = state or DeviceState(campaign.campaign_id)
        self._rng = rng
        self._backoff = Backoff(retries or RetryPolicy(), rng)
        self._phase = Phase.RESTING
        self._wakeup_s: float | None = -math.inf  # the first check-in is due at once
        self._invitation: Invited | None = None  # the one being worked on or answered
        self._open_sum = open_sum
        self._sum: DeviceSum | None = None
        self._said: SumUp | None = None  # the last message of the sum, to be said again
        self._sum_ends_s = math.inf
        self._ruling_number = 0  # of the ruling that is being followed
        self._fingerprint = layout_fingerprint
        expected = campaign.layout.fingerprint()
        if layout_fingerprint != expected:
            msg = f"the campaign's layout is {expected[:12]}, this device traced {layout_fingerprint[:12]}; update it"
            raise LayoutError(msg)
        if self._state.campaign_id != campaign.campaign_id:
            msg = f"state of campaign {self._state.campaign_id} given to campaign {campaign.campaign_id}"
            raise LocalProtocolError(msg)

    @property
    def phase(self) -> Phase:
        """What the device is doing."""
        return self._phase

    @property
    def state(self) -> DeviceState:
        """What the last :class:`SaveState` saved, or what the machine was made from."""
        return self._state

    @property
    def next_wakeup_s(self) -> float | None:
        """When to tick, on the caller's clock; None while the next thing is an event."""
        return self._wakeup_s

    @property
    def busy_check_in(self) -> CheckIn:
        """What to ask while working: nothing but whether the campaign goes on."""
        return CheckIn(self._campaign.campaign_id, self._fingerprint, Readiness.BUSY)

    def tick(self, now_s: float) -> list[Command]:
        """Check in, or say the same again, if the rest is over."""
        if self._phase not in {Phase.RESTING, Phase.AWAITING_STAGE} or self._wakeup_s is None or now_s < self._wakeup_s:
            return []
        self._wakeup_s = None
        if self._said is not None:
            self._phase = Phase.SUMMING
            return [SendToSum(self._said)]
        self._phase = Phase.CHECKING_IN
        heard = self._state.rulings_heard
        return [SendCheckIn(CheckIn(self._campaign.campaign_id, self._fingerprint, Readiness.READY, heard))]

    def receive(self, event: Event, now_s: float) -> list[Command]:
        """Take what happened, return what to do, in order.

        Raises:
            LocalProtocolError: The event cannot happen in this phase (our bug); nothing has changed.
        """
        if isinstance(event, SlimBaseHeard | SlimBaseKept) or not isinstance(event, ACCEPTED_EVENTS[self._phase]):
            msg = f"{type(event).__name__} while {self._phase.value}"
            raise LocalProtocolError(msg)
        commands: list[Command]
        match event:
            case Invited():
                commands = self._on_invited(event, now_s)
            case ToldToComeBack(after_s, awaited):
                commands = self._on_told_to_come_back(after_s, awaited, now_s)
            case RulingHeard() | RulingFollowed():
                commands = self._on_ruling(event, now_s)
            case CampaignEnded(ending):
                commands = self._on_ended(ending, now_s)
            case VotePrepared(payload) | OutcomeMeasured(payload):
                commands = self._on_ready(payload, now_s)
            case SumAnswered():
                commands = self._on_sum_answered(event, now_s)
            case Refused(rejection):
                commands = self._on_refused(rejection, now_s)
            case LinkFailed(message, retryable):
                commands = self._on_link_failed(message, now_s, retryable=retryable)
            case _:
                assert_never(event)
        return commands

    def _on_told_to_come_back(self, after_s: float, awaited: Awaited, now_s: float) -> list[Command]:
        self._backoff.reset()
        if self._phase is Phase.SUMMING:
            return self._say_again_later(STAGE_REST_S, "waiting for other devices", now_s)
        return self._rest(rest_s(after_s, self._rng), WAITING_FOR[awaited], now_s)

    def _on_ended(self, ending: Ending, now_s: float) -> list[Command]:
        is_judged = self._campaign.acceptance is not None
        if is_judged and self._phase is not Phase.CHECKING_IN:  # at work, it only asked whether the campaign goes on
            return self._rest(MIN_REST_S, "the campaign has ended; asking what was ruled", now_s)
        outcomes = [round_key(SessionKind.OUTCOME, level) for level in range(len(self._campaign.levels))]
        over = replace(self._state.closing("vote", *outcomes), is_over=is_judged)
        return [*self._save(over), *self._stop(ending=ending)]

    def _on_ruling(self, event: RulingHeard | RulingFollowed, now_s: float) -> list[Command]:
        if isinstance(event, RulingFollowed):
            # Saved last: a device that dies before it is told again, and follows it again.
            saved = self._save(replace(self._state, rulings_heard=self._ruling_number))
            return [*saved, *self._rest(MIN_REST_S, "followed the ruling", now_s)]
        wrong = why_ruling_wrong(self._campaign, event, self._state.rulings_heard)
        if wrong is not None:
            return self._stop(RemoteProtocolError(wrong))
        self._backoff.reset()
        self._phase, self._ruling_number = Phase.FOLLOWING, event.ruling.number
        return [FollowRuling(event.ruling, event.decision, event.slim_base)]

    def _on_invited(self, invited: Invited, now_s: float) -> list[Command]:
        wrong = why_invitation_wrong(self._campaign, invited)
        if wrong is not None:
            return self._stop(RemoteProtocolError(wrong))
        refusal = self._why_decline(invited)
        if refusal is not None:
            return self._try_later(refusal, now_s)
        self._invitation = invited
        # Rounds of a campaign follow each other: being invited to one says that the one at hand is closed.
        saved = self._save(self._state.closing(*self._rounds_closed_by(invited)))
        if self._state.contribution is not None:
            payload = self._state.contribution.payload
            return [*saved, *self._begin_sum(payload, now_s)]
        if invited.decision is None or invited.slim_base is None:
            self._phase = Phase.VOTING
            return [*saved, PrepareVote()]
        self._phase = Phase.PERSONALISING
        return [*saved, Personalise(invited.decision, invited.slim_base)]

    def _why_decline(self, invited: Invited) -> str | None:
        """Why an invitation, though well-formed, must not be answered; None if it may be."""
        key = _key(invited)
        said = self._state.contribution
        if key in self._state.spent:
            return f"declined: the round {key} is closed for this device"
        if said is None or said.round_key != key or said.session_id == invited.invitation.session_id:
            return None
        if said.decision_fingerprint != _decision_fingerprint(invited):
            return f"declined: a second decision in the round {key}"
        to = invited.invitation
        if (to.kind, to.attempt) <= (said.kind, said.attempt):  # a rollout comes after the canaries' sum
            return f"declined: a second session of attempt {said.attempt} of the round {key}"
        return None

    def _rounds_closed_by(self, invited: Invited) -> set[str]:
        said = self._state.contribution
        others = {"vote"} if invited.invitation.kind is not SessionKind.VOTE else set()
        return others | ({said.round_key} if said is not None else set()) - {_key(invited)}

    def _on_ready(self, payload: bytes, now_s: float) -> list[Command]:
        invited = self._invited()
        expected = self._campaign.lanes_of(invited.invitation.kind).packed_bytes
        if len(payload) != expected:
            msg = f"a contribution to {_key(invited)} takes {expected} bytes, got {len(payload)}"
            raise LocalProtocolError(msg)
        return self._begin_sum(payload, now_s)

    # --- the private sum ----------------------------------------------------------------------------------------------

    def _begin_sum(self, payload: bytes, now_s: float) -> list[Command]:
        """Save, then begin: a device that dies in between says the same thing again, never another."""
        invited, to = self._invited(), self._invited().invitation
        said = Contribution(to.kind, to.level, _decision_fingerprint(invited), to.session_id, to.attempt, payload.hex())
        self._sum = self._open_sum(invited, payload)
        saved = self._save(replace(self._state, contribution=said))
        self._sum_ends_s = now_s + (to.remaining_ms + NUM_STAGES * self._campaign.cohort.stage_ms) / 1000
        return [*saved, *self._say(self._sum.start())]

    def _say(self, message: SumUp) -> list[Command]:
        self._phase, self._said = Phase.SUMMING, message
        return [SendToSum(message)]

    def _on_sum_answered(self, event: SumAnswered, now_s: float) -> list[Command]:
        cohort_sum = self._sum
        if cohort_sum is None:
            msg = "a sum answered that was not begun"
            raise LocalProtocolError(msg)
        self._backoff.reset()
        try:
            message = cohort_sum.receive(event.answer)
        except RemoteProtocolError as error:
            if error.rejection.reason is RejectReason.STRANGER:  # a peer's certificate has ended; ours has not
                return self._try_later(str(error), now_s)
            return self._stop(error)
        if message is None:
            return self._on_counted(now_s)
        return [*self._spent_by(message, cohort_sum), *self._say(message)]

    def _spent_by(self, message: SumUp, cohort_sum: DeviceSum) -> list[Command]:
        if isinstance(message, Unmask):
            return self._spend(cohort_sum.survivor_names)
        if isinstance(message, Contribute) and self._campaign.privacy.noise is not None:
            return self._save(self._state.closing(_key(self._invited())))
        return []

    def _spend(self, devices: frozenset[str]) -> list[Command]:
        """Save, before the sum can be unmasked, that nothing is ever said in this round again."""
        invited = self._invited()
        is_vote = invited.invitation.kind is SessionKind.VOTE
        self._state = self._state.closing(_key(invited))
        return [SaveState(self._state, Release(tuple(sorted(devices))) if is_vote else None)]

    def _say_again_later(self, delay_s: float, why: str, now_s: float) -> list[Command]:
        if now_s + delay_s > self._sum_ends_s:
            return self._try_later(f"{why}, until the session was over", now_s)
        self._phase, self._wakeup_s = Phase.AWAITING_STAGE, now_s + delay_s
        return [Rest(delay_s, why)]

    def _on_counted(self, now_s: float) -> list[Command]:
        self._backoff.reset()
        return self._rest(MIN_REST_S, "counted", now_s)

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    def _on_refused(self, rejection: Rejection, now_s: float) -> list[Command]:
        if self._phase is Phase.SUMMING and rejection.reason is RejectReason.DUPLICATE:
            # The first copy arrived and only its answer was lost, or the sum was closed without our last message.
            return self._on_counted(now_s)
        if rejection.reason in CHECK_IN_AGAIN:
            return self._try_later(str(rejection), now_s)
        return self._stop(RemoteProtocolError(rejection))

    def _on_link_failed(self, message: str, now_s: float, *, retryable: bool) -> list[Command]:
        if not retryable:
            return self._stop(CarrierError(message, retryable=False))
        delay_s = self._backoff.next_delay_s(now_s) if self._phase is Phase.SUMMING else None
        if delay_s is not None:
            return self._say_again_later(delay_s, message, now_s)
        return self._try_later(message, now_s)

    def _try_later(self, why: str, now_s: float) -> list[Command]:
        delay_s = self._backoff.next_delay_s(now_s)
        if delay_s is None:
            return self._stop(CarrierError(f"giving up: {why}", retryable=True))
        return self._rest(delay_s, why, now_s)

    def _rest(self, delay_s: float, why: str, now_s: float) -> list[Command]:
        self._phase, self._wakeup_s = Phase.RESTING, now_s + delay_s
        self._leave_session()
        return [Rest(delay_s, why)]

    def _stop(self, error: PrunefleetError | None = None, *, ending: Ending | None = None) -> list[Command]:
        self._phase, self._wakeup_s = Phase.STOPPED, None
        self._leave_session()
        return [Stop(ending, error)]

    def _leave_session(self) -> None:
        if self._sum is not None:
            self._sum.abort()
        self._sum, self._said, self._invitation = None, None, None

    def _save(self, state: DeviceState) -> list[Command]:
        changed = state != self._state
        self._state = state
        return [SaveState(state)] if changed else []

    def _invited(self) -> Invited:
        if self._invitation is None:
            msg = f"no invitation while {self._phase.value}"
            raise LocalProtocolError(msg)
        return self._invitation


def _key(invited: Invited) -> str:
    return round_key(invited.invitation.kind, invited.invitation.level)


def _decision_fingerprint(invited: Invited) -> str:
    return "" if invited.decision is None else invited.decision.fingerprint
