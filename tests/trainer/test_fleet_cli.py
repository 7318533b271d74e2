"""An operator lets members in and puts them out; over real gRPC with mutual TLS."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from operator_world import World, invoke

from prunefleet_shared import document_file
from prunefleet_shared.authority_messages import (
    CreateTokens,
    ListMembers,
    Member,
    MemberList,
    Revoke,
    Revoked,
    TokenList,
)
from prunefleet_shared.errors import ConfigError, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.roles import Role
from prunefleet_shared.wire_limits import MAX_PAGE
from prunefleet_trainer.fleet_cli import app
from prunefleet_trainer.token_files import write_tokens


def tokens(world: World, *arguments: object) -> object:
    world.authority.answers[CreateTokens] = lambda wish: TokenList(
        tuple(f"PF1-secret-{i}" for i in range(wish.num_tokens))
    )
    return invoke(app, "tokens", *arguments, "--state", world.operator_state)


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_tokens_go_to_stdout_and_words_to_stderr(world: World) -> None:
    result = tokens(world, "--group", "cam", "--class", "camera", "--count", 3, "--ttl", "90s")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["PF1-secret-0", "PF1-secret-1", "PF1-secret-2"]
    assert "prunefleet edge join TOKEN" in result.stderr
    assert "secret" not in result.stderr
    assert world.authority.messages(CreateTokens) == [CreateTokens(Role.DEVICE, "cam", True, 3, 90, "camera")]


def test_a_trainers_token_is_bound_to_a_name(world: World) -> None:
    result = tokens(world, "--name", "trainer-2", "--role", "trainer")
    assert "prunefleet trainer join TOKEN" in result.stderr
    asked = CreateTokens(Role.TRAINER, "trainer-2", False, 1, 24 * 3600, "")
    assert world.authority.messages(CreateTokens) == [asked]


def test_token_files_are_private_numbered_and_said_nowhere_else(world: World, tmp_path: Path) -> None:
    out = tmp_path / "new" / "tokens"
    options = ("--group", "cam", "--class", "camera", "--count", 2, "--out", out)
    result = tokens(world, *options)
    assert result.exit_code == 0, result.output
    assert "secret" not in result.output
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "0.token": "PF1-secret-0\n",
        "1.token": "PF1-secret-1\n",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}


def test_a_claimed_number_is_never_given_again(tmp_path: Path) -> None:
    write_tokens(tmp_path, ["a", "b"])
    (tmp_path / "1.token").rename(tmp_path / "1.claimed-edge")
    assert [path.name for path in write_tokens(tmp_path, ["c"])] == ["2.token"]
    (tmp_path / "notes.txt").touch()
    assert sorted(path.name for path in tmp_path.glob("*.token")) == ["0.token", "2.token"]


def test_nobody_sees_half_a_token_or_one_that_others_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every system call that could be the last, ``*.token`` names nothing that is not whole and private."""
    seen = []

    def look() -> None:
        for path in tmp_path.glob("*.token"):
            assert path.read_text() == "token\n"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        seen.append({stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()})

    for name in ("fsync", "fchmod", "fdopen"):
        real = getattr(os, name)

        def watched(*arguments, _real=real, **options):
            look()
            result = _real(*arguments, **options)
            look()
            return result

        monkeypatch.setattr(document_file.os, name, watched)
    write_tokens(tmp_path, ["token", "token"])
    assert len(seen) >= 8
    assert set().union(*seen) == {0o600}, "not for a moment may others read it"


@pytest.mark.parametrize("step", ["fsync", "fchmod"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(document_file.os, step, full)
    with pytest.raises(ConfigError, match="No space left"):
        write_tokens(tmp_path, ["token"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_found_out_before_tokens_exist(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = tokens(world, "--group", "cam", "--class", "camera", "--out", tmp_path / "file" / "below")
    assert isinstance(result.exception, ConfigError)
    assert world.authority.asked == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--name NAME"),
        (("--name", "a", "--group", "b"), "--name NAME"),
        (("--name", "a", "--class", "camera", "--count", 2), "--group PREFIX"),
        (("--group", "a"), "--class"),
        (("--name", "t", "--role", "trainer", "--class", "camera"), "--class"),
        (("--name", "o", "--role", "operator"), "prunefleet ca token"),
        (("--group", "a", "--class", "camera", "--ttl", "1w"), "--ttl"),
    ],
)
def test_wishes_that_make_no_sense_ask_nobody(world: World, options: tuple[object, ...], words: str) -> None:
    result = tokens(world, *options)
    assert isinstance(result.exception, ConfigError)
    assert words in str(result.exception)
    assert world.authority.asked == []


def test_lost_answers_do_not_multiply_tokens(world: World) -> None:
    """Each call makes new tokens, so it is made once."""
    world.authority.answers[CreateTokens] = reject(RejectReason.TOO_MANY_TRIES)
    invoke(app, "tokens", "--group", "a", "--class", "camera", "--state", world.operator_state)
    assert len(world.authority.messages(CreateTokens)) == 1


# --- revoke and list -------------------------------------------------------------------------------------------------


def test_revoke_names_the_member(world: World) -> None:
    world.authority.answers[Revoke] = Revoked()
    result = invoke(app, "revoke", "camera-1", "--state", world.operator_state)
    assert result.exit_code == 0, result.output
    assert world.authority.messages(Revoke) == [Revoke("camera-1")]
    assert world.coordinator.asked == []


def test_revoking_nobody_is_an_error(world: World) -> None:
    world.authority.answers[Revoke] = reject(RejectReason.NOT_FOUND, got="nobody called camera-9")
    result = invoke(app, "revoke", "camera-9", "--state", world.operator_state)
    assert isinstance(result.exception, RemoteProtocolError)
    assert result.exception.exit_code == 3


def test_list_shows_everyone_over_several_pages(world: World) -> None:
    names = [f"camera-{i:05d}" for i in range(MAX_PAGE + 3)]
    everyone = [Member(name, Role.DEVICE, b"\x01" * 91, 1_000, name == names[1]) for name in names]

    def page(message: ListMembers) -> MemberList:
        return MemberList(tuple([m for m in everyone if m.name > message.after_name][:MAX_PAGE]))

    world.authority.answers[ListMembers] = page
    result = invoke(app, "list", "--json", "--state", world.operator_state)
    listed = json.loads(result.stdout)
    assert [member["name"] for member in listed] == names
    assert [member["name"] for member in listed if member["is_revoked"]] == [names[1]]
    assert listed[0]["valid_until"] == "1970-01-01T00:00:01+00:00"
    text = invoke(app, "list", "--state", world.operator_state).stdout
    assert text.count("revoked") == 1
    assert text.count("expired") == MAX_PAGE + 2


def test_an_authority_that_repeats_itself_is_not_asked_for_ever(world: World) -> None:
    same = tuple(Member(f"camera-{i:05d}", Role.DEVICE, b"\x01" * 91, 1_000, False) for i in range(MAX_PAGE))
    world.authority.answers[ListMembers] = MemberList(same)
    result = invoke(app, "list", "--state", world.operator_state)
    assert isinstance(result.exception, RemoteProtocolError)
    assert len(world.authority.asked) == 2
