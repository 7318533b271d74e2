"""Drives one device through a campaign: carries out what ``round`` orders, in order, over a real or simulated world.

Nothing here decides what comes next. State is on the disk before anything is sent; what comes in has been verified
(``verified_link``); what goes out passes ``egress``; no wait is unbounded.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar, assert_never

from prunefleet_edge.device import DeviceWork
from prunefleet_edge.egress import Egress, outcome_vector, vote_vector
from prunefleet_edge.events import (
    Command,
    Event,
    OutcomeMeasured,
    Personalise,
    PrepareVote,
    Rest,
    SaveState,
    SendCheckIn,
    SendContribution,
    Stop,
    VotePrepared,
)
from prunefleet_edge.round import DeviceRound
from prunefleet_edge.store import DeviceStore
from prunefleet_edge.verified_link import LinkLimits, TrustedKeys, VerifiedLink, World
from prunefleet_shared.campaign import Campaign, Decision, SlimBase
from prunefleet_shared.errors import InputError
from prunefleet_shared.messages import Contribute, SessionKind

T = TypeVar("T")


WORK_TIMEOUT_S = 24 * 3600.0
"""Longest a vote or a fine-tuning may take; a day covers the slowest board we know of."""


class DeviceRunner:
    """One device's part in the campaign of its class.

    Args:
        egress: The only way out.
        work: The device's heavy work on private data.
        store: What survives a crash.
        device_class: The class whose campaign to join.
        coordinator_key: DER public key that signs campaign and decisions.
        trainer_key: DER public key that signs slim bases.
        clock: Seconds on a clock that never goes back.
        sleep: Waits for some seconds of that clock.
        rng: Spreads rests and waits.
        on_state: Told, in words, what the device does or waits for.
        limits: What is borne of the line; None for the default.
    """

    def __init__(  # noqa: PLR0913 - the whole world a device meets, by name
        self,
        egress: Egress,
        work: DeviceWork,
        store: DeviceStore,
        *,
        device_class: str,
        coordinator_key: bytes,
        trainer_key: bytes,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        rng: random.Random,
        on_state: Callable[[str], None],
        limits: LinkLimits | None = None,
    ) -> None:
        self._egress = egress
        self._work = work
        self._store = store
        self._device_class = device_class
        self._world = World(clock, sleep, rng, on_state)
        self._limits = limits or LinkLimits()
        self._link = VerifiedLink(egress, TrustedKeys(coordinator_key, trainer_key), self._world, self._limits)

    async def run(self) -> bool:
        """Take part until the campaign ends.

        Returns:
            True when the campaign was completed, False when the coordinator gave it up.

        Raises:
            RemoteProtocolError: A signature, digest, layout or rule does not hold, or the coordinator refused us.
            LayoutError: This device traced another network.
            CarrierError: The coordinator cannot be reached.
            EgressError: Something that must not leave was about to (our bug, or a tampered store).
            ConfigError: The store cannot be used.
            InputError: The work on the device's data failed.
        """
        self._world.on_state(f"asking for the campaign of class {self._device_class}")
        campaign = await self._link.get_campaign(self._device_class)
        self._world.on_state(f"downloading the base model {campaign.base_digest[:12]}")
        base = await self._link.download(campaign.base_digest)
        self._world.on_state("tracing the base model")
        fingerprint = await self._bounded(self._work.layout_fingerprint(campaign, base), "tracing")
        state = self._store.load(campaign.campaign_id)
        if state is not None and state.contribution is not None:
            self._egress.seal_again(campaign, state.contribution.kind, state.contribution.payload)
        device_round = DeviceRound(campaign, fingerprint, state, self._world.rng, retries=self._limits.retries)
        return await self._follow(device_round, campaign, base)

    async def _follow(self, device_round: DeviceRound, campaign: Campaign, base: bytes) -> bool:
        commands = device_round.tick(self._world.clock())
        while True:
            event = None
            for command in commands:
                if isinstance(command, Stop):
                    return self._stop(command)
                event = await self._carry_out(command, campaign, base)
            now_s = self._world.clock()
            commands = device_round.tick(now_s) if event is None else device_round.receive(event, now_s)

    def _stop(self, command: Stop) -> bool:
        if command.error is not None:
            raise command.error
        self._world.on_state("campaign completed" if command.completed else "campaign given up by the coordinator")
        return command.completed

    async def _carry_out(self, command: Command, campaign: Campaign, base: bytes) -> Event | None:
        event: Event | None = None
        match command:
            case SaveState(state):
                self._store.save(state)
            case SendCheckIn(message):
                self._world.on_state("checking in")
                event = await self._link.ask(message)
            case PrepareVote():
                event = await self._prepare_vote(campaign, base)
            case Personalise(decision, slim_base):
                event = await self._personalise(campaign, decision, slim_base, base)
            case SendContribution(session_id, payload):
                self._world.on_state(f"sending {len(payload)} bytes to session {session_id[:12]}")
                event = await self._link.ask(Contribute(session_id, payload))
            case Rest(delay_s, why):
                self._world.on_state(f"{why}; checking in again in {delay_s:.1f} s")
                await self._rest(delay_s)
            case Stop():
                pass  # ``_follow`` ends on it
            case _:
                assert_never(command)
        return event

    async def _prepare_vote(self, campaign: Campaign, base: bytes) -> Event:
        self._world.on_state("preparing the vote")
        vote = await self._bounded(self._work.prepare_vote(campaign, base), "preparing the vote")
        return VotePrepared(self._egress.seal(campaign, SessionKind.VOTE, vote_vector(campaign, vote)))

    async def _personalise(self, campaign: Campaign, decision: Decision, slim_base: SlimBase, base: bytes) -> Event:
        self._world.on_state(f"downloading the slim base {slim_base.model_digest[:12]}")
        model = await self._link.download(slim_base.model_digest, slim_base.model_bytes)
        self._world.on_state(f"trying the decision of level {decision.level}")
        work = self._work.personalise(campaign, decision, base, model)
        outcome = await self._bounded(work, "trying the decision")
        return OutcomeMeasured(self._egress.seal(campaign, SessionKind.OUTCOME, outcome_vector(outcome)))

    async def _rest(self, delay_s: float) -> None:
        until_s = self._world.clock() + delay_s
        # A sleep may end early by a tick of the clock; ticking the round then would find it still resting.
        while (remaining_s := until_s - self._world.clock()) > 0:
            await self._world.sleep(remaining_s)

    async def _bounded(self, work: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(WORK_TIMEOUT_S):
                return await work
        except TimeoutError as error:
            msg = f"{what} took longer than {WORK_TIMEOUT_S:.0f} s; give the device less data or fewer steps"
            raise InputError(msg) from error
