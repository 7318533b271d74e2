"""A whole fleet in one thread: real coordinator, real devices, in-memory lines that break where the ops say.

**A run fails when**
- a closed sum holds a lane above 1: every device's contribution is one-hot in a lane of its own, so somebody was
  counted twice;
- the ones of a closed sum are not exactly its contributors, or a device that was told "counted" in the session that
  closed is not among them: somebody was lost;
- a device said two different things in one round, or spoke in two sessions of one attempt, or in a round after a later
  one had begun;
- a stranger got into a sum;
- more devices were invited to a session than over-selection allows, or more were counted than the cohort has;
- a session was opened while the campaign was paused; anybody was invited or counted after it was stopped; anybody was
  told another ending than the one in the store;
- the campaign does not complete within a simulated day (unless it was stopped), or everything waits for something that
  never comes.

**Not a failure**: a session given up below quorum (the next attempt does it); a device left out of a cohort or a sum; a
vote computed twice, as long as only one ever left; messages turned down as late, duplicate or of an unknown session; a
device that was restarted after the end, and waits for the next campaign.

**Known nondeterminism**: none. One thread, simulated time, seeded jitter, numbered session ids, fixed keys.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from fault_ops import (
    AdvanceTime,
    CrashAtSave,
    Duplicate,
    Late,
    LoseRequest,
    LoseResponse,
    Nth,
    Op,
    Pause,
    Reorder,
    RestartCoordinator,
    RestartDevice,
    SaveFails,
    SaveOp,
    StopCampaign,
    Stranger,
)

from prunefleet_coordinator.campaigns import Campaigns
from prunefleet_coordinator.state import ENDINGS, ClosedRound, Snapshot
from prunefleet_coordinator.store import MemoryStore, StoredCampaign
from prunefleet_edge.device import Vote
from prunefleet_edge.device_state import lane_table, round_key
from prunefleet_edge.egress import Egress
from prunefleet_edge.runner import DeviceRunner
from prunefleet_edge.store import MemoryDeviceStore
from prunefleet_shared.campaign import Campaign, CohortPolicy, Decision
from prunefleet_shared.documents import SignedDocument, digest, open_document, sign_document
from prunefleet_shared.errors import CarrierError, ConfigError, RemoteProtocolError
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import (
    AwaitDecision,
    CampaignEnded,
    Contribute,
    ContributionCounted,
    Control,
    ControlCampaign,
    DecisionOffer,
    Down,
    Ending,
    Invitation,
    Peer,
    PublishSlimBase,
    Role,
    SessionKind,
    StartCampaign,
    Stored,
    Up,
    UploadModel,
)
from prunefleet_shared.metrics import GAIN_EDGES, Outcome
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    COORDINATOR_PUBLIC,
    TINY_BASE,
    TRAINER_KEY,
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
    overselection_permille: int = 1000


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


class Killed(Exception):  # noqa: N818 - no error: it unwinds a coordinator that has just died
    """The coordinator died here."""


class FaultyStore(MemoryStore):
    """A store whose saves fail, or are the last thing a coordinator does, as the ops say."""

    def __init__(self, ops: Sequence[SaveOp], kill: Callable[[], None]) -> None:
        super().__init__()
        self.ops = {op.n: op for op in ops}
        self.kill = kill
        self.num_saves = 0
        self.is_saving = False

    def save_campaign(self, campaign: StoredCampaign, signed: SignedDocument) -> None:
        if campaign not in self.list_campaigns():  # a restart enters it again, which changes nothing
            self._save(lambda: super(FaultyStore, self).save_campaign(campaign, signed))

    def save_snapshot(self, snapshot: Snapshot, signed: SignedDocument | None = None) -> None:
        self._save(lambda: super(FaultyStore, self).save_snapshot(snapshot, signed))

    def save_closing(self, closed: ClosedRound, snapshot: Snapshot, signed: SignedDocument | None = None) -> None:
        self._save(lambda: super(FaultyStore, self).save_closing(closed, snapshot, signed))

    def _save(self, save: Callable[[], None]) -> None:
        if self.is_saving:  # a save made of saves is one transaction
            save()
            return
        op = self.ops.get(self.num_saves)
        self.num_saves += 1
        if isinstance(op, SaveFails) and not op.is_stored:
            raise ConfigError("disk full")
        self.is_saving = True
        save()
        self.is_saving = False
        if isinstance(op, SaveFails):
            raise ConfigError("the disk did not answer")
        if isinstance(op, CrashAtSave):
            self.kill()
            raise Killed


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
        policy = CohortPolicy(
            fleet.cohort,
            fleet.quorum,
            fleet.deadline_s * 1000,
            max_attempts=5 + 3 * len(ops),
            overselection_permille=fleet.overselection_permille,
        )
        self.campaign = tiny_campaign(cohort=policy)
        self.ops: dict[Nth, list[Op]] = defaultdict(list)
        for op in ops:
            if not isinstance(op, SaveOp):
                self.ops[op.call].append(op)
        self.num_calls: Counter[type[Up] | None] = Counter()  # by kind; None counts all
        self.session_ids = itertools.count(1)
        self.store = FaultyStore([op for op in ops if isinstance(op, SaveOp)], self.restart_coordinator)
        self.works = [OneHotWork(i) for i in range(fleet.devices)]
        self.device_stores = [MemoryDeviceStore() for _ in range(fleet.devices)]
        self.device_tasks: dict[int, asyncio.Task[Ending]] = {}
        self.devices: dict[int, DeviceRunner] = {}
        self.handling: set[asyncio.Task[Down]] = set()
        self.wishes: set[asyncio.Task[None]] = set()  # of the operator, under way
        self.restarts = 0
        # What was seen
        self.invitations: dict[str, Invitation] = {}
        self.last_session_id = ""
        self.said: list[tuple[str, str, bytes]] = []  # device, session, payload: all that left a device
        self.counted: set[tuple[str, str]] = set()  # device, session: whom the coordinator told so
        self.invited: dict[str, set[str]] = defaultdict(set)  # by session: devices
        self.is_paused = self.is_stopped = False  # as the operator was told
        self.bugs: list[BaseException] = []  # what escaped the task that keeps deadlines

    # --- machines -----------------------------------------------------------------------------------------------

    def start_coordinator(self) -> None:
        """Start from the store, as after a crash."""
        self.coordinator = Campaigns(
            self.store,
            self.store,
            operator_keys=lambda: [COORDINATOR_PUBLIC],  # here one key plays both
            signing_key=COORDINATOR_KEY,
            clock=self.clock,
            new_session_id=lambda: f"{next(self.session_ids):032x}",
        )
        self.coordinator_task = asyncio.create_task(self.coordinator.run())
        self.coordinator_task.add_done_callback(self._look_for_bugs)

    def _look_for_bugs(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, BaseExceptionGroup):
            error = error.split(Killed)[1]  # who was killed did not crash
        if error is not None:
            self.bugs.append(error)

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
            operator_keys=[COORDINATOR_PUBLIC],
            clock=self.clock,
            sleep=self.clock.sleep,
            rng=random.Random(self.restarts),
            on_state=lambda words: None,
        )
        self.devices[index] = runner
        self.device_tasks[index] = asyncio.create_task(runner.run())

    def restart_device(self, index: int) -> None:
        if not self.device_tasks[index].done():
            self.device_tasks[index].cancel()
            self.start_device(index)

    async def run_operator(self) -> None:
        """Start the campaign, again and again until it is started."""
        link = PeerLink(self, Peer("operator", Role.OPERATOR))
        signed = sign_document("campaign", self.campaign, COORDINATOR_KEY)
        while True:
            with suppress(CarrierError):
                await link.call(UploadModel(digest(TINY_BASE), 0, len(TINY_BASE), TINY_BASE))
                await link.call(StartCampaign(signed))
                return
            await asyncio.sleep(1.0)

    def wish(self, *controls: Control, apart_s: float = 0.0) -> None:
        """Let the operator control the campaign, whatever happens to their messages."""
        task = asyncio.create_task(self._control(controls, apart_s))
        self.wishes.add(task)
        task.add_done_callback(self.wishes.discard)

    async def _control(self, controls: Sequence[Control], apart_s: float) -> None:
        for control in controls:
            self.is_paused = False  # a message that says so may be on its way
            granted = False
            while not granted:
                granted = await self._is_granted(control)
                await asyncio.sleep(0.0 if granted else 1.0)
            await asyncio.sleep(apart_s)

    async def _is_granted(self, control: Control) -> bool:
        """Whether the operator need not ask again."""
        message = ControlCampaign(self.campaign.campaign_id, control)
        try:
            answer = await self.carry(Peer("operator", Role.OPERATOR), message)
        except CarrierError:
            return False
        except RemoteProtocolError:
            return True  # it has not begun, or it has ended
        assert answer == Stored()
        return True

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
            await self.run_operator()
            while not (all(map(self._is_done, self.device_tasks)) and trainer.done() and not self.wishes):
                await asyncio.sleep(1.0)
        await trainer
        for task in self.device_tasks.values():
            if task.done():
                assert task.result() is self.ending, f"a device was told {task.result()}"
        for task in (self.coordinator_task, *self.device_tasks.values()):
            task.cancel()

    def _is_done(self, index: int) -> bool:
        """Whether a device has heard the end, or was restarted after it and waits for another campaign."""
        return self.device_tasks[index].done() or (
            self.ending is not None and not self.devices[index].standing.campaign_id
        )

    @property
    def ending(self) -> Ending | None:
        """How the campaign has ended, as the store has it; None before."""
        snapshot = self.store.load_snapshot(self.campaign.campaign_id)
        return ENDINGS.get(snapshot.phase) if snapshot else None

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
                case Pause(for_s=for_s):
                    self.wish(Control.PAUSE, Control.RESUME, apart_s=for_s)
                case StopCampaign():
                    self.wish(Control.STOP)
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
        task = asyncio.create_task(self._ask_coordinator(peer, message))
        self.handling.add(task)
        try:
            await asyncio.wait({task})
        finally:
            task.add_done_callback(self._handled)
        if task.cancelled():
            return None
        error = task.exception()
        if isinstance(error, Killed | CarrierError):
            return None
        if isinstance(error, RemoteProtocolError):
            return error
        return task.result()

    async def _ask_coordinator(self, peer: Peer, message: Up) -> Down:
        answer = await self.coordinator.handle(peer, message)
        self._note(peer, message, answer)  # here, because whoever asked may die before it hears
        return answer

    def _handled(self, task: asyncio.Task[Down]) -> None:
        self.handling.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Killed | CarrierError | RemoteProtocolError):
            self.bugs.append(error)

    def _note(self, peer: Peer, message: Up, answer: Down) -> None:
        """What the coordinator says counts from here on, whether or not it is heard."""
        if isinstance(answer, Invitation | ContributionCounted):
            assert not self.is_stopped, f"{peer.peer_id} was told {answer} after the campaign was stopped"
        if isinstance(answer, Invitation):
            is_new = answer.session_id not in self.invitations
            assert not (is_new and self.is_paused), f"{peer.peer_id} opened a session while the campaign was paused"
            self.invitations[answer.session_id] = answer
            self.invited[answer.session_id].add(peer.peer_id)
            self.last_session_id = answer.session_id
        if isinstance(answer, ContributionCounted):
            self.counted.add((peer.peer_id, answer.session_id))
        if isinstance(message, ControlCampaign):
            self.is_paused = message.control is Control.PAUSE
            self.is_stopped = message.control is Control.STOP

    async def _intrude(self) -> None:
        session = self.invitations[self.last_session_id]
        payload = bytes(lane_table(self.campaign, session.kind).packed_bytes)
        answer = await self._handle(Peer("stranger", Role.DEVICE), Contribute(session.session_id, payload))
        assert not isinstance(answer, ContributionCounted), "a stranger was counted"

    # --- what must hold -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError for the first failure condition met."""
        assert not self.bugs, self.bugs
        assert self.ending is (Ending.STOPPED if self.is_stopped else Ending.COMPLETED)
        for session_id, devices in self.invited.items():
            assert len(devices) <= self.campaign.cohort.max_invited, f"{len(devices)} were invited to {session_id}"
        closed_rounds = self.closed_rounds()
        assert self.is_stopped or len(closed_rounds) == 1 + len(self.campaign.levels), "a round was never closed"
        for closed in closed_rounds:
            self._check_sum(closed)
        self._check_what_was_said()

    def closed_rounds(self) -> list[ClosedRound]:
        """The sums in the store, the vote's first."""
        rounds = [(SessionKind.VOTE, 0), *((SessionKind.OUTCOME, i) for i in range(len(self.campaign.levels)))]
        stored = [self.store.load_closed(self.campaign.campaign_id, kind, level) for kind, level in rounds]
        return [closed for closed in stored if closed is not None]

    def _check_sum(self, closed: ClosedRound) -> None:
        key, names = round_key(closed.kind, closed.level), set(closed.contributors)
        for block, lanes in lane_table(self.campaign, closed.kind).split(closed.total.lanes).items():
            if block.startswith("width/") or block == "accuracy_gain":
                assert lanes.max() <= 1, f"{key}: somebody was counted twice in {block}: {lanes}"
                seen = {f"device-{i}" for i in np.flatnonzero(lanes)}
                assert seen == names, f"{key}: {block} says {sorted(seen)}, contributors {sorted(names)}"
        assert self.fleet.quorum <= closed.total.num_devices == len(closed.contributors) <= self.fleet.cohort
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
