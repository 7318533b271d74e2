"""Messages as bytes, every bound checked before a message is believed; only ``wire*`` import the generated code.

Bytes are measured before they are parsed, and a field that this version does not have is refused, because a field
nobody checks can carry anything. Encoding reads its own bytes back before it lets them go, so that nothing leaves that
the peer would read as something else. ``wire_methods`` has the calls, ``wire_limits`` the bounds::

    data = encode_up(AwaitDecision(campaign_id))
    decode_up("/prunefleet.v1.Trainer/AwaitDecision", data)  # the same again
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from prunefleet_shared import wire_authority, wire_down, wire_up
from prunefleet_shared import wire_limits as limits
from prunefleet_shared._generated.prunefleet.v1 import authority_pb2, fleet_pb2
from prunefleet_shared._generated.prunefleet.v1 import messages_pb2 as pb
from prunefleet_shared.authority_messages import AuthorityDown
from prunefleet_shared.errors import LocalProtocolError, Rejection, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.messages import Down, Peer, Service, Up
from prunefleet_shared.wire_limits import CHUNK_BYTES, closed, malformed
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
_WIRE_TYPES: Mapping[str, tuple[type[Any], type[Any]]] = {
    f"/{service.full_name}/{rpc.name}": (GetMessageClass(rpc.input_type), GetMessageClass(rpc.output_type))
    for file in (fleet_pb2, authority_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for rpc in service.methods
}
"""Request and response type of every rpc, as the service descriptors have them."""


_UP_TO_WIRE: Mapping[type, Callable[[Any], Message]] = {**wire_up.UP_TO_WIRE, **wire_authority.UP_TO_WIRE}


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
    wire = _parse(_WIRE_TYPES[method][0], data, row.max_request_bytes)
    up = wire_up.up_from_wire(wire) or wire_authority.up_from_wire(wire)
    if up is None:
        msg = f"{wire.DESCRIPTOR.name} is no request"
        raise LocalProtocolError(msg)
    return up


def encode_down(method: str, message: Down) -> bytes:
    """The answer to ``method`` as bytes.

    Raises:
        LocalProtocolError: ``method`` is not answered so, or the answer breaks the protocol (our bug).
    """
    row = method_at(method)
    if type(message) not in row.downs:
        msg = f"{method} is not answered with a {type(message).__name__}"
        raise LocalProtocolError(msg)
    response_type = _WIRE_TYPES[method][1]
    return _checked(message, lambda down: _down_to_wire(response_type, down), lambda data: decode_down(method, data))


def decode_down(method: str, data: bytes) -> Down:
    """What a peer answered to ``method``.

    Raises:
        RemoteProtocolError: ``TOO_LARGE``, ``MALFORMED`` or ``UNKNOWN_FIELD`` (the sender's fault).
        LocalProtocolError: There is no such method (the caller's bug).
    """
    row = method_at(method)
    wire = _parse(_WIRE_TYPES[method][1], data, row.max_response_bytes)
    down = wire_down.down_from_wire(wire) or wire_authority.down_from_wire(wire)
    if down is None:
        msg = f"{wire.DESCRIPTOR.name} is no answer"
        raise LocalProtocolError(msg)
    return down


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
    if peer.role not in row.roles:
        raise reject(
            RejectReason.WRONG_ROLE,
            expected=f"role {' or '.join(sorted(row.roles))}",
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
    fields = (value for descriptor, value in wire.ListFields() if descriptor.message_type is not None)
    parts = itertools.chain.from_iterable([value] if isinstance(value, Message) else value for value in fields)
    return next(filter(None, map(_unknown_in, parts)), None)


def _down_to_wire(response_type: type[Any], down: Down) -> Message:
    if isinstance(down, AuthorityDown):
        return wire_authority.down_to_wire(response_type, down)
    return wire_down.down_to_wire(response_type, down)
