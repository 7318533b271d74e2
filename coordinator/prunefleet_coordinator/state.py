"""Where a campaign stands: its phases, the table of what may follow what, and the snapshot that survives a crash.

Everything the round must remember is in a :class:`Snapshot`; everything else (the open session, who was invited) dies
with the process on purpose: a session in flight is lost and its devices are invited to a new attempt.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from prunefleet_shared.acceptance import Ruling
from prunefleet_shared.campaign import CohortPolicy, Decision, SlimBase
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.messages import Awaited, Ending, Phase, SessionKind, Total


class Happening(enum.Enum):
    """What moves a campaign on."""

    SUM_CLOSED = enum.auto()  # a round has its sum, and a level remains to be decided
    SEARCH_ENDED = enum.auto()  # a round has its sum, and the smallest level that canaries hold is to be rolled out
    LAST_SUM_CLOSED = enum.auto()  # the last round has its sum
    SLIM_BASE_PUBLISHED = enum.auto()  # the trainer answered the current decision
    ATTEMPTS_SPENT = enum.auto()  # the last attempt of a round ended below quorum
    OPERATOR_STOPPED = enum.auto()  # for good


NEXT_PHASE = {
    (Phase.VOTING, Happening.SUM_CLOSED): Phase.RETRAINING,
    (Phase.VOTING, Happening.ATTEMPTS_SPENT): Phase.FAILED,
    (Phase.RETRAINING, Happening.SLIM_BASE_PUBLISHED): Phase.MEASURING,
    (Phase.MEASURING, Happening.SUM_CLOSED): Phase.RETRAINING,
    (Phase.MEASURING, Happening.LAST_SUM_CLOSED): Phase.COMPLETED,
    (Phase.MEASURING, Happening.SEARCH_ENDED): Phase.ROLLING_OUT,
    (Phase.MEASURING, Happening.ATTEMPTS_SPENT): Phase.FAILED,
    (Phase.ROLLING_OUT, Happening.SUM_CLOSED): Phase.RETRAINING,
    (Phase.ROLLING_OUT, Happening.SEARCH_ENDED): Phase.ROLLING_OUT,
    (Phase.ROLLING_OUT, Happening.LAST_SUM_CLOSED): Phase.COMPLETED,
    (Phase.ROLLING_OUT, Happening.ATTEMPTS_SPENT): Phase.FAILED,
    (Phase.VOTING, Happening.OPERATOR_STOPPED): Phase.STOPPED,
    (Phase.RETRAINING, Happening.OPERATOR_STOPPED): Phase.STOPPED,
    (Phase.MEASURING, Happening.OPERATOR_STOPPED): Phase.STOPPED,
    (Phase.ROLLING_OUT, Happening.OPERATOR_STOPPED): Phase.STOPPED,
}
"""Every move there is. No way leads back to a round whose sum is stored, so nobody is counted in it twice."""

ENDINGS = {Phase.COMPLETED: Ending.COMPLETED, Phase.FAILED: Ending.FAILED, Phase.STOPPED: Ending.STOPPED}
"""How a campaign that is in one of these phases, for ever, ended."""

_KINDS = {Phase.VOTING: SessionKind.VOTE, Phase.ROLLING_OUT: SessionKind.ROLLOUT}


@dataclass(frozen=True, slots=True)
class ClosedCohort:
    """A cohort whose sum is known.

    Attributes:
        session_id: The session that succeeded.
        total: The sum.
        contributors: Ids of the devices in it, sorted: who, never what.
    """

    session_id: str
    total: Total
    contributors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClosedRound:
    """A round whose sum is known.

    Attributes:
        kind: What was summed.
        level: Level of the outcome; 0 for the vote.
        session_id: The session that succeeded; of several cohorts, the last one's.
        total: The sum; of several cohorts, what their sums were combined to.
        contributors: Ids of the devices in it, sorted: who, never what.
        cohorts: Of several cohorts, each; empty for a round of one.
    """

    kind: SessionKind
    level: int
    session_id: str
    total: Total
    contributors: tuple[str, ...]
    cohorts: tuple[ClosedCohort, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a campaign must remember; canonical JSON through ``documents``.

    Attributes:
        campaign_id: Whose it is.
        phase: What is going on.
        level: 0-based level of the schedule that is tried or rolled out; 0 while voting.
        attempts_opened: Sessions opened for the current round, lost ones included: the last session's attempt number.
        attempts_failed: Of those, how many ended below quorum. Only these count against ``max_attempts``; a session
            lost to a restart of the coordinator, or starved by a pause, is no fault of the fleet.
        closed_cohorts: Cohorts of the current round whose sums are known, while others are waited for.
        closed_rounds: The vote first, then outcomes and rollouts in the order of their closing.
        decisions: One per level decided so far, in the order of deciding.
        slim_bases: One per level retrained so far.
        is_paused: The operator has paused it: nobody is newly invited until it is resumed.
        rulings: In a campaign with an accuracy floor, one per outcome and rollout.
    """

    campaign_id: str
    phase: Phase = Phase.VOTING
    level: int = 0
    attempts_opened: int = 0
    attempts_failed: int = 0
    closed_rounds: tuple[ClosedRound, ...] = ()
    decisions: tuple[Decision, ...] = ()
    slim_bases: tuple[SlimBase, ...] = ()
    is_paused: bool = False
    closed_cohorts: tuple[ClosedCohort, ...] = ()
    rulings: tuple[Ruling, ...] = ()

    @property
    def kind(self) -> SessionKind:
        """What a session opened in this phase sums."""
        return _KINDS.get(self.phase, SessionKind.OUTCOME)

    @property
    def decision(self) -> Decision | None:
        """The decision of the level at hand; None while voting."""
        return next((decision for decision in self.decisions if decision.level == self.level), None)

    def has_asked(self, device_id: str) -> bool:
        """Whether a device's outcome of the decision at hand is in a sum already: no canary is asked in its rollout."""
        asked = (closed for closed in self.closed_rounds if closed.kind is not SessionKind.VOTE)
        return any(device_id in closed.contributors for closed in asked if closed.level == self.level)

    def moved_by(self, happening: Happening) -> Snapshot:
        """The snapshot in the next phase.

        Raises:
            LocalProtocolError: The table has no such move (our bug).
        """
        phase = NEXT_PHASE.get((self.phase, happening))
        if phase is None:
            msg = f"campaign {self.campaign_id}: {happening.name} cannot happen while {self.phase.name}"
            raise LocalProtocolError(msg)
        return replace(self, phase=phase)


def are_attempts_spent(snapshot: Snapshot, cohort: CohortPolicy) -> bool:
    """Whether so many sessions of the current round came to nothing that no other is opened."""
    return snapshot.attempts_failed >= cohort.max_attempts * cohort.count


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
        kind: What a session opened now sums.
        rulings: What was ruled so far.
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
    kind: SessionKind = SessionKind.VOTE
    rulings: tuple[Ruling, ...] = ()
