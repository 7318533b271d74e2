"""One open session: whom it invited, what it has summed, when it ends. It lives in memory only."""

from __future__ import annotations

from dataclasses import dataclass, field

from prunefleet_shared.messages import SessionKind
from prunefleet_shared.private_sum import CoordinatorSum


@dataclass(slots=True)
class OpenSession:
    """A session that still takes contributions.

    Attributes:
        session_id: Fresh for every attempt.
        kind: What is summed.
        level: Level of the outcome; 0 for the vote.
        attempt: 1 for the first session of this round.
        deadline_s: When it ends, on the round's clock.
        cohort_sum: The coordinator's end of the private sum.
        invited: Devices that hold an invitation, those that have contributed included.
    """

    session_id: str
    kind: SessionKind
    level: int
    attempt: int
    deadline_s: float
    cohort_sum: CoordinatorSum
    invited: set[str] = field(default_factory=set)

    @property
    def contributors(self) -> frozenset[str]:
        """Devices in the sum."""
        return self.cohort_sum.contributors

    @property
    def awaited(self) -> frozenset[str]:
        """Devices that were invited and have not contributed yet."""
        return frozenset(self.invited) - self.contributors

    def remaining_ms(self, now_s: float) -> int:
        """Whole milliseconds until the deadline, at least 0."""
        return max(0, int((self.deadline_s - now_s) * 1000))
