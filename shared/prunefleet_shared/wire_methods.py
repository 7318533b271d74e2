"""Every method of the protocol in one table: what is asked, what may be answered, by whom, and how long it may be.

No protobuf here; a test holds this table against the service descriptors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from prunefleet_shared import wire_limits as limits
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.messages import (
    AwaitDecision,
    CampaignEnded,
    CampaignOffer,
    CheckIn,
    ComeBack,
    Contribute,
    ContributionCounted,
    DecisionOffer,
    Down,
    FetchModel,
    GetCampaign,
    Invitation,
    ModelChunk,
    PublishSlimBase,
    Role,
    Stored,
    Up,
    UploadModel,
)

_SERVICES = {Role.DEVICE: "prunefleet.v1.Fleet", Role.TRAINER: "prunefleet.v1.Trainer"}


@dataclass(frozen=True, slots=True)
class Method:
    """One call of the protocol.

    Attributes:
        up: What is asked; the method has its name.
        downs: What may be answered.
        role: The only role that may call it; each role has its own service.
        max_request_bytes: Longest request.
        max_response_bytes: Longest answer.
    """

    up: type[Up]
    downs: tuple[type[Down], ...]
    role: Role
    max_request_bytes: int
    max_response_bytes: int

    @property
    def path(self) -> str:
        """Full path, such as ``/prunefleet.v1.Fleet/CheckIn``."""
        return f"/{_SERVICES[self.role]}/{self.up.__name__}"


_DEVICE, _TRAINER = Role.DEVICE, Role.TRAINER
_SHORT, _DOCUMENTS, _PIECE = (
    limits.ENVELOPE_BYTES,
    limits.MAX_DOCUMENT_MESSAGE_BYTES,
    limits.MAX_CHUNK_MESSAGE_BYTES,
)
_ROWS = (
    Method(GetCampaign, (CampaignOffer,), _DEVICE, _SHORT, _DOCUMENTS),
    Method(CheckIn, (Invitation, ComeBack, CampaignEnded), _DEVICE, _SHORT, _DOCUMENTS),
    Method(Contribute, (ContributionCounted,), _DEVICE, limits.MAX_REQUEST_BYTES, _SHORT),
    Method(FetchModel, (ModelChunk,), _DEVICE, _SHORT, _PIECE),
    Method(AwaitDecision, (DecisionOffer, ComeBack, CampaignEnded), _TRAINER, _SHORT, _DOCUMENTS),
    Method(UploadModel, (Stored,), _TRAINER, _PIECE, _SHORT),
    Method(PublishSlimBase, (Stored,), _TRAINER, limits.MAX_SLIM_BASE_BYTES, _SHORT),
)

METHODS: Mapping[str, Method] = MappingProxyType({row.path: row for row in _ROWS})
"""Every method by its full path; there are no others."""

_BY_UP: Mapping[type, Method] = MappingProxyType({row.up: row for row in _ROWS})


def method_of(message: Up) -> Method:
    """The method that carries ``message``.

    Raises:
        LocalProtocolError: It is no message of this protocol (the caller's bug).
    """
    row = _BY_UP.get(type(message))
    if row is None:
        msg = f"no method carries a {type(message).__name__}"
        raise LocalProtocolError(msg)
    return row


def method_at(path: str) -> Method:
    """The method with this full path.

    Raises:
        LocalProtocolError: There is none (the caller's bug: a carrier offers only ``METHODS``).
    """
    row = METHODS.get(path)
    if row is None:
        msg = "no such method in prunefleet.v1"
        raise LocalProtocolError(msg)
    return row
