"""A device whose work is cheap, to be killed: real round, store, audit, egress and line, in a process of its own.

Usage: ``python killable_device.py STATE_FOLDER``. Its votes and outcomes are drawn anew whenever they are asked for, so
that a device which forgot what it said says something else.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path

import numpy as np

from prunefleet_edge.audit import AuditLog
from prunefleet_edge.backoff import RetryPolicy
from prunefleet_edge.device import Vote
from prunefleet_edge.egress import Egress
from prunefleet_edge.model_cache import FolderCache
from prunefleet_edge.runner import DeviceRunner
from prunefleet_edge.state_folder import StateFolder
from prunefleet_edge.store import SqliteDeviceStore
from prunefleet_edge.verified_link import LinkLimits
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.member_link import MemberLink
from prunefleet_shared.messages import Role
from prunefleet_shared.metrics import Outcome

RNG = random.SystemRandom()
LIMITS = LinkLimits(retries=RetryPolicy(first_s=0.05, max_s=0.2))


class CheapWork:
    """Chance in place of training."""

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        return campaign.layout.fingerprint()

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        await asyncio.sleep(RNG.uniform(0.0, 0.02))
        options = [[RNG.randrange(8) for _ in campaign.layout.groups] for _ in campaign.levels]
        scores = [RNG.random() for _ in range(campaign.layout.num_channels)]
        return Vote(grade_layout(campaign.layout, scores), np.asarray(options, dtype=np.int64))

    async def personalise(
        self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None
    ) -> Outcome:
        await asyncio.sleep(RNG.uniform(0.0, 0.02))
        return Outcome(True, RNG.random() < 0.5, RNG.uniform(-1.0, 1.0), RNG.uniform(0.01, 2.0))


async def main(folder: StateFolder) -> None:
    store = SqliteDeviceStore(folder.store)
    audit = AuditLog(folder.path, max_file_bytes=20_000)
    link = MemberLink(folder.path, Role.DEVICE, timeout_s=5.0)
    while True:
        runner = DeviceRunner(
            Egress(link, audit=audit.append),
            CheapWork(),
            store,
            device_class=link.identity.device_class,
            operator_keys=link.identity.operator_keys,
            clock=time.monotonic,
            sleep=asyncio.sleep,
            rng=RNG,
            on_state=lambda words: None,
            limits=LIMITS,
            cache=FolderCache(folder.cache),
        )
        await runner.run()
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(StateFolder(Path(sys.argv[1]))))
