"""What an authority is asked and answers, to and from protobuf. Only ``wire`` uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from prunefleet_shared import authority_messages as m
from prunefleet_shared import wire_limits as limits
from prunefleet_shared._generated.prunefleet.v1 import authority_pb2 as pb
from prunefleet_shared.authority_messages import AuthorityDown, AuthorityUp
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.roles import Role
from prunefleet_shared.wire_limits import bounded, hex_of, malformed, member_name, raw_of, sized

_ROLES: Mapping[Role, pb.Role] = {
    Role.DEVICE: pb.ROLE_DEVICE,
    Role.TRAINER: pb.ROLE_TRAINER,
    Role.OPERATOR: pb.ROLE_OPERATOR,
    Role.COORDINATOR: pb.ROLE_COORDINATOR,
}
_ROLE_OF = {int(number): role for role, number in _ROLES.items()}
_CERTIFICATE = range(1, limits.MAX_CERTIFICATE_BYTES + 1)

UP_TO_WIRE: Mapping[type, Callable[[Any], Message]] = {
    m.GetAuthority: lambda _: pb.GetAuthorityRequest(),
    m.Join: lambda up: pb.JoinRequest(
        token_id=raw_of(up.token_id), secret=up.secret, certificate_request=up.certificate_request
    ),
    m.Renew: lambda up: pb.RenewRequest(certificate_request=up.certificate_request),
    m.ListDenied: lambda _: pb.ListDeniedRequest(),
    m.Revoke: lambda up: pb.RevokeRequest(name=up.name),
    m.CreateTokens: lambda up: pb.CreateTokensRequest(
        role=_role_to_wire(up.role),
        name=up.name,
        is_group=up.is_group,
        num_tokens=up.num_tokens,
        valid_for_s=up.valid_for_s,
        device_class=up.device_class,
    ),
    m.ListMembers: lambda up: pb.ListMembersRequest(
        role=pb.ROLE_UNSPECIFIED if up.role is None else _role_to_wire(up.role), after_name=up.after_name
    ),
}
"""How each request to an authority becomes protobuf."""


def up_from_wire(wire: Message) -> AuthorityUp | None:
    """What an authority is asked; None if ``wire`` is no such request."""
    up: AuthorityUp | None
    match wire:
        case pb.GetAuthorityRequest():
            up = m.GetAuthority()
        case pb.JoinRequest():
            secret = sized(wire.secret, range(limits.TOKEN_SECRET_BYTES, limits.TOKEN_SECRET_BYTES + 1), "secret")
            token_id = hex_of(wire.token_id, limits.TOKEN_ID_BYTES, "token_id")
            up = m.Join(token_id, secret, sized(wire.certificate_request, _CERTIFICATE, "certificate_request"))
        case pb.RenewRequest():
            up = m.Renew(sized(wire.certificate_request, _CERTIFICATE, "certificate_request"))
        case pb.ListDeniedRequest():
            up = m.ListDenied()
        case pb.RevokeRequest():
            up = m.Revoke(member_name(wire.name, "name"))
        case pb.CreateTokensRequest():
            up = _create_tokens(wire)
        case pb.ListMembersRequest():
            role = _role(wire.role) if wire.role else None
            up = m.ListMembers(role, member_name(wire.after_name, "after_name") if wire.after_name else "")
        case _:
            up = None
    return up


def _create_tokens(wire: pb.CreateTokensRequest) -> m.CreateTokens:
    return m.CreateTokens(
        _role(wire.role),
        member_name(wire.name, "name"),
        wire.is_group,
        bounded(wire.num_tokens, range(1, limits.MAX_PAGE + 1), "num_tokens"),
        bounded(wire.valid_for_s, limits.TOKEN_VALID_FOR_S, "valid_for_s"),
        _class_or_empty(wire.device_class),
    )


def down_to_wire(response_type: type[Any], down: AuthorityDown) -> Message:
    """An answer of an authority as protobuf."""
    wire: Message
    match down:
        case m.AuthorityOffer(root_certificate, now_ms):
            wire = pb.GetAuthorityResponse(root_certificate=root_certificate, now_ms=now_ms)
        case m.Membership():
            wire = response_type(membership=_membership_to_wire(down))
        case m.DenyList(serials):
            wire = pb.ListDeniedResponse(serials=[_serial_to_wire(serial) for serial in serials])
        case m.Revoked():
            wire = pb.RevokeResponse()
        case m.TokenList(tokens):
            wire = pb.CreateTokensResponse(tokens=tokens)
        case m.MemberList(members):
            wire = pb.ListMembersResponse(members=[_member_to_wire(member) for member in members])
    return wire


def down_from_wire(wire: Message) -> AuthorityDown | None:
    """What an authority answers; None if ``wire`` is no such answer."""
    down: AuthorityDown | None
    match wire:
        case pb.GetAuthorityResponse():
            down = m.AuthorityOffer(sized(wire.root_certificate, _CERTIFICATE, "root_certificate"), wire.now_ms)
        case pb.JoinResponse() | pb.RenewResponse():
            if not wire.HasField("membership"):
                raise malformed("a membership", "none")
            down = _membership_from_wire(wire.membership)
        case pb.ListDeniedResponse():
            bounded(len(wire.serials), range(limits.MAX_DENIED + 1), "serials")
            down = m.DenyList(tuple(_serial_from_wire(raw) for raw in wire.serials))
        case pb.RevokeResponse():
            down = m.Revoked()
        case pb.CreateTokensResponse():
            bounded(len(wire.tokens), range(1, limits.MAX_PAGE + 1), "tokens")
            down = m.TokenList(
                tuple(limits.short_text(token, "tokens", limits.MAX_TOKEN_CHARACTERS) for token in wire.tokens)
            )
        case pb.ListMembersResponse():
            bounded(len(wire.members), range(limits.MAX_PAGE + 1), "members")
            down = m.MemberList(tuple(_member_from_wire(member) for member in wire.members))
        case _:
            down = None
    return down


def _membership_to_wire(membership: m.Membership) -> pb.Membership:
    return pb.Membership(
        certificates=membership.certificates,
        operator_keys=membership.operator_keys,
        coordinator_address=membership.coordinator_address,
        authority_address=membership.authority_address,
        device_class=membership.device_class,
    )


def _membership_from_wire(wire: pb.Membership) -> m.Membership:
    bounded(len(wire.certificates), range(2, 3), "certificates")
    return m.Membership(
        limits.each_sized(wire.certificates, _CERTIFICATE, "certificates"),
        _operator_keys(wire.operator_keys),
        limits.address(wire.coordinator_address, "coordinator_address"),
        limits.address(wire.authority_address, "authority_address"),
        _class_or_empty(wire.device_class),
    )


def _operator_keys(keys: Sequence[bytes]) -> tuple[bytes, ...]:
    bounded(len(keys), range(limits.MAX_OPERATOR_KEYS + 1), "operator_keys")
    return limits.each_sized(keys, limits.PUBLIC_KEY_BYTES, "operator_keys")


def _member_to_wire(member: m.Member) -> pb.Member:
    return pb.Member(
        name=member.name,
        role=_role_to_wire(member.role),
        public_key=member.public_key,
        valid_until_ms=member.valid_until_ms,
        is_revoked=member.is_revoked,
    )


def _member_from_wire(wire: pb.Member) -> m.Member:
    key = sized(wire.public_key, limits.PUBLIC_KEY_BYTES, "public_key")
    return m.Member(member_name(wire.name, "name"), _role(wire.role), key, wire.valid_until_ms, wire.is_revoked)


def _serial_to_wire(serial: str) -> bytes:
    number = int(serial, 16)
    return number.to_bytes((number.bit_length() + 7) // 8)


def _serial_from_wire(raw: bytes) -> str:
    return f"{int.from_bytes(sized(raw, limits.SERIAL_BYTES, 'serials')):x}"


def _role_to_wire(role: Role) -> pb.Role:
    number = _ROLES.get(role)
    if number is None:
        msg = f"no message names the role {role}"
        raise LocalProtocolError(msg)
    return number


def _role(number: int) -> Role:
    role = _ROLE_OF.get(number)
    if role is None:
        raise malformed("role, a Role", "unset or an unknown number")
    return role


def _class_or_empty(text: str) -> str:
    return limits.device_class(text) if text else ""
