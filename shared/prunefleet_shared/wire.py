"""Messages as bytes, every bound checked before a message is believed; the only importer of the generated code.

Bytes are measured before they are parsed, and a field that this version does not have is refused, because a field
nobody checks can carry anything. Encoding reads its own bytes back before it lets them go, so that nothing leaves that
the peer would read as something else. ``wire_methods`` has the calls, ``wire_limits`` the bounds::

    data = encode_up(AwaitDecision(campaign_id))
    decode_up("/prunefleet.v1.Trainer/AwaitDecision", data)  # the same again
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from prunefleet_shared import messages as m
from prunefleet_shared import wire_limits as limits
from prunefleet_shared._generated.prunefleet.v1 import fleet_pb2
from prunefleet_shared._generated.prunefleet.v1 import messages_pb2 as pb
from prunefleet_shared.documents import MAX_DOCUMENT_BYTES, SignedDocument
from prunefleet_shared.errors import LocalProtocolError, Rejection, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.layout import MAX_LEVELS
from prunefleet_shared.messages import Down, Peer, Service, Up
from prunefleet_shared.wire_limits import CHUNK_BYTES, closed, hex_of, malformed, raw_of, sized
from prunefleet_shared.wire_methods import METHODS, Method, method_at, method_of

__all__ = [
    "CHUNK_BYTES",
    "METHODS",
    "REJECTION_METADATA_KEY",
    "Method",
    "answer",
    "decode_down",
    "decode_rejection",
    "decode_up",
    "encode_down",
    "encode_rejection",
    "encode_up",
    "method_of",
]

REJECTION_METADATA_KEY = "prunefleet-rejection-bin"
"""Trailing metadata of a refused call."""

_Parsed = TypeVar("_Parsed", bound=Message)
_Said = TypeVar("_Said")
_KINDS = {
    "campaign": pb.DOCUMENT_KIND_CAMPAIGN,
    "decision": pb.DOCUMENT_KIND_DECISION,
    "slim_base": pb.DOCUMENT_KIND_SLIM_BASE,
}
_KIND_NAMES: dict[int, str] = {number: name for name, number in _KINDS.items()}
_WIRE_TYPES: Mapping[str, tuple[type[Any], type[Any]]] = {
    f"/{service.full_name}/{rpc.name}": (GetMessageClass(rpc.input_type), GetMessageClass(rpc.output_type))
    for service in fleet_pb2.DESCRIPTOR.services_by_name.values()
    for rpc in service.methods
}
"""Request and response type of every rpc, as the service descriptors have them."""


def encode_up(message: Up) -> bytes:
    """``message`` as bytes.

    Raises:
        LocalProtocolError: It breaks the protocol (our bug: fail closed, nothing is sent).
    """
    path = method_of(message).path
    return _checked(message, _UP_TO_WIRE[type(message)], lambda data: decode_up(path, data))


def decode_up(method: str, data: bytes) -> Up:
    """What a peer asked with ``method``.

    Raises:
        RemoteProtocolError: ``TOO_LARGE``, ``MALFORMED`` or ``UNKNOWN_FIELD`` (the sender's fault).
        LocalProtocolError: There is no such method (the caller's bug).
    """
    row = method_at(method)
    return _up_from_wire(_parse(_WIRE_TYPES[method][0], data, row.max_request_bytes))


def encode_down(method: str, message: Down) -> bytes:
    """The answer to ``method`` as bytes.

    Raises:
        LocalProtocolError: ``method`` is not answered so, or the answer breaks the protocol (our bug).
    """
    row = method_at(method)
    if type(message) not in row.downs:
        msg = f"{method} is not answered with a {type(message).__name__}"
        raise LocalProtocolError(msg)
    return _checked(
        message, lambda down: _down_to_wire(_WIRE_TYPES[method][1], down), lambda data: decode_down(method, data)
    )


def decode_down(method: str, data: bytes) -> Down:
    """What a peer answered to ``method``.

    Raises:
        RemoteProtocolError: ``TOO_LARGE``, ``MALFORMED`` or ``UNKNOWN_FIELD`` (the sender's fault).
        LocalProtocolError: There is no such method (the caller's bug).
    """
    row = method_at(method)
    return _down_from_wire(_parse(_WIRE_TYPES[method][1], data, row.max_response_bytes))


def encode_rejection(rejection: Rejection) -> bytes:
    """``rejection`` as bytes; texts are cut at 200 characters, and what does not print becomes ``?``."""
    return pb.Rejection(
        reason=rejection.reason.value,  # type: ignore[arg-type]  # the numbers are the wire's
        expected=limits.shortened(rejection.expected),
        got=limits.shortened(rejection.got),
        remedy=limits.shortened(rejection.remedy),
    ).SerializeToString()


def decode_rejection(data: bytes) -> Rejection:
    """Why a peer turned us down.

    Raises:
        RemoteProtocolError: ``TOO_LARGE``, ``MALFORMED`` or ``UNKNOWN_FIELD`` (the sender's fault).
    """
    wire = _parse(pb.Rejection, data, limits.MAX_REJECTION_BYTES)
    texts = (limits.short_text(getattr(wire, name), name) for name in ("expected", "got", "remedy"))
    return Rejection(closed(RejectReason, wire.reason, "reason"), *texts)


async def answer(service: Service, peer: Peer, method: str, request: bytes) -> bytes:
    """What every carrier does with a request: check the role, decode, ask the service, encode.

    Raises:
        RemoteProtocolError: The carrier takes it to the peer.
        LocalProtocolError: A bug on this side.
    """
    row = method_at(method)
    if peer.role is not row.role:
        raise reject(
            RejectReason.WRONG_ROLE,
            expected=f"role {row.role.value}",
            got=f"role {peer.role.value}",
            remedy="use the certificate that was issued for this work",
        )
    return encode_down(method, await service.handle(peer, decode_up(method, request)))


# --- bytes -----------------------------------------------------------------------------------------------------------


def _checked(message: _Said, to_wire: Callable[[Any], Message], read_back: Callable[[bytes], object]) -> bytes:
    try:
        data = to_wire(message).SerializeToString()
        understood = read_back(data)
    except (RemoteProtocolError, AttributeError, TypeError, ValueError) as error:
        msg = f"refusing to send a {type(message).__name__}: {error}"
        raise LocalProtocolError(msg) from error
    if understood != message:
        msg = f"refusing to send a {type(message).__name__}: the peer would read something else"
        raise LocalProtocolError(msg)
    return data


def _parse(wire_type: type[_Parsed], data: bytes, max_bytes: int) -> _Parsed:
    """Bounded, then parsed, then searched for fields we do not know."""
    if len(data) > max_bytes:
        raise reject(RejectReason.TOO_LARGE, expected=f"at most {max_bytes} bytes", got=f"{len(data)} bytes")
    try:
        wire = wire_type.FromString(data)
    except DecodeError:
        raise malformed(f"a {wire_type.DESCRIPTOR.name}", f"{len(data)} bytes that are none") from None
    unknown = _unknown_in(wire)
    if unknown:
        raise reject(
            RejectReason.UNKNOWN_FIELD,
            expected="only fields of prunefleet.v1",
            got=f"another one in {unknown}",
            remedy="use the same version of Prunefleet on both sides",
        )
    return wire


def _unknown_in(wire: Message) -> str | None:
    """Name of the first message, at any depth, with a field that its type does not have."""
    if len(UnknownFieldSet(wire)):
        return wire.DESCRIPTOR.name
    parts = (value for descriptor, value in wire.ListFields() if descriptor.message_type is not None)
    return next(filter(None, map(_unknown_in, parts)), None)


# --- up --------------------------------------------------------------------------------------------------------------

_UP_TO_WIRE: Mapping[type, Callable[[Any], Message]] = {
    m.GetCampaign: lambda up: pb.GetCampaignRequest(device_class=up.device_class),
    m.CheckIn: lambda up: pb.CheckInRequest(
        campaign_id=raw_of(up.campaign_id),
        layout_fingerprint=raw_of(up.layout_fingerprint),
        readiness=up.readiness,
    ),
    m.Contribute: lambda up: pb.ContributeRequest(session_id=raw_of(up.session_id), payload=up.payload),
    m.FetchModel: lambda up: pb.FetchModelRequest(digest=raw_of(up.digest), offset=up.offset),
    m.AwaitDecision: lambda up: pb.AwaitDecisionRequest(campaign_id=raw_of(up.campaign_id)),
    m.UploadModel: lambda up: pb.UploadModelRequest(
        digest=raw_of(up.digest), offset=up.offset, total_bytes=up.total_bytes, chunk=up.chunk
    ),
    m.PublishSlimBase: lambda up: pb.PublishSlimBaseRequest(slim_base=_document_to_wire(up.slim_base)),
}


def _up_from_wire(wire: Message) -> Up:
    up: Up
    match wire:
        case pb.GetCampaignRequest():
            up = m.GetCampaign(limits.device_class(wire.device_class))
        case pb.CheckInRequest():
            campaign_id = hex_of(wire.campaign_id, limits.ID_BYTES, "campaign_id")
            fingerprint = hex_of(wire.layout_fingerprint, limits.DIGEST_BYTES, "layout_fingerprint")
            up = m.CheckIn(campaign_id, fingerprint, closed(m.Readiness, wire.readiness, "readiness"))
        case pb.ContributeRequest():
            payload = sized(wire.payload, range(1, limits.MAX_CONTRIBUTION_BYTES + 1), "payload")
            up = m.Contribute(hex_of(wire.session_id, limits.ID_BYTES, "session_id"), payload)
        case pb.FetchModelRequest():
            up = m.FetchModel(hex_of(wire.digest, limits.DIGEST_BYTES, "digest"), _offset(wire.offset))
        case pb.AwaitDecisionRequest():
            up = m.AwaitDecision(hex_of(wire.campaign_id, limits.ID_BYTES, "campaign_id"))
        case pb.UploadModelRequest():
            chunk = sized(wire.chunk, range(1, CHUNK_BYTES + 1), "chunk")
            digest = hex_of(wire.digest, limits.DIGEST_BYTES, "digest")
            up = m.UploadModel(digest, _offset(wire.offset), _total(wire.total_bytes), chunk)
        case pb.PublishSlimBaseRequest():
            up = m.PublishSlimBase(_document_in(wire, "slim_base"))
        case _:
            msg = f"{wire.DESCRIPTOR.name} is no request"
            raise LocalProtocolError(msg)
    return up


# --- down ------------------------------------------------------------------------------------------------------------


def _down_to_wire(response_type: type[Any], down: Down) -> Message:
    wire: Message
    match down:
        case m.CampaignOffer(document):
            wire = pb.GetCampaignResponse(campaign=_document_to_wire(document))
        case m.Invitation():
            wire = pb.CheckInResponse(invitation=_invitation_to_wire(down))
        case m.ContributionCounted(session_id):
            wire = pb.ContributeResponse(session_id=raw_of(session_id))
        case m.ModelChunk(total_bytes, chunk):
            wire = pb.FetchModelResponse(total_bytes=total_bytes, chunk=chunk)
        case m.DecisionOffer(document):
            wire = pb.AwaitDecisionResponse(decision=_document_to_wire(document))
        case m.ComeBack(after_ms, awaited):
            come_back = pb.ComeBack(after_ms=after_ms, awaited=awaited.value)  # type: ignore[arg-type]
            wire = response_type(come_back=come_back)
        case m.CampaignEnded(completed):
            wire = response_type(campaign_ended=pb.CampaignEnded(completed=completed))
        case m.Stored():
            wire = response_type()
    return wire


def _down_from_wire(wire: Message) -> Down:
    down: Down
    match wire:
        case pb.GetCampaignResponse():
            down = m.CampaignOffer(_document_in(wire, "campaign"))
        case pb.ContributeResponse():
            down = m.ContributionCounted(hex_of(wire.session_id, limits.ID_BYTES, "session_id"))
        case pb.FetchModelResponse():
            chunk = sized(wire.chunk, range(CHUNK_BYTES + 1), "chunk")
            down = m.ModelChunk(_total(wire.total_bytes), chunk)
        case pb.CheckInResponse() | pb.AwaitDecisionResponse():
            down = _alternative_from_wire(wire)
        case pb.UploadModelResponse() | pb.PublishSlimBaseResponse():
            down = m.Stored()
        case _:
            msg = f"{wire.DESCRIPTOR.name} is no answer"
            raise LocalProtocolError(msg)
    return down


def _alternative_from_wire(wire: pb.CheckInResponse | pb.AwaitDecisionResponse) -> Down:
    which = wire.WhichOneof("answer")
    if which is None:
        raise malformed("one answer", "none")
    if which == "decision":
        return m.DecisionOffer(_document_in(wire, which))
    part = getattr(wire, which)
    if which == "invitation":
        return _invitation_from_wire(part)
    if which == "come_back":
        return m.ComeBack(part.after_ms, closed(m.Awaited, part.awaited, "awaited"))
    return m.CampaignEnded(part.completed)


def _invitation_to_wire(invitation: m.Invitation) -> pb.Invitation:
    decision, slim_base = invitation.decision, invitation.slim_base
    return pb.Invitation(
        session_id=raw_of(invitation.session_id),
        kind=invitation.kind.value,  # type: ignore[arg-type]  # the numbers are the wire's
        level=invitation.level,
        attempt=invitation.attempt,
        remaining_ms=invitation.remaining_ms,
        decision=None if decision is None else _document_to_wire(decision),
        slim_base=None if slim_base is None else _document_to_wire(slim_base),
    )


def _invitation_from_wire(wire: pb.Invitation) -> m.Invitation:
    return m.Invitation(
        hex_of(wire.session_id, limits.ID_BYTES, "session_id"),
        closed(m.SessionKind, wire.kind, "kind"),
        limits.bounded(wire.level, range(MAX_LEVELS), "level"),
        limits.bounded(wire.attempt, range(1, limits.MAX_ATTEMPT + 1), "attempt"),
        wire.remaining_ms,
        _document_in(wire, "decision") if wire.HasField("decision") else None,
        _document_in(wire, "slim_base") if wire.HasField("slim_base") else None,
    )


# --- parts of both ---------------------------------------------------------------------------------------------------


def _document_to_wire(document: SignedDocument) -> pb.SignedDocument:
    return pb.SignedDocument(
        kind=_KINDS.get(document.kind, pb.DOCUMENT_KIND_UNSPECIFIED),
        payload=document.payload,
        signature=document.signature,
        public_key=document.public_key,
    )


def _document_in(holder: Message, name: str) -> SignedDocument:
    if not holder.HasField(name):
        raise malformed(f"a {name}", "none")
    wire: pb.SignedDocument = getattr(holder, name)
    if wire.kind not in _KIND_NAMES:
        raise malformed("kind, a DocumentKind", "unset or an unknown number")
    return SignedDocument(
        _KIND_NAMES[wire.kind],
        sized(wire.payload, range(1, MAX_DOCUMENT_BYTES + 1), "payload"),
        sized(wire.signature, limits.SIGNATURE_BYTES, "signature"),
        sized(wire.public_key, limits.PUBLIC_KEY_BYTES, "public_key"),
    )


def _offset(value: int) -> int:
    return limits.bounded(value, range(limits.MAX_MODEL_BYTES + 1), "offset")


def _total(value: int) -> int:
    return limits.bounded(value, range(1, limits.MAX_MODEL_BYTES + 1), "total_bytes")
