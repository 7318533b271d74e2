"""A device's process against a real coordinator over mutual TLS, with real (small) training in its worker process."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odd_workers import SleepyWorker

from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_coordinator.runner import CoordinatorRunner
from prunefleet_coordinator.store import MemoryStore
from prunefleet_edge import device_process, policy
from prunefleet_edge.audit import read_audit
from prunefleet_edge.device_process import DeviceOptions, DeviceProcess, may_pass
from prunefleet_edge.dry_run import try_dry_run
from prunefleet_edge.local_work import LocalWork
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.network_file import load_kept, read_kept_info
from prunefleet_edge.policy import PrivacyPolicy
from prunefleet_edge.pruning import slim
from prunefleet_edge.ranking import masks_by_order
from prunefleet_edge.state_folder import StateFolder
from prunefleet_edge.status import is_fresh, read_status
from prunefleet_edge.work import load_base, save_weights
from prunefleet_edge.work_process import WorkSetup
from prunefleet_shared.campaign import PLAIN, SUM, SUM_DP, Campaign, CohortPolicy, Decision, PrivacyTerms
from prunefleet_shared.certificates import Authority, create_authority, issue
from prunefleet_shared.document_file import write_signed
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import (
    CarrierError,
    ConfigError,
    EgressError,
    InputError,
    LayoutError,
    PrunefleetError,
    RejectReason,
    reject,
)
from prunefleet_shared.grpc_link import GrpcLink
from prunefleet_shared.identity_folder import identity_from, save_identity
from prunefleet_shared.messages import (
    Awaited,
    CampaignEnded,
    CheckIn,
    ComeBack,
    Down,
    Ending,
    GetCampaign,
    Peer,
    Readiness,
    Role,
    Service,
    Up,
)
from prunefleet_shared.noise_terms import NoiseWish, make_noise_terms
from prunefleet_shared.testing import COORDINATOR_KEY, COORDINATOR_PUBLIC, TRAINER_KEY, TRAINER_PUBLIC
from prunefleet_trainer.campaign_files import describe_base, make_campaign
from prunefleet_trainer.runner import Retrained, SteeringSums, TrainerRunner

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer imports names that click 8.5 deprecates
    from prunefleet_shared.cli import run as run_command

SPEC = parse_spec("resnet8/1x8x8/4")
MAIN = "from prunefleet_shared.cli import main; main()"


def campaign_and_base() -> tuple[Campaign, bytes]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        files = describe_base(SPEC, build(SPEC))
    campaign = make_campaign(
        files,
        campaign_id="ab" * 16,
        device_class="camera",
        levels_permille=(500,),
        cohort=CohortPolicy(size=1, quorum=1, deadline_ms=60_000),
        decision_key=COORDINATOR_PUBLIC,
        slim_base_key=TRAINER_PUBLIC,
        privacy=PrivacyTerms(PLAIN, 1),
    )
    return campaign, files.weights


CAMPAIGN, BASE = campaign_and_base()


async def retrain(campaign: Campaign, decision: Decision, _sums: SteeringSums | None) -> Retrained:
    dense = load_base(campaign, BASE)
    return Retrained(save_weights(slim(dense, example_input(SPEC), masks_by_order(decision.prior, decision.widths))))


@dataclass
class Site:
    """A coordinator that can be told what to answer instead."""

    service: Service
    instead: Callable[[Up], Down | None] = lambda _message: None

    async def handle(self, peer: Peer, message: Up) -> Down:
        answer = self.instead(message)
        return await self.service.handle(peer, message) if answer is None else answer


@asynccontextmanager
async def site(*folders: Path) -> AsyncIterator[Site]:
    """A coordinator and a trainer, and a device's identity in each of ``folders``."""
    now = datetime.now(UTC)
    authority = create_authority(now)
    store = MemoryStore()
    store.save_blob(BASE)
    signed = sign_document("campaign", CAMPAIGN, COORDINATOR_KEY)
    ids = random.Random(1)
    coordinator = CoordinatorRunner(
        signed, COORDINATOR_KEY, store, store, time.monotonic, lambda: f"{ids.getrandbits(128):032x}", poll_s=0.5
    )
    place = Site(coordinator)
    server = await start_server(
        place, issue(authority, Role.COORDINATOR, "coordinator", now), clock=lambda: datetime.now(UTC)
    )
    for number, folder in enumerate(folders, 1):
        enrol(folder, authority, f"127.0.0.1:{server.port}", f"device-{number}")
    link = GrpcLink(f"127.0.0.1:{server.port}", issue(authority, Role.TRAINER, "trainer", now), timeout_s=30.0)
    trainer = TrainerRunner(
        link, CAMPAIGN.campaign_id, operator_keys=lambda: [COORDINATOR_PUBLIC], signing_key=TRAINER_KEY, retrain=retrain
    )
    tasks = [asyncio.create_task(coordinator.run()), asyncio.create_task(trainer.run())]
    try:
        yield place
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await link.close()
        await server.stop(0.1)


def enrol(folder: Path, authority: Authority, address: str, name: str = "device-1") -> None:
    folder.mkdir(exist_ok=True)
    identity = identity_from(
        issue(authority, Role.DEVICE, name, datetime.now(UTC)),
        operator_keys=(COORDINATOR_PUBLIC,),
        coordinator_address=address,
        authority_address=address,
        device_class="camera",
    )
    save_identity(folder, identity)


@pytest.fixture
def data(tmp_path: Path) -> str:
    rng = np.random.default_rng(4)
    np.savez(tmp_path / "data.npz", x=rng.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8), y=np.arange(24) % 4)
    return f"npz:{tmp_path / 'data.npz'}"


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    (tmp_path / "state").mkdir()
    return StateFolder(tmp_path / "state")


def options(source: str, *, is_once: bool = True) -> DeviceOptions:
    return DeviceOptions(source, "", "digits", 1, PrivacyPolicy(), is_once=is_once)


def test_a_whole_campaign_then_a_restart_and_a_dry_run(
    state: StateFolder, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    async def play() -> None:
        async with site(state.path):
            assert await DeviceProcess(state, options(data), told.append).run() is Ending.COMPLETED
            assert await DeviceProcess(state, options(data), told.append).run() is Ending.COMPLETED

    asyncio.run(play())
    entries = list(read_audit(state.path))
    contributions = [entry for entry in entries if entry.kind == "Contribute"]
    assert len(contributions) == 2, "one vote, one outcome, and none of them again after the restart"
    assert read_status(state.status).pid == 0

    info = read_kept_info(state.kept / "level-0.safetensors")
    assert info.cost <= CAMPAIGN.levels[0].budget
    assert load_kept(state.kept / "level-0.safetensors")(example_input(SPEC)).shape == (2, 4)

    for command in (["status"], ["audit", "--expect", entries[3].hash]):
        assert run_command(["edge", *command, "--state", str(state.path)]) == 0
    text = capsys.readouterr().out
    assert "device-1 (class camera): not running" in text
    assert f"{info.cost_permille} / 1000" in text
    assert "vote in campaign abababababab" in text

    assert (
        run_command(["edge", "dry-run", "--data", data, "--preset", "digits", "--state", str(state.path), "--json"])
        == 0
    )
    would = json.loads(capsys.readouterr().out)
    assert would["payload_sha256"] == contributions[0].digest, "what it says it would send is what it did send"


def is_busy(message: Up) -> bool:
    return isinstance(message, CheckIn) and message.readiness is Readiness.BUSY


def test_a_stop_by_the_operator_ends_the_training_within_seconds(
    state: StateFolder, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker sleeps in place of training; once the coordinator says stop, its process is gone within seconds."""
    pids: list[int] = []

    async def play() -> float:
        async with site(state.path) as place:
            stopped_at = 0.0

            def stop(message: Up) -> Down | None:
                nonlocal stopped_at
                if not is_busy(message):
                    return None
                stopped_at = stopped_at or time.monotonic()
                pids[:] = [child.pid or 0 for child in multiprocessing.active_children()]
                return CampaignEnded(Ending.STOPPED)

            place.instead = stop
            monkeypatch.setattr(device_process, "LocalWork", sleepy_work)
            ending = await DeviceProcess(state, options(data), lambda words: None).run()
            assert ending is Ending.STOPPED
            return time.monotonic() - stopped_at

    assert asyncio.run(play()) < 3.0
    assert len(pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def sleepy_work(setup: WorkSetup, **rest: Any) -> LocalWork:
    return LocalWork(setup, make_worker=SleepyWorker, **rest)


@pytest.mark.parametrize("is_once", [True, False])
def test_bad_data_ends_it_before_anything_is_sent(state: StateFolder, tmp_path: Path, is_once: bool) -> None:
    np.savez(tmp_path / "few.npz", x=np.zeros((3, 8, 8, 1), dtype=np.uint8), y=np.arange(3))

    async def play() -> None:
        async with site(state.path):
            with pytest.raises(InputError, match="at least 8 images"):
                await DeviceProcess(state, options(f"npz:{tmp_path / 'few.npz'}", is_once=is_once), print).run()

    asyncio.run(play())
    assert list(read_audit(state.path)) == []
    assert "at least 8 images" in read_status(state.status).last_error


def test_data_that_does_not_fit_the_network_ends_it_before_it_checks_in(state: StateFolder, tmp_path: Path) -> None:
    np.savez(tmp_path / "big.npz", x=np.zeros((9, 9, 9, 1), dtype=np.uint8), y=np.arange(9) % 4)

    async def play() -> None:
        async with site(state.path):
            with pytest.raises(InputError, match="expected images of 8x8x1"):
                await DeviceProcess(state, options(f"npz:{tmp_path / 'big.npz'}"), print).run()

    asyncio.run(play())
    assert {entry.kind for entry in read_audit(state.path)} == {"GetCampaign", "FetchModel"}


def test_without_consent_nothing_but_the_question_is_sent(
    state: StateFolder, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "is_loopback", lambda address: False)

    async def play() -> None:
        async with site(state.path):
            with pytest.raises(ConfigError, match="not private"):
                await DeviceProcess(state, options(data, is_once=False), print).run()

    asyncio.run(play())
    assert [entry.kind for entry in read_audit(state.path)] == ["GetCampaign"]


def test_what_may_pass_is_tried_again_and_what_a_person_must_mend_ends_it() -> None:
    passing = [InputError("x"), LayoutError("x"), PrunefleetError("worker bug"), reject(RejectReason.BAD_SIGNATURE)]
    lasting = [ConfigError("x"), EgressError("x"), CarrierError("x", retryable=False), reject(RejectReason.REVOKED)]
    assert [may_pass(error) for error in passing] == [True] * 4
    assert [may_pass(error) for error in lasting] == [False] * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(state: StateFolder, data: str, number: signal.Signals) -> None:
    """As a service manager, or a person at a terminal, would: no campaign runs, the device waits."""

    async def play() -> tuple[int | None, str]:
        async with site(state.path) as place:
            waiting = asyncio.Event()

            def wait(message: Up) -> Down | None:
                if not isinstance(message, GetCampaign):
                    return None
                waiting.set()
                return ComeBack(60_000, Awaited.OPERATOR)

            place.instead = wait
            command = ["-c", MAIN, "edge", "run", "--data", data, "--state", str(state.path)]
            process = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.PIPE)
            async with asyncio.timeout(30.0):
                await waiting.wait()
                while "no campaign" not in read_status(state.status).words:
                    await asyncio.sleep(0.01)
                assert is_fresh(read_status(state.status), datetime.now(UTC))
                process.send_signal(number)
                _, said = await process.communicate()
            return process.returncode, said.decode()

    exit_code, said = asyncio.run(play())
    assert exit_code == (0 if number is signal.SIGTERM else 130), said
    assert "Traceback" not in said
    assert "no campaign runs for this class" in said
    assert read_status(state.status).pid == 0
    assert not is_fresh(read_status(state.status), datetime.now(UTC))
    assert [entry.kind for entry in read_audit(state.path)] == ["GetCampaign"]


@pytest.mark.parametrize("mode", [PLAIN, SUM, SUM_DP])
def test_a_dry_run_opens_no_socket_and_says_how_the_vote_would_leave(
    state: StateFolder,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: str,
) -> None:
    cohort = replace(CAMPAIGN.cohort, size=5, quorum=3)
    noise = make_noise_terms(CAMPAIGN.layout, 1, NoiseWish(8000, 6)) if mode == SUM_DP else None
    privacy = CAMPAIGN.privacy if mode == PLAIN else PrivacyTerms(mode, 3, noise)
    campaign = replace(CAMPAIGN, privacy=privacy, cohort=cohort)
    write_signed(tmp_path / "campaign.json", sign_document("campaign", campaign, COORDINATOR_KEY))
    (tmp_path / "base.safetensors").write_bytes(BASE)
    before = sorted(tmp_path.rglob("*"))

    def forbidden(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a dry run opened a socket")

    monkeypatch.setattr(socket.socket, "__init__", forbidden)
    monkeypatch.setattr(socket, "socketpair", forbidden)
    command = ["edge", "dry-run", "--data", data, "--campaign", str(tmp_path), "--preset", "digits"]
    assert run_command([*command, "--state", str(state.path)]) == 0
    text = capsys.readouterr().out
    assert "NOTHING WAS SENT" in text
    assert "has not joined a fleet yet" in text
    for kind in ("GetCampaign", "FetchModel", "CheckIn"):
        assert f"  {kind}: " in text
    assert ("  Contribute: " in text) == (mode == PLAIN)
    masked_bytes = sum(block.length * (5 * block.clip).bit_length() for block in CAMPAIGN.vote_lanes.blocks) + 7
    told = {
        PLAIN: "The vote leaves as it is: in privacy mode plain the coordinator sees it.",
        SUM: f"but under masks that come off only in the sum of 3 to 5 devices: {masked_bytes // 8} bytes that",
        SUM_DP: "but after noise was added (epsilon 8 per campaign) and under masks that come off only in the sum",
    }
    assert told.pop(mode) in text
    assert not any(words in text for words in told.values())
    for block in CAMPAIGN.vote_lanes.blocks:
        assert f"  {block.name}: " in text
    assert sorted(tmp_path.rglob("*")) == before, "it left nothing behind"


def test_a_dry_run_refuses_what_a_device_would_refuse(state: StateFolder, data: str, tmp_path: Path) -> None:
    enrol(state.path, create_authority(datetime.now(UTC)), "127.0.0.1:1")
    write_signed(tmp_path / "campaign.json", sign_document("campaign", CAMPAIGN, TRAINER_KEY))
    with pytest.raises(ConfigError, match="none of this fleet's operators"):
        try_dry_run(state, data, tmp_path, "digits")
    write_signed(tmp_path / "campaign.json", sign_document("campaign", CAMPAIGN, COORDINATOR_KEY))
    (tmp_path / "base.safetensors").write_bytes(BASE[:-1])
    with pytest.raises(InputError, match="expected the base model"):
        try_dry_run(state, data, tmp_path, "digits")
    with pytest.raises(ConfigError, match="no campaign yet"):
        try_dry_run(state, data, None, "digits")


@pytest.mark.parametrize("command", [["edge", "--help"], ["edge", "status"], ["edge", "audit"], ["edge", "join"]])
def test_commands_that_do_not_train_do_not_wait_for_torch(command: list[str], tmp_path: Path) -> None:
    script = (
        "import sys, prunefleet_shared.cli as c; c.run(sys.argv[1:]); "
        "sys.exit(sorted(m for m in ('torch', 'safetensors', 'PIL') if m in sys.modules) or 0)"
    )
    arguments = command if "--help" in command else [*command, "--state", str(tmp_path)]
    environment = {name: text for name, text in os.environ.items() if name != "PRUNEFLEET_TOKEN"}
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=environment, capture_output=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
