"""A device's work, done in a worker process; what the simulation measures beside it stays on this side of the wire."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from prunefleet_edge.device import Vote
from prunefleet_edge.work import WorkOptions
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.masks import FloatArray
from prunefleet_shared.metrics import Outcome
from prunefleet_simulation import jobs
from prunefleet_simulation.fleet_data import DevicePools

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Workers:
    """The worker processes, and who is told when a job is done."""

    executor: Executor
    on_done: Callable[[str], None]

    async def run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``job`` in a worker; its exceptions come back as they are."""
        call = functools.partial(job, *args, **kwargs)
        result = await asyncio.get_running_loop().run_in_executor(self.executor, call)
        self.on_done(job.__name__)
        return result


class SimulatedDevice:
    """Implements ``DeviceWork`` on the worker pool and keeps each arm's result.

    Attributes:
        dense: The arm ``dense``, once the device has voted.
        levels: What came of each level's decision.
    """

    def __init__(
        self, workers: Workers, pools: DevicePools, options: WorkOptions, public_scores_C: FloatArray | None
    ) -> None:
        self.pools = pools
        self.options = options
        self.dense: jobs.ArmResult | None = None
        self.levels: dict[int, jobs.PersonalResult] = {}
        self._workers = workers
        self._public_scores_C = public_scores_C

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        """See ``DeviceWork``."""
        return await self._workers.run(jobs.trace_job, campaign, base)

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        """See ``DeviceWork``."""
        vote, self.dense = await self._workers.run(
            jobs.vote_job, campaign, base, self.pools, self.options, self._public_scores_C
        )
        return vote

    async def personalise(
        self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None
    ) -> Outcome:
        """See ``DeviceWork``."""
        result = await self._workers.run(
            jobs.personal_job, campaign, decision, base, slim_base, self.pools, self.options
        )
        self.levels[decision.level] = result
        return result.outcome
