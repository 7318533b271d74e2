"""Devices' processes in a campaign of mode sum, over mutual TLS, each with its policy, store and audit; no training."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sum_fleet import CAMPAIGN as SUM_CAMPAIGN
from sum_fleet import STAGES

from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_coordinator.runner import CoordinatorRunner
from prunefleet_coordinator.store import MemoryStore
from prunefleet_edge import device_process
from prunefleet_edge.audit import read_audit
from prunefleet_edge.device import Vote
from prunefleet_edge.device_process import DeviceOptions, DeviceProcess
from prunefleet_edge.policy import PrivacyPolicy
from prunefleet_edge.state_folder import StateFolder
from prunefleet_edge.store import SqliteDeviceStore
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.grpc_link import GrpcLink
from prunefleet_shared.identity_folder import identity_from, save_identity
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import Ending, Role
from prunefleet_shared.metrics import Outcome
from prunefleet_shared.secure_sum.roster import Members
from prunefleet_shared.testing import COORDINATOR_KEY, COORDINATOR_PUBLIC, TINY_BASE, TRAINER_KEY
from prunefleet_trainer.runner import Retrained, SteeringSums, TrainerRunner

NAMES = ("hall", "kitchen", "porch")
COHORT = replace(SUM_CAMPAIGN.cohort, size=len(NAMES))
CAMPAIGN = replace(SUM_CAMPAIGN, model="resnet8/1x8x8/4", levels=SUM_CAMPAIGN.levels[:1], cohort=COHORT)


class QuickWork:
    """In place of a worker process: the same vote and outcome at once."""

    def __init__(self, _setup: object, **_rest: object) -> None:
        pass

    async def examine(self) -> tuple[Path, ...]:
        return ()

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        return campaign.layout.fingerprint()

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        grades_C = grade_layout(campaign.layout, np.random.default_rng(1).random(campaign.layout.num_channels))
        return Vote(grades_C, np.zeros((len(campaign.levels), len(campaign.layout.groups)), dtype=np.int64))

    async def personalise(
        self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None
    ) -> Outcome:
        return Outcome(finished=False)

    def close(self) -> None:
        pass


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[None]:
    """A coordinator and a trainer; each device's identity in a folder of its name."""
    now = datetime.now(UTC)
    authority, store, ids = create_authority(now), MemoryStore(), random.Random(1)
    store.save_blob(TINY_BASE)
    coordinator = CoordinatorRunner(
        sign_document("campaign", CAMPAIGN, COORDINATOR_KEY),
        COORDINATOR_KEY,
        store,
        store,
        time.monotonic,
        lambda: f"{ids.getrandbits(128):032x}",
        members=Members(authority.cert_pem, lambda: datetime.now(UTC)),
        poll_s=0.5,
    )
    credentials = issue(authority, Role.COORDINATOR, "coordinator", now)
    server = await start_server(coordinator, credentials, clock=lambda: datetime.now(UTC))
    address = f"127.0.0.1:{server.port}"
    for name in NAMES:
        (folder / name).mkdir()
        identity = identity_from(
            issue(authority, Role.DEVICE, name, now),
            operator_keys=(COORDINATOR_PUBLIC,),
            coordinator_address=address,
            authority_address=address,
            device_class="camera",
        )
        save_identity(folder / name, identity)

    async def retrain(_campaign: Campaign, _decision: Decision, _sums: SteeringSums | None) -> Retrained:
        return Retrained(b"a slim base")

    link = GrpcLink(address, issue(authority, Role.TRAINER, "trainer", now), timeout_s=30.0)
    keys, key = [COORDINATOR_PUBLIC], TRAINER_KEY
    trainer = TrainerRunner(link, CAMPAIGN.campaign_id, operator_keys=lambda: keys, signing_key=key, retrain=retrain)
    tasks = [asyncio.create_task(coordinator.run()), asyncio.create_task(trainer.run())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await link.close()
        await server.stop(0.1)


@pytest.fixture(autouse=True)
def quick_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_process, "LocalWork", QuickWork)


def device(folder: Path, privacy: PrivacyPolicy) -> DeviceProcess:
    options = DeviceOptions("folder", "", "digits", 1, privacy, is_once=True)
    return DeviceProcess(StateFolder(folder), options, lambda _words: None)


def test_three_devices_sum_in_private_and_remember_with_whom(tmp_path: Path) -> None:
    async def play() -> list[Ending]:
        async with site(tmp_path):
            devices = [device(tmp_path / name, PrivacyPolicy(min_devices=3)) for name in NAMES]
            return await asyncio.gather(*(each.run() for each in devices))

    assert asyncio.run(play()) == [Ending.COMPLETED] * 3
    for name in NAMES:
        kinds = Counter(entry.kind for entry in read_audit(tmp_path / name))
        assert all(kinds[stage] >= 2 for stage in STAGES if stage != "FetchCertificates"), "a vote and an outcome"
        assert kinds["FetchCertificates"] == 1, "peers are known after the first session"
        store = SqliteDeviceStore(StateFolder(tmp_path / name).store)
        assert store.releases() == (frozenset(NAMES),)
        store.close()


def test_an_owner_who_wants_more_devices_than_the_campaign_asks_for_says_nothing(tmp_path: Path) -> None:
    async def play() -> None:
        async with site(tmp_path):
            with pytest.raises(ConfigError, match="as few as 3 devices, and this device's owner wants 8"):
                await device(tmp_path / NAMES[0], PrivacyPolicy()).run()

    asyncio.run(play())
    assert [entry.kind for entry in read_audit(tmp_path / NAMES[0])] == ["GetCampaign"]
