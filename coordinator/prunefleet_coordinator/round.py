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

In a campaign with an accuracy floor each outcome is ruled on: the decision is promoted, or rolled back (``judging``).
What was ruled says which level is tried next (``search``), or, where canaries try first, that the smallest network that
they hold is rolled out to others (ROLLING_OUT), is ruled on again, and then goes to every device that checks in. A
device hears the last ruling before anything else, the end included.

A round is over one cohort or several (``cohort.count``), each summed in a session of its own; ``gathering`` says who is
in which. A session opens with a ready device that checks in and invites ``cohort.max_invited`` devices, a few more than
it needs. Once ``cohort.size`` of them have joined, or at its deadline with a quorum, nobody else is taken; the private
sum goes through its stages, each with a deadline of its own, and closes. Without a sum in the end, what was contributed
is forgotten and a new attempt begins. While no device checks in, the campaign waits: ``progress`` says for what, and
since when.

The operator may pause (nobody is newly invited; an open session may finish, the trainer may publish), resume, and stop
for good (STOPPED; an open session is dropped).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from prunefleet_coordinator.admission import (
    why_campaign_id_rejected,
    why_campaign_impossible,
    why_check_in_rejected,
    why_slim_base_rejected,
    why_sum_message_rejected,
)
from prunefleet_coordinator.closing import close_round
from prunefleet_coordinator.control import controlled
from prunefleet_coordinator.events import (
    AcceptSlimBase,
    AnnounceAbandoned,
    AnnounceEnd,
    AnnounceJoined,
    AnnounceStage,
    Command,
    Defer,
    DeviceCheckedIn,
    End,
    Event,
    Invite,
    OfferDecision,
    OperatorControlled,
    Reject,
    Reply,
    Save,
    SaveSlimBase,
    SaveSnapshot,
    SlimBasePublished,
    SumMessageReceived,
    TrainerAsked,
)
from prunefleet_coordinator.gathering import Gathering, RandomBelow, progress_of, why_deferred
from prunefleet_coordinator.news import news_for
from prunefleet_coordinator.session import DEFER_MS, OpenSession
from prunefleet_coordinator.state import (
    ENDINGS,
    ClosedCohort,
    ClosedRound,
    Happening,
    Progress,
    Snapshot,
    are_attempts_spent,
)
from prunefleet_coordinator.totals import fewest_cohorts, total_of
from prunefleet_shared.campaign import Campaign, CohortPolicy, Decision
from prunefleet_shared.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from prunefleet_shared.messages import Awaited, Ending, Phase, Readiness
from prunefleet_shared.private_sum import SessionFacts, open_coordinator_sum
from prunefleet_shared.secure_sum.roster import Members
from prunefleet_shared.secure_sum.stages import Stage, SumFailedError

STAGE_DEFER_MS = 100
"""How long a device stays away between two stages of a private sum; the runner holds its call open, too."""


class CampaignRound:
    """The machine. A call that raises changes nothing; nothing but ``LocalProtocolError`` ever escapes a call.

    Args:
        campaign: What is to be done.
        new_session_id: Returns a fresh, unguessable session id each time (32 hex digits).
        snapshot: Where to resume; None to start.
        members: Checks devices' certificates; None will do in mode ``plain``.
        random_below: Puts devices into cohorts; ``secrets.randbelow`` unless a test wants to know.

    Raises:
        ConfigError: The campaign can never be carried out, or the snapshot is another campaign's (the operator's).
    """

    def __init__(
        self,
        campaign: Campaign,
        new_session_id: Callable[[], str],
        snapshot: Snapshot | None = None,
        members: Members | None = None,
        random_below: RandomBelow = secrets.randbelow,
    ) -> None:
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
        self._members = members
        self._random_below = random_below
        self._gathering = Gathering(self._cohort.max_invited, random_below)
        self._left_out: set[tuple[bool, int, str]] = set()
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
        return self._gathering.next_deadline_s

    @property
    def _cohort(self) -> CohortPolicy:
        """Whom the sessions of the round at hand wait for."""
        return self._campaign.cohort_of(self._state.kind)

    @property
    def has_ended(self) -> bool:
        """True once the campaign is completed, failed or stopped."""
        return self._state.phase in ENDINGS

    @property
    def progress(self) -> Progress:
        """Where the campaign stands."""
        return progress_of(self._state, self._gathering, self._awaited, self._since_s)

    @property
    def _awaited(self) -> Awaited:
        if self.has_ended:
            return Awaited.NOTHING
        if self._state.phase is Phase.RETRAINING:
            return Awaited.TRAINER
        is_waiting_for_operator = self._state.is_paused and not self._gathering
        return Awaited.OPERATOR if is_waiting_for_operator else Awaited.DEVICES

    def knows_session(self, session_id: str) -> bool:
        """Whether this campaign opened the session, as far as it still knows."""
        is_open = self._gathering.find(session_id) is not None
        is_closed = any(session_id == closed.session_id for closed in self._closed)
        return is_open or is_closed or session_id in self._abandoned_ids

    @property
    def _closed(self) -> list[ClosedRound | ClosedCohort]:
        """Everything whose sum is known."""
        rounds = self._state.closed_rounds
        return [*rounds, *(cohort for closed in rounds for cohort in closed.cohorts), *self._state.closed_cohorts]

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
            case SumMessageReceived():
                commands += self._sum_message_received(event, now_s)
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
        """Move open sessions on, close them or give them up, if their deadline has passed.

        Raises:
            LocalProtocolError: The clock went back (the caller's bug).
        """
        if now_s < self._now_s:
            msg = f"the clock went back from {self._now_s} to {now_s}"
            raise LocalProtocolError(msg)
        self._now_s = now_s
        commands: list[Command] = []
        for session in self._gathering:
            if now_s >= session.deadline_s and self._gathering.find(session.session_id):
                commands += self._end_stage(session, now_s)
        self._note_the_wait(now_s)
        return commands

    def _note_the_wait(self, now_s: float) -> None:
        waits_for = (self._awaited, " ".join(session.session_id for session in self._gathering))
        if waits_for != self._waits_for:
            self._waits_for, self._since_s = waits_for, now_s

    def _device_checked_in(self, event: DeviceCheckedIn, now_s: float) -> list[Command]:
        device_id, check_in = event.device_id, event.check_in
        rejection = why_check_in_rejected(self._campaign.campaign_id, self._layout_fingerprint, check_in)
        if rejection:
            return [Reject(device_id, rejection)]
        news = news_for(device_id, check_in, self._state, is_judged=self._campaign.acceptance is not None)
        if news:
            return [news]
        if self.has_ended:
            return [End(device_id, ENDINGS[self._state.phase])]
        if self._state.phase is Phase.RETRAINING:
            return [Defer(device_id, DEFER_MS, Awaited.TRAINER)]
        if check_in.readiness is not Readiness.READY:
            return [Defer(device_id, DEFER_MS, Awaited.DEVICES)]
        is_left_out, num_unopened = self._left_out_key(device_id) in self._left_out, self._num_unopened
        deferral = why_deferred(device_id, self._gathering, self._state, num_unopened, now_s, is_left_out=is_left_out)
        return [deferral] if deferral else self._invite(device_id, now_s)

    def _left_out_key(self, device_id: str) -> tuple[bool, int, str]:
        """Who gave its say on a level's outcome away says nothing in that level's rollout, either."""
        return self._state.phase is Phase.VOTING, self._state.level, device_id

    @property
    def _num_unopened(self) -> int:
        """Sessions that may be opened now."""
        # A restart loses what was open; with all attempts spent by then, the round still needs one to end it.
        if self._gathering and are_attempts_spent(self._state, self._cohort):
            return 0
        return self._cohort.count - len(self._state.closed_cohorts) - len(self._gathering)

    def _invite(self, device_id: str, now_s: float) -> list[Command]:
        opening: list[Command] = []
        session = self._gathering.of(device_id)
        if session is None or not session.is_open_to(device_id):
            session = self._gathering.choose(device_id, self._num_unopened)
        if session is None:
            session = self._open_session(now_s)
            self._gathering.add(session)
            opening.append(SaveSnapshot(self._state))
        self._gathering.invite(device_id, session)
        remaining_ms = session.remaining_ms(now_s)
        facts = (session.session_id, session.kind, session.level, session.attempt, remaining_ms)
        return [*opening, Invite(device_id, *facts)]

    def _open_session(self, now_s: float) -> OpenSession:
        state, attempt = self._state, self._state.attempts_opened + 1
        facts = SessionFacts(self._new_session_id(), state.kind, state.level, attempt, state.decision)
        cohort_sum = open_coordinator_sum(self._campaign, facts, self._members)
        self._state = replace(state, attempts_opened=attempt)
        return OpenSession(facts, now_s + self._cohort.deadline_ms / 1000, cohort_sum)

    # --- open sessions --------------------------------------------------------------------------------------------

    def _sum_message_received(self, event: SumMessageReceived, now_s: float) -> list[Command]:
        device_id, message = event.device_id, event.message
        session = self._gathering.find(message.session_id)
        rejection = why_sum_message_rejected(device_id, message, session, self._closed, self._abandoned_ids)
        if rejection:
            return [Reject(device_id, rejection)]
        if session is None:
            msg = "admission let a message of a sum in while no session is open"
            raise LocalProtocolError(msg)
        cohort_sum = session.cohort_sum
        stage, is_new = cohort_sum.stage, device_id not in cohort_sum.joined
        try:
            answer = cohort_sum.receive(device_id, message)
        except RemoteProtocolError as error:
            return [Reject(device_id, error.rejection)]
        reply = Reply(device_id, answer) if answer else Defer(device_id, STAGE_DEFER_MS, Awaited.DEVICES)
        joined: list[Command] = [AnnounceJoined(device_id, session.session_id)] if is_new else []
        moved = self._moved_on(session, now_s) if cohort_sum.stage is not stage else []
        # Saves come first: what a device is told must not be undone by a crash.
        saves = [command for command in moved if isinstance(command, Save)]
        return [*saves, reply, *joined, *(command for command in moved if not isinstance(command, Save))]

    def _end_stage(self, session: OpenSession, now_s: float) -> list[Command]:
        try:
            session.cohort_sum.end_stage()
        except SumFailedError as error:
            return self._abandon(session, error)
        return self._moved_on(session, now_s)

    def _moved_on(self, session: OpenSession, now_s: float) -> list[Command]:
        """What follows from the session's new stage."""
        cohort_sum = session.cohort_sum
        if cohort_sum.stage is Stage.DONE:
            return self._close(session)
        session.deadline_s = now_s + self._cohort.stage_ms / 1000
        return [AnnounceStage(session.session_id, cohort_sum.stage, len(cohort_sum.awaited))]

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
        self._state, commands = controlled(self._state, event)
        if self.has_ended:
            self._abandoned_ids |= {session.session_id for session in self._gathering}
            self._gathering.clear()
        return commands

    @property
    def _awaiting_slim_base(self) -> Decision | None:
        return self._state.decision if self._state.phase is Phase.RETRAINING else None

    def _close(self, session: OpenSession) -> list[Command]:
        try:
            total = total_of(self._campaign, session.kind, session.cohort_sum)
        except SumFailedError as error:
            return self._abandon(session, error)
        cohort = ClosedCohort(session.session_id, total, tuple(sorted(session.contributors)))
        self._state = replace(self._state, closed_cohorts=(*self._state.closed_cohorts, cohort))
        self._gathering.remove(session)
        return self._session_ended()

    def _session_ended(self, *told: Command) -> list[Command]:
        """What follows from a session's end, good or bad, beside ``told``: the round goes on, closes, or has failed."""
        num_closed, cohort = len(self._state.closed_cohorts), self._cohort
        if self._gathering or (num_closed < cohort.count and not are_attempts_spent(self._state, cohort)):
            return [SaveSnapshot(self._state), *told]
        if num_closed >= fewest_cohorts(cohort):
            save, *rest = self._close_round()
            return [save, *told, *rest]
        self._state = self._state.moved_by(Happening.ATTEMPTS_SPENT)
        return [SaveSnapshot(self._state), *told, AnnounceEnd(Ending.FAILED)]

    def _close_round(self) -> list[Command]:
        """Combine what the round's cohorts said, and go on with the campaign."""
        closing = close_round(self._campaign, self._state)
        self._state = closing.snapshot
        self._gathering = Gathering(self._cohort.max_invited, self._random_below)
        return closing.commands

    def _abandon(self, session: OpenSession, failed: SumFailedError) -> list[Command]:
        quorum, num_contributions = self._cohort.quorum, len(session.contributors)
        cohort_sum, is_noisy = session.cohort_sum, self._campaign.privacy.noise is not None
        left_out = failed.blamed | cohort_sum.spent | (cohort_sum.contributors if is_noisy else frozenset())
        self._left_out |= {self._left_out_key(device_id) for device_id in left_out}
        # While it is paused, nobody may be invited for those who fell asleep: that is not the fleet's fault.
        num_failed = self._state.attempts_failed + (0 if self._state.is_paused else 1)
        self._state = replace(self._state, attempts_failed=num_failed)
        self._gathering.remove(session)
        self._abandoned_ids.add(session.session_id)
        abandoned = AnnounceAbandoned(session.session_id, session.attempt, num_contributions, quorum, str(failed))
        return self._session_ended(abandoned)
