"""The owner's audit: one line for every message that left the device, each holding the hash of the one before.

A line is on the disk before its message leaves; what cannot be written down is not sent. So a line that a crash cut
short belongs to a message that was never sent: it is dropped, and the chain says so. Whoever changes or removes a line
breaks the chain from there on. Whoever cuts lines off its end leaves it whole: for that the owner notes the **head**
(the last hash) now and then, and asks later whether it is still there.

Files: ``audit.jsonl`` and, once that is full, ``audit-000001.jsonl`` and so on before it; one chain through all.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from prunefleet_edge.egress import EgressRecord
from prunefleet_shared.documents import canonical_bytes, digest, read_document
from prunefleet_shared.errors import ConfigError, PrunefleetError, RemoteProtocolError

AUDIT_FILE = "audit.jsonl"
MAX_FILE_BYTES = 8 * 1024 * 1024
FIRST_HASH = "0" * 64
CUT_LINE = "CutLine"
"""Kind of the entry that says: here a line was cut by a crash; its message was never sent."""
_OLDER = re.compile(r"audit-(\d{6})\.jsonl")


class AuditError(PrunefleetError):
    """The audit on the disk is not what this device wrote."""

    exit_code = 6


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line.

    Attributes:
        seq: From 1, without gaps.
        when: UTC, ISO 8601, to the second.
        kind: The message's type; :data:`CUT_LINE` is none.
        payload_bytes: Size of what was said.
        digest: SHA-256 (hex) over it.
        words: The same for people.
        previous: Hash of the line before; :data:`FIRST_HASH` in the first.
    """

    seq: int
    when: str
    kind: str
    payload_bytes: int
    digest: str
    words: str
    previous: str

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over all of it, and so over all before it."""
        return digest(canonical_bytes(self))


@dataclass(frozen=True, slots=True)
class _Line(AuditEntry):
    """An entry as it is written: with its own hash, for people to compare."""

    own_hash: str


class AuditLog:
    """Appends to the audit in ``folder``; one process at a time (the device's store sees to that).

    Args:
        folder: The device's state folder.
        max_file_bytes: Size at which a new file is begun.

    Attributes:
        dropped_line: A line cut short by a crash was found and dropped when this was opened.

    Raises:
        ConfigError: It cannot be read or written, or its end is damaged (the owner's to mend).
    """

    def __init__(self, folder: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self._folder, self._path = folder, folder / AUDIT_FILE
        self._max_file_bytes = max_file_bytes
        self._seq, self._head, self.dropped_line = 0, FIRST_HASH, False
        try:
            self._file = self._open()
            self._resume()
        except OSError as error:
            raise _unwritable(self._path, error) from None

    @property
    def head(self) -> str:
        """Hash of the last line."""
        return self._head

    def append(self, record: EgressRecord) -> None:
        """Write one line and make sure that it is on the disk.

        Raises:
            ConfigError: It is not; what it is about must not be sent.
        """
        self._append(record.when, record.kind, record.payload_bytes, record.digest, record.words)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _append(self, when: str, kind: str, payload_bytes: int, payload_digest: str, words: str) -> None:
        entry = AuditEntry(self._seq + 1, when, kind, payload_bytes, payload_digest, words, self._head)
        line = json.dumps({**asdict(entry), "own_hash": entry.hash}).encode() + b"\n"
        try:
            if self._size and self._size + len(line) > self._max_file_bytes:
                self._rotate()
            self._write(line)
        except OSError as error:
            raise _unwritable(self._path, error) from None
        self._seq, self._head = entry.seq, entry.hash

    def _write(self, line: bytes) -> None:
        """All of ``line`` on the disk, or nothing of it in the file."""
        try:
            done = 0
            while done < len(line):
                done += os.write(self._file, line[done:])
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def _open(self) -> int:
        number = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.fchmod(number, 0o600)
        _sync_folder(self._folder)
        self._size = os.fstat(number).st_size
        return number

    def _resume(self) -> None:
        body = self._path.read_bytes()
        whole = body.rfind(b"\n") + 1
        if whole < len(body):
            os.ftruncate(self._file, whole)
            os.fsync(self._file)
            self._size, self.dropped_line = whole, True
        files = audit_files(self._folder)
        last = next((entry for path in reversed(files) if (entry := _last_entry(path))), None)
        if last is not None:
            self._seq, self._head = last.seq, last.hash
        if self.dropped_line:
            when = last.when if last else ""
            words = "a line cut short by a crash was dropped here; what it was about was never sent"
            self._append(when, CUT_LINE, 0, digest(b""), words)

    def _rotate(self) -> None:
        number = 1 + max((int(match[1]) for path in audit_files(self._folder) if (match := _older(path))), default=0)
        os.close(self._file)
        self._path.rename(self._folder / f"audit-{number:06d}.jsonl")
        self._file = self._open()


def audit_files(folder: Path) -> list[Path]:
    """The files of an audit, oldest first."""
    older = sorted(path for path in folder.glob("audit-*.jsonl") if _older(path))
    latest = folder / AUDIT_FILE
    return [*older, latest] if latest.exists() else older


def read_audit(folder: Path) -> Iterator[AuditEntry]:
    """Every entry in order, each checked against the one before.

    A last line without an end is passed over: it is being written, or was cut by a crash; nothing was sent.

    Raises:
        AuditError: A line does not follow from the one before; names file and line.
        ConfigError: There is no audit, or it cannot be read (the owner's to mend).
    """
    files = audit_files(folder)
    if not files:
        msg = f"{folder / AUDIT_FILE}: there is no audit yet; it begins with `prunefleet edge run`"
        raise ConfigError(msg)
    seq, head = 0, FIRST_HASH
    for path in files:
        for number, line in _lines(path):
            entry = _entry(line, f"{path}, line {number}")
            if entry.previous != head or entry.seq != seq + 1:
                msg = (
                    f"{path}, line {number}: the chain breaks here: expected entry {seq + 1} after {head[:16]}, got "
                    f"entry {entry.seq} after {entry.previous[:16]}; lines were changed, removed or added"
                )
                raise AuditError(msg)
            seq, head = entry.seq, entry.hash
            yield entry


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.endswith(b"\n"):
                    yield number, line
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise ConfigError(msg) from None


def _entry(line: bytes, where: str) -> AuditEntry:
    try:
        read = read_document(line, _Line)
    except RemoteProtocolError as error:
        msg = f"{where}: the chain breaks here: no audit line ({error.rejection.got})"
        raise AuditError(msg) from None
    entry = AuditEntry(read.seq, read.when, read.kind, read.payload_bytes, read.digest, read.words, read.previous)
    if entry.hash != read.own_hash:
        msg = f"{where}: the chain breaks here: the line was changed (its hash is {entry.hash[:16]})"
        raise AuditError(msg)
    return entry


def _last_entry(path: Path) -> AuditEntry | None:
    last = deque(_lines(path), maxlen=1)
    if not last:
        return None
    number, line = last[0]
    try:
        return _entry(line, f"{path}, line {number}")
    except AuditError as error:
        msg = f"{error}; nothing is sent until you have looked at it: move the audit files away to begin a new chain"
        raise ConfigError(msg) from None


def _older(path: Path) -> re.Match[str] | None:
    return _OLDER.fullmatch(path.name)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: the audit cannot be written ({error.strerror}), so nothing is sent; make room for it")
