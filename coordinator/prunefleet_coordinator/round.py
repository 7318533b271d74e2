"""The round of one campaign for one device class, as a state machine without I/O.

How to drive it (the runner does):

1. Call :meth:`CampaignRound.receive` with each event, and :meth:`CampaignRound.tick` when the clock reaches
   ``next_deadline_s``, both with the time now in seconds on one clock that never goes back.
2. Carry out the commands returned, in order. ``Save`` commands come first: if one fails, drop this object and start
   again from the stored snapshot, as after a crash.
3. After a restart, construct it with the stored snapshot. The session in flight is lost; the next device to check in
   opens a new attempt under a new id. Nothing in a stored sum can be counted again.

The story: devices vote once, for all levels (VOTING). The sum yields the decision of level 0; the trainer answers with
a slim base (RETRAINING); devices say how it went (MEASURING); then the stored votes yield the decision of the next
level, until the schedule is done (COMPLETED) or a round ran out of attempts (FAILED). ``state`` has the table.

A session opens with the first ready device that checks in and invites the first ``cohort.max_invited`` devices, a few
more than it needs. It closes when ``cohort.size`` of them have contributed, or at its deadline with a quorum; below
quorum its contributions are forgotten and a new attempt begins. While no device checks in, the campaign waits:
``progress`` says for what, and since when.

The operator may pause (nobody is newly invited; an open session may finish, the trainer may publish), resume, and stop
for good (STOPPED; an open session is dropped).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from prunefleet_coordinator.admission import (
    why_campaign_id_rejected,
    why_campaign_impossible,
    why_check_in_rejected,
    why_contribution_rejected,
    why_control_rejected,
    why_slim_base_rejected,
)
from prunefleet_coordinator.aggregation import decide
from prunefleet_coordinator.events import (
    AcceptControl,
    AcceptSlimBase,
    AnnounceAbandoned,
    AnnounceDecision,
    AnnounceEnd,
    AnnouncePaused,
    AnnounceResumed,
    Command,
    ContributionReceived,
    Count,
    Defer,
    DeviceCheckedIn,
    End,
    Event,
    Invite,
    OfferDecision,
    OperatorControlled,
    Reject,
    SaveClosing,
    SaveSlimBase,
    SaveSnapshot,
    SlimBasePublished,
    TrainerAsked,
)
from prunefleet_coordinator.session import OpenSession
from prunefleet_coordinator.state import ENDINGS, ClosedRound, Happening, Snapshot
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from prunefleet_shared.messages import Awaited, Control, Ending, Phase, Readiness, SessionKind
from prunefleet_shared.metrics import OUTCOME_LANES
from prunefleet_shared.private_sum import open_coordinator_sum

DEFER_MS = 1_000
"""How long a deferred peer stays away. Short, because the runner holds the call open until something changes."""

PAUSED_DEFER_MS = 5_000
"""The same while the campaign is paused, which may be for hours."""

MIN_TURN_OVER_MS, MAX_TURN_OVER_MS = 1_000, 60_000
TURN_OVER_DIVISOR = 4
"""A device that the open session has no place for comes back after a quarter of what remains of it: late enough not to
be a nuisance, early enough for the next session, which may come long before the deadline."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the campaign stands, for people.

    Attributes:
        phase: What is going on.
        is_paused: Nobody is newly invited until the operator resumes it.
        level: 0-based level of the schedule.
        attempt: Number of the open session, 0 when none is open.
        num_contributions: Devices in its sum.
        awaited: What is waited for; ``NOTHING`` once the campaign has ended.
        awaited_ids: Devices invited that have not contributed, sorted.
        since_s: When that wait began, on the round's clock; after a restart, when the restart heard its first event.
        deadline_s: When the open session ends, on the same clock; None when none is open.
    """

    phase: Phase
    is_paused: bool
    level: int
    attempt: int
    num_contributions: int
    awaited: Awaited
    awaited_ids: tuple[str, ...]
    since_s: float
    deadline_s: float | None


class CampaignRound:
    """The machine. A call that raises changes nothing; nothing but ``LocalProtocolError`` ever escapes a call.

    Args:
        campaign: What is to be done.
        new_session_id: Returns a fresh, unguessable session id each time (32 hex digits).
        snapshot: Where to resume; None to start.

    Raises:
        ConfigError: The campaign can never be carried out, or the snapshot is another campaign's (the operator's).
    """

    def __init__(self, campaign: Campaign, new_session_id: Callable[[], str], snapshot: Snapshot | None = None) -> None:
        why = why_campaign_impossible(campaign)
        if why:
            msg = f"campaign {campaign.campaign_id}: {why}"
            raise ConfigError(msg)
        if snapshot is not None and snapshot.campaign_id != campaign.campaign_id:
            msg = f"the store is at campaign {snapshot.campaign_id}, not {campaign.campaign_id}; use another store"
            raise ConfigError(msg)
        self._campaign = campaign
        self._layout_fingerprint = campaign.layout.fingerprint()
        self._new_session_id = new_session_id
        self._state = snapshot or Snapshot(campaign.campaign_id)
        self._session: OpenSession | None = None
        self._abandoned_ids: set[str] = set()
        self._now_s = -math.inf
        self._waits_for: tuple[Awaited, str] | None = None
        self._since_s = -math.inf

    @property
    def snapshot(self) -> Snapshot:
        """All that must survive a crash."""
        return self._state

    @property
    def next_deadline_s(self) -> float | None:
        """When to call :meth:`tick` next; None when no session is open."""
        return self._session.deadline_s if self._session else None

    @property
    def has_ended(self) -> bool:
        """True once the campaign is completed, failed or stopped."""
        return self._state.phase in ENDINGS

    @property
    def progress(self) -> Progress:
        """Where the campaign stands."""
        state, session = self._state, self._session
        return Progress(
            phase=state.phase,
            is_paused=state.is_paused,
            level=state.level,
            attempt=session.attempt if session else 0,
            num_contributions=len(session.contributors) if session else 0,
            awaited=self._awaited,
            awaited_ids=tuple(sorted(session.awaited)) if session else (),
            since_s=self._since_s,
            deadline_s=session.deadline_s if session else None,
        )

    @property
    def _awaited(self) -> Awaited:
        if self.has_ended:
            return Awaited.NOTHING
        if self._state.phase is Phase.RETRAINING:
            return Awaited.TRAINER
        is_waiting_for_operator = self._state.is_paused and self._session is None
        return Awaited.OPERATOR if is_waiting_for_operator else Awaited.DEVICES

    def knows_session(self, session_id: str) -> bool:
        """Whether this campaign opened the session, as far as it still knows."""
        is_open = self._session is not None and session_id == self._session.session_id
        is_closed = any(session_id == closed.session_id for closed in self._state.closed_rounds)
        return is_open or is_closed or session_id in self._abandoned_ids

    def receive(self, event: Event, now_s: float) -> list[Command]:
        """Take an event; a deadline that has passed by ``now_s`` comes first, as if ``tick`` had been called.

        Returns:
            Commands in the order to be carried out; exactly one of them answers the peer.

        Raises:
            LocalProtocolError: The clock went back (the caller's bug).
        """
        commands = self.tick(now_s)
        match event:
            case DeviceCheckedIn():
                commands += self._device_checked_in(event, now_s)
            case ContributionReceived():
                commands += self._contribution_received(event)
            case TrainerAsked():
                commands.append(self._trainer_asked(event))
            case SlimBasePublished():
                commands += self._slim_base_published(event)
            case OperatorControlled():
                commands += self._operator_controlled(event)
            case _:
                assert_never(event)
        self._note_the_wait(now_s)
        return commands

    def tick(self, now_s: float) -> list[Command]:
        """Close or give up the open session if its deadline has passed.

        Raises:
            LocalProtocolError: The clock went back (the caller's bug).
        """
        if now_s < self._now_s:
            msg = f"the clock went back from {self._now_s} to {now_s}"
            raise LocalProtocolError(msg)
        session, self._now_s = self._session, now_s
        commands: list[Command] = []
        if session is not None and now_s >= session.deadline_s:
            has_quorum = len(session.contributors) >= self._campaign.cohort.quorum
            commands = self._close(session) if has_quorum else self._abandon(session)
        self._note_the_wait(now_s)
        return commands

    def _note_the_wait(self, now_s: float) -> None:
        waits_for = (self._awaited, self._session.session_id if self._session else "")
        if waits_for != self._waits_for:
            self._waits_for, self._since_s = waits_for, now_s

    def _device_checked_in(self, event: DeviceCheckedIn, now_s: float) -> list[Command]:
        device_id, check_in = event.device_id, event.check_in
        rejection = why_check_in_rejected(self._campaign.campaign_id, self._layout_fingerprint, check_in)
        if rejection:
            return [Reject(device_id, rejection)]
        if self.has_ended:
            return [End(device_id, ENDINGS[self._state.phase])]
        if self._state.phase is Phase.RETRAINING:
            return [Defer(device_id, DEFER_MS, Awaited.TRAINER)]
        if check_in.readiness is not Readiness.READY:
            return [Defer(device_id, DEFER_MS, Awaited.DEVICES)]
        return self._why_deferred(device_id, now_s) or self._invite(device_id, now_s)

    def _why_deferred(self, device_id: str, now_s: float) -> list[Command]:
        """The deferral of a ready device that gets no invitation now; empty if it gets one."""
        session = self._session
        if session is not None and device_id in session.contributors:
            return [Defer(device_id, DEFER_MS, Awaited.DEVICES)]
        if session is not None and device_id in session.invited:
            return []
        if self._state.is_paused:
            return [Defer(device_id, PAUSED_DEFER_MS, Awaited.OPERATOR)]
        if session is None or len(session.invited) < self._campaign.cohort.max_invited:
            return []
        window_ms = session.remaining_ms(now_s) // TURN_OVER_DIVISOR
        after_ms = min(max(window_ms, MIN_TURN_OVER_MS), MAX_TURN_OVER_MS)
        return [Defer(device_id, after_ms, Awaited.NOTHING, is_held=False)]

    def _invite(self, device_id: str, now_s: float) -> list[Command]:
        opening: list[Command] = []
        if self._session is None:
            self._session = self._open_session(now_s)
            opening.append(SaveSnapshot(self._state))
        session = self._session
        session.invited.add(device_id)
        remaining_ms = session.remaining_ms(now_s)
        facts = (session.session_id, session.kind, session.level, session.attempt, remaining_ms)
        return [*opening, Invite(device_id, *facts)]

    def _open_session(self, now_s: float) -> OpenSession:
        kind, attempt = self._state.kind, self._state.attempts_opened + 1
        table = self._campaign.vote_lanes if kind is SessionKind.VOTE else OUTCOME_LANES
        session = OpenSession(
            session_id=self._new_session_id(),
            kind=kind,
            level=self._state.level,
            attempt=attempt,
            deadline_s=now_s + self._campaign.cohort.deadline_ms / 1000,
            cohort_sum=open_coordinator_sum(self._campaign.privacy_mode, table),
        )
        self._state = replace(self._state, attempts_opened=attempt)
        return session

    def _contribution_received(self, event: ContributionReceived) -> list[Command]:
        device_id, contribution, session = event.device_id, event.contribution, self._session
        rejection = why_contribution_rejected(
            device_id, contribution.session_id, session, self._state.closed_rounds, self._abandoned_ids
        )
        if rejection:
            return [Reject(device_id, rejection)]
        if session is None:
            msg = "admission let a contribution in while no session is open"
            raise LocalProtocolError(msg)
        try:
            session.cohort_sum.receive(device_id, contribution.payload)
        except RemoteProtocolError as error:
            return [Reject(device_id, error.rejection)]
        counted = Count(device_id, session.session_id)
        if len(session.contributors) < self._campaign.cohort.size:
            return [counted]
        save, *announcements = self._close(session)
        return [save, counted, *announcements]

    def _trainer_asked(self, event: TrainerAsked) -> Command:
        rejection = why_campaign_id_rejected(self._campaign.campaign_id, event.campaign_id)
        if rejection:
            return Reject(event.trainer_id, rejection)
        if self.has_ended:
            return End(event.trainer_id, ENDINGS[self._state.phase])
        if self._state.phase is Phase.RETRAINING:
            return OfferDecision(event.trainer_id, self._state.level)
        return Defer(event.trainer_id, DEFER_MS, Awaited.DEVICES)

    def _slim_base_published(self, event: SlimBasePublished) -> list[Command]:
        trainer_id, slim_base = event.trainer_id, event.slim_base
        accept = AcceptSlimBase(trainer_id, slim_base.level)
        if slim_base in self._state.slim_bases:
            return [accept]  # it was stored, but our answer was lost
        rejection = why_slim_base_rejected(self._campaign.campaign_id, self._awaiting_slim_base, slim_base)
        if rejection:
            return [Reject(trainer_id, rejection)]
        state = self._state.moved_by(Happening.SLIM_BASE_PUBLISHED)
        self._state = replace(state, slim_bases=(*state.slim_bases, slim_base))
        return [SaveSlimBase(slim_base, self._state), accept]

    def _operator_controlled(self, event: OperatorControlled) -> list[Command]:
        operator_id, control = event.operator_id, event.control
        accept = AcceptControl(operator_id, control)
        if control is Control.STOP and self._state.phase is Phase.STOPPED:
            return [accept]  # it was stored, but our answer was lost
        rejection = why_control_rejected(self._state.phase)
        if rejection:
            return [Reject(operator_id, rejection)]
        if control is Control.STOP:
            return [self._stop(), accept, AnnounceEnd(Ending.STOPPED)]
        is_paused = control is Control.PAUSE
        if is_paused == self._state.is_paused:
            return [accept]
        self._state = replace(self._state, is_paused=is_paused)
        announcement = AnnouncePaused(operator_id) if is_paused else AnnounceResumed(operator_id)
        return [SaveSnapshot(self._state), accept, announcement]

    def _stop(self) -> Command:
        self._state = replace(self._state.moved_by(Happening.OPERATOR_STOPPED), is_paused=False)
        if self._session is not None:
            self._abandoned_ids.add(self._session.session_id)
            self._session = None
        return SaveSnapshot(self._state)

    @property
    def _awaiting_slim_base(self) -> Decision | None:
        return self._state.decisions[-1] if self._state.phase is Phase.RETRAINING else None

    def _close(self, session: OpenSession) -> list[Command]:
        total = session.cohort_sum.close()
        contributors = tuple(sorted(session.contributors))
        closed = ClosedRound(session.kind, session.level, session.session_id, total, contributors)
        closed_rounds = (*self._state.closed_rounds, closed)
        state = replace(self._state, closed_rounds=closed_rounds, attempts_opened=0, attempts_failed=0)
        level = 0 if session.kind is SessionKind.VOTE else session.level + 1
        if level == len(self._campaign.levels):
            self._state, self._session = state.moved_by(Happening.LAST_SUM_CLOSED), None
            return [SaveClosing(closed, self._state, None), AnnounceEnd(Ending.COMPLETED)]
        decision = decide(self._campaign, closed_rounds[0].total, level)
        state = replace(state, level=level, decisions=(*state.decisions, decision))
        self._state, self._session = state.moved_by(Happening.SUM_CLOSED), None
        return [SaveClosing(closed, self._state, decision), AnnounceDecision(decision)]

    def _abandon(self, session: OpenSession) -> list[Command]:
        cohort, num_contributions = self._campaign.cohort, len(session.contributors)
        # While it is paused, nobody may be invited for those who fell asleep: that is not the fleet's fault.
        num_failed = self._state.attempts_failed + (0 if self._state.is_paused else 1)
        state = replace(self._state, attempts_failed=num_failed)
        is_spent = state.attempts_failed >= cohort.max_attempts
        self._state = state.moved_by(Happening.ATTEMPTS_SPENT) if is_spent else state
        self._session = None
        self._abandoned_ids.add(session.session_id)
        abandoned = AnnounceAbandoned(session.session_id, session.attempt, num_contributions, cohort.quorum)
        end: list[Command] = [AnnounceEnd(Ending.FAILED)] if is_spent else []
        return [SaveSnapshot(self._state), abandoned, *end]
