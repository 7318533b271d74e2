"""One repetition: a coordinator, a trainer and N devices over loopback gRPC with mutual TLS, until the campaign ends.

Everything that crosses goes through the same runners, carriers and egress as in a real deployment. What is only
simulated: the devices share a machine, their work runs in a pool of processes, and arms are measured beside the round.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from prunefleet_coordinator.archive import LEVEL_FOLDER, STEERING_FILE, write_run
from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_coordinator.runner import CoordinatorRunner
from prunefleet_coordinator.store import SqlStore
from prunefleet_coordinator.watch import Fact
from prunefleet_edge.egress import Egress
from prunefleet_edge.runner import DeviceRunner, SumMembership
from prunefleet_edge.store import SqliteDeviceStore
from prunefleet_edge.work import WorkOptions
from prunefleet_shared.campaign import Campaign, CohortPolicy, Decision
from prunefleet_shared.certificates import Authority, create_authority, issue
from prunefleet_shared.document_file import write_document
from prunefleet_shared.documents import digest, public_bytes, sign_document
from prunefleet_shared.errors import InputError
from prunefleet_shared.grpc_link import GrpcLink
from prunefleet_shared.identity import create_signing_key
from prunefleet_shared.masks import BoolArray
from prunefleet_shared.messages import Role
from prunefleet_shared.meter import Meter
from prunefleet_shared.secure_sum.roster import Members, SumIdentity
from prunefleet_shared.steering_record import SteeringRecord, record_digest
from prunefleet_simulation import jobs
from prunefleet_simulation.fleet_data import FleetData, Pool
from prunefleet_simulation.progress_events import DeviceState
from prunefleet_simulation.proxy import CountingProxy
from prunefleet_simulation.results import SeedResult
from prunefleet_simulation.seed_results import Traffic, gather_results
from prunefleet_simulation.seed_story import SeedStory
from prunefleet_simulation.settings import Settings
from prunefleet_simulation.simulated_device import SimulatedDevice, Workers
from prunefleet_trainer.campaign_files import BaseFiles, agnostic_masks, make_campaign
from prunefleet_trainer.runner import Retrained, SteeringSums, TrainerRunner

DEVICE_CLASS = "simulated"
SESSION_DEADLINE_MS = 6 * 3600 * 1000
"""A simulation waits for every device; the deadline only keeps a hung one from holding it for ever."""
STAGE_MS = 600_000
CALL_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class SeedPlan:
    """What one repetition starts from."""

    settings: Settings
    seed: int
    data: FleetData
    files: BaseFiles
    folder: Path

    @property
    def campaign_key(self) -> EllipticCurvePrivateKey:
        """Signs campaign and decisions; anyone who knows the seed has it."""
        return create_signing_key(self.seed * 2)

    @property
    def trainer_key(self) -> EllipticCurvePrivateKey:
        """Signs slim bases."""
        return create_signing_key(self.seed * 2 + 1)

    @property
    def public(self) -> Pool | None:
        """What the trainer retrains slim bases on; None where it is to do without."""
        return self.data.public if self.settings.public_retraining else None

    def options(self, device: int) -> WorkOptions:
        """How a device of this repetition works."""
        state_dir = self.folder / "devices" / f"{device:03d}"
        return WorkOptions(self.settings.recipe.local, seed=self.seed * 1000 + device, state_dir=state_dir)

    def campaign(self) -> Campaign:
        """The campaign; the same settings and seed give the same document."""
        asked = self.settings
        terms = f"{asked.levels_permille}|{asked.budget}|{asked.rules}|{asked.min_keep}|{asked.round_to}|{asked.gate}"
        terms += f"|{asked.clusters}"
        name = f"{digest(self.files.weights)}|{terms}|{self.seed}"
        size = self.settings.devices
        return make_campaign(
            self.files,
            campaign_id=digest(name.encode())[:32],
            device_class=DEVICE_CLASS,
            levels_permille=self.settings.levels_permille,
            cohort=CohortPolicy(size, size, SESSION_DEADLINE_MS, stage_ms=STAGE_MS),
            privacy=self.settings.privacy_terms,
            noise=self.settings.noise,
            decision_key=public_bytes(self.campaign_key.public_key()),
            slim_base_key=public_bytes(self.trainer_key.public_key()),
            budget_unit=self.settings.budget,
            rules=self.settings.rules,
            limits=self.settings.limits,
            gate=self.settings.gate,
        )


async def run_seed(plan: SeedPlan, workers: Workers, story: SeedStory) -> SeedResult:
    """Play the whole campaign of one seed.

    Args:
        plan: What to play.
        workers: Where the heavy work runs.
        story: Told what happens, for the display.

    Raises:
        PrunefleetError: Whatever stopped the first participant that stopped.
    """
    started_s = time.monotonic()
    campaign = plan.campaign()
    story.begin(plan.seed, [f"device-{n:02d}" for n in range(plan.settings.devices)], len(campaign.levels))
    votes_public = plan.files.l1_scores_C if plan.settings.votes == "public_l1" else None
    devices = [
        SimulatedDevice(workers, pools, plan.options(n), votes_public) for n, pools in enumerate(plan.data.devices)
    ]
    async with AsyncExitStack() as stack:
        store = SqlStore(f"sqlite:///{plan.folder / 'coordinator.sqlite'}")
        stack.callback(store.close)
        fleet = _Fleet(plan, campaign, devices, workers, story, store)
        agnostic, traffic = await fleet.play(stack)
        write_run(plan.folder, store, campaign.campaign_id)
        for level, record in fleet.steering.items():
            write_document(plan.folder / f"{LEVEL_FOLDER}{level}" / STEERING_FILE, record)
        wall_s = time.monotonic() - started_s
        return gather_results(plan.seed, campaign, store, devices, agnostic, fleet.steering, traffic, wall_s)


class _Fleet:
    """The participants of one campaign and how they are tied together."""

    def __init__(
        self,
        plan: SeedPlan,
        campaign: Campaign,
        devices: list[SimulatedDevice],
        workers: Workers,
        story: SeedStory,
        store: SqlStore,
    ) -> None:
        self._plan, self._campaign, self._devices = plan, campaign, devices
        self._workers, self._story = workers, story
        self._campaign_key, self._trainer_key = plan.campaign_key, plan.trainer_key
        self._meter = Meter()
        self.steering: dict[int, SteeringRecord] = {}
        self._last_cost: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        ids = random.Random(plan.seed)  # noqa: S311 - a simulation's ids must repeat; a deployment's come from secrets
        self._authority = create_authority(_now())
        store.save_blob(plan.files.weights)
        self._coordinator = CoordinatorRunner(
            sign_document("campaign", campaign, self._campaign_key),
            self._campaign_key,
            store,
            store,
            time.monotonic,
            lambda: f"{ids.getrandbits(128):032x}",
            members=Members(self._authority.cert_pem, _now),
        )
        self._coordinator.watch(self._watch)

    async def play(self, stack: AsyncExitStack) -> tuple[list[tuple[jobs.ArmResult, jobs.ArmResult]], Traffic]:
        """Run everyone to the end; the agnostic arms of all devices and the bytes exchanged."""
        authority = self._authority
        server = await start_server(
            self._coordinator, issue(authority, Role.COORDINATOR, "coordinator", _now()), clock=_now
        )
        stack.push_async_callback(server.stop, 0.5)
        proxy = await stack.enter_async_context(CountingProxy(server.port))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._coordinator.run())
                group.create_task(self._train(authority, server.port))
                for number in range(len(self._devices)):
                    group.create_task(self._take_part(number, authority, proxy.port))
                agnostic = group.create_task(self._agnostic_arms())
        except ExceptionGroup as errors:
            raise _first(errors) from errors
        if agnostic.cancelled():
            msg = "the campaign was given up by the coordinator: too few devices contributed in time"
            raise InputError(msg)
        return agnostic.result(), Traffic(self._meter, proxy.up_bytes, proxy.down_bytes)

    async def _take_part(self, number: int, authority: Authority, port: int) -> None:
        name = f"device-{number:02d}"
        credentials = issue(authority, Role.DEVICE, name, _now())
        link = GrpcLink(f"127.0.0.1:{port}", credentials, timeout_s=CALL_TIMEOUT_S, meter=self._meter)
        folder = self._plan.folder / "devices" / f"{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        store = SqliteDeviceStore(folder / "state.sqlite")
        try:
            runner = DeviceRunner(
                Egress(link, audit=lambda _record: None),
                self._devices[number],
                store,
                device_class=DEVICE_CLASS,
                operator_keys=[public_bytes(self._campaign_key.public_key())],
                clock=time.monotonic,
                sleep=asyncio.sleep,
                rng=random.Random(self._plan.seed * 1000 + number),  # noqa: S311 - spreads waits, protects nothing
                on_state=lambda words: self._story.device_says(name, words),
                membership=SumMembership(
                    lambda: SumIdentity.of(credentials),
                    Members(authority.cert_pem, _now),
                    self._plan.settings.min_devices,
                    random.Random(self._plan.seed * 1000 + number).randbytes,  # noqa: S311 - so that a run repeats
                ),
            )
            await runner.run()
        finally:
            store.close()
            await link.close()
        self._story.device_is(name, DeviceState.DONE)

    async def _train(self, authority: Authority, port: int) -> None:
        link = GrpcLink(
            f"127.0.0.1:{port}", issue(authority, Role.TRAINER, "trainer", _now()), timeout_s=CALL_TIMEOUT_S
        )
        keys, campaign_id = [public_bytes(self._campaign_key.public_key())], self._campaign.campaign_id
        try:
            await TrainerRunner(
                link, campaign_id, operator_keys=lambda: keys, signing_key=self._trainer_key, retrain=self._retrain
            ).run()
        finally:
            await link.close()

    async def _retrain(self, campaign: Campaign, decision: Decision, sums: SteeringSums | None) -> Retrained:
        data, recipe, seed = self._plan.public, self._plan.settings.recipe.public, self._plan.seed
        model, record = await self._workers.run(
            jobs.decided_job, campaign, decision, sums, self._plan.files.weights, data, recipe, seed
        )
        if record is None:
            return Retrained(model, is_retrained=data is not None)
        self.steering[decision.level] = record
        return Retrained(model, record_digest(record))

    async def _slim_base(self, masks: Sequence[BoolArray]) -> bytes:
        data, recipe = self._plan.public, self._plan.settings.recipe.public
        weights = self._plan.files.weights
        return await self._workers.run(
            jobs.slim_base_job, self._campaign, weights, masks, data, recipe, self._plan.seed
        )

    async def _agnostic_arms(self) -> list[tuple[jobs.ArmResult, jobs.ArmResult]]:
        """The baseline without a fleet, at the cost of the last decision: same base, same public and local steps."""
        cost = await self._last_cost
        masks = agnostic_masks(self._plan.files, self._campaign.cost_table, cost, self._campaign.limits)
        shipped = await self._slim_base(masks)
        work = (
            self._workers.run(
                jobs.agnostic_job,
                self._campaign,
                self._plan.files,
                cost,
                shipped,
                device.pools,
                device.options,
                is_retrained=self._plan.public is not None,
            )
            for device in self._devices
        )
        return list(await asyncio.gather(*work))

    def _watch(self, kind: str, facts: Mapping[str, Fact]) -> None:
        self._story.coordinator_says(kind, facts)
        cost, is_last = facts.get("cost"), facts.get("level") == len(self._campaign.levels) - 1
        if kind == "decided" and is_last and isinstance(cost, int):
            self._last_cost.set_result(cost)
        if kind == "ended" and not self._last_cost.done():
            self._last_cost.cancel()


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    error: Exception = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _now() -> datetime:
    return datetime.now(UTC)
