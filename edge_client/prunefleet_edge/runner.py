"""Drives one device through a campaign: carries out what ``round`` orders, in order, over a real or simulated world.

Nothing here decides what comes next. State is on the disk before anything is sent; what comes in has been verified
(``verified_link``); what goes out passes ``egress``; no wait is unbounded.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, assert_never

from prunefleet_edge.consumer_round import ConsumerRound
from prunefleet_edge.device import Consumer, DeviceWork
from prunefleet_edge.device_state import round_key
from prunefleet_edge.egress import Egress, outcome_vector, vote_vector
from prunefleet_edge.events import (
    Command,
    Event,
    FollowRuling,
    Invited,
    KeepSlimBase,
    OutcomeMeasured,
    Personalise,
    PrepareVote,
    Rest,
    RulingFollowed,
    SaveState,
    SendCheckIn,
    SendToSum,
    SlimBaseKept,
    Stop,
    VotePrepared,
)
from prunefleet_edge.kept_networks import KeptInMemory, KeptNetworks, ruling_words
from prunefleet_edge.model_cache import ModelCache, NoCache
from prunefleet_edge.release_policy import why_too_alike
from prunefleet_edge.round import DeviceRound
from prunefleet_edge.store import DeviceStore
from prunefleet_edge.verified_link import LinkLimits, VerifiedLink, World
from prunefleet_shared.campaign import Campaign, Decision, SlimBase
from prunefleet_shared.errors import InputError, LocalProtocolError, PrunefleetError
from prunefleet_shared.messages import Ending, SessionKind
from prunefleet_shared.metrics import Outcome
from prunefleet_shared.private_sum import DeviceSum, SessionFacts, SumKeys
from prunefleet_shared.secure_sum.roster import Members, SumIdentity
from prunefleet_shared.secure_sum.shamir import RandomBytes
from prunefleet_shared.sum_messages import (
    Advertise,
    ConfirmSurvivors,
    Contribute,
    FetchCertificates,
    ShareKeys,
    SumUp,
    Unmask,
)

T = TypeVar("T")


_IN_WORDS = {
    Ending.COMPLETED: "campaign completed",
    Ending.FAILED: "campaign given up by the coordinator: too few devices answered",
    Ending.STOPPED: "campaign stopped by the operator",
}
_STAGES: Mapping[type[SumUp], str] = {
    Advertise: "keys",
    FetchCertificates: "certificates",
    ShareKeys: "shares of keys",
    Contribute: "the vector",
    ConfirmSurvivors: "who is in the sum",
    Unmask: "masks off",
}
VOTE_KEY = round_key(SessionKind.VOTE, 0)
WORK_TIMEOUT_S = 24 * 3600.0
"""Longest a vote or a fine-tuning may take; a day covers the slowest board we know of."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a device stands.

    Attributes:
        campaign_id: The campaign it takes part in; empty while it has none.
        level: 0-based level of the decision it tried last; None before the first.
        resting_s: How long it rests before it checks in again; None while it does not rest.
        last_ruling: The last ruling that was followed, in words; empty before the first.
    """

    campaign_id: str = ""
    level: int | None = None
    resting_s: float | None = None
    last_ruling: str = ""


@dataclass(frozen=True, slots=True)
class SumMembership:
    """What a device takes part in secure sums with.

    Attributes:
        identity: Its certificate and key, as they are now.
        members: Checks peers' certificates.
        min_devices: Fewest devices that a sum, or the difference of two, must be over: its owner's policy.
        random_bytes: Unpredictable bytes, such as ``secrets.token_bytes``.
    """

    identity: Callable[[], SumIdentity]
    members: Members
    min_devices: int
    random_bytes: RandomBytes


class DeviceRunner:
    """One device's part in the campaign of its class.

    Args:
        egress: The only way out.
        work: The device's heavy work on private data.
        store: What survives a crash.
        device_class: The class whose campaign to join.
        operator_keys: Whose signatures make a campaign, DER each.
        clock: Seconds on a clock that never goes back.
        sleep: Waits for some seconds of that clock.
        rng: Spreads rests and waits.
        on_state: Told, in words, what the device does or waits for.
        limits: What is borne of the line; None for the default.
        cache: Keeps models between runs; None keeps nothing.
        check_policy: Raises when the device's owner would not take part in such a campaign, given how many sums of
            votes this device has helped to release.
        membership: For secure sums; None takes part in campaigns of mode ``plain`` only.
        kept: The networks in service and on trial; None remembers levels only.
        consumer: On a device without data: keeps slim bases as they are. Such a device never votes or measures.
        reply_slot_s: What was worked out is answered at a multiple of this since the work began, and a while later at
            random: how long it took would tell how many images there are. 0 answers at once.
    """

    def __init__(  # noqa: PLR0913 - the whole world a device meets, by name
        self,
        egress: Egress,
        work: DeviceWork,
        store: DeviceStore,
        *,
        device_class: str,
        operator_keys: Sequence[bytes],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        rng: random.Random,
        on_state: Callable[[str], None],
        limits: LinkLimits | None = None,
        cache: ModelCache | None = None,
        check_policy: Callable[[Campaign, int], None] = lambda _campaign, _num_released: None,
        membership: SumMembership | None = None,
        kept: KeptNetworks | None = None,
        consumer: Consumer | None = None,
        reply_slot_s: float = 0.0,
    ) -> None:
        self._egress = egress
        self._work = work
        self._store = store
        self._device_class = device_class
        self._world = World(clock, sleep, rng, on_state)
        self._limits = limits or LinkLimits()
        self._link = VerifiedLink(egress, operator_keys, self._world, self._limits, cache or NoCache())
        self._check_policy = check_policy
        self._membership = membership
        self._kept = kept or KeptInMemory()
        self._consumer = consumer
        self._reply_slot_s = reply_slot_s
        self._standing = Standing()

    @property
    def standing(self) -> Standing:
        """Where this device stands in the campaign."""
        return self._standing

    async def run(self) -> Ending:
        """Take part until the campaign ends.

        Returns:
            How it ended.

        Raises:
            RemoteProtocolError: A signature, digest, layout or rule does not hold, or the coordinator refused us.
            LayoutError: This device traced another network.
            CarrierError: The coordinator cannot be reached.
            EgressError: Something that must not leave was about to (our bug, or a tampered store).
            ConfigError: The store cannot be used, or the owner's policy forbids the campaign.
            InputError: The data cannot be used, or the vote could not be prepared; nothing was contributed.
            PrunefleetError: The worker failed over the vote (a bug); nothing was contributed.
        """
        self._world.on_state(f"asking for the campaign of class {self._device_class}")
        campaign = await self._link.get_campaign(self._device_class, self._is_over)
        self._check_policy(campaign, self._num_votes_before(campaign))
        self._standing = Standing(campaign.campaign_id)
        self._store.forget_others(campaign.campaign_id)
        self._kept.drop_trials(campaign.campaign_id)
        self._world.on_state(f"downloading the base model {campaign.base_digest[:12]}")
        base = await self._link.download(campaign.base_digest)
        self._world.on_state("tracing the base model")
        fingerprint = await self._bounded(self._work.layout_fingerprint(campaign, base), "tracing")
        state = self._store.load(campaign.campaign_id)
        if state is not None and state.contribution is not None:
            self._egress.seal_again(campaign, state.contribution.kind, state.contribution.payload)
        rng, retries = self._world.rng, self._limits.retries
        if self._consumer is not None:
            consumer_round = ConsumerRound(campaign, fingerprint, state, rng, retries=retries)
            return await self._follow(consumer_round, campaign, base)
        device_round = DeviceRound(
            campaign,
            fingerprint,
            state,
            rng,
            lambda invited, payload: self._open_sum(campaign, invited, payload),
            retries=retries,
        )
        return await self._follow(device_round, campaign, base)

    def _is_over(self, campaign_id: str) -> bool:
        state = self._store.load(campaign_id)
        return state is not None and state.is_over

    def _num_votes_before(self, campaign: Campaign) -> int:
        """Released sums this device had voted in before; 0 once it has voted here: it is asked for no other."""
        state = self._store.load(campaign.campaign_id)
        if state is not None and VOTE_KEY in state.spent:
            return 0
        return len(self._store.releases())

    async def _follow(self, device_round: DeviceRound | ConsumerRound, campaign: Campaign, base: bytes) -> Ending:
        commands = device_round.tick(self._world.clock())
        while True:
            event = None
            for command in commands:
                if isinstance(command, Stop):
                    return self._ending_of(command)
                event = await self._carry_out(command, device_round, campaign, base)
            now_s = self._world.clock()
            commands = device_round.tick(now_s) if event is None else device_round.receive(event, now_s)

    def _ending_of(self, command: Stop) -> Ending:
        if command.error is not None:
            raise command.error
        if command.ending is None:
            msg = "the round stopped without an ending or an error"
            raise LocalProtocolError(msg)
        self._world.on_state(_IN_WORDS[command.ending])
        return command.ending

    async def _carry_out(
        self, command: Command, device_round: DeviceRound | ConsumerRound, campaign: Campaign, base: bytes
    ) -> Event | None:
        event: Event | None = None
        match command:
            case SaveState(state, release):
                self._store.save(state, release)
            case SendCheckIn(message):
                self._world.on_state("checking in")
                event = await self._link.ask(message)
            case PrepareVote():
                self._world.on_state("preparing the vote")
                event = await self._while_watching(self._in_slot(self._prepare_vote(campaign, base)), device_round)
            case Personalise(decision, slim_base):
                self._standing = replace(self._standing, level=decision.level)
                model = await self._slim_model(slim_base)
                self._world.on_state(f"trying the decision of level {decision.level}")
                work = self._personalise(campaign, decision, base, model)
                event = await self._while_watching(self._in_slot(work), device_round)
            case FollowRuling():
                event = await self._follow_ruling(command, campaign, base)
            case KeepSlimBase(decision, slim_base):
                self._standing = replace(self._standing, level=decision.level)
                event = await self._keep_slim_base(campaign, decision, slim_base)
            case SendToSum(message):
                self._world.on_state(f"contributing to session {message.session_id[:12]}: {_STAGES[type(message)]}")
                event = await self._link.ask(message)
            case Rest(delay_s, why):
                self._standing = replace(self._standing, resting_s=delay_s)
                self._world.on_state(f"{why}; checking in again in {delay_s:.1f} s")
                self._standing = replace(self._standing, resting_s=None)
                await self._rest(delay_s)
            case Stop():
                pass  # ``_follow`` ends on it
            case _:
                assert_never(command)
        return event

    def _open_sum(self, campaign: Campaign, invited: Invited, payload: bytes) -> DeviceSum:
        to, membership = invited.invitation, self._membership
        facts = SessionFacts(to.session_id, to.kind, to.level, to.attempt, invited.decision)
        keys = None
        if membership is not None:
            # Noise has an account of its own, and outcomes are a few counts each on another decision.
            is_exact_vote = to.kind is SessionKind.VOTE and campaign.privacy.noise is None
            min_devices, released = membership.min_devices, self._store.releases()
            keys = SumKeys(
                membership.identity(),
                membership.members,
                membership.random_bytes,
                min_devices,
                lambda devices: why_too_alike(devices, released, min_devices) if is_exact_vote else None,
            )
        return self._egress.open_sum(campaign, facts, payload, keys)

    async def _while_watching(
        self, work: Coroutine[Any, Any, Event], device_round: DeviceRound | ConsumerRound
    ) -> Event:
        """The event that ``work`` yields, or that the campaign ended meanwhile: then the work is cancelled."""
        working = asyncio.create_task(work)
        watching = asyncio.create_task(self._link.wait_for_end(device_round.busy_check_in))
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            return await working if working.done() else await watching
        finally:
            for task in (working, watching):
                task.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)

    async def _in_slot(self, work: Awaitable[T]) -> T:
        """What the work came to, held back so that when it is answered does not tell how long it took."""
        began_s, slot_s = self._world.clock(), self._reply_slot_s
        done = await work
        if slot_s:
            taken_s = self._world.clock() - began_s
            self._world.on_state("done; waiting for the next time to answer")
            await self._world.sleep(-taken_s % slot_s + self._world.rng.uniform(0.0, slot_s))
        return done

    async def _prepare_vote(self, campaign: Campaign, base: bytes) -> Event:
        vote = await self._bounded(self._work.prepare_vote(campaign, base), "preparing the vote")
        return VotePrepared(self._egress.seal(campaign, SessionKind.VOTE, vote_vector(campaign, vote)))

    async def _slim_model(self, slim_base: SlimBase) -> bytes | None:
        """What to fine-tune; None where the device is to blend, and has no use for it."""
        return await self._download(slim_base) if slim_base.is_retrained else None

    async def _keep_slim_base(self, campaign: Campaign, decision: Decision, slim_base: SlimBase) -> Event:
        if self._consumer is None:
            msg = "a slim base to keep as it is, on a device with data"
            raise LocalProtocolError(msg)
        model = await self._download(slim_base)
        await self._bounded(self._consumer.keep_slim_base(campaign, decision, model), "keeping the slim base")
        self._world.on_state(f"runs the slim base of level {decision.level} as it is")
        return SlimBaseKept()

    async def _download(self, slim_base: SlimBase) -> bytes:
        self._world.on_state(f"downloading the slim base {slim_base.model_digest[:12]}")
        return await self._link.download(slim_base.model_digest, slim_base.model_bytes)

    async def _personalise(self, campaign: Campaign, decision: Decision, base: bytes, model: bytes | None) -> Event:
        """Try the decision; work that fails is an outcome too, *tried, not finished*: the fleet should know."""
        try:
            work = self._work.personalise(campaign, decision, base, model)
            outcome = await self._bounded(work, "trying the decision")
        except PrunefleetError as error:
            self._world.on_state(f"trying the decision failed: {error}; reporting it as tried and not finished")
            outcome = Outcome(finished=False)
        if campaign.acceptance is not None and outcome.finished:
            self._kept.note_trial(campaign, decision.level)
        vector = outcome_vector(outcome, campaign.lanes_of(SessionKind.OUTCOME))
        return OutcomeMeasured(self._egress.seal(campaign, SessionKind.OUTCOME, vector))

    async def _follow_ruling(self, command: FollowRuling, campaign: Campaign, base: bytes) -> Event:
        ruling, decision, slim_base = command.ruling, command.decision, command.slim_base
        followed = self._kept.follow(ruling)
        if decision and slim_base and ruling.level_for_all not in followed.in_service:
            model = await self._slim_model(slim_base)
            self._world.on_state(f"making the network of level {decision.level}, which was promoted")
            work = self._work.personalise(campaign, decision, base, model)
            await self._in_slot(self._bounded(work, "making the network"))
            self._kept.note_trial(campaign, decision.level)
            followed = self._kept.follow(ruling)
        words = ruling_words(ruling, followed)
        self._standing = replace(self._standing, last_ruling=words)
        self._world.on_state(words)
        return RulingFollowed()

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
