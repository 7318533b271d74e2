"""Where a device keeps what it said: its own contribution until the round is closed, which rounds are spent, and whose
votes were in the sums it helped to release.

The file belongs to one process at a time and to its owner alone (mode 0600). What is deleted is overwritten, so that a
vote does not outlive its round on the disk.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from prunefleet_edge.device_state import DeviceState, Release
from prunefleet_shared.errors import ConfigError, LocalProtocolError, RemoteProtocolError

T = TypeVar("T")
SCHEMA_VERSION = 2
_SCHEMA = f"""
PRAGMA locking_mode = EXCLUSIVE;  -- two processes on one store could say two things in one round
PRAGMA journal_mode = TRUNCATE;   -- under an exclusive lock the journal stays: emptied, or it would keep old pages
PRAGMA synchronous = FULL;        -- saved means on the disk: the next command sends it
PRAGMA secure_delete = ON;        -- a vote does not outlive its round in a free page
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS device_state (campaign_id TEXT PRIMARY KEY, document BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS release (devices TEXT NOT NULL) STRICT;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


class DeviceStore(Protocol):
    """Keeps one :class:`DeviceState` per campaign."""

    def load(self, campaign_id: str) -> DeviceState | None:
        """What was last saved for the campaign; None if nothing was.

        Raises:
            ConfigError: The store cannot be read.
        """
        ...

    def save(self, state: DeviceState, release: Release | None = None) -> None:
        """Replace the campaign's state, and add a release if there is one; when this returns, both survive a crash.

        Raises:
            LocalProtocolError: ``state`` forgets a spent round or speaks in one (our bug); nothing was written.
            ConfigError: The store cannot be written.
        """
        ...

    def releases(self) -> tuple[frozenset[str], ...]:
        """Devices of every sum of votes that was released, oldest first.

        Raises:
            ConfigError: The store cannot be read.
        """
        ...

    def forget_others(self, campaign_id: str) -> None:
        """Erase what was said in other campaigns than this; their rounds are spent from now on.

        Raises:
            ConfigError: The store cannot be read or written.
        """
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


class MemoryDeviceStore:
    """Keeps states for as long as the object lives: for tests and the simulation."""

    def __init__(self) -> None:
        self._documents: dict[str, bytes] = {}
        self._releases: list[Release] = []

    def load(self, campaign_id: str) -> DeviceState | None:
        """What was last saved for the campaign."""
        document = self._documents.get(campaign_id)
        return None if document is None else DeviceState.from_bytes(document)

    def save(self, state: DeviceState, release: Release | None = None) -> None:
        """Replace the campaign's state, and add a release."""
        _refuse_to_forget(self.load(state.campaign_id), state)
        self._documents[state.campaign_id] = state.to_bytes()
        self._releases += [release] if release else []

    def releases(self) -> tuple[frozenset[str], ...]:
        """Devices of every sum of votes that was released."""
        return tuple(frozenset(release.devices) for release in self._releases)

    def forget_others(self, campaign_id: str) -> None:
        """Erase what was said in other campaigns."""
        for other in set(self._documents) - {campaign_id}:
            self._documents[other] = _silenced(DeviceState.from_bytes(self._documents[other])).to_bytes()

    def close(self) -> None:
        """Nothing to let go of."""


class SqliteDeviceStore:
    """Keeps states in an SQLite file of mode 0600, made if it is not there.

    Args:
        path: The file.

    Raises:
        ConfigError: The file cannot be used: no such folder, no database, a newer schema, or another process has it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = self._carefully(self._open)

    def load(self, campaign_id: str) -> DeviceState | None:
        """What was last saved for the campaign."""
        query = "SELECT document FROM device_state WHERE campaign_id = ?"
        row = self._carefully(lambda: self._connection.execute(query, (campaign_id,)).fetchone())
        return None if row is None else self._read(row[0])

    def save(self, state: DeviceState, release: Release | None = None) -> None:
        """Replace the campaign's state, and add a release, in one transaction."""
        _refuse_to_forget(self.load(state.campaign_id), state)
        self._carefully(lambda: self._write(state, release))

    def _write(self, state: DeviceState, release: Release | None) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            row = (state.campaign_id, state.to_bytes())
            connection.execute("INSERT OR REPLACE INTO device_state VALUES (?, ?)", row)
            if release:
                connection.execute("INSERT INTO release VALUES (?)", (json.dumps(release.devices),))
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def releases(self) -> tuple[frozenset[str], ...]:
        """Devices of every sum of votes that was released."""
        query = "SELECT devices FROM release ORDER BY rowid"
        rows = self._carefully(lambda: self._connection.execute(query).fetchall())
        return tuple(frozenset(json.loads(row[0])) for row in rows)

    def forget_others(self, campaign_id: str) -> None:
        """Erase what was said in other campaigns, one transaction each."""
        query = "SELECT document FROM device_state WHERE campaign_id != ?"
        rows = self._carefully(lambda: self._connection.execute(query, (campaign_id,)).fetchall())
        for state in (self._read(row[0]) for row in rows):
            if state.contribution is not None:
                self.save(_silenced(state))

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _open(self) -> sqlite3.Connection:
        # Created here with its mode: SQLite would follow the umask, and its journal copies the mode of the file.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        self._path.chmod(0o600)
        connection = sqlite3.connect(self._path, timeout=1.0, isolation_level=None)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                msg = f"{self._path} has schema {version}, this client knows {SCHEMA_VERSION}; update it"
                raise ConfigError(msg)
            connection.executescript(_SCHEMA)
            damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise sqlite3.DatabaseError(damage)
        except (sqlite3.Error, ConfigError):
            connection.close()
            raise
        return connection

    def _carefully(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (sqlite3.Error, OSError) as error:
            msg = f"the device store {self._path} cannot be used: {error}; {_remedy(error)}; nothing was sent"
            raise ConfigError(msg) from error

    def _read(self, document: bytes) -> DeviceState:
        try:
            return DeviceState.from_bytes(document)
        except RemoteProtocolError as error:
            msg = f"the device store {self._path} is damaged: {error}; restore it, or leave the campaign"
            raise ConfigError(msg) from error


def _remedy(error: sqlite3.Error | OSError) -> str:
    text = str(error)
    if "full" in text or "No space" in text:
        return "make room on the disk"
    if "locked" in text:
        return "is another process using it?"
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        # Without it the device does not know what it has said, and might say something else.
        return "it is damaged: restore it from a copy, or move it away once no campaign runs"
    return "look at the folder and its permissions"


def _silenced(state: DeviceState) -> DeviceState:
    """The same without what it said. That round is spent: made anew, the device would say something else in it."""
    said = state.contribution
    return state if said is None else state.closing(said.round_key)


def _refuse_to_forget(before: DeviceState | None, after: DeviceState) -> None:
    forgotten = set(before.spent if before else ()) - set(after.spent)
    said = after.contribution
    if forgotten or (said is not None and said.round_key in after.spent):
        msg = f"campaign {after.campaign_id}: a spent round stays spent, got {after.spent}"
        raise LocalProtocolError(msg)
