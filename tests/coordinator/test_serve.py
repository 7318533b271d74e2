"""The coordinator as a process: quick start, health, revocation, restart, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from prunefleet_coordinator.serve import locked
from prunefleet_shared.authority_messages import Revoke
from prunefleet_shared.enrolment import join
from prunefleet_shared.errors import ConfigError, RejectReason, RemoteProtocolError
from prunefleet_shared.join_token import JoinToken
from prunefleet_shared.member_link import MemberLink, utc_now
from prunefleet_shared.messages import Down, FetchModel, FleetStatus, GetStatus, Role, Up

LIMIT_S = 20.0
COMMAND = [sys.executable, "-c", "from prunefleet_shared.cli import main; main()", "coordinator"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PRUNEFLEET")}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A ``coordinator`` command that ends by itself."""
    texts = [str(argument) for argument in arguments]
    return subprocess.run(  # noqa: S603 - our own command
        [*COMMAND, *texts], capture_output=True, text=True, timeout=LIMIT_S, check=False, env=ENVIRONMENT
    )


def free_port() -> int:
    """The first of three ports that are free now: the built-in authority takes the two after the coordinator's."""
    while True:
        with suppress(OSError), socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            with socket.create_server(("127.0.0.1", port + 1)), socket.create_server(("127.0.0.1", port + 2)):
                return port


class Server:
    """``coordinator serve --built-in-ca`` on loopback; what it prints lies in files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state, self.port = folder, folder / "state", free_port()
        self.out, self.log = folder / "out.txt", folder / "log.txt"

    @contextmanager
    def running(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        arguments = ["serve", "--built-in-ca", "--state", self.state, "--listen", f"127.0.0.1:{self.port}", *options]
        command = [*COMMAND, *map(str, arguments)]
        with self.out.open("wb") as out, self.log.open("wb") as log:
            process = subprocess.Popen(command, stdout=out, stderr=log, env=ENVIRONMENT)  # noqa: S603 - our own command
        try:
            until(lambda: process.poll() is not None or (self.state / "listening").exists(), self.log)
            assert process.poll() is None, self.log.read_text()
            yield process
        finally:
            process.kill()
            process.wait()

    def tokens(self, command: str) -> list[str]:
        return re.findall(rf"^prunefleet {command} join (\S+)$", self.out.read_text(), re.MULTILINE)

    def join(self, role: Role, token: str, name: str) -> Path:
        asyncio.run(join(JoinToken.parse(token), role, self.folder / name, now=utc_now))
        return self.folder / name


def until(is_so: Callable[[], bool], log: Path) -> None:
    give_up_s = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < give_up_s, log.read_text()
        time.sleep(0.02)


def ask(folder: Path, role: Role, message: Up, *, authority: bool = False) -> Down:
    async def call() -> Down:
        link = MemberLink(folder, role, timeout_s=LIMIT_S, to_authority=authority)
        try:
            return await link.call(message)
        finally:
            await link.close()

    return asyncio.run(call())


def test_quick_start_join_status_revoke_stop_and_start_again(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with server.running("--devices", "1") as process:
        assert "honest-but-curious only" in server.log.read_text()
        operator = server.join(Role.OPERATOR, *server.tokens("campaign"), "operator")
        server.join(Role.TRAINER, *server.tokens("trainer"), "trainer")
        device = server.join(Role.DEVICE, *server.tokens("edge"), "device")
        assert run("health", "--state", server.state).returncode == 0
        status = ask(operator, Role.OPERATOR, GetStatus())
        assert isinstance(status, FleetStatus)
        assert (status.authority_is_built_in, status.campaigns) == (True, ())
        assert status.deny_list_age_ms < 10_000
        check_revocation(device, operator)
        second = run("serve", "--state", server.state, "--listen", "127.0.0.1:0")
        assert (second.returncode, "another coordinator" in second.stderr) == (2, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5.0) == 0
    assert run("health", "--state", server.state).returncode == 4
    with server.running():
        assert server.out.read_text() == "", "tokens are shown at the first start, or when asked for"
        with pytest.raises(RemoteProtocolError, match="REVOKED"):
            ask(device, Role.DEVICE, FetchModel("00" * 32, 0))
    text = server.log.read_text()
    assert not re.search(r"PF1[0-9a-f]{64}::", text), "a join token in the log"
    assert all(line.startswith("time=") for line in text.splitlines())


def check_revocation(device: Path, operator: Path) -> None:
    """A device on an open connection is refused as soon as the list has been fetched again."""

    async def play() -> None:
        link = MemberLink(device, Role.DEVICE, timeout_s=LIMIT_S)
        assert await refusal(link) is RejectReason.NOT_FOUND
        await asyncio.to_thread(ask, operator, Role.OPERATOR, Revoke(link.identity.name), authority=True)
        async with asyncio.timeout(LIMIT_S):
            while await refusal(link) is not RejectReason.REVOKED:
                await asyncio.sleep(0.05)
        await link.close()

    asyncio.run(play())


async def refusal(link: MemberLink) -> RejectReason:
    with pytest.raises(RemoteProtocolError) as caught:
        await link.call(FetchModel("00" * 32, 0))
    return caught.value.rejection.reason


def test_what_is_wrong_is_said_in_a_sentence_and_an_exit_code(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for arguments, words in (
        (["--listen", "8470"], "host:port"),
        (["--state", str(tmp_path / "file" / "state")], "cannot be made"),
        (["--listen", "127.0.0.1:0"], "join first: prunefleet coordinator join TOKEN"),
        (["--built-in-ca", "--listen", "127.0.0.1:0"], "needs a port"),
    ):
        ended = run("serve", "--state", tmp_path / "state", *arguments)
        assert (ended.returncode, words in ended.stderr, ended.stdout) == (2, True, ""), ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_damaged_database_is_said_and_left_alone(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with server.running():
        pass
    database = server.state / "coordinator.sqlite"
    with sqlite3.connect(database) as connection:  # so that all of it is in the one file
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    damaged = b"\x00" * 4096 + database.read_bytes()[4096:]
    database.write_bytes(damaged)
    ended = run("serve", "--state", server.state, "--built-in-ca", "--listen", f"127.0.0.1:{server.port}")
    assert ended.returncode == 2, ended.stderr
    assert "coordinator.sqlite cannot be used" in ended.stderr
    assert database.read_bytes() == damaged
    assert run("export", "--state", server.state, "--out", tmp_path / "out").returncode == 2


def test_print_config_prints_and_starts_nothing(tmp_path: Path) -> None:
    ended = run("serve", "--state", tmp_path / "state", "--listen", "127.0.0.1:1", "--print-config")
    assert (ended.returncode, 'listen = "127.0.0.1:1"\n' in ended.stdout) == (0, True)
    assert not (tmp_path / "state").exists()


def test_a_state_folder_belongs_to_one_coordinator(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigError, match="another coordinator"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
