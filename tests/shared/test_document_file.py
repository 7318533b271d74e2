"""Documents as files: readable, whole or absent, and still signed."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from prunefleet_shared import document_file
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.document_file import read_document_file, read_signed, write_document, write_signed, write_whole
from prunefleet_shared.documents import open_document, sign_document
from prunefleet_shared.durations import in_words, parse_duration_s
from prunefleet_shared.errors import ConfigError, InputError
from prunefleet_shared.messages import Total
from prunefleet_shared.testing import COORDINATOR_KEY, COORDINATOR_PUBLIC, tiny_campaign

SIGNED = sign_document("campaign", tiny_campaign(), COORDINATOR_KEY)


def test_a_signature_survives_the_file(tmp_path: Path) -> None:
    write_signed(tmp_path / "campaign.json", SIGNED)
    assert read_signed(tmp_path / "campaign.json") == SIGNED
    assert open_document(SIGNED, "campaign", Campaign, COORDINATOR_PUBLIC) == tiny_campaign()
    assert set(json.loads((tmp_path / "campaign.json").read_text())) == {"kind", "payload", "signature", "public_key"}


def test_a_document_reads_back_and_is_a_line_per_member(tmp_path: Path) -> None:
    write_document(tmp_path / "sum.json", Total((1, 2, 3), 2))
    assert read_document_file(tmp_path / "sum.json", Total) == Total((1, 2, 3), 2)
    assert (tmp_path / "sum.json").read_text() == '{\n  "lanes": [1, 2, 3],\n  "num_devices": 2\n}\n'


@pytest.mark.parametrize("text", [None, "", "{}", '{"lanes": [1.5], "num_devices": 1}', "[1]"])
def test_what_is_no_document_is_said_with_its_path(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "sum.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"sum\.json"):
        read_document_file(path, Total)


def test_a_signature_that_is_no_hex_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "campaign.json"
    write_signed(path, SIGNED)
    path.write_text(path.read_text().replace(SIGNED.signature.hex(), "zz"))
    with pytest.raises(InputError, match="hex digits"):
        read_signed(path)


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_is_the_one_asked_for(tmp_path: Path, mode: int) -> None:
    write_whole(tmp_path / "file", b"body", mode)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_a_failed_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", b"before")

    def full(_number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(document_file.os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_whole(tmp_path / "file", b"after")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"before")]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("24h", 86_400), (" 7d ", 604_800)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration_s(text, "ttl") == seconds


@pytest.mark.parametrize("text", ["", "0s", "5", "1w", "1.5h", "-1s", "367d", "\u0663s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="ttl: expected a duration"):
        parse_duration_s(text, "ttl")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (273_600, "3 d 04 h")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
