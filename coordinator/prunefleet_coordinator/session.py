"""One open session: whom it invited, what it has summed, when it ends. It lives in memory only."""

from __future__ import annotations

from dataclasses import dataclass, field

from prunefleet_shared.messages import SessionKind
from prunefleet_shared.private_sum import CoordinatorSum, SessionFacts

DEFER_MS = 1_000
"""How long a deferred peer stays away. Short, because the runner holds the call open until something changes."""

PAUSED_DEFER_MS = 5_000
"""The same while the campaign is paused, which may be for hours."""

MIN_TURN_OVER_MS, MAX_TURN_OVER_MS = 1_000, 60_000
TURN_OVER_DIVISOR = 4
"""A device that the open session has no place for comes back after a quarter of what remains of it: late enough not to
be a nuisance, early enough for the next session, which may come long before the deadline."""


@dataclass(slots=True)
class OpenSession:
    """A session that still goes on.

    Attributes:
        facts: Which session.
        deadline_s: When what it gathers now must be there, on the round's clock.
        cohort_sum: The coordinator's end of the private sum.
        invited: Devices that hold an invitation, those that have contributed included.
    """

    facts: SessionFacts
    deadline_s: float
    cohort_sum: CoordinatorSum
    invited: set[str] = field(default_factory=set)

    @property
    def session_id(self) -> str:
        """Fresh for every attempt."""
        return self.facts.session_id

    @property
    def kind(self) -> SessionKind:
        """What is summed."""
        return self.facts.kind

    @property
    def level(self) -> int:
        """Level of the outcome; 0 for the vote."""
        return self.facts.level

    @property
    def attempt(self) -> int:
        """1 for the first session of this round."""
        return self.facts.attempt

    @property
    def contributors(self) -> frozenset[str]:
        """Devices in the sum."""
        return self.cohort_sum.contributors

    def is_open_to(self, device_id: str) -> bool:
        """Whether a device may begin now."""
        return self.cohort_sum.is_open_to(device_id)

    @property
    def awaited(self) -> frozenset[str]:
        """Devices that may still join, and those that have and are to speak next."""
        newcomers = {name for name in self.invited - self.cohort_sum.joined if self.is_open_to(name)}
        return self.cohort_sum.awaited | newcomers

    def remaining_ms(self, now_s: float) -> int:
        """Whole milliseconds until the deadline, at least 0."""
        return max(0, int((self.deadline_s - now_s) * 1000))

    def turn_over_ms(self, now_s: float) -> int:
        """How long a device stays away that this session has no place for."""
        window_ms = self.remaining_ms(now_s) // TURN_OVER_DIVISOR
        return min(max(window_ms, MIN_TURN_OVER_MS), MAX_TURN_OVER_MS)
