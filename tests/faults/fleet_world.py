"""A whole fleet in one thread: real coordinator, real devices, in-memory lines that break where the ops say.

**A run fails when**
- a closed sum holds a lane above 1: every device's contribution is one-hot in a lane of its own, so somebody was
  counted twice;
- the ones of a closed sum are not exactly its contributors, or a device that was told "counted" in the session that
  closed is not among them: somebody was lost;
- a device said two different things in one round, or spoke in two sessions of one attempt, or in a round after a later
  one had begun;
- a stranger got into a sum;
- the campaign does not complete within a simulated day, or everything waits for something that never comes.

**Not a failure**: a session given up below quorum (the next attempt does it); a device left out of a cohort or a sum; a
vote computed twice, as long as only one ever left; messages turned down as late, duplicate or of an unknown session.

**Known nondeterminism**: none. One thread, simulated time, seeded jitter, numbered session ids, fixed keys.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from fault_ops import (
    AdvanceTime,
    Duplicate,
    Late,
    LoseRequest,
    LoseResponse,
    Nth,
    Op,
    Reorder,
    RestartCoordinator,
    RestartDevice,
    Stranger,
)

from prunefleet_coordinator.runner import CoordinatorRunner
from prunefleet_coordinator.state import ClosedRound
from prunefleet_coordinator.store import MemoryStore
from prunefleet_edge.device import Vote
from prunefleet_edge.device_state import lane_table, round_key
from prunefleet_edge.egress import Egress
from prunefleet_edge.runner import DeviceRunner
from prunefleet_edge.store import MemoryDeviceStore
from prunefleet_shared.campaign import Campaign, CohortPolicy, Decision
from prunefleet_shared.documents import open_document, sign_document
from prunefleet_shared.errors import CarrierError, RemoteProtocolError
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import (
    AwaitDecision,
    CampaignEnded,
    Contribute,
    ContributionCounted,
    DecisionOffer,
    Down,
    Invitation,
    Peer,
    PublishSlimBase,
    Role,
    SessionKind,
    Up,
    UploadModel,
)
from prunefleet_shared.metrics import GAIN_EDGES, Outcome
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    COORDINATOR_PUBLIC,
    TINY_BASE,
    TRAINER_KEY,
    TRAINER_PUBLIC,
    SimClock,
    run_simulated,
    tiny_campaign,
    tiny_slim_base,
)

A_DAY_S = 24 * 3600.0
WORK_S = 5.0  # of the first device; the others take longer, so that faults fall between their contributions
MAX_DEVICES = 8  # as many as a width vote has options: one lane each


@dataclass(frozen=True)
class Fleet:
    """How many devices there are, and whom a session waits for."""

    devices: int = 3
    cohort: int = 3
    quorum: int = 2
    deadline_s: int = 60


class OneHotWork:
    """Device ``index`` votes for option ``index`` everywhere, and reports a gain in bin ``index``.

    The grades depend on how often it was asked, so that a vote computed again is a vote that differs.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.rng = random.Random(index)

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        assert base == TINY_BASE
        return campaign.layout.fingerprint()

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        await asyncio.sleep(WORK_S * (1 + self.index))
        scores = [self.rng.random() for _ in range(campaign.layout.num_channels)]
        options = np.full((len(campaign.levels), len(campaign.layout.groups)), self.index, dtype=np.int64)
        return Vote(grade_layout(campaign.layout, scores), options)

    async def personalise(self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes) -> Outcome:
        assert slim_base == tiny_slim_base(decision)[1]
        await asyncio.sleep(WORK_S * (1 + self.index))
        latency_ratio = self.rng.uniform(0.1, 1.0)  # differs whenever it is measured again
        return Outcome(
            finished=True, accepted=True, accuracy_gain=_gain_in_bin(self.index), latency_ratio=latency_ratio
        )


def _gain_in_bin(index: int) -> float:
    return GAIN_EDGES[index] - 1e-6


class PeerLink:
    """A peer's line into the world, where it may break."""

    def __init__(self, world: World, peer: Peer) -> None:
        self.world, self.peer = world, peer

    async def call(self, message: Up) -> Down:
        return await self.world.carry(self.peer, message)


class World:
    """Everything in a run, and what was seen of it."""

    def __init__(self, fleet: Fleet, ops: Sequence[Op]) -> None:
        self.clock = SimClock(now_s=1000.0)
        self.fleet = fleet
        # Every op can spoil an attempt or two; a campaign that dies of its faults would prove nothing.
        policy = CohortPolicy(fleet.cohort, fleet.quorum, fleet.deadline_s * 1000, max_attempts=5 + 3 * len(ops))
        self.campaign = tiny_campaign(cohort=policy)
        self.ops: dict[Nth, list[Op]] = defaultdict(list)
        for op in ops:
            self.ops[op.call].append(op)
        self.num_calls: Counter[type[Up] | None] = Counter()  # by kind; None counts all
        self.session_ids = itertools.count(1)
        self.store = MemoryStore()
        self.store.save_blob(TINY_BASE)
        self.works = [OneHotWork(i) for i in range(fleet.devices)]
        self.device_stores = [MemoryDeviceStore() for _ in range(fleet.devices)]
        self.device_tasks: dict[int, asyncio.Task[bool]] = {}
        self.handling: set[asyncio.Task[Down]] = set()
        self.restarts = 0
        # What was seen
        self.invitations: dict[str, Invitation] = {}
        self.last_session_id = ""
        self.said: list[tuple[str, str, bytes]] = []  # device, session, payload: all that left a device
        self.counted: set[tuple[str, str]] = set()  # device, session: whom the coordinator told so

    # --- machines -----------------------------------------------------------------------------------------------

    def start_coordinator(self) -> None:
        """Start from the store, as after a crash."""
        signed = sign_document("campaign", self.campaign, COORDINATOR_KEY)
        self.coordinator = CoordinatorRunner(
            signed,
            COORDINATOR_KEY,
            self.store,
            self.store,
            self.clock,
            lambda: f"{next(self.session_ids):032x}",
            trainer_key=TRAINER_PUBLIC,
        )
        self.coordinator_task = asyncio.create_task(self.coordinator.run())

    def restart_coordinator(self) -> None:
        self.coordinator_task.cancel()
        for task in self.handling:
            task.cancel()
        self.start_coordinator()

    def start_device(self, index: int) -> None:
        """Start from the store, as after a crash."""
        self.restarts += 1
        link = PeerLink(self, Peer(f"device-{index}", Role.DEVICE))
        runner = DeviceRunner(
            Egress(link, audit=lambda record: None),
            self.works[index],
            self.device_stores[index],
            device_class=self.campaign.device_class,
            coordinator_key=COORDINATOR_PUBLIC,
            trainer_key=TRAINER_PUBLIC,
            clock=self.clock,
            sleep=self.clock.sleep,
            rng=random.Random(self.restarts),
            on_state=lambda words: None,
        )
        self.device_tasks[index] = asyncio.create_task(runner.run())

    def restart_device(self, index: int) -> None:
        if not self.device_tasks[index].done():
            self.device_tasks[index].cancel()
            self.start_device(index)

    async def run_trainer(self) -> None:
        """Answer every decision with a slim base, from the beginning whenever anything goes wrong."""
        link = PeerLink(self, Peer("trainer", Role.TRAINER))
        while True:
            with suppress(CarrierError, RemoteProtocolError):
                answer = await link.call(AwaitDecision(self.campaign.campaign_id))
                if isinstance(answer, CampaignEnded):
                    return
                if isinstance(answer, DecisionOffer):
                    decision = open_document(answer.decision, "decision", Decision, COORDINATOR_PUBLIC)
                    slim_base, model = tiny_slim_base(decision)
                    for start in range(0, len(model), 64):
                        piece = model[start : start + 64]
                        await link.call(UploadModel(slim_base.model_digest, start, len(model), piece))
                    await link.call(PublishSlimBase(sign_document("slim_base", slim_base, TRAINER_KEY)))
            await asyncio.sleep(1.0)

    async def run(self) -> None:
        """The whole campaign."""
        self.start_coordinator()
        for index in range(self.fleet.devices):
            self.start_device(index)
        trainer = asyncio.create_task(self.run_trainer())
        async with asyncio.timeout(A_DAY_S):
            while not all(task.done() for task in self.device_tasks.values()):
                # A restart replaces a task: look again at those that are there then.
                await asyncio.wait(self.device_tasks.values())
            await trainer
        for task in self.device_tasks.values():
            assert task.result() is True, "a device was told that the campaign was given up"
        self.coordinator_task.cancel()

    # --- lines --------------------------------------------------------------------------------------------------

    async def carry(self, peer: Peer, message: Up) -> Down:
        """Bring a message to the coordinator and its answer back, as far as the ops let it."""
        ops = self._ops_for(type(message))
        if isinstance(message, Contribute):
            self.said.append((peer.peer_id, message.session_id, message.payload))
        await self._before(ops)
        lost = any(isinstance(op, LoseRequest) for op in ops)
        answer: Down | RemoteProtocolError | None = None
        for _ in range(0 if lost else 1 + sum(isinstance(op, Duplicate) for op in ops)):
            answer = await self._handle(peer, message)
        self._after(peer, ops)
        await asyncio.sleep(0)  # a sender that was just killed dies here
        lost = lost or any(isinstance(op, LoseResponse | RestartCoordinator) for op in ops)
        if lost or answer is None:
            raise CarrierError("the line broke", retryable=True)
        if isinstance(answer, RemoteProtocolError):
            raise answer
        return answer

    def _ops_for(self, kind: type[Up]) -> list[Op]:
        anyone, of_kind = Nth(self.num_calls[None]), Nth(self.num_calls[kind], kind)
        self.num_calls.update([None, kind])
        return self.ops.get(anyone, []) + self.ops.get(of_kind, [])

    async def _before(self, ops: Sequence[Op]) -> None:
        for op in ops:
            match op:
                case AdvanceTime(seconds=seconds):
                    self.clock.advance(seconds)
                case Reorder(hold_s=hold_s):
                    await asyncio.sleep(hold_s)
                case Late():
                    await asyncio.sleep(self.fleet.deadline_s + 1.0)
                case Stranger() if self.last_session_id:
                    await self._intrude()
                case _:
                    pass

    def _after(self, peer: Peer, ops: Sequence[Op]) -> None:
        for op in ops:
            match op:
                case RestartDevice(device=None) if peer.role is Role.DEVICE:
                    self.restart_device(int(peer.peer_id.removeprefix("device-")))
                case RestartDevice(device=int(device)):
                    self.restart_device(device % self.fleet.devices)
                case RestartCoordinator():
                    self.restart_coordinator()
                case _:
                    pass

    async def _handle(self, peer: Peer, message: Up) -> Down | RemoteProtocolError | None:
        """The coordinator's answer or refusal; None if it died meanwhile. It does not notice when a peer dies."""
        task = asyncio.create_task(self.coordinator.handle(peer, message))
        self.handling.add(task)
        try:
            await asyncio.wait({task})
        finally:
            task.add_done_callback(self.handling.discard)
        if task.cancelled():
            return None
        error = task.exception()
        if isinstance(error, RemoteProtocolError):
            return error
        answer = task.result()
        if isinstance(answer, Invitation):
            self.invitations[answer.session_id] = answer
            self.last_session_id = answer.session_id
        if isinstance(answer, ContributionCounted):
            self.counted.add((peer.peer_id, answer.session_id))
        return answer

    async def _intrude(self) -> None:
        session = self.invitations[self.last_session_id]
        payload = bytes(lane_table(self.campaign, session.kind).packed_bytes)
        answer = await self._handle(Peer("stranger", Role.DEVICE), Contribute(session.session_id, payload))
        assert not isinstance(answer, ContributionCounted), "a stranger was counted"

    # --- what must hold -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError for the first failure condition met."""
        rounds = [(SessionKind.VOTE, 0), *((SessionKind.OUTCOME, i) for i in range(len(self.campaign.levels)))]
        for kind, level in rounds:
            closed = self.store.load_closed(self.campaign.campaign_id, kind, level)
            assert closed is not None, f"{round_key(kind, level)} was never closed"
            self._check_sum(closed)
        self._check_what_was_said()

    def _check_sum(self, closed: ClosedRound) -> None:
        key, names = round_key(closed.kind, closed.level), set(closed.contributors)
        for block, lanes in lane_table(self.campaign, closed.kind).split(closed.total.lanes).items():
            if block.startswith("width/") or block == "accuracy_gain":
                assert lanes.max() <= 1, f"{key}: somebody was counted twice in {block}: {lanes}"
                seen = {f"device-{i}" for i in np.flatnonzero(lanes)}
                assert seen == names, f"{key}: {block} says {sorted(seen)}, contributors {sorted(names)}"
        assert closed.total.num_devices == len(closed.contributors) >= self.fleet.quorum
        told = {device for device, session in self.counted if session == closed.session_id}
        assert told <= names, f"{key}: {sorted(told - names)} were told that they counted, and did not"

    def _check_what_was_said(self) -> None:
        payloads: dict[tuple[str, str], set[bytes]] = defaultdict(set)
        sessions: dict[tuple[str, str, int], set[str]] = defaultdict(set)
        latest: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for device, session_id, payload in self.said:
            to = self.invitations[session_id]
            key = round_key(to.kind, to.level)
            payloads[device, key].add(payload)
            sessions[device, key, to.attempt].add(session_id)
            place = (int(to.kind), to.level)
            assert place >= latest[device], f"{device} spoke in {key} after a later round had begun"
            latest[device] = place
        for (device, key), different in payloads.items():
            assert len(different) == 1, f"{device} said {len(different)} different things in {key}"
        for (device, key, attempt), spoken_to in sessions.items():
            assert len(spoken_to) == 1, f"{device} spoke to {len(spoken_to)} sessions of attempt {attempt} of {key}"


def run_world(ops: Sequence[Op], fleet: Fleet | None = None) -> World:
    """Run a campaign under ``ops`` and check it; returns the world for further questions."""
    world = World(fleet or Fleet(), ops)
    run_simulated(world.run(), world.clock)
    world.check()
    return world
