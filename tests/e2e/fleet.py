"""The real thing: a fleet in containers decides, retrains and measures two levels while parts of it are killed.

    make e2e

Builds both images, starts everything in docker-compose.yml with ten edges, kills one edge and the coordinator in the
middle of the campaign, and then checks what a user would: that the decisions replay on this machine, that outcomes were
counted, that every live edge holds a slim network and kept its identity, that a device's audit is whole, that a revoked
device is refused, and that the coordinator's image has no torch. Writes the campaign's report and all logs to
``runs-e2e/``. Exit codes: 0 all true, 1 something is not, 3 a prerequisite is missing (it says which).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from engine import EXIT_MISSING, ROOT, Compose, MissingPrerequisite, find_compose

EDGES = int(os.environ.get("EDGES", "10"))
OUT = ROOT / "runs-e2e"
PRUNEFLEET = Path(sys.executable).with_name("prunefleet")
CAMPAIGN_TIMEOUT_S = 20 * 60.0
STATE = "/state/$HOSTNAME"
LAST_LEVEL_PERMILLE = 200
_STARTED_S = time.monotonic()


def say(text: str) -> None:
    """One line of progress, with the time since the start."""
    seconds = time.monotonic() - _STARTED_S
    sys.stderr.write(f"[{int(seconds) // 60:2d}:{int(seconds) % 60:02d}] {text}\n")
    sys.stderr.flush()


@contextmanager
def step(text: str) -> Iterator[None]:
    """A step with the time it took."""
    say(f"{text} …")
    began_s = time.monotonic()
    yield
    say(f"{text}: done in {time.monotonic() - began_s:.0f} s")


def check(is_true: bool, what: str) -> None:
    """Say what holds, and stop where it does not."""
    say(f"{'ok  ' if is_true else 'FAIL'} {what}")
    if not is_true:
        raise SystemExit(1)


def wait_for(what: str, ask: Callable[[], Any], timeout_s: float, every_s: float = 3.0) -> Any:
    """The first true answer of ``ask``; exits with 1 when there is none in time."""
    give_up_s = time.monotonic() + timeout_s
    while time.monotonic() < give_up_s:
        answer = ask()
        if answer:
            return answer
        time.sleep(every_s)
    check(False, f"{what} within {timeout_s:.0f} s")
    return None


class Fleet:
    """The fleet in containers, as its operator and its owners see it."""

    def __init__(self, compose: Compose) -> None:
        self.compose = compose
        self._shown = ""

    def operator(self, *arguments: str) -> str:
        """A command of the operator's, in a container of its own."""
        command = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "prunefleet", "operator", *arguments)
        return self.compose.run(*command, timeout_s=120)

    def edge(self, container: str, *arguments: str, is_checked: bool = True) -> str:
        """A command on a device, with its own state."""
        command = f'prunefleet edge {" ".join(arguments)} --state "{STATE}"'
        return self.compose.docker("exec", container, "sh", "-c", command, check=is_checked)

    def status(self) -> dict[str, Any]:
        """The campaign's status; empty while there is none, or while the coordinator is away."""
        try:
            campaigns = json.loads(self.operator("campaign", "status", "--json"))["campaigns"]
        except (RuntimeError, json.JSONDecodeError):
            return {}
        status: dict[str, Any] = campaigns[0] if campaigns else {}
        shown = f"{status.get('phase')} level {status.get('level')}, {status.get('num_contributions')} contributions"
        if shown != self._shown:
            say(f"campaign: {shown}")
            self._shown = shown
        return status

    def is_in(self, phase: str, level: int = 0) -> Callable[[], bool]:
        """Whether the campaign is in ``phase`` at ``level``, or past it."""
        order = ["voting", "retraining", "measuring"]

        def ask() -> bool:
            status = self.status()
            now = str(status.get("phase", "")).lower()
            if now in {"failed", "stopped"}:
                check(False, f"the campaign goes on (it is {now})")
            reached = now in order and (status["level"], order.index(now)) >= (level, order.index(phase))
            return now == "completed" or reached

        return ask

    def edge_status(self, container: str) -> dict[str, Any]:
        """What a device says of itself; empty while it says nothing."""
        try:
            status: dict[str, Any] = json.loads(self.edge(container, "status", "--json"))
        except (RuntimeError, json.JSONDecodeError):
            return {}
        return status


def start(fleet: Fleet) -> None:
    """Images and containers, until every device is at work."""
    with step("building the images"):
        fleet.compose.run("build", timeout_s=1800)
    with step(f"starting authority, coordinator, trainer, operator and {EDGES} edges"):
        fleet.compose.run("up", "-d", "--scale", f"edge={EDGES}", timeout_s=900)
    edges = fleet.compose.containers("edge")
    check(len(edges) == EDGES, f"{EDGES} edges run")


def kill_and_restart(fleet: Fleet) -> str:
    """SIGKILL to one edge and to the coordinator in the middle of the campaign; the edge's container."""
    wait_for("devices measuring the first decision", fleet.is_in("measuring"), CAMPAIGN_TIMEOUT_S)
    victim = fleet.compose.containers("edge")[0]
    before = fleet.edge_status(victim)["name"]
    coordinator = fleet.compose.containers("coordinator")[0]
    with step("killing one edge and the coordinator, and starting them again"):
        fleet.compose.docker("kill", "-s", "KILL", victim, coordinator)
        time.sleep(3)
        fleet.compose.docker("start", coordinator)
        fleet.compose.docker("start", victim)
    status = wait_for("the killed edge is back", lambda: fleet.edge_status(victim), 120)
    check(status["name"] == before, f"the killed edge is still {before}")
    return victim


def finish(fleet: Fleet) -> None:
    """Wait for the campaign's end and collect what came of it."""

    def is_over() -> bool:
        return str(fleet.status().get("phase", "")).lower() in {"completed", "failed", "stopped"}

    with step("waiting for the campaign to end"):
        wait_for("the campaign's end", is_over, CAMPAIGN_TIMEOUT_S)
    check(str(fleet.status()["phase"]).lower() == "completed", "the campaign is completed")
    coordinator = fleet.compose.containers("coordinator")[0]
    fleet.compose.docker("exec", coordinator, "prunefleet", "coordinator", "export", "--out", "/runs/e2e")
    fleet.compose.docker("cp", f"{coordinator}:/runs/e2e/.", str(OUT))
    report = next(OUT.rglob("report.json"))
    _on_this_machine("report", str(report))


def check_decisions() -> None:
    """The decisions follow from the stored sums, and devices were counted."""
    decisions = json.loads(_on_this_machine("coordinator", "replay", str(OUT), "--json"))
    check(len(decisions) == 2, "two decisions replay on this machine, bit for bit")
    report = json.loads(next(OUT.rglob("report.json")).read_text())
    check(not report.get("arms") and not report.get("devices"), "the report tells of no arm and of no device")
    outcomes = [entry["outcome"] for entry in report["rounds"]]
    counts = [(outcome["tried"], outcome["finished"]) for outcome in outcomes]
    is_counted = len(counts) == 2 and all(tried > 0 and finished > 0 for tried, finished in counts)
    check(is_counted, f"outcomes were counted: {counts} (tried, finished)")


def check_edges(fleet: Fleet) -> None:
    """Every live device holds a slim network, and its owner can read what left it."""
    for container in fleet.compose.containers("edge"):
        kept = fleet.edge_status(container).get("kept") or {}
        permille = kept.get("cost_permille")
        is_slim = permille is not None and permille <= LAST_LEVEL_PERMILLE
        check(is_slim, f"{container[:12]} holds a slim network: {permille} / 1000 of the dense cost")
    audit = fleet.edge(fleet.compose.containers("edge")[-1], "audit", "--last", "5")
    sys.stderr.write(audit)
    check("The chain is whole" in audit, "a device's audit is whole")


def check_revocation(fleet: Fleet) -> None:
    """A revoked device is refused within seconds, and says why to its owner."""
    victim = fleet.compose.containers("edge")[-1]
    name = fleet.edge_status(victim)["name"]
    fleet.operator("fleet", "revoke", name)

    def is_refused() -> bool:
        return "REVOKED" in fleet.compose.logs(victim)

    wait_for(f"{name} is refused after it was revoked", is_refused, 120)
    check(True, f"{name} is refused after it was revoked")


def check_images(fleet: Fleet) -> None:
    """What the coordinator cannot do, it cannot leak."""
    command = ("run", "--rm", "--entrypoint", "python", "prunefleet-coordinator", "-c", "import torch")
    try:
        fleet.compose.docker(*command)
        has_torch = True
    except RuntimeError as error:
        has_torch = "ModuleNotFoundError" not in str(error)
    check(not has_torch, "`import torch` fails in the coordinator's image")
    images = ("prunefleet-coordinator", "prunefleet-edge")
    users = [fleet.compose.docker("inspect", "-f", "{{.Config.User}}", image) for image in images]
    check(all(user.strip() not in ("", "root", "0") for user in users), "no image runs as root")


def _on_this_machine(*arguments: str) -> str:
    done = subprocess.run([str(PRUNEFLEET), *arguments], capture_output=True, text=True, timeout=300, check=False)
    check(done.returncode == 0, f"prunefleet {' '.join(arguments[:2])} … on this machine {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    """Run it all; the fleet is taken down whatever happens, unless ``KEEP`` is set."""
    try:
        fleet = Fleet(find_compose("prunefleet-e2e"))
    except MissingPrerequisite as error:
        sys.stderr.write(f"make e2e: {error}\n")
        return EXIT_MISSING
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    fleet.compose.run("down", "-v", "--remove-orphans", timeout_s=300)
    try:
        start(fleet)
        kill_and_restart(fleet)
        finish(fleet)
        check_decisions()
        check_edges(fleet)
        check_revocation(fleet)
        check_images(fleet)
    finally:
        logs = fleet.compose.run("logs", "--no-color", "--timestamps", check=False, timeout_s=120)
        (OUT / "logs.txt").write_text(logs)
        if not os.environ.get("KEEP"):
            fleet.compose.run("down", "-v", "--remove-orphans", check=False, timeout_s=300)
    say(f"all true; the report is {next(OUT.rglob('report.html')).relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
