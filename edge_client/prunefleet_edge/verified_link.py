"""Asks the coordinator, and believes only what is signed: every answer becomes a verified event or an error.

Documents are checked against the keys the device was given, models against their signed digest and size. No wait is
unbounded. Nothing here decides what comes next.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from prunefleet_edge.backoff import Backoff, RetryPolicy
from prunefleet_edge.egress import Egress, Outgoing
from prunefleet_edge.events import Event, Invited, LinkFailed, Refused, ToldToComeBack
from prunefleet_shared.campaign import Campaign, Decision, SlimBase
from prunefleet_shared.documents import digest, open_document
from prunefleet_shared.errors import CarrierError, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.layout import MAX_LEVELS
from prunefleet_shared.messages import (
    CampaignEnded,
    CampaignOffer,
    ComeBack,
    Contribute,
    ContributionCounted,
    Down,
    FetchModel,
    GetCampaign,
    Invitation,
    ModelChunk,
)
from prunefleet_shared.private_sum import PLAIN
from prunefleet_shared.wire_limits import MAX_MODEL_BYTES

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Whose signatures count, DER SubjectPublicKeyInfo each.

    Attributes:
        coordinator: Signs campaign and decisions.
        trainer: Signs slim bases.
    """

    coordinator: bytes
    trainer: bytes


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What a device bears of its line.

    Attributes:
        call_timeout_s: Longest wait for an answer; coordinators hold a call for some tens of seconds at most.
        max_model_bytes: Largest model downloaded; the protocol's own limit unless set lower.
        retries: How long to keep trying an unreachable coordinator.
    """

    call_timeout_s: float = 120.0
    max_model_bytes: int = MAX_MODEL_BYTES
    retries: RetryPolicy = field(default_factory=RetryPolicy)


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
        keys: Whose signatures count.
        world: Time and chance.
        limits: What is borne.
    """

    def __init__(self, egress: Egress, keys: TrustedKeys, world: World, limits: LinkLimits) -> None:
        self._egress = egress
        self._keys = keys
        self._world = world
        self._limits = limits

    async def get_campaign(self, device_class: str) -> Campaign:
        """The signed campaign of a device class, on terms this client can meet.

        Raises:
            RemoteProtocolError: The signature or the terms do not hold.
            CarrierError: The coordinator cannot be reached.
        """
        offer = _expect(await self._call_until_answered(GetCampaign(device_class)), CampaignOffer)
        campaign = open_document(offer.campaign, "campaign", Campaign, self._keys.coordinator)
        num_levels = len(campaign.levels)
        if (campaign.device_class, campaign.privacy_mode) != (device_class, PLAIN) or not 1 <= num_levels <= MAX_LEVELS:
            expected = f"class {device_class}, privacy mode {PLAIN}, 1 to {MAX_LEVELS} levels"
            got = f"class {campaign.device_class}, {campaign.privacy_mode}, {num_levels}"
            raise reject(RejectReason.WRONG_CAMPAIGN, expected=expected, got=got, remedy="update the client")
        return campaign

    async def download(self, model_digest: str, declared_bytes: int | None = None) -> bytes:
        """Fetch a model piece by piece.

        Args:
            model_digest: SHA-256 (hex) from a signed document.
            declared_bytes: Its size from the same document, where there is one.

        Raises:
            RemoteProtocolError: It has another size or digest, or is too large.
            CarrierError: The coordinator cannot be reached.
        """
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

    async def ask(self, message: Outgoing) -> Event:
        """Send a check-in or a contribution once; whatever comes of it is an event."""
        try:
            return self._event(message, await self._call(message))
        except RemoteProtocolError as error:
            return Refused(error.rejection)
        except CarrierError as error:
            return LinkFailed(str(error), error.retryable)

    def _event(self, message: Outgoing, answer: Down) -> Event:
        if isinstance(message, Contribute):
            return _expect(answer, ContributionCounted)
        match answer:
            case Invitation():
                return self._verified(answer)
            case ComeBack(after_ms, awaited):
                return ToldToComeBack(after_ms / 1000, awaited)
            case _:
                return _expect(answer, CampaignEnded)

    def _verified(self, invitation: Invitation) -> Invited:
        decision = slim_base = None
        if invitation.decision is not None:
            decision = open_document(invitation.decision, "decision", Decision, self._keys.coordinator)
        if invitation.slim_base is not None:
            slim_base = open_document(invitation.slim_base, "slim_base", SlimBase, self._keys.trainer)
        return Invited(invitation, decision, slim_base)

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


def _expect(answer: Down, kind: type[T]) -> T:
    if isinstance(answer, kind):
        return answer
    raise reject(RejectReason.MALFORMED, expected=f"a {kind.__name__}", got=f"a {type(answer).__name__}")


def _wrong_model(expected: str, got: str) -> RemoteProtocolError:
    remedy = "fetch it again; if it repeats, tell the operator"
    return reject(RejectReason.MALFORMED, expected=expected, got=got, remedy=remedy)
