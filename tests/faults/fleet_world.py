"""A whole fleet in one thread: real coordinator, real devices, in-memory lines that break where the ops say.

What must hold whatever happens is in ``fleet_checks`` and ``sum_watch``.

**Known nondeterminism**: none, but for the order of rosters, which follows from certificates made anew in each process.
One thread, simulated time, seeded jitter, numbered session ids, fixed keys.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from fault_ops import (
    AdvanceTime,
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
    SaveOp,
    StopCampaign,
    Stranger,
)
from fleet_checks import check_world
from fleet_members import MIN_DEVICES, members, membership
from fleet_parts import FaultyStore, Killed, OneHotWork
from sum_watch import SumWatch, WatchedStore

from prunefleet_coordinator.campaigns import Campaigns
from prunefleet_coordinator.state import ENDINGS, ClosedRound
from prunefleet_edge.egress import Egress
from prunefleet_edge.kept_networks import KeptInMemory
from prunefleet_edge.runner import DeviceRunner
from prunefleet_shared.acceptance import Acceptance, Ruling
from prunefleet_shared.campaign import PLAIN, SUM, CohortPolicy, Decision, PrivacyTerms
from prunefleet_shared.documents import digest, open_document, sign_document
from prunefleet_shared.errors import CarrierError, RemoteProtocolError
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
    SumUp,
    Up,
    UploadModel,
)
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
STAGE_S = 20
MAX_DEVICES = 8  # as many as a width vote has options: one lane each


@dataclass(frozen=True)
class Fleet:
    """How many devices there are, and whom a session waits for."""

    devices: int = 3
    cohort: int = 3
    quorum: int = 2
    deadline_s: int = 60
    overselection_permille: int = 1000
    mode: str = PLAIN
    acceptance: Acceptance | None = None  # by what the campaign is judged
    missed_from: int = 99  # the first level at which devices are worse off

    @property
    def fewest(self) -> int:
        """Devices without which there is no sum."""
        return self.quorum if self.mode == PLAIN else max(self.quorum, MIN_DEVICES)


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
            stage_ms=STAGE_S * 1000,
            overselection_permille=fleet.overselection_permille,
        )
        privacy = PrivacyTerms(fleet.mode, MIN_DEVICES if fleet.mode == SUM else 1)
        self.campaign = tiny_campaign(cohort=policy, privacy=privacy, acceptance=fleet.acceptance)
        self.ops: dict[Nth, list[Op]] = defaultdict(list)
        for op in ops:
            if not isinstance(op, SaveOp):
                self.ops[op.call].append(op)
        self.num_calls: Counter[type[Up] | None] = Counter()  # by kind; None counts all
        self.session_ids = itertools.count(1)
        self.store = FaultyStore([op for op in ops if isinstance(op, SaveOp)], self.restart_coordinator)
        self.works = [OneHotWork(i, fleet.missed_from) for i in range(fleet.devices)]
        self.kept = [KeptInMemory() for _ in range(fleet.devices)]  # as a folder would, they outlive the process
        self.watch = SumWatch()
        self.device_stores = [WatchedStore(partial(self._spent, f"device-{i}")) for i in range(fleet.devices)]
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
            members=members(),
            allow_plain=True,
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
            membership=membership(f"device-{index}", self.restarts) if self.fleet.mode == SUM else None,
            kept=self.kept[index],
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
        if self.device_tasks[index].done() or self.ending is None:
            return self.device_tasks[index].done()
        state = self.device_stores[index].load(self.campaign.campaign_id)
        has_heard = not self.rulings or (state is not None and state.is_over)
        return has_heard and not self.devices[index].standing.campaign_id

    @property
    def rulings(self) -> tuple[Ruling, ...]:
        """What was ruled, as the store has it."""
        snapshot = self.store.load_snapshot(self.campaign.campaign_id)
        return snapshot.rulings if snapshot else ()

    @property
    def ending(self) -> Ending | None:
        """How the campaign has ended, as the store has it; None before."""
        snapshot = self.store.load_snapshot(self.campaign.campaign_id)
        return ENDINGS.get(snapshot.phase) if snapshot else None

    # --- lines --------------------------------------------------------------------------------------------------

    async def carry(self, peer: Peer, message: Up) -> Down:
        """Bring a message to the coordinator and its answer back, as far as the ops let it."""
        ops = self._ops_for(type(message))
        if isinstance(message, SumUp):
            self._note_said(peer.peer_id, message)
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

    def _note_said(self, device: str, message: SumUp) -> None:
        """What a device says in a sum, and, when it contributes, what it means to say: masked, its store knows."""
        state = self.device_stores[int(device.removeprefix("device-"))].load(self.campaign.campaign_id)
        self.watch.note(device, message, self.invitations[message.session_id], state)
        if isinstance(message, Contribute):
            is_plain = self.fleet.mode == PLAIN
            meant = message.payload if is_plain else state.contribution.payload if state and state.contribution else b""
            self.said.append((device, message.session_id, meant))

    def _spent(self, device: str, key: str) -> None:
        if self.ending is None:  # at the end, all rounds are
            self.watch.spent[key].add(device)

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
        payload = bytes(self.campaign.lanes_of(session.kind).packed_bytes)
        answer = await self._handle(Peer("stranger", Role.DEVICE), Contribute(session.session_id, payload))
        assert not isinstance(answer, ContributionCounted), "a stranger was counted"

    def closed_rounds(self) -> list[ClosedRound]:
        """The sums in the store, the vote's first."""
        levels = range(len(self.campaign.levels))
        rounds = [(SessionKind.VOTE, 0), *((SessionKind.OUTCOME, i) for i in levels)]
        rounds += [(SessionKind.ROLLOUT, i) for i in levels]
        stored = [self.store.load_closed(self.campaign.campaign_id, kind, level) for kind, level in rounds]
        return [closed for closed in stored if closed is not None]


def run_world(ops: Sequence[Op], fleet: Fleet | None = None) -> World:
    """Run a campaign under ``ops`` and check it; returns the world for further questions."""
    world = World(fleet or Fleet(), ops)
    run_simulated(world.run(), world.clock)
    check_world(world)
    return world
