"""The owner's audit: written before anything leaves, whole after a crash, and telling when somebody changed it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prunefleet_edge import audit as audit_module
from prunefleet_edge.audit import CUT_LINE, AuditError, AuditLog, audit_files, read_audit
from prunefleet_edge.audit_report import audit_json, audit_text, check_head, report_audit
from prunefleet_edge.egress import Egress, EgressRecord
from prunefleet_shared.documents import digest
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.messages import Awaited, ComeBack, GetCampaign
from prunefleet_shared.testing import ScriptedLink, run_simulated


def record(number: int) -> EgressRecord:
    body = f"message {number}".encode()
    return EgressRecord("CheckIn", len(body), digest(body), "2026-01-02T00:00:00+00:00", f"check-in {number}")


def write(folder: Path, *numbers: int, max_file_bytes: int = 1 << 20) -> str:
    log = AuditLog(folder, max_file_bytes=max_file_bytes)
    for number in numbers:
        log.append(record(number))
    log.close()
    return log.head


def words(folder: Path) -> list[str]:
    return [entry.words for entry in read_audit(folder)]


def test_every_message_is_a_line_and_the_chain_goes_on_after_a_restart(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    head = write(tmp_path, 3)
    entries = list(read_audit(tmp_path))
    assert [entry.seq for entry in entries] == [1, 2, 3]
    assert entries[-1].hash == head
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_rotated_files_are_one_chain(tmp_path: Path) -> None:
    for start in range(0, 40, 10):
        write(tmp_path, *range(start, start + 10), max_file_bytes=2000)
    files = audit_files(tmp_path)
    assert len(files) > 4
    assert all(path.stat().st_size <= 2000 for path in files)
    assert words(tmp_path) == [f"check-in {number}" for number in range(40)]
    files[1].unlink()
    with pytest.raises(AuditError, match=r"audit-000003\.jsonl, line 1: the chain breaks here"):
        words(tmp_path)


@pytest.mark.parametrize("cut", range(1, 300, 23))
def test_a_line_cut_by_a_crash_is_dropped_and_noted(tmp_path: Path, cut: int) -> None:
    write(tmp_path, 1, 2)
    path = tmp_path / "audit.jsonl"
    body = path.read_bytes()
    path.write_bytes(body[:-cut] if cut < len(body.splitlines()[-1]) else body[:-1])
    log = AuditLog(tmp_path)
    assert log.dropped_line
    log.append(record(3))
    log.close()
    assert [entry.kind for entry in read_audit(tmp_path)] == ["CheckIn", CUT_LINE, "CheckIn"]
    assert report_audit(tmp_path).messages == {"CheckIn": 2}, "a line that was dropped is no message"


def test_a_tail_of_zeros_after_a_power_cut_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with (tmp_path / "audit.jsonl").open("ab") as stream:
        stream.write(b"\0" * 512)
    write(tmp_path, 2)
    assert words(tmp_path)[0] == "check-in 1"
    assert words(tmp_path)[-1] == "check-in 2"


def change_words(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b"check-in 2", b"check-in 9"), *lines[2:]]


def change_and_rehash(lines: list[bytes]) -> list[bytes]:
    """A careful forger makes the line's own hash agree; the next line gives it away."""
    facts = json.loads(lines[1]) | {"words": "nothing to see"}
    del facts["own_hash"]
    entry = audit_module.AuditEntry(**facts)
    return [lines[0], json.dumps(facts | {"own_hash": entry.hash}).encode() + b"\n", *lines[2:]]


TAMPERING: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "words": (change_words, "line 2"),
    "words and hash": (change_and_rehash, "line 3"),
    "removed": (lambda lines: [lines[0], *lines[2:]], "line 2"),
    "removed from the start": (lambda lines: lines[1:], "line 1"),
    "swapped": (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1"),
    "twice": (lambda lines: [lines[0], lines[0], *lines[1:]], "line 2"),
    "no json": (lambda lines: [lines[0], b"lorem ipsum\n", *lines[2:]], "line 2"),
    "extra member": (lambda lines: [lines[0].replace(b"{", b'{"x": 1, ', 1), *lines[1:]], "line 1"),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_is_found_where_it_was_done(tmp_path: Path, how: str) -> None:
    write(tmp_path, 1, 2, 3, 4)
    path = tmp_path / "audit.jsonl"
    tamper, where = TAMPERING[how]
    path.write_bytes(b"".join(tamper(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(AuditError, match=rf"audit\.jsonl, {where}: the chain breaks here") as caught:
        words(tmp_path)
    assert caught.value.exit_code == 6
    assert where in str(report_audit(tmp_path).problem)


def test_a_damaged_end_is_not_written_on(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"check-in 2", b"check-in 9"))
    with pytest.raises(ConfigError, match="nothing is sent"):
        AuditLog(tmp_path)


def test_a_noted_head_shows_when_lines_were_cut_off(tmp_path: Path) -> None:
    noted = write(tmp_path, 1, 2, 3)
    assert report_audit(tmp_path, expected_head=noted[:12]).problem is None
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert report_audit(tmp_path).problem is None, "without a noted head, nobody can tell"
    assert "not in the chain" in str(report_audit(tmp_path, expected_head=noted).problem)
    for wrong in ("abc", "x" * 64, ""):
        with pytest.raises(ConfigError, match="hex digits"):
            check_head(wrong)


def test_the_report_has_words_sizes_totals_and_the_head(tmp_path: Path) -> None:
    head = write(tmp_path, 1, 2, 3)
    text = audit_text(report_audit(tmp_path, last=1))
    assert "check-in 3" in text
    assert "check-in 2" not in text
    assert "3 messages left this device, 27 bytes" in text
    assert head in text
    facts = json.loads(audit_json(report_audit(tmp_path)))
    assert (len(facts["entries"]), facts["head"], facts["is_intact"]) == (3, head, True)


# --- what cannot be written is not sent ---


def send_through(log: AuditLog) -> ScriptedLink:
    link = ScriptedLink([ComeBack(1000, Awaited.OPERATOR)] * 5)
    run_simulated(Egress(link, audit=log.append).send(GetCampaign("camera")))
    return link


class FullDisk:
    """``os.write`` and ``os.fsync`` of a disk with ``room`` bytes left."""

    def __init__(self, room: int) -> None:
        self.room, self._write = room, os.write

    def write(self, number: int, body: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = self._write(number, body[: self.room])
        self.room -= done
        return done


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_full_disk_sends_nothing_and_loses_nothing(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(tmp_path)
    log.append(record(1))
    link = ScriptedLink([])
    with monkeypatch.context() as patch:
        patch.setattr(audit_module.os, "write", FullDisk(room).write)
        with pytest.raises(ConfigError, match=r"No space left on device.*nothing is sent"):
            run_simulated(Egress(link, audit=log.append).send(GetCampaign("camera")))
    assert link.sent == []
    assert words(tmp_path) == ["check-in 1"]
    assert len(send_through(log).sent) == 1, "with room again, it goes on"
    log.close()
    assert len(words(tmp_path)) == 2


def test_a_line_that_may_not_be_on_the_disk_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path)

    def broken(number: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(audit_module.os, "fsync", broken)
    link = ScriptedLink([])
    with pytest.raises(ConfigError, match="Input/output error"):
        run_simulated(Egress(link, audit=log.append).send(GetCampaign("camera")))
    assert link.sent == []
    log.close()


def test_a_folder_that_is_not_there_is_the_owners_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        AuditLog(tmp_path / "missing")
    with pytest.raises(ConfigError, match="no audit yet"):
        words(tmp_path)
