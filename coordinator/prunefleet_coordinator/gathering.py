"""The open sessions of the round at hand: one for each cohort, and who is in which.

A device is put into a cohort by chance, so that nobody can choose whose votes its own are added to. A device whose
session came to nothing goes to a session that was opened later: it never speaks in one attempt twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prunefleet_coordinator.events import Defer
from prunefleet_coordinator.session import DEFER_MS, MAX_TURN_OVER_MS, PAUSED_DEFER_MS, OpenSession
from prunefleet_coordinator.state import Progress, Snapshot
from prunefleet_shared.messages import Awaited

RandomBelow = Callable[[int], int]
"""A number from 0 below the given one that nobody can predict, such as ``secrets.randbelow``."""


class Gathering:
    """Open sessions, in the order in which they were opened.

    Args:
        max_invited: Devices that may hold an invitation to one session.
        random_below: Chance.
    """

    def __init__(self, max_invited: int, random_below: RandomBelow) -> None:
        self._max_invited, self._random_below = max_invited, random_below
        self._sessions: list[OpenSession] = []
        self._last_attempt: dict[str, int] = {}

    def __iter__(self) -> Iterator[OpenSession]:
        return iter(tuple(self._sessions))

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def next_deadline_s(self) -> float | None:
        """The first deadline of any of them."""
        return min((session.deadline_s for session in self._sessions), default=None)

    def find(self, session_id: str) -> OpenSession | None:
        """The open session of this id."""
        return next((session for session in self._sessions if session.session_id == session_id), None)

    def of(self, device_id: str) -> OpenSession | None:
        """The session to which a device was last invited, if it is still open."""
        return next((session for session in reversed(self._sessions) if device_id in session.invited), None)

    def add(self, session: OpenSession) -> None:
        """A session was opened."""
        self._sessions.append(session)

    def remove(self, session: OpenSession) -> None:
        """A session was closed, or given up."""
        self._sessions.remove(session)

    def clear(self) -> None:
        """The round is over."""
        self._sessions.clear()
        self._last_attempt.clear()

    def invite(self, device_id: str, session: OpenSession) -> None:
        """A device was invited to a session."""
        session.invited.add(device_id)
        self._last_attempt[device_id] = session.attempt

    def choose(self, device_id: str, num_unopened: int) -> OpenSession | None:
        """A session with room for a device, drawn among these and ``num_unopened`` that may be opened for it.

        Returns:
            None when one is to be opened. Ask only if :meth:`has_room`.
        """
        rooms = self._rooms(device_id)
        num_choices = len(rooms) + num_unopened
        drawn = self._random_below(num_choices) if num_choices > 1 else 0
        return rooms[drawn] if drawn < len(rooms) else None

    def has_room(self, device_id: str, num_unopened: int) -> bool:
        """Whether a device can be invited to anything."""
        return num_unopened > 0 or bool(self._rooms(device_id))

    def _rooms(self, device_id: str) -> list[OpenSession]:
        after = self._last_attempt.get(device_id, 0)
        return [
            session
            for session in self._sessions
            if session.attempt > after and len(session.invited) < self._max_invited and session.is_open_to(device_id)
        ]

    def turn_over_ms(self, now_s: float) -> int:
        """How long a device stays away that no session has a place for."""
        return min((session.turn_over_ms(now_s) for session in self._sessions), default=MAX_TURN_OVER_MS)


def why_deferred(
    device_id: str, gathering: Gathering, snapshot: Snapshot, num_unopened: int, now_s: float, *, is_left_out: bool
) -> Defer | None:
    """The deferral of a ready device that gets no invitation now; None if it gets one.

    Args:
        device_id: Who checked in.
        gathering: Open sessions.
        snapshot: Where the campaign stands.
        num_unopened: Sessions that may be opened now.
        now_s: The time.
        is_left_out: Its lies have cost a session of this round, or in one that failed it has said all it ever will.
    """
    session = gathering.of(device_id)
    is_in_sum = any(device_id in cohort.contributors for cohort in snapshot.closed_cohorts)
    if session and session.is_open_to(device_id):
        return None
    if is_in_sum or (session and device_id in session.cohort_sum.joined):
        return Defer(device_id, DEFER_MS, Awaited.DEVICES)
    if snapshot.is_paused:
        return Defer(device_id, PAUSED_DEFER_MS, Awaited.OPERATOR)
    if is_left_out or snapshot.has_asked(device_id) or not gathering.has_room(device_id, num_unopened):
        return Defer(device_id, gathering.turn_over_ms(now_s), Awaited.NOTHING, is_held=False)
    return None


def progress_of(snapshot: Snapshot, gathering: Gathering, awaited: Awaited, since_s: float) -> Progress:
    """Where a campaign stands, for people."""
    sessions = tuple(gathering)
    num_closed = sum(cohort.total.num_devices for cohort in snapshot.closed_cohorts)
    return Progress(
        phase=snapshot.phase,
        is_paused=snapshot.is_paused,
        level=snapshot.level,
        attempt=max((session.attempt for session in sessions), default=0),
        num_contributions=num_closed + sum(len(session.contributors) for session in sessions),
        awaited=awaited,
        awaited_ids=tuple(sorted({name for session in sessions for name in session.awaited})),
        since_s=since_s,
        deadline_s=gathering.next_deadline_s,
        kind=snapshot.kind,
        rulings=snapshot.rulings,
    )
