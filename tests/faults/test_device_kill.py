"""A real device process, killed at random moments over several campaigns by SIGKILL.

It fails when the device says two different things in one round, speaks to two sessions of one attempt, speaks in a
round after a later one had begun, sends what is not in its audit, breaks its audit's chain, or when a campaign does not
complete. That a vote is computed twice is no failure, as long as only one of them ever left.

Not repeatable: where in its work a process dies is up to the machine. The moments are drawn from the seed in the
test's name: some after a number of messages, to the millisecond around saving and sending, others at any time.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_coordinator.runner import CoordinatorRunner
from prunefleet_coordinator.store import MemoryStore
from prunefleet_edge.audit import AuditEntry, audit_files, read_audit
from prunefleet_edge.device import Vote
from prunefleet_edge.device_state import round_key
from prunefleet_edge.egress import vote_vector
from prunefleet_shared.campaign import Campaign, CohortPolicy, Decision
from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.documents import digest, open_document, sign_document
from prunefleet_shared.errors import RemoteProtocolError
from prunefleet_shared.identity_folder import identity_from, save_identity
from prunefleet_shared.lanes import pack
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import (
    AwaitDecision,
    Awaited,
    CheckIn,
    ComeBack,
    Contribute,
    DecisionOffer,
    Down,
    GetCampaign,
    Invitation,
    Peer,
    Phase,
    PublishSlimBase,
    Readiness,
    Role,
    SessionKind,
    Up,
    UploadModel,
)
from prunefleet_shared.metrics import OUTCOME_LANES, Outcome, outcome_vector
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    COORDINATOR_PUBLIC,
    TINY_BASE,
    TRAINER_KEY,
    tiny_campaign,
    tiny_slim_base,
)

NUM_KILLS = int(os.environ.get("PRUNEFLEET_KILLS", "25"))
MIN_CAMPAIGNS = 3
GIVE_UP_S = 60.0 + 4.0 * NUM_KILLS
TRAINER, COMPANION = Peer("trainer", Role.TRAINER), Peer("device-2", Role.DEVICE)


@dataclass
class Site:
    """Campaigns, one after the other, for one device; remembers all that it heard."""

    seed: int
    wants_more: bool = True
    store: MemoryStore = field(default_factory=MemoryStore)
    campaigns: dict[str, CoordinatorRunner] = field(default_factory=dict)
    of_session: dict[str, tuple[str, Invitation]] = field(default_factory=dict)
    said: list[tuple[str, Invitation, bytes]] = field(default_factory=list)
    num_messages: int = 0
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def handle(self, peer: Peer, message: Up) -> Down:
        self.num_messages += 1
        self.heard.set()
        match message:
            case GetCampaign():
                current = self._current()
                return ComeBack(100, Awaited.OPERATOR) if current is None else await current.handle(peer, message)
            case CheckIn(campaign_id):
                answer = await self.campaigns[campaign_id].handle(peer, message)
                if isinstance(answer, Invitation):
                    self.of_session[answer.session_id] = campaign_id, answer
                return answer
            case Contribute(session_id, payload):
                campaign_id, invitation = self.of_session[session_id]
                self.said.append((campaign_id, invitation, payload))
                self.heard.set()
                await asyncio.sleep(0.01)  # the line's delay: time to die between sending and being answered
                return await self.campaigns[campaign_id].handle(peer, message)
            case _:
                return await next(iter(self.campaigns.values())).handle(peer, message)

    @property
    def num_completed(self) -> int:
        return sum(runner.progress.phase is Phase.COMPLETED for runner in self.campaigns.values())

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when ``condition`` holds; it is looked at after every message, and now and then."""
        while not condition():
            self.check_tasks()
            self.heard.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.heard.wait(), 0.5)

    def check_tasks(self) -> None:
        """Raise what a trainer, a companion or a coordinator of ours died of."""
        for task in self.tasks:
            if task.done():
                task.result()

    @property
    def all_ended(self) -> bool:
        return all(runner.has_ended for runner in self.campaigns.values())

    def _current(self) -> CoordinatorRunner | None:
        running = [runner for runner in self.campaigns.values() if not runner.has_ended]
        if running or not self.wants_more:
            return running[0] if running else None
        number = len(self.campaigns) + 1
        # Without the companion there is no quorum: rounds that the device has spoken in get more attempts.
        cohort = CohortPolicy(size=2, quorum=2, deadline_ms=400, max_attempts=1000)
        campaign = tiny_campaign(campaign_id=f"{number:032x}", cohort=cohort)
        return self._start(campaign)

    def _start(self, campaign: Campaign) -> CoordinatorRunner:
        ids = random.Random(f"{self.seed}/{campaign.campaign_id}")
        self.store.save_blob(TINY_BASE)
        signed = sign_document("campaign", campaign, COORDINATOR_KEY)
        runner = CoordinatorRunner(
            signed,
            COORDINATOR_KEY,
            self.store,
            self.store,
            time.monotonic,
            lambda: f"{ids.getrandbits(128):032x}",
            poll_s=0.1,
        )
        self.campaigns[campaign.campaign_id] = runner
        self.tasks += [asyncio.create_task(runner.run()), asyncio.create_task(self._train(campaign, runner))]
        self.tasks.append(asyncio.create_task(self._accompany(campaign, runner)))
        return runner

    async def _train(self, campaign: Campaign, runner: CoordinatorRunner) -> None:
        while not runner.has_ended:
            offer = await runner.handle(TRAINER, AwaitDecision(campaign.campaign_id))
            if isinstance(offer, DecisionOffer):
                decision = open_document(offer.decision, "decision", Decision, COORDINATOR_PUBLIC)
                slim_base, model = tiny_slim_base(decision)
                await runner.handle(TRAINER, UploadModel(slim_base.model_digest, 0, len(model), model))
                await runner.handle(TRAINER, PublishSlimBase(sign_document("slim_base", slim_base, TRAINER_KEY)))

    async def _accompany(self, campaign: Campaign, runner: CoordinatorRunner) -> None:
        """Another device, that leaves two of five sessions in the lurch."""
        rng, answered = random.Random(self.seed), set[str]()
        check_in = CheckIn(campaign.campaign_id, campaign.layout.fingerprint(), Readiness.READY)
        while not runner.has_ended:
            answer = await runner.handle(COMPANION, check_in)
            await asyncio.sleep(rng.uniform(0.01, 0.05))
            if isinstance(answer, Invitation) and answer.session_id not in answered:
                answered.add(answer.session_id)
                if rng.random() < 0.6:
                    with suppress(RemoteProtocolError):  # late
                        await runner.handle(COMPANION, Contribute(answer.session_id, companion_says(campaign, answer)))


def companion_says(campaign: Campaign, to: Invitation) -> bytes:
    if to.kind is SessionKind.OUTCOME:
        return pack(OUTCOME_LANES, outcome_vector(Outcome(finished=False)))
    grades_C = grade_layout(campaign.layout, range(campaign.layout.num_channels))
    options_LG = np.zeros((len(campaign.levels), len(campaign.layout.groups)), dtype=np.int64)
    return pack(campaign.vote_lanes, vote_vector(campaign, Vote(grades_C, options_LG)))


async def start_device(folder: Path) -> asyncio.subprocess.Process:
    script = Path(__file__).with_name("killable_device.py")
    return await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(folder), stderr=asyncio.subprocess.PIPE
    )


async def kill_at_some_moment(site: Site, process: asyncio.subprocess.Process, rng: random.Random) -> None:
    """SIGKILL: while a contribution is under way, some milliseconds after a few messages, or at any moment."""
    how = rng.choice(["contribution", "contribution", "messages", "messages", "time"])
    if how == "time":
        await asyncio.sleep(rng.uniform(0.0, 1.0))
    elif how == "contribution":
        target = len(site.said) + 1
        await site.wait_until(lambda: len(site.said) >= target or process.returncode is not None)
    else:
        target = site.num_messages + rng.randint(1, 8)
        await site.wait_until(lambda: site.num_messages >= target or process.returncode is not None)
        await asyncio.sleep(rng.uniform(0.0, 0.015))
    assert process.returncode is None, (await process.communicate())[1].decode()
    process.send_signal(signal.SIGKILL)
    await process.communicate()


async def play(folder: Path, site: Site, num_kills: int) -> None:
    now, rng = datetime.now(UTC), random.Random(site.seed)
    authority = create_authority(now)
    server = await start_server(
        site, issue(authority, Role.COORDINATOR, "coordinator", now), clock=lambda: datetime.now(UTC)
    )
    address = f"127.0.0.1:{server.port}"
    identity = identity_from(
        issue(authority, Role.DEVICE, "device-1", now),
        operator_keys=(COORDINATOR_PUBLIC,),
        coordinator_address=address,
        authority_address=address,
        device_class="camera",
    )
    save_identity(folder, identity)
    async with asyncio.timeout(GIVE_UP_S):
        for _ in range(num_kills):
            await kill_at_some_moment(site, await start_device(folder), rng)
        process = await start_device(folder)
        while site.num_completed < MIN_CAMPAIGNS or (not site.all_ended):
            site.wants_more = site.num_completed < MIN_CAMPAIGNS
            assert process.returncode is None, (await process.communicate())[1].decode()
            site.check_tasks()
            await asyncio.sleep(0.02)
    process.kill()
    await process.communicate()
    for task in site.tasks:
        task.cancel()
    await asyncio.gather(*site.tasks, return_exceptions=True)
    await server.stop(0.1)


def check_what_was_said(site: Site) -> None:
    payloads: dict[tuple[str, str], set[bytes]] = defaultdict(set)
    sessions: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    latest: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for campaign_id, to, payload in site.said:
        key = round_key(to.kind, to.level)
        payloads[campaign_id, key].add(payload)
        sessions[campaign_id, key, to.attempt].add(to.session_id)
        place = (int(to.kind), to.level)
        assert place >= latest[campaign_id], f"it spoke in {key} after a later round had begun"
        latest[campaign_id] = place
    assert {key: len(said) for key, said in payloads.items() if len(said) > 1} == {}, "two different contributions"
    assert {key: len(spoken) for key, spoken in sessions.items() if len(spoken) > 1} == {}, "two sessions of an attempt"


def check_audit(site: Site, entries: list[AuditEntry]) -> None:
    """What arrived is in the audit: at least as often as it arrived, and nothing else with its size."""
    written = [entry.digest for entry in entries if entry.kind == "Contribute"]
    for payload in {payload for _, _, payload in site.said}:
        arrived = sum(1 for _, _, other in site.said if other == payload)
        assert written.count(digest(payload)) >= arrived, "something left that is not in the audit"


@pytest.mark.parametrize("seed", [1])
def test_a_device_killed_at_any_moment_never_speaks_twice(seed: int, tmp_path: Path) -> None:
    async def all_of_it() -> Site:
        site = Site(seed)
        await play(tmp_path, site, NUM_KILLS)
        return site

    site = asyncio.run(all_of_it())
    assert all(runner.progress.phase is Phase.COMPLETED for runner in site.campaigns.values())
    check_what_was_said(site)
    check_audit(site, list(read_audit(tmp_path)))
    assert len(audit_files(tmp_path)) > 1, "the chain was followed through more than one file"
