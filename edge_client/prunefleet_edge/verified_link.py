"""Asks the coordinator, and believes only what is signed: every answer becomes a verified event or an error.

Documents are checked against the keys the device was given, models against their signed digest and size. No wait is
unbounded. Nothing here decides what comes next.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from prunefleet_edge.backoff import Backoff, RetryPolicy, rest_s
from prunefleet_edge.egress import Egress, Outgoing
from prunefleet_edge.events import (
    Event,
    Invited,
    LinkFailed,
    Refused,
    RulingHeard,
    SlimBaseHeard,
    SumAnswered,
    ToldToComeBack,
)
from prunefleet_edge.model_cache import ModelCache
from prunefleet_shared.acceptance import Ruling
from prunefleet_shared.campaign import PRIVACY_MODES, Campaign, Decision, SlimBase
from prunefleet_shared.documents import SignedDocument, digest, open_document
from prunefleet_shared.errors import CarrierError, ConfigError, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.layout import MAX_LEVELS
from prunefleet_shared.messages import (
    CampaignEnded,
    CampaignOffer,
    CheckIn,
    ComeBack,
    Down,
    FetchModel,
    GetCampaign,
    Invitation,
    ModelChunk,
    Readiness,
    RulingOffer,
    SlimBaseOffer,
    SumDown,
    SumUp,
)
from prunefleet_shared.wire_limits import MAX_MODEL_BYTES

T = TypeVar("T")
BUSY_REST_S = 1.0
"""Rest before a device that works asks whether the campaign goes on; work that is over sooner asks nothing."""
MAX_BUSY_REST_S = 5.0
"""Longest rest between two such questions: training stops within seconds of the campaign."""


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What a device bears of its line.

    Attributes:
        call_timeout_s: Longest wait for an answer; coordinators hold a call for some tens of seconds at most.
        max_model_bytes: Largest model downloaded; the protocol's own limit unless set lower.
        retries: How long to keep trying an unreachable coordinator.
        busy_retries: The same while the device works and only asks whether the campaign goes on; it never gives up.
    """

    call_timeout_s: float = 120.0
    max_model_bytes: int = MAX_MODEL_BYTES
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    busy_retries: RetryPolicy = field(default_factory=lambda: RetryPolicy(max_s=60.0, give_up_after_s=math.inf))


@dataclass(frozen=True, slots=True)
class World:
    """Time and chance, as a runner meets them.

    Attributes:
        clock: Seconds on a clock that never goes back.
        sleep: Waits for some seconds of that clock.
        rng: Spreads rests and waits.
        on_state: Told, in words, what the device does or waits for.
    """

    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    rng: random.Random
    on_state: Callable[[str], None]


class VerifiedLink:
    """The coordinator as a device may believe it.

    Args:
        egress: The only way out.
        operator_keys: Whose signatures make a campaign, DER each; the campaign names who signs the rest.
        world: Time and chance.
        limits: What is borne.
        cache: Where models are kept between runs.
    """

    def __init__(
        self, egress: Egress, operator_keys: Sequence[bytes], world: World, limits: LinkLimits, cache: ModelCache
    ) -> None:
        self._egress = egress
        self._cache = cache
        self._operator_keys = tuple(operator_keys)
        self._decision_key = self._slim_base_key = b""  # named by the campaign; until then nothing verifies
        self._world = world
        self._limits = limits

    async def get_campaign(self, device_class: str, is_over: Callable[[str], bool] = lambda _id: False) -> Campaign:
        """The signed campaign of a device class, on terms this client can meet; waits until there is one.

        A campaign that has ended is offered, too, while a device may have to hear what was ruled in it.

        Args:
            device_class: The device's.
            is_over: Whether this device knows the end of a campaign, by its id.

        Raises:
            RemoteProtocolError: The signature or the terms do not hold.
            CarrierError: The coordinator cannot be reached.
        """
        signed = await self._get_signed(GetCampaign(device_class))
        campaign = self._opened(signed)
        if is_over(campaign.campaign_id):
            signed = await self._get_signed(GetCampaign(device_class, campaign.campaign_id))
            campaign = self._opened(signed)
        if is_over(campaign.campaign_id):
            raise reject(RejectReason.WRONG_CAMPAIGN, expected="a campaign that goes on", got="one that has ended")
        num_levels = len(campaign.levels)
        is_known_mode = campaign.privacy.mode in PRIVACY_MODES
        if campaign.device_class != device_class or not is_known_mode or not 1 <= num_levels <= MAX_LEVELS:
            expected = f"class {device_class}, privacy mode {', '.join(PRIVACY_MODES)}, 1 to {MAX_LEVELS} levels"
            got = f"class {campaign.device_class}, {campaign.privacy.mode[:20]}, {num_levels}"
            raise reject(RejectReason.WRONG_CAMPAIGN, expected=expected, got=got, remedy="update the client")
        self._decision_key = bytes.fromhex(campaign.decision_key)
        self._slim_base_key = bytes.fromhex(campaign.slim_base_key)
        self._keep(lambda: self._cache.save_campaign(signed))
        return campaign

    async def _get_signed(self, question: GetCampaign) -> SignedDocument:
        answer = await self._call_until_answered(question)
        while isinstance(answer, ComeBack):
            await self._rest(answer, "no campaign runs for this class")
            answer = await self._call_until_answered(question)
        return _expect(answer, CampaignOffer).campaign

    def _opened(self, signed: SignedDocument) -> Campaign:
        if signed.public_key not in self._operator_keys:
            expected, got = f"one of {len(self._operator_keys)} operators", f"key {digest(signed.public_key)[:12]}"
            remedy = "ask the operator whether this key is theirs; a renewed certificate brings new operators' keys"
            raise reject(RejectReason.BAD_SIGNATURE, expected=expected, got=got, remedy=remedy)
        return open_document(signed, "campaign", Campaign, signed.public_key)

    async def _rest(self, come_back: ComeBack, why: str) -> None:
        delay_s = rest_s(come_back.after_ms / 1000, self._world.rng)
        self._world.on_state(f"{why}; asking again in {delay_s:.1f} s")
        await self._world.sleep(delay_s)

    async def download(self, model_digest: str, declared_bytes: int | None = None) -> bytes:
        """A model from the cache, or piece by piece from the coordinator.

        Args:
            model_digest: SHA-256 (hex) from a signed document.
            declared_bytes: Its size from the same document, where there is one.

        Raises:
            RemoteProtocolError: It has another size or digest, or is too large.
            CarrierError: The coordinator cannot be reached.
        """
        cached = self._cache.load(model_digest)
        if cached is not None and declared_bytes in {None, len(cached)}:
            return cached
        model = await self._fetch(model_digest, declared_bytes)
        self._keep(lambda: self._cache.save(model_digest, model))
        return model

    async def _fetch(self, model_digest: str, declared_bytes: int | None) -> bytes:
        model, total = bytearray(), declared_bytes
        while total is None or len(model) < total:
            piece = _expect(await self._call_until_answered(FetchModel(model_digest, len(model))), ModelChunk)
            total = piece.total_bytes if total is None else total
            model += piece.chunk
            fits = len(model) <= total <= self._limits.max_model_bytes
            if piece.total_bytes != total or not piece.chunk or not fits:
                raise _wrong_model(f"{total} bytes", f"{len(model)} of {piece.total_bytes}")
        if digest(bytes(model)) != model_digest:
            raise _wrong_model(f"digest {model_digest[:12]}", digest(bytes(model))[:12])
        return bytes(model)

    def _keep(self, save: Callable[[], None]) -> None:
        try:
            save()
        except ConfigError as error:  # the cache only spares a download; what must be on the disk is in the store
            self._world.on_state(f"going on without a cache: {error}")

    async def wait_for_end(self, check_in: CheckIn) -> CampaignEnded:
        """Ask again and again, while the device works, whether the campaign goes on; returns once it has ended.

        Whatever else is answered, or goes wrong, is no reason to stop working: the result will meet it.
        """
        backoff = Backoff(self._limits.busy_retries, self._world.rng)
        delay_s = BUSY_REST_S
        while True:
            await self._world.sleep(delay_s)
            match await self.ask(check_in):
                case CampaignEnded() as ended:
                    return ended
                case LinkFailed() | Refused():
                    delay_s = BUSY_REST_S + (backoff.next_delay_s(self._world.clock()) or 0.0)
                case ToldToComeBack(after_s):
                    backoff.reset()
                    delay_s = min(max(rest_s(after_s, self._world.rng), BUSY_REST_S), MAX_BUSY_REST_S)
                case _:
                    delay_s = MAX_BUSY_REST_S

    async def ask(self, message: Outgoing) -> Event:
        """Send a check-in or a message of a sum once; whatever comes of it is an event."""
        try:
            return self._event(message, await self._call(message))
        except RemoteProtocolError as error:
            return Refused(error.rejection)
        except CarrierError as error:
            return LinkFailed(str(error), error.retryable)

    def _event(self, message: Outgoing, answer: Down) -> Event:
        if isinstance(message, SumUp):
            return _sum_event(answer)
        if isinstance(message, CheckIn) and message.readiness is Readiness.NO_DATA:
            return self._consumer_event(answer)
        match answer:
            case Invitation():
                return Invited(answer, *self._verified(answer))
            case RulingOffer(signed):
                ruling = open_document(signed, "ruling", Ruling, self._decision_key)
                return RulingHeard(ruling, *self._verified(answer))
            case ComeBack(after_ms, awaited):
                return ToldToComeBack(after_ms / 1000, awaited)
            case _:
                return _expect(answer, CampaignEnded)

    def _consumer_event(self, answer: Down) -> Event:
        """A device without data is offered networks; an invitation would be a fault."""
        match answer:
            case SlimBaseOffer(decision, slim_base):
                return SlimBaseHeard(
                    open_document(decision, "decision", Decision, self._decision_key),
                    open_document(slim_base, "slim_base", SlimBase, self._slim_base_key),
                )
            case ComeBack(after_ms, awaited):
                return ToldToComeBack(after_ms / 1000, awaited)
            case _:
                return _expect(answer, CampaignEnded)

    def _verified(self, offer: Invitation | RulingOffer) -> tuple[Decision | None, SlimBase | None]:
        decision = slim_base = None
        if offer.decision is not None:
            decision = open_document(offer.decision, "decision", Decision, self._decision_key)
        if offer.slim_base is not None:
            slim_base = open_document(offer.slim_base, "slim_base", SlimBase, self._slim_base_key)
        return decision, slim_base

    async def _call_until_answered(self, message: Outgoing) -> Down:
        backoff = Backoff(self._limits.retries, self._world.rng)
        while True:
            try:
                return await self._call(message)
            except CarrierError as error:
                delay_s = backoff.next_delay_s(self._world.clock()) if error.retryable else None
                if delay_s is None:
                    raise
                self._world.on_state(f"{error}; trying again in {delay_s:.1f} s")
                await self._world.sleep(delay_s)

    async def _call(self, message: Outgoing) -> Down:
        try:
            async with asyncio.timeout(self._limits.call_timeout_s):
                return await self._egress.send(message)
        except TimeoutError as error:
            msg = f"no answer within {self._limits.call_timeout_s:.0f} s"
            raise CarrierError(msg, retryable=True) from error


def _sum_event(answer: Down) -> Event:
    if isinstance(answer, SumDown):
        return SumAnswered(answer)
    come_back = _expect(answer, ComeBack)
    return ToldToComeBack(come_back.after_ms / 1000, come_back.awaited)


def _expect(answer: Down, kind: type[T]) -> T:
    if isinstance(answer, kind):
        return answer
    raise reject(RejectReason.MALFORMED, expected=f"a {kind.__name__}", got=f"a {type(answer).__name__}")


def _wrong_model(expected: str, got: str) -> RemoteProtocolError:
    remedy = "fetch it again; if it repeats, tell the operator"
    return reject(RejectReason.MALFORMED, expected=expected, got=got, remedy=remedy)
