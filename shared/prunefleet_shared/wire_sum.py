"""The messages of a private sum, to and from protobuf. Only ``wire*`` use it.

Here every length is checked that a message alone determines; what also depends on the roster (how long a member set is,
whose shares they are) is left to ``secure_sum``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from prunefleet_shared import sum_messages as m
from prunefleet_shared import wire_limits as limits
from prunefleet_shared._generated.prunefleet.v1 import messages_pb2
from prunefleet_shared._generated.prunefleet.v1 import secure_sum_pb2 as pb
from prunefleet_shared.messages import ComeBack
from prunefleet_shared.sum_messages import SumDown, SumUp
from prunefleet_shared.wire_limits import bounded, each_sized, exactly, hex_of, malformed, raw_of, sized
from prunefleet_shared.wire_parts import come_back_from_wire, which_answer

_CERTIFICATE = range(1, limits.MAX_CERTIFICATE_BYTES + 1)
_PAYLOAD = range(1, limits.MAX_CONTRIBUTION_BYTES + 1)
_DIGEST = range(limits.DIGEST_BYTES, limits.DIGEST_BYTES + 1)
_PEERS = range(limits.MIN_ROSTER - 1, limits.MAX_ROSTER)

UP_TO_WIRE: Mapping[type, Callable[[Any], Message]] = {
    m.Advertise: lambda up: pb.AdvertiseRequest(
        session_id=raw_of(up.session_id),
        certificates=up.certificates,
        entry=_entry_to_wire(up.entry),
        self_mask_digest=up.self_mask_digest,
    ),
    m.FetchCertificates: lambda up: pb.FetchCertificatesRequest(session_id=raw_of(up.session_id), digests=up.digests),
    m.ShareKeys: lambda up: pb.ShareKeysRequest(
        session_id=raw_of(up.session_id), shares=up.shares, signature=up.signature
    ),
    m.Contribute: lambda up: messages_pb2.ContributeRequest(session_id=raw_of(up.session_id), payload=up.payload),
    m.ConfirmSurvivors: lambda up: pb.ConfirmSurvivorsRequest(session_id=raw_of(up.session_id), signature=up.signature),
    m.Unmask: lambda up: pb.UnmaskRequest(session_id=raw_of(up.session_id), holders=up.holders, shares=up.shares),
}
"""How what a device says in a private sum becomes protobuf."""


def up_from_wire(wire: Message) -> SumUp | None:
    """What a device says in a private sum; None if ``wire`` is no such request."""
    up: SumUp | None
    match wire:
        case pb.AdvertiseRequest():
            up = _advertise(wire)
        case pb.FetchCertificatesRequest():
            bounded(len(wire.digests), range(1, limits.MAX_ROSTER + 1), "digests")
            up = m.FetchCertificates(_session_id(wire.session_id), each_sized(wire.digests, _DIGEST, "digests"))
        case pb.ShareKeysRequest():
            num_peers = bounded(len(wire.shares) // limits.SEALED_SHARES_BYTES, _PEERS, "number of shares")
            shares = exactly(wire.shares, limits.SEALED_SHARES_BYTES * num_peers, "shares")
            up = m.ShareKeys(_session_id(wire.session_id), shares, _signature(wire.signature))
        case messages_pb2.ContributeRequest():
            up = m.Contribute(_session_id(wire.session_id), sized(wire.payload, _PAYLOAD, "payload"))
        case pb.ConfirmSurvivorsRequest():
            up = m.ConfirmSurvivors(_session_id(wire.session_id), _signature(wire.signature))
        case pb.UnmaskRequest():
            holders = _member_set(wire.holders, "holders")
            shares = exactly(wire.shares, limits.SHARE_BYTES * _num_in(holders), "shares")
            up = m.Unmask(_session_id(wire.session_id), holders, shares)
        case _:
            up = None
    return up


def down_to_wire(response_type: type[Any], down: SumDown) -> Message:
    """An answer in a private sum as protobuf."""
    wire: Message
    match down:
        case m.Roster(entries):
            wire = pb.AdvertiseResponse(roster=pb.Roster(entries=[_entry_to_wire(entry) for entry in entries]))
        case m.CertificateList(certificates, intermediates):
            found = pb.CertificateList(certificates=certificates, intermediates=intermediates)
            wire = pb.FetchCertificatesResponse(certificate_list=found)
        case m.PeerShares(senders, shares, signatures):
            peer_shares = pb.PeerShares(senders=senders, shares=shares, signatures=signatures)
            wire = pb.ShareKeysResponse(peer_shares=peer_shares)
        case m.Survivors(survivors):
            wire = messages_pb2.ContributeResponse(survivors=survivors)
        case m.Confirmations(confirmers, signatures):
            confirmations = pb.Confirmations(confirmers=confirmers, signatures=signatures)
            wire = pb.ConfirmSurvivorsResponse(confirmations=confirmations)
        case m.ContributionCounted(session_id):
            wire = response_type(session_id=raw_of(session_id))
    return wire


def down_from_wire(wire: Message) -> SumDown | ComeBack | None:
    """An answer in a private sum; None if ``wire`` is no such answer."""
    match wire:
        case (
            pb.AdvertiseResponse()
            | pb.FetchCertificatesResponse()
            | pb.ShareKeysResponse()
            | messages_pb2.ContributeResponse()
            | pb.ConfirmSurvivorsResponse()
            | pb.UnmaskResponse()
        ):
            which = which_answer(wire)
            return _ALTERNATIVES[which](getattr(wire, which))
    return None


# --- parts -----------------------------------------------------------------------------------------------------------


def _advertise(wire: pb.AdvertiseRequest) -> m.Advertise:
    bounded(len(wire.certificates), range(1, 3), "certificates")
    if not wire.HasField("entry"):
        raise malformed("an entry", "none")
    return m.Advertise(
        _session_id(wire.session_id),
        each_sized(wire.certificates, _CERTIFICATE, "certificates"),
        _entry_from_wire(wire.entry),
        exactly(wire.self_mask_digest, limits.DIGEST_BYTES, "self_mask_digest"),
    )


def _entry_to_wire(entry: m.RosterEntry) -> pb.RosterEntry:
    return pb.RosterEntry(
        certificate_digest=entry.certificate_digest,
        mask_key=entry.mask_key,
        share_key=entry.share_key,
        signature=entry.signature,
    )


def _entry_from_wire(wire: pb.RosterEntry) -> m.RosterEntry:
    return m.RosterEntry(
        exactly(wire.certificate_digest, limits.DIGEST_BYTES, "certificate_digest"),
        exactly(wire.mask_key, limits.KEY_BYTES, "mask_key"),
        exactly(wire.share_key, limits.KEY_BYTES, "share_key"),
        _signature(wire.signature),
    )


def _roster(wire: pb.Roster) -> m.Roster:
    bounded(len(wire.entries), range(limits.MIN_ROSTER, limits.MAX_ROSTER + 1), "entries")
    return m.Roster(tuple(_entry_from_wire(entry) for entry in wire.entries))


def _certificate_list(wire: pb.CertificateList) -> m.CertificateList:
    bounded(len(wire.certificates), range(1, limits.MAX_ROSTER + 1), "certificates")
    bounded(len(wire.intermediates), range(limits.MAX_ROSTER + 1), "intermediates")
    return m.CertificateList(
        each_sized(wire.certificates, _CERTIFICATE, "certificates"),
        each_sized(wire.intermediates, _CERTIFICATE, "intermediates"),
    )


def _peer_shares(wire: pb.PeerShares) -> m.PeerShares:
    senders = _member_set(wire.senders, "senders")
    num_senders = bounded(_num_in(senders), range(1, limits.MAX_ROSTER + 1), "number of senders")
    return m.PeerShares(
        senders,
        exactly(wire.shares, limits.SEALED_SHARES_BYTES * (num_senders - 1), "shares"),
        exactly(wire.signatures, limits.RAW_SIGNATURE_BYTES * num_senders, "signatures"),
    )


def _confirmations(wire: pb.Confirmations) -> m.Confirmations:
    confirmers = _member_set(wire.confirmers, "confirmers")
    signatures = exactly(wire.signatures, limits.RAW_SIGNATURE_BYTES * _num_in(confirmers), "signatures")
    return m.Confirmations(confirmers, signatures)


_ALTERNATIVES: Mapping[str, Callable[[Any], SumDown | ComeBack]] = {
    "roster": _roster,
    "certificate_list": _certificate_list,
    "peer_shares": _peer_shares,
    "survivors": lambda raw: m.Survivors(_member_set(raw, "survivors")),
    "confirmations": _confirmations,
    "session_id": lambda raw: m.ContributionCounted(_session_id(raw)),
    "come_back": come_back_from_wire,
}
"""How each alternative of an answer is read; its name says what it is, whichever answer it is in."""


def _session_id(raw: bytes) -> str:
    return hex_of(raw, limits.ID_BYTES, "session_id")


def _signature(raw: bytes) -> bytes:
    return exactly(raw, limits.RAW_SIGNATURE_BYTES, "signature")


def _member_set(raw: bytes, field: str) -> bytes:
    return sized(raw, limits.MEMBER_SET_BYTES, field)


def _num_in(members: bytes) -> int:
    return int.from_bytes(members).bit_count()
