"""The command line: exit codes, one sentence on stderr, and the replay command on a real folder."""

import json
import warnings
from importlib.metadata import EntryPoint

import pytest

from prunefleet_coordinator.aggregation import decide
from prunefleet_coordinator.archive import write_run
from prunefleet_coordinator.state import ClosedRound, Snapshot
from prunefleet_coordinator.store import MemoryStore
from prunefleet_coordinator.testing import random_vote, small_campaign
from prunefleet_shared import __version__
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import CarrierError
from prunefleet_shared.messages import Phase, SessionKind, Total
from prunefleet_shared.testing import COORDINATOR_KEY as KEY

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer imports names that click 8.5 deprecates
    import typer

    from prunefleet_shared import cli

CAMPAIGN = small_campaign()


@pytest.fixture
def run(tmp_path):
    total = Total(tuple(int(lane) for lane in random_vote(CAMPAIGN, 1)), 1)
    decision = decide(CAMPAIGN, total, 0)
    store = MemoryStore()
    store.save_document(CAMPAIGN.campaign_id, 0, sign_document("campaign", CAMPAIGN, KEY))
    closed = ClosedRound(SessionKind.VOTE, 0, "aa", total, ("d1",))
    snapshot = Snapshot(CAMPAIGN.campaign_id, Phase.RETRAINING, closed_rounds=(closed,), decisions=(decision,))
    store.save_closing(closed, snapshot, sign_document("decision", decision, KEY))
    write_run(tmp_path, store, CAMPAIGN.campaign_id)
    return tmp_path


def test_version(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"prunefleet {__version__}\n"


def test_a_run_that_agrees(run, capsys):
    assert cli.run(["coordinator", "replay", str(run)]) == 0
    assert "1 decision replayed, all agree" in capsys.readouterr().out


def test_json_for_machines(run, capsys):
    assert cli.run(["coordinator", "replay", str(run), "--json"]) == 0
    [decision] = json.loads(capsys.readouterr().out)
    assert (decision["path"], decision["level"]) == ("level-0/decision.json", 0)


def test_a_run_that_does_not_agree(run, capsys):
    path = run / "level-0" / "sum.json"
    path.write_text(path.read_text().replace('"num_devices": 1', '"num_devices": 2'))
    assert cli.run(["coordinator", "replay", str(run)]) == 6
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("prunefleet: ")
    assert "sum.json" in captured.err
    assert "Traceback" not in captured.err


def test_no_decisions_are_no_agreement(tmp_path, capsys):
    assert cli.run(["coordinator", "replay", str(tmp_path)]) == 5
    assert "found none" in capsys.readouterr().err
    assert cli.run(["coordinator", "replay", str(tmp_path / "nowhere")]) == 5


@pytest.mark.parametrize("arguments", [["nosuch"], ["coordinator", "replay"], ["coordinator", "replay", ".", "--no"]])
def test_wrong_usage(arguments, capsys):
    assert cli.run(arguments) == 2
    assert capsys.readouterr().err


def failing_with(error, monkeypatch):
    """Registers one command, ``fail``, that raises ``error``."""
    app = typer.Typer()

    @app.command()
    def fail():
        raise error

    class Registered(EntryPoint):
        def load(self):
            if isinstance(error, ImportError):
                raise error
            return app

    entry = Registered("fail", "nowhere:app", cli.COMMAND_GROUP)
    monkeypatch.setattr(cli.importlib.metadata, "entry_points", lambda **_: [entry])


@pytest.mark.parametrize(
    ("error", "exit_code", "words"),
    [
        (CarrierError("no answer", retryable=True), 4, "no answer"),
        (ValueError("oops"), 70, "ValueError: oops; this is a bug"),
        (KeyboardInterrupt(), 130, ""),
        (ImportError("No module named 'torch'"), 2, "install what it needs"),
    ],
)
def test_errors_become_one_sentence_and_an_exit_code(error, exit_code, words, monkeypatch, capsys):
    failing_with(error, monkeypatch)
    assert cli.run(["fail"]) == exit_code
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


def test_a_bug_shows_its_traceback_when_asked(monkeypatch, capsys):
    failing_with(ValueError("oops"), monkeypatch)
    assert cli.run(["--traceback", "fail"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_main_ends_the_process_with_the_exit_code():
    with pytest.raises(SystemExit) as ended:
        cli.main(["nosuch"])
    assert ended.value.code == 2
