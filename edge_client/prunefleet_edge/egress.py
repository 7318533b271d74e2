"""The only way out of the device: a few kinds of message, and in one of them sealed integers.

Whatever a device says passes :meth:`Egress.send`. It lets through a message only if its exact type is listed below,
every text in it has the one shape an identifier can have. Messages of a private sum it lets through only if a sum made
them that was opened here (:meth:`Egress.open_sum`) for a contribution that was sealed here (:meth:`Egress.seal`) from a
vector that obeys the signed lane table. Everything else raises, and nothing is sent. What is sent is first written down
for the device's owner.

Nothing here can import data, training or torch: what this module cannot see, it cannot send.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

import numpy as np

from prunefleet_edge.device import Vote
from prunefleet_shared.acceptance import MAX_RULINGS
from prunefleet_shared.authority_messages import GetAuthority, Join, Renew
from prunefleet_shared.campaign import PLAIN, Campaign
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.errors import EgressError, LocalProtocolError, RemoteProtocolError
from prunefleet_shared.lanes import pack, unpack
from prunefleet_shared.layout import MAX_LEVELS, NUM_WIDTH_OPTIONS
from prunefleet_shared.masks import IntArray, half_mask
from prunefleet_shared.messages import (
    CheckIn,
    Down,
    FetchModel,
    GetCampaign,
    Link,
    Readiness,
    SessionKind,
    SumDown,
    SumUp,
)
from prunefleet_shared.metrics import outcome_vector
from prunefleet_shared.private_sum import DeviceSum, SessionFacts, SumKeys, open_device_sum
from prunefleet_shared.sum_messages import (
    Advertise,
    ConfirmSurvivors,
    Contribute,
    FetchCertificates,
    ShareKeys,
    Unmask,
    said_bytes,
)

__all__ = ["Egress", "EgressRecord", "enrolment_record", "outcome_vector", "vote_vector"]

Outgoing = GetCampaign | CheckIn | SumUp | FetchModel

_HEX_ID = re.compile(r"[0-9a-f]{32}")
_HEX_ID_OR_NONE = re.compile(r"([0-9a-f]{32})?")
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
_DEVICE_CLASS = re.compile(r"[a-z0-9-]{1,32}")
_TEXT_SHAPES: Mapping[type[Outgoing], Mapping[str, re.Pattern[str]]] = {
    GetCampaign: {"device_class": _DEVICE_CLASS, "ended_campaign_id": _HEX_ID_OR_NONE},
    CheckIn: {"campaign_id": _HEX_ID, "layout_fingerprint": _HEX_DIGEST},
    Advertise: {"session_id": _HEX_ID},
    FetchCertificates: {"session_id": _HEX_ID},
    ShareKeys: {"session_id": _HEX_ID},
    Contribute: {"session_id": _HEX_ID},
    ConfirmSurvivors: {"session_id": _HEX_ID},
    Unmask: {"session_id": _HEX_ID},
    FetchModel: {"digest": _HEX_DIGEST},
}
"""What may leave, and the shape of every text in it: identifiers only, so that no field can carry a sentence."""


@dataclass(frozen=True, slots=True)
class EgressRecord:
    """One line of the owner's audit: what left, or was about to when the line broke.

    Attributes:
        kind: The message's type, such as ``Contribute``.
        payload_bytes: Size of what a sum's message says, or of another message's fields as canonical JSON.
        digest: SHA-256 (hex) over the same bytes.
        when: UTC time, ISO 8601, to the second.
        words: The same for people: what was said, to whom.
    """

    kind: str
    payload_bytes: int
    digest: str
    when: str
    words: str


def vote_vector(campaign: Campaign, vote: Vote) -> IntArray:
    """The vote as the campaign's lane table orders it: int64, ``campaign.vote_lanes.num_lanes`` long.

    Raises:
        EgressError: The vote does not fit layout and schedule (a bug of whoever made it); nothing was sent.
    """
    layout, num_levels = campaign.layout, len(campaign.levels)
    grades_C, options_LG = _integers(vote.grades_C, "grades"), _integers(vote.options_LG, "width options")
    if grades_C.shape != (layout.num_channels,) or options_LG.shape != (num_levels, len(layout.groups)):
        msg = (
            f"a vote has {layout.num_channels} grades and {num_levels} x {len(layout.groups)} width options, "
            f"got {grades_C.shape} and {options_LG.shape}"
        )
        raise EgressError(msg)
    if options_LG.size and not (options_LG.min() >= 0 and options_LG.max() < NUM_WIDTH_OPTIONS):
        msg = f"width options lie in 0..{NUM_WIDTH_OPTIONS - 1}"
        raise EgressError(msg)
    masks = [grades_C, *_lift_masks(campaign, vote)]
    if campaign.privacy.noise is not None:
        masks = [half_mask(mask_C) for mask_C in masks]
    one_hot = np.eye(NUM_WIDTH_OPTIONS, dtype=np.int64)[options_LG]
    return np.concatenate([*masks, one_hot.ravel()])


def _lift_masks(campaign: Campaign, vote: Vote) -> list[IntArray]:
    """The lift mask of a campaign that steers, alone in a list; an empty list for one that does not."""
    if (campaign.steering is None) != (vote.lifts_C is None):
        wanted = "no lift mask" if campaign.steering is None else "a lift mask"
        msg = f"the campaign asks for {wanted}"
        raise EgressError(msg)
    if vote.lifts_C is None:
        return []
    lifts_C = _integers(vote.lifts_C, "lifts")
    if lifts_C.shape != (campaign.layout.num_channels,):
        msg = f"a lift mask has {campaign.layout.num_channels} grades, got {lifts_C.shape}"
        raise EgressError(msg)
    return [lifts_C]


def enrolment_record(message: GetAuthority | Join | Renew, now: datetime) -> EgressRecord:
    """The audit's line for what a device tells the authority: who it is, never anything of its data.

    Size and digest are the certificate request's; a join token's secret is in neither.
    """
    match message:
        case GetAuthority():
            said, words = b"", "request for the authority's root certificate"
        case Join(token_id):
            said, words = (
                message.certificate_request,
                f"certificate request with join token {token_id}",
            )
        case Renew(certificate_request):
            said, words = certificate_request, "certificate request, to renew"
        case _:
            assert_never(message)
    return EgressRecord(type(message).__name__, len(said), digest(said), now.isoformat(timespec="seconds"), words)


class Egress:
    """Seals contributions and sends messages over ``link``, and nothing else does.

    Args:
        link: The line to the coordinator.
        audit: Called with a record before each message; if it raises, nothing is sent.
        utc_now: The time for the records.
    """

    def __init__(
        self,
        link: Link,
        *,
        audit: Callable[[EgressRecord], None],
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._link = link
        self._audit = audit
        self._utc_now = utc_now
        self._sealed: dict[str, str] = {}  # digest of a contribution → what it is, in words
        self._open = _MayLeave()  # the last message of the sum that was opened last

    def seal(self, campaign: Campaign, kind: SessionKind, vector: IntArray) -> bytes:
        """Turn a vector into the one form that may leave.

        Args:
            campaign: The signed campaign, whose lane table says what an honest vector is.
            kind: Vote or outcome.
            vector: Integers, as long as the lane table.

        Returns:
            The vector, packed: ``campaign.lanes_of(kind).packed_bytes`` long.

        Raises:
            EgressError: The vector is not of integers or breaks the lane table (our bug).
        """
        lanes = _integers(vector, "a contribution")
        try:
            payload = pack(campaign.lanes_of(kind), lanes)
        except LocalProtocolError as error:
            raise EgressError(str(error)) from error
        self._sealed[digest(payload)] = f"{kind.name.lower()} in campaign {campaign.campaign_id[:12]}"
        return payload

    def seal_again(self, campaign: Campaign, kind: SessionKind, payload: bytes) -> None:
        """Let out a payload sealed before a restart, once it has proved to be a vector of the lane table.

        Raises:
            EgressError: It is none: the store was tampered with, or belongs to another campaign.
        """
        try:
            vector = unpack(campaign.lanes_of(kind), payload)
        except RemoteProtocolError as error:
            msg = f"the stored {kind.name.lower()} is no such thing: {error}"
            raise EgressError(msg) from error
        if self.seal(campaign, kind, vector) != payload:
            msg = f"the stored {kind.name.lower()} does not seal to the same bytes"
            raise EgressError(msg)

    def open_sum(self, campaign: Campaign, facts: SessionFacts, payload: bytes, keys: SumKeys | None) -> DeviceSum:
        """This device's end of a private sum, whose messages may leave.

        Args:
            campaign: The signed campaign.
            facts: Which session of it.
            payload: The contribution, sealed here.
            keys: See ``private_sum``; None will do in mode ``plain``.

        Raises:
            EgressError: The payload was not sealed here.
        """
        words = self._sealed.get(digest(payload))
        if words is None:
            msg = "refusing to open a sum for a contribution that was not sealed"
            raise EgressError(msg)
        vector = unpack(campaign.lanes_of(facts.kind), payload)
        words = words if campaign.privacy.mode == PLAIN else f"masked {words}"
        cohort_sum = open_device_sum(campaign, facts, vector, keys)
        self._open = _MayLeave()  # a new one: what an older sum still says is no longer let out
        return _SealedSum(cohort_sum, words, self._open)

    async def send(self, message: Outgoing) -> Down:
        """Check, write down, send, and return the answer.

        Raises:
            EgressError: The message may not leave; nothing was sent.
            RemoteProtocolError: The coordinator turned it down.
            CarrierError: No answer came.
        """
        why = self._why_not(message)
        if why:
            msg = f"refusing to send a {type(message).__name__}: {why}"
            raise EgressError(msg)
        self._audit(self._record(message))
        return await self._link.call(message)

    def _why_not(self, message: Outgoing) -> str | None:
        shapes = _TEXT_SHAPES.get(type(message))  # the exact type: a subclass may carry more
        if shapes is None:
            return "no such message may leave a device"
        for name, shape in shapes.items():
            text = getattr(message, name)
            if type(text) is not str or shape.fullmatch(text) is None:
                return f"{name} is no identifier"
        match message:
            case CheckIn():
                return _why_not_check_in(message)
            case _ if isinstance(message, SumUp) and message is not self._open.message:
                return "no sum that was opened here has made it"
            case FetchModel(offset=offset) if type(offset) is not int or offset < 0:
                return "offset is no count of bytes"
        return None

    def _record(self, message: Outgoing) -> EgressRecord:
        match message:
            case CheckIn(campaign_id):
                said, words = canonical_bytes(message), f"check-in to campaign {campaign_id[:12]}"
            case FetchModel(wanted, offset):
                said, words = canonical_bytes(message), f"request for model {wanted[:12]} from byte {offset}"
            case GetCampaign(device_class):
                said, words = canonical_bytes(message), f"request for the campaign of class {device_class}"
            case _:
                said, words = said_bytes(message), f"{self._open.words}, to session {message.session_id[:12]}"
        when = self._utc_now().isoformat(timespec="seconds")
        return EgressRecord(type(message).__name__, len(said), digest(said), when, words)


def _why_not_check_in(message: CheckIn) -> str | None:
    if type(message.readiness) is not Readiness:
        return "readiness is no Readiness"
    heard = message.rulings_heard
    is_number = type(heard) is int and 0 <= heard <= MAX_RULINGS
    if not is_number:
        return "rulings_heard is no number of a ruling"
    slim_base = message.slim_base_heard
    return None if type(slim_base) is int and 0 <= slim_base <= MAX_LEVELS else "slim_base_heard is no level"


_STAGE_WORDS: Mapping[type[SumUp], str] = {
    Advertise: "public keys for the sum of a",
    FetchCertificates: "request for certificates of devices in the sum of a",
    ShareKeys: "encrypted shares of keys for the sum of a",
    ConfirmSurvivors: "signature over the devices in the sum of a",
    Unmask: "shares that take masks off the sum of a",
}


@dataclass(slots=True)
class _MayLeave:
    """The one object that a sum lets out now, if any, and what it is in words."""

    message: SumUp | None = None
    words: str = ""


class _SealedSum:
    """A sum whose last message, and only that, may leave."""

    def __init__(self, cohort_sum: DeviceSum, words: str, may_leave: _MayLeave) -> None:
        self._sum, self._words, self._may_leave = cohort_sum, words, may_leave

    @property
    def survivor_names(self) -> frozenset[str]:
        return self._sum.survivor_names

    def start(self) -> SumUp:
        return self._noted(self._sum.start())

    def receive(self, answer: SumDown) -> SumUp | None:
        self._may_leave.message = None
        message = self._sum.receive(answer)
        return None if message is None else self._noted(message)

    def abort(self) -> None:
        self._may_leave.message = None
        self._sum.abort()

    def _noted(self, message: SumUp) -> SumUp:
        stage = _STAGE_WORDS.get(type(message))
        self._may_leave.message, self._may_leave.words = message, f"{stage} {self._words}" if stage else self._words
        return message


def _integers(values: IntArray, what: str) -> IntArray:
    array = np.asarray(values)
    # A cast would turn scores into lanes without a word, so floats are refused rather than rounded.
    if array.dtype.kind not in "iu":
        msg = f"{what} must be integers, got {array.dtype}"
        raise EgressError(msg)
    return array.astype(np.int64)
