"""Whose certificates no longer count: the authority's list, asked for every few seconds, held against every call.

While the authority cannot be reached, the last list stays in force: whoever was denied stays denied, also after a
restart, because the list is kept in the store; whoever is revoked meanwhile is let in until the authority is back, or
until the certificate ends. ``age_ms`` says how old the list is; after a minute of silence the log warns. A coordinator
that never had a list does not open its doors without one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from prunefleet_shared.authority_messages import DenyList, ListDenied
from prunefleet_shared.documents import canonical_bytes, read_document
from prunefleet_shared.durations import in_words
from prunefleet_shared.errors import (
    CarrierError,
    ConfigError,
    LocalProtocolError,
    RejectReason,
    RemoteProtocolError,
)
from prunefleet_shared.messages import Link

_log = logging.getLogger(__name__)

POLL_S = 5.0
WARN_AFTER_S = 60.0
FIRST_LIST_TIMEOUT_S = 60.0
"""How long a coordinator without any list tries to get its first one."""
SAVE_EVERY_MS = 60_000
"""An unchanged list is stored again this seldom: what a restart may get wrong about its age."""

_NOTE = "deny-list"
_FINAL = frozenset({RejectReason.REVOKED, RejectReason.STRANGER, RejectReason.WRONG_ROLE})
"""Refusals after which this coordinator has no business to go on."""


class Notes(Protocol):
    """Where the list is kept: the part of ``store.Store`` that is no campaign's."""

    def save_note(self, name: str, body: bytes) -> None:
        """Keep ``body`` under ``name``."""
        ...

    def load_note(self, name: str) -> bytes | None:
        """What was kept under ``name``."""
        ...


@dataclass(frozen=True, slots=True)
class _StoredList:
    serials: tuple[str, ...]
    fetched_ms: int


class DeniedSerials:
    """The deny-list as this coordinator knows it.

    Args:
        link: To the authority; renews our certificate on the way when it is time.
        notes: Where the list outlives the process.
        now: The time, aware.
        poll_s: Between two questions.

    Raises:
        ConfigError: The store cannot be read (the operator's to mend).
    """

    def __init__(self, link: Link, notes: Notes, now: Callable[[], datetime], *, poll_s: float = POLL_S) -> None:
        self._link = link
        self._notes = notes
        self._now = now
        self._poll_s = poll_s
        self._serials: frozenset[str] = frozenset()
        self._fetched_ms: int | None = None
        self._stored_ms = 0
        self._has_warned = False
        self._load()

    def is_denied(self, serial: str) -> bool:
        """Whether the certificate with this serial number (lower-case hex) is on the list."""
        return serial in self._serials

    @property
    def age_ms(self) -> int:
        """Since the list was last fetched; 0 before the first one."""
        return 0 if self._fetched_ms is None else max(0, self._now_ms() - self._fetched_ms)

    async def ensure_list(self, timeout_s: float = FIRST_LIST_TIMEOUT_S) -> None:
        """Fetch the list; when the authority is away, one from before the restart will do.

        Args:
            timeout_s: How long to try when there is none from before.

        Raises:
            CarrierError: There is no list at all, and the authority cannot be reached.
            RemoteProtocolError: It refused us for good: we are revoked, or no coordinator.
            ConfigError: Our certificate does not hold now (the operator's to mend).
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not await self.refresh() and self._fetched_ms is None:
                    await asyncio.sleep(self._poll_s)
        except TimeoutError:
            if self._fetched_ms is None:
                msg = f"no deny-list within {timeout_s:.0f} s: the authority cannot be reached; is it running?"
                raise CarrierError(msg, retryable=True) from None

    async def run(self) -> None:
        """Ask again and again, for ever.

        Raises:
            RemoteProtocolError: As :meth:`ensure_list`.
            ConfigError: As :meth:`ensure_list`.
        """
        while True:
            await asyncio.sleep(self._poll_s)
            await self.refresh()

    async def refresh(self) -> bool:
        """Ask once.

        Returns:
            Whether there was an answer.

        Raises:
            RemoteProtocolError: As :meth:`ensure_list`.
            ConfigError: As :meth:`ensure_list`.
        """
        try:
            answer = await self._link.call(ListDenied())
        except CarrierError as error:
            self._warn(str(error))
            return False
        except RemoteProtocolError as error:
            if error.rejection.reason in _FINAL:
                raise
            self._warn(str(error))
            return False
        if not isinstance(answer, DenyList):
            msg = f"ListDenied was answered by a {type(answer).__name__}"
            raise LocalProtocolError(msg)
        self._take(frozenset(answer.serials))
        return True

    def _take(self, serials: frozenset[str]) -> None:
        if self._has_warned:
            _log.info("the authority is back; the deny-list is fresh")
        self._has_warned = False
        is_new, self._serials, self._fetched_ms = serials != self._serials, serials, self._now_ms()
        if not is_new and self._fetched_ms - self._stored_ms < SAVE_EVERY_MS:
            return
        try:
            self._notes.save_note(_NOTE, canonical_bytes(_StoredList(tuple(sorted(serials)), self._fetched_ms)))
            self._stored_ms = self._fetched_ms
        except ConfigError as error:
            _log.warning("the deny-list is in force but could not be stored: %s", error)

    def _load(self) -> None:
        body = self._notes.load_note(_NOTE)
        if body is None:
            return
        try:
            stored = read_document(body, _StoredList)
        except RemoteProtocolError:
            _log.warning("the stored deny-list is damaged; a fresh one is needed before anybody is let in")
            return
        self._serials, self._fetched_ms = frozenset(stored.serials), stored.fetched_ms
        self._stored_ms = stored.fetched_ms

    def _warn(self, why: str) -> None:
        age_s = self.age_ms / 1000
        if self._has_warned or (self._fetched_ms is not None and age_s < WARN_AFTER_S):
            return
        self._has_warned = True
        age = "there is none yet" if self._fetched_ms is None else f"the last one is {in_words(age_s)} old and in force"
        _log.warning("the deny-list cannot be fetched (%s); %s", why, age)

    def _now_ms(self) -> int:
        return int(self._now().timestamp() * 1000)
