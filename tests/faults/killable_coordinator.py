"""A real coordinator process, killed and started again, and around it a fleet that lives in the test's process.

Devices are the real ones (round, egress, store), over gRPC with certificates; only their work is cheap. Each one's vote
and outcome are drawn anew whenever they are asked for, so that whoever is asked twice says two different things.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from prunefleet_coordinator.grpc_carrier import RunningServer, start_server
from prunefleet_edge.backoff import RetryPolicy
from prunefleet_edge.device import Vote
from prunefleet_edge.egress import Egress
from prunefleet_edge.runner import DeviceRunner
from prunefleet_edge.store import MemoryDeviceStore
from prunefleet_edge.verified_link import LinkLimits
from prunefleet_shared.authority_messages import DenyList, ListDenied
from prunefleet_shared.campaign import Campaign, CohortPolicy, Decision
from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.documents import SignedDocument, digest, open_document, public_bytes, sign_document
from prunefleet_shared.errors import CarrierError, RemoteProtocolError
from prunefleet_shared.grpc_link import GrpcLink
from prunefleet_shared.identity import create_signing_key
from prunefleet_shared.identity_folder import Identity, identity_from, save_identity
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import (
    AwaitDecision,
    CheckIn,
    Contribute,
    ContributionCounted,
    DecisionOffer,
    Down,
    Ending,
    GetStatus,
    Invitation,
    Peer,
    Phase,
    PublishSlimBase,
    Role,
    StartCampaign,
    Up,
    UploadModel,
)
from prunefleet_shared.metrics import Outcome
from prunefleet_shared.testing import TINY_BASE, TRAINER_KEY, TRAINER_PUBLIC, tiny_campaign, tiny_slim_base
from prunefleet_shared.wire_methods import AUTHORITY

NUM_DEVICES, COHORT, QUORUM = 6, 4, 3
CALL_TIMEOUT_S = 20.0
PAUSE_S = 0.02
LIMITS = LinkLimits(
    call_timeout_s=CALL_TIMEOUT_S,
    retries=RetryPolicy(first_s=0.02, max_s=0.1),
    busy_retries=RetryPolicy(first_s=0.02, max_s=0.1),
)
# Imports done before it is told to go, so that the next process can get ready while the last one lives.
_WAIT_AND_SERVE = (
    "import sys, prunefleet_coordinator.serve; from prunefleet_shared import cli; "
    "sys.stdin.readline(); cli.main(sys.argv[1:])"
)


class Authority:
    """Issues certificates, and answers the one question a coordinator asks: nobody is denied."""

    def __init__(self) -> None:
        self._authority = create_authority(now())
        self._server: RunningServer | None = None

    async def handle(self, peer: Peer, message: Up) -> Down:
        assert isinstance(message, ListDenied)
        return DenyList(())

    async def start(self) -> str:
        own = issue(self._authority, Role.AUTHORITY, "authority", now())
        self._server = await start_server(self, own, clock=now, services=(AUTHORITY,))
        return f"127.0.0.1:{self._server.port}"

    async def stop(self) -> None:
        if self._server:
            await self._server.stop(0)

    def identity(self, role: Role, name: str, operator_key: bytes, authority_address: str = "127.0.0.1:1") -> Identity:
        return identity_from(
            issue(self._authority, role, name, now()),
            operator_keys=(operator_key,),
            coordinator_address="127.0.0.1:1",  # found through the file in which it notes its port
            authority_address=authority_address,
            device_class="camera" if role is Role.DEVICE else "",
        )


class CoordinatorProcess:
    """``prunefleet coordinator serve`` as a process; the next one waits, its imports done, while this one runs."""

    def __init__(self, state: Path, log: Path) -> None:
        self._state, self._log = state, log
        self._waiting: asyncio.subprocess.Process | None = None
        self._running: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        process = self._waiting or await self._spawn()
        assert process.stdin is not None
        process.stdin.write(b"\n")
        self._running, self._waiting = process, await self._spawn()

    async def kill(self) -> None:
        if self._running is not None:
            code = self._running.returncode
            assert code is None, f"the coordinator ended by itself with {code}; see {self._log}"
            self._running.kill()
            await self._running.wait()

    async def die(self) -> None:
        """Wait for an end that must not come, but at our word."""
        assert self._running is not None
        code = await self._running.wait()
        assert code == 0, f"the coordinator ended by itself with {code}; see {self._log}"

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self._running is not None
        self._running.terminate()
        async with asyncio.timeout(5.0):
            return await self._running.wait()

    async def close(self) -> None:
        for process in (self._waiting, self._running):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()

    async def _spawn(self) -> asyncio.subprocess.Process:
        arguments = ["coordinator", "serve", "--state", str(self._state), "--listen", "127.0.0.1:0"]
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-c", _WAIT_AND_SERVE, *arguments, stdin=asyncio.subprocess.PIPE, stderr=log, stdout=log
            )


class FollowingLink:
    """A member's line to wherever the coordinator listens now."""

    def __init__(self, world: KillWorld, identity: Identity) -> None:
        self._world, self._identity = world, identity
        self._address, self._link = "", None

    async def call(self, message: Up) -> Down:
        link = await self._current()
        self._world.note_sent(self._identity.name, message)
        answer = await link.call(message)
        self._world.note_answer(self._identity.name, message, answer)
        return answer

    async def close(self) -> None:
        if self._link is not None:
            await self._link.close()

    async def _current(self) -> GrpcLink:
        try:
            address = (self._world.state / "listening").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            raise CarrierError("never started yet", retryable=True) from None
        if address != self._address or self._link is None:
            former = self._link
            self._link = GrpcLink(address, self._identity.credentials, timeout_s=CALL_TIMEOUT_S)
            self._address = address
            if former is not None:
                await former.close()
        return self._link


class CheapWork:
    """Device ``index`` votes for option ``index`` everywhere; the rest is chance, anew each time it is asked."""

    def __init__(self, index: int, rng: random.Random, note: Callable[[str], None]) -> None:
        self._index, self._rng, self._note = index, rng, note

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        return campaign.layout.fingerprint()

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        self._note(f"{campaign.campaign_id} vote")
        await asyncio.sleep(self._rng.uniform(0.0, 0.05))
        scores = [self._rng.random() for _ in range(campaign.layout.num_channels)]
        options = np.full((len(campaign.levels), len(campaign.layout.groups)), self._index, dtype=np.int64)
        return Vote(grade_layout(campaign.layout, scores), options)

    async def personalise(
        self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None
    ) -> Outcome:
        self._note(f"{campaign.campaign_id} outcome of level {decision.level}")
        await asyncio.sleep(self._rng.uniform(0.0, 0.05))
        return Outcome(True, self._rng.random() < 0.5, self._rng.uniform(-1.0, 1.0), self._rng.uniform(0.01, 2.0))


class KillWorld:
    """A fleet around a coordinator that is killed ``num_kills`` times; campaign follows campaign until it is over."""

    def __init__(self, folder: Path, num_kills: int, seed: int) -> None:
        self.folder, self.state = folder, folder / "coordinator"
        self.num_kills = num_kills
        self.rng = random.Random(seed)
        self.authority = Authority()
        self.operator_key = create_signing_key()
        self.process = CoordinatorProcess(self.state, folder / "coordinator.log")
        self.links: list[FollowingLink] = []
        self.campaigns: list[Campaign] = []
        self.kills_are_over = asyncio.Event()
        self.num_sent, self.kill_at, self.kill_now = 0, 0, asyncio.Event()
        # What was seen
        self.asked: Counter[tuple[str, str]] = Counter()  # device, for what
        self.sessions: dict[str, tuple[str, Invitation]] = {}  # campaign, and an invitation to it
        self.said: dict[tuple[str, str], set[bytes]] = defaultdict(set)  # device, session → payloads
        self.counted: set[tuple[str, str]] = set()  # device, session
        self.announced: dict[tuple[str, str, int], set[bytes]] = defaultdict(set)  # kind, campaign, level → payloads
        self.endings: Counter[Ending] = Counter()

    # --- what is seen -------------------------------------------------------------------------------------------

    def note_sent(self, name: str, message: Up) -> None:
        if isinstance(message, Contribute):
            self.said[name, message.session_id].add(message.payload)
        self.num_sent += 1
        if self.num_sent == self.kill_at:
            self.kill_now.set()

    def note_answer(self, name: str, message: Up, answer: Down) -> None:
        if isinstance(answer, Invitation) and isinstance(message, CheckIn):
            self.sessions[answer.session_id] = message.campaign_id, answer
            self._note_documents(answer.decision, answer.slim_base)
        if isinstance(answer, DecisionOffer):
            self._note_documents(answer.decision)
        if isinstance(answer, ContributionCounted):
            self.counted.add((name, answer.session_id))

    def _note_documents(self, *documents: SignedDocument | None) -> None:
        for signed in documents:
            if signed is not None:
                facts = json.loads(signed.payload)
                self.announced[signed.kind, facts["campaign_id"], facts["level"]].add(signed.payload)

    # --- the run ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Everything; leaves the coordinator stopped."""
        address = await self.authority.start()
        public = public_bytes(self.operator_key.public_key())
        own = self.authority.identity(Role.COORDINATOR, "coordinator", public, address)
        save_identity(self.state, own)
        self.decision_key = own.public_key.hex()
        members = [asyncio.create_task(self._device(index)) for index in range(NUM_DEVICES)]
        members += [asyncio.create_task(self._trainer()), asyncio.create_task(self._killer())]
        try:
            await self._first_of(asyncio.create_task(self._operator()), members)
            assert await self.process.stop() == 0
        finally:
            for task in members:
                task.cancel()
            await asyncio.gather(*members, return_exceptions=True)
            for link in self.links:
                await link.close()
            await self.process.close()
            await self.authority.stop()

    async def _first_of(self, main: asyncio.Task[None], others: list[asyncio.Task[None]]) -> None:
        """Wait for ``main``; an error of any other comes first."""
        pending = {main, *others}
        while main in pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _killer(self) -> None:
        """By the clock from the process's first moment on, by the clock once it listens, or as a message is sent."""
        for number in range(self.num_kills):
            (self.state / "listening").unlink(missing_ok=True)
            await self.process.start()
            if number % 3 == 0:
                await asyncio.sleep(self.rng.uniform(0.0, 0.5))
            else:
                await self._until_listening()
                after_s, num_messages = (self.rng.uniform(0.0, 0.6), 0) if number % 3 == 1 else (1.0, 50)
                await self._until_sent(self.rng.randint(1, num_messages) if num_messages else 0, after_s)
            await self.process.kill()
        self.kills_are_over.set()
        await self.process.start()
        await self.process.die()

    async def _until_listening(self) -> None:
        while not (self.state / "listening").exists():
            await asyncio.sleep(0.005)

    async def _until_sent(self, num_messages: int, limit_s: float) -> None:
        """Until so many more messages were sent (0: never), and a little longer; or for ``limit_s`` seconds."""
        self.kill_now.clear()
        self.kill_at = self.num_sent + num_messages if num_messages else 0
        with suppress(TimeoutError):
            await asyncio.wait_for(self.kill_now.wait(), limit_s)
            await asyncio.sleep(self.rng.uniform(0.0, 0.004))

    def _link(self, role: Role, name: str) -> FollowingLink:
        public = public_bytes(self.operator_key.public_key())
        self.links.append(FollowingLink(self, self.authority.identity(role, name, public)))
        return self.links[-1]

    async def _device(self, index: int) -> None:
        name = f"device-{index}"
        rng = random.Random(self.rng.random())
        work = CheapWork(index, rng, lambda what: self.asked.update([(name, what)]))
        link, store = self._link(Role.DEVICE, name), MemoryDeviceStore()
        while True:
            runner = DeviceRunner(
                Egress(link, audit=lambda record: None),
                work,
                store,
                device_class="camera",
                operator_keys=[public_bytes(self.operator_key.public_key())],
                clock=time.monotonic,
                sleep=asyncio.sleep,
                rng=rng,
                on_state=lambda words: None,
                limits=LIMITS,
            )
            self.endings[await runner.run()] += 1
            await asyncio.sleep(PAUSE_S)

    async def _trainer(self) -> None:
        link = self._link(Role.TRAINER, "trainer")
        while True:
            with suppress(CarrierError, RemoteProtocolError):
                answer = await link.call(AwaitDecision(""))
                if isinstance(answer, DecisionOffer):
                    decision = open_document(answer.decision, "decision", Decision, bytes.fromhex(self.decision_key))
                    slim_base, model = tiny_slim_base(decision)
                    await link.call(UploadModel(slim_base.model_digest, 0, len(model), model))
                    await link.call(PublishSlimBase(sign_document("slim_base", slim_base, TRAINER_KEY)))
            await asyncio.sleep(PAUSE_S)

    async def _operator(self) -> None:
        """One campaign after the other, until no more kills come and the last one is over."""
        link = self._link(Role.OPERATOR, "operator")
        while not self.kills_are_over.is_set():
            campaign = self._campaign(len(self.campaigns))
            self.campaigns.append(campaign)
            signed = sign_document("campaign", campaign, self.operator_key)
            await _insist(link, UploadModel(campaign.base_digest, 0, len(TINY_BASE), TINY_BASE))
            await _insist(link, StartCampaign(signed))
            while await self._phase(link, campaign) not in {Phase.COMPLETED, Phase.FAILED}:
                await asyncio.sleep(PAUSE_S)

    async def _phase(self, link: FollowingLink, campaign: Campaign) -> Phase:
        status = await _insist(link, GetStatus())
        return next(c.phase for c in status.campaigns if c.campaign_id == campaign.campaign_id)

    def _campaign(self, number: int) -> Campaign:
        return tiny_campaign(
            campaign_id=digest(f"campaign {number}".encode())[:32],
            cohort=CohortPolicy(COHORT, QUORUM, deadline_ms=30_000, overselection_permille=1500),
            decision_key=self.decision_key,
            slim_base_key=TRAINER_PUBLIC.hex(),
        )


async def _insist(link: FollowingLink, message: Up) -> Down:
    while True:
        try:
            return await link.call(message)
        except CarrierError:
            await asyncio.sleep(PAUSE_S)


def now() -> datetime:
    return datetime.now(UTC)
