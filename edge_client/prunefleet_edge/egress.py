"""The only way out of the device: four kinds of message, and in one of them sealed integers.

Whatever a device says passes :meth:`Egress.send`. It lets through a message only if its exact type is listed below,
every text in it has the one shape an identifier can have, and its payload, where it has one, was made by
:meth:`Egress.seal` from a vector that obeys the signed lane table. Everything else raises, and nothing is sent. What is
sent is first written down for the device's owner.

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
from prunefleet_edge.device_state import lane_table
from prunefleet_shared.authority_messages import GetAuthority, Join, Renew
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.errors import EgressError, LocalProtocolError, RemoteProtocolError
from prunefleet_shared.lanes import unpack
from prunefleet_shared.layout import NUM_WIDTH_OPTIONS
from prunefleet_shared.masks import IntArray
from prunefleet_shared.messages import CheckIn, Contribute, Down, FetchModel, GetCampaign, Link, Readiness, SessionKind
from prunefleet_shared.metrics import outcome_vector
from prunefleet_shared.private_sum import open_device_sum

__all__ = ["Egress", "EgressRecord", "enrolment_record", "outcome_vector", "vote_vector"]

Outgoing = GetCampaign | CheckIn | Contribute | FetchModel

_HEX_ID = re.compile(r"[0-9a-f]{32}")
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
_DEVICE_CLASS = re.compile(r"[a-z0-9-]{1,32}")
_TEXT_SHAPES: Mapping[type[Outgoing], Mapping[str, re.Pattern[str]]] = {
    GetCampaign: {"device_class": _DEVICE_CLASS},
    CheckIn: {"campaign_id": _HEX_ID, "layout_fingerprint": _HEX_DIGEST},
    Contribute: {"session_id": _HEX_ID},
    FetchModel: {"digest": _HEX_DIGEST},
}
"""What may leave, and the shape of every text in it: identifiers only, so that no field can carry a sentence."""


@dataclass(frozen=True, slots=True)
class EgressRecord:
    """One line of the owner's audit: what left, or was about to when the line broke.

    Attributes:
        kind: The message's type, such as ``Contribute``.
        payload_bytes: Size of the contribution, or of the message's fields as canonical JSON.
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
    one_hot = np.eye(NUM_WIDTH_OPTIONS, dtype=np.int64)[options_LG]
    return np.concatenate([grades_C, one_hot.ravel()])


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
        self._sealed: dict[str, str] = {}  # digest of a payload → what it is, in words

    def seal(self, campaign: Campaign, kind: SessionKind, vector: IntArray) -> bytes:
        """Turn a vector into the one form that may leave.

        Args:
            campaign: The signed campaign, whose lane table says what an honest vector is.
            kind: Vote or outcome.
            vector: Integers, as long as the lane table.

        Returns:
            The payload, ``lane_table(campaign, kind).packed_bytes`` long.

        Raises:
            EgressError: The vector is not of integers or breaks the lane table (our bug).
            RemoteProtocolError: ``WRONG_CAMPAIGN``: this client does not speak its privacy mode.
        """
        lanes = _integers(vector, "a contribution")
        try:
            payload = open_device_sum(campaign.privacy_mode, lane_table(campaign, kind), lanes).first_payload()
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
            vector = unpack(lane_table(campaign, kind), payload)
        except RemoteProtocolError as error:
            msg = f"the stored {kind.name.lower()} is no such thing: {error}"
            raise EgressError(msg) from error
        if self.seal(campaign, kind, vector) != payload:
            msg = f"the stored {kind.name.lower()} does not seal to the same bytes"
            raise EgressError(msg)

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
            case CheckIn(readiness=readiness) if type(readiness) is not Readiness:
                return "readiness is no Readiness"
            case Contribute(payload=payload) if type(payload) is not bytes or digest(payload) not in self._sealed:
                return "its payload was not sealed"
            case FetchModel(offset=offset) if type(offset) is not int or offset < 0:
                return "offset is no count of bytes"
        return None

    def _record(self, message: Outgoing) -> EgressRecord:
        match message:
            case Contribute(session_id, payload):
                said, words = payload, f"{self._sealed[digest(payload)]} to session {session_id[:12]}"
            case CheckIn(campaign_id):
                said, words = canonical_bytes(message), f"check-in to campaign {campaign_id[:12]}"
            case FetchModel(wanted, offset):
                said, words = canonical_bytes(message), f"request for model {wanted[:12]} from byte {offset}"
            case GetCampaign(device_class):
                said, words = canonical_bytes(message), f"request for the campaign of class {device_class}"
            case _:
                assert_never(message)
        when = self._utc_now().isoformat(timespec="seconds")
        return EgressRecord(type(message).__name__, len(said), digest(said), when, words)


def _integers(values: IntArray, what: str) -> IntArray:
    array = np.asarray(values)
    # A cast would turn scores into lanes without a word, so floats are refused rather than rounded.
    if array.dtype.kind not in "iu":
        msg = f"{what} must be integers, got {array.dtype}"
        raise EgressError(msg)
    return array.astype(np.int64)
