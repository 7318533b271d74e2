"""The ``ca`` commands, as their owner types them; the server as a process of its own, stopped by SIGTERM."""

import asyncio
import json
import signal
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime

import pytest

from prunefleet_coordinator.ca.files import load_settings
from prunefleet_shared.enrolment import join
from prunefleet_shared.identity_folder import Identity
from prunefleet_shared.join_command import join_command
from prunefleet_shared.join_token import JoinToken
from prunefleet_shared.messages import Role

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer imports names that click 8.5 deprecates
    from prunefleet_coordinator.ca import cli as _ca_cli  # noqa: F401 - loaded here, with its warnings
    from prunefleet_shared.cli import run

LIMIT_S = 30


def command(*words):
    return run(["ca", *map(str, words)])


@pytest.fixture
def made(tmp_path, capsys):
    state = tmp_path / "ca"
    assert command("init", "--state", state, "--host", "localhost", "--coordinator", "localhost:8470") == 0
    assert "offline" in capsys.readouterr().err
    return state


def start_server(*words):
    arguments = [
        sys.executable,
        "-c",
        "from prunefleet_shared.cli import main; main()",
        "ca",
        "serve",
        *map(str, words),
    ]
    ports = ["--listen", "127.0.0.1:0", "--members", "127.0.0.1:0"]
    return subprocess.Popen([*arguments, *ports], stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own program


class Server:
    """``prunefleet ca serve`` as a process."""

    def __init__(self, *words):
        self.process = start_server(*words)

    def __enter__(self):
        self.log = ""
        while "the authority listens" not in self.log:
            line = self.process.stderr.readline()
            assert line, self.log
            self.log += line
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        start_s = time.monotonic()
        self.log += self.process.communicate(timeout=LIMIT_S)[1]
        self.stop_s = time.monotonic() - start_s


def test_tokens_are_printed_once_and_nothing_else_is_on_stdout(made, capsys):
    assert (
        command("token", "--state", made, "--role", "device", "--group", "shed", "--count", 3, "--class", "pi-4") == 0
    )
    printed = capsys.readouterr()
    tokens = [JoinToken.parse(line) for line in printed.out.splitlines()]
    assert len({token.token_id for token in tokens}) == 3
    assert "PF1" not in printed.err


def test_tokens_go_into_files_for_their_owner_alone(made, tmp_path):
    assert command("token", "--state", made, "--role", "trainer", "--name", "t", "--out", tmp_path / "tokens") == 0
    (path,) = (tmp_path / "tokens").iterdir()
    assert (path.name, path.stat().st_mode & 0o777) == ("1.token", 0o600)
    JoinToken.parse(path.read_text())


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (["token", "--role", "device"], 2),
        (["token", "--role", "device", "--name", "a", "--group", "b"], 2),
        (["token", "--role", "device", "--name", "a", "--ttl", "5"], 2),
        (["token", "--role", "device", "--name", "A"], 3),
        (["token", "--role", "king", "--name", "a"], 2),
        (["revoke", "nobody"], 3),
        (["init", "--host", "localhost", "--coordinator", "localhost:8470"], 2),
        (["serve", "--listen", "here"], 2),
        (["health"], 4),
    ],
)
def test_what_cannot_be_done_says_so(made, capsys, words, exit_code):
    assert command(*words, "--state", made) == exit_code
    assert "bug" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [["list"], ["serve"], ["rotate"], ["health"], ["revoke", "a"]])
def test_without_an_authority_each_command_says_how_to_make_one(tmp_path, capsys, words):
    assert command(*words, "--state", tmp_path / "none") == 2
    assert "prunefleet ca init" in capsys.readouterr().err


def test_init_needs_to_know_how_it_is_reached(tmp_path, capsys):
    assert command("init", "--state", tmp_path / "ca") == 2
    assert "--host" in capsys.readouterr().err
    assert not (tmp_path / "ca").exists()


def test_a_corrupt_database_ends_with_a_sentence(made, capsys):
    (made / "authority.sqlite").write_bytes(b"garbage" * 1000)
    assert command("list", "--state", made) == 2
    assert "restore a backup" in capsys.readouterr().err


def test_a_server_that_starts_by_itself_bootstraps_once_and_survives_a_restart(tmp_path, capsys, monkeypatch):
    state, boot = tmp_path / "ca", tmp_path / "boot"
    begin = ["--init", "--host", "localhost", "--coordinator", "localhost:8470", "--bootstrap", boot]
    with Server("--state", state, *begin) as server:
        assert command("health", "--state", state) == 0
        for role in (Role.COORDINATOR, Role.OPERATOR, Role.TRAINER):
            identity = join_command(role, None, boot / role, tmp_path / role)
            assert (identity.role, identity.name) == (role, str(role))
            assert join_command(role, None, boot / role, tmp_path / role) == identity, "and again"
        assert command("token", "--state", state, "--role", "device", "--name", "d") == 0
        device = join_command(Role.DEVICE, capsys.readouterr().out.strip(), None, tmp_path / "d")
        assert isinstance(device, Identity)
    assert server.process.returncode == 0
    assert server.stop_s < 5
    assert "PF1" not in server.log
    assert "event=joined role=device name=d" in server.log
    with Server("--state", state, *begin):
        assert not list(boot.rglob("*.token")), "written once"
        assert command("list", "--state", state, "--json") == 0
        listed = json.loads(capsys.readouterr().out)
    assert [member["name"] for member in listed] == ["coordinator", "d", "operator", "trainer"]


def test_a_command_beside_the_server_takes_effect_at_once(made, tmp_path, capsys):
    with Server("--state", made):
        assert command("token", "--state", made, "--role", "device", "--name", "d") == 0
        token = JoinToken.parse(capsys.readouterr().out)
        assert token.address == f"localhost:{load_settings(made).join_port}"
        asyncio.run(join(token, Role.DEVICE, tmp_path / "d", now=lambda: datetime.now(UTC)))
        assert command("revoke", "d", "--state", made) == 0
        assert command("list", "--state", made) == 0
        assert "revoked" in capsys.readouterr().out


def test_help_needs_no_torch():
    script = "import sys, prunefleet_coordinator.ca.cli; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603
    assert result.stdout.strip() == "False"
