"""Every method of the protocol in one table: what is asked, what may be answered, by whom, and how long it may be.

No protobuf here; a test holds this table against the service descriptors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from prunefleet_shared import wire_limits as limits
from prunefleet_shared.authority_messages import (
    AuthorityOffer,
    CreateTokens,
    DenyList,
    GetAuthority,
    Join,
    ListDenied,
    ListMembers,
    MemberList,
    Membership,
    Renew,
    Revoke,
    Revoked,
    TokenList,
)
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.messages import (
    AwaitDecision,
    CampaignEnded,
    CampaignOffer,
    CheckIn,
    ComeBack,
    ControlCampaign,
    DecisionOffer,
    Down,
    FetchModel,
    FleetStatus,
    GetCampaign,
    GetStatus,
    Invitation,
    ModelChunk,
    PublishSlimBase,
    Role,
    RulingOffer,
    SlimBaseOffer,
    StartCampaign,
    Stored,
    Up,
    UploadModel,
)
from prunefleet_shared.sum_messages import (
    Advertise,
    CertificateList,
    Confirmations,
    ConfirmSurvivors,
    Contribute,
    ContributionCounted,
    FetchCertificates,
    PeerShares,
    Roster,
    ShareKeys,
    Survivors,
    Unmask,
)

FLEET, TRAINER, OPERATOR = "prunefleet.v1.Fleet", "prunefleet.v1.Trainer", "prunefleet.v1.Operator"
ENROLMENT, AUTHORITY = "prunefleet.v1.Enrolment", "prunefleet.v1.Authority"
COORDINATOR_SERVICES = (FLEET, TRAINER, OPERATOR)
"""What a coordinator serves."""


@dataclass(frozen=True, slots=True)
class Method:
    """One call of the protocol.

    Attributes:
        up: What is asked; the method has its name.
        downs: What may be answered.
        service: Full name of the service it belongs to.
        roles: Whose certificates may call it.
        max_request_bytes: Longest request.
        max_response_bytes: Longest answer, before it is compressed.
        is_answer_compressed: A carrier may compress it: long, repetitive, and no secret in it.
    """

    up: type[Up]
    downs: tuple[type[Down], ...]
    service: str
    roles: frozenset[Role]
    max_request_bytes: int
    max_response_bytes: int
    is_answer_compressed: bool = False

    @property
    def path(self) -> str:
        """Full path, such as ``/prunefleet.v1.Fleet/CheckIn``."""
        return f"/{self.service}/{self.up.__name__}"


_DEVICE, _TRAINER, _OPERATOR = frozenset({Role.DEVICE}), frozenset({Role.TRAINER}), frozenset({Role.OPERATOR})
_NEWCOMER, _COORDINATOR = frozenset({Role.NEWCOMER}), frozenset({Role.COORDINATOR})
_MEMBERS = _DEVICE | _TRAINER | _OPERATOR | _COORDINATOR
_SHORT, _DOCUMENTS, _PIECE, _LIST = (
    limits.ENVELOPE_BYTES,
    limits.MAX_DOCUMENT_MESSAGE_BYTES,
    limits.MAX_CHUNK_MESSAGE_BYTES,
    limits.MAX_LIST_BYTES,
)
_CERTIFICATES = limits.MAX_MEMBERSHIP_BYTES
_OFFER = 2 * _DOCUMENTS + limits.MAX_TOTAL_BYTES + limits.MAX_OUTCOME_TOTALS_BYTES
_ROWS = (
    Method(GetCampaign, (CampaignOffer, ComeBack), FLEET, _DEVICE, _SHORT, _DOCUMENTS),
    Method(
        CheckIn, (Invitation, RulingOffer, SlimBaseOffer, ComeBack, CampaignEnded), FLEET, _DEVICE, _SHORT, _DOCUMENTS
    ),
    Method(Advertise, (Roster, ComeBack), FLEET, _DEVICE, limits.MAX_ADVERT_BYTES, limits.MAX_ROSTER_BYTES),
    Method(
        FetchCertificates,
        (CertificateList, ComeBack),
        FLEET,
        _DEVICE,
        limits.MAX_DIGESTS_BYTES,
        limits.MAX_CERTIFICATE_LIST_BYTES,
        is_answer_compressed=True,
    ),
    Method(ShareKeys, (PeerShares, ComeBack), FLEET, _DEVICE, limits.MAX_SEALED_BYTES, limits.MAX_PEER_SHARES_BYTES),
    Method(Contribute, (ContributionCounted, Survivors, ComeBack), FLEET, _DEVICE, limits.MAX_REQUEST_BYTES, _SHORT),
    Method(ConfirmSurvivors, (Confirmations, ComeBack), FLEET, _DEVICE, _SHORT, limits.MAX_CONFIRMATIONS_BYTES),
    Method(Unmask, (ContributionCounted, ComeBack), FLEET, _DEVICE, limits.MAX_SHARES_BYTES, _SHORT),
    Method(FetchModel, (ModelChunk,), FLEET, _DEVICE | _TRAINER, _SHORT, _PIECE),
    Method(AwaitDecision, (DecisionOffer, ComeBack, CampaignEnded), TRAINER, _TRAINER, _SHORT, _OFFER),
    Method(UploadModel, (Stored,), TRAINER, _TRAINER | _OPERATOR, _PIECE, _SHORT),
    Method(PublishSlimBase, (Stored,), TRAINER, _TRAINER, limits.MAX_SLIM_BASE_BYTES, _SHORT),
    Method(StartCampaign, (Stored,), OPERATOR, _OPERATOR, _DOCUMENTS, _SHORT),
    Method(ControlCampaign, (Stored,), OPERATOR, _OPERATOR, _SHORT, _SHORT),
    Method(GetStatus, (FleetStatus,), OPERATOR, _OPERATOR, _SHORT, _LIST),
    Method(GetAuthority, (AuthorityOffer,), ENROLMENT, _NEWCOMER, _SHORT, _CERTIFICATES),
    Method(Join, (Membership,), ENROLMENT, _NEWCOMER, _CERTIFICATES, _CERTIFICATES),
    Method(Renew, (Membership,), AUTHORITY, _MEMBERS, _CERTIFICATES, _CERTIFICATES),
    Method(ListDenied, (DenyList,), AUTHORITY, _COORDINATOR, _SHORT, _LIST),
    Method(Revoke, (Revoked,), AUTHORITY, _OPERATOR, _SHORT, _SHORT),
    Method(CreateTokens, (TokenList,), AUTHORITY, _OPERATOR, _SHORT, _LIST),
    Method(ListMembers, (MemberList,), AUTHORITY, _OPERATOR, _SHORT, _LIST),
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
