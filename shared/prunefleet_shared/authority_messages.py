"""What newcomers and members say to the authority, as plain frozen dataclasses; ``authority.proto`` has the story.

Certificates, requests and keys are DER.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prunefleet_shared.roles import Role

# --- up: newcomer → authority --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GetAuthority:
    """Asks for the root certificate."""


@dataclass(frozen=True, slots=True)
class Join:
    """Shows a join token's secret, and a certificate request."""

    token_id: str
    secret: bytes = field(repr=False)
    certificate_request: bytes


# --- up: member → authority ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Renew:
    """Asks for a fresh certificate."""

    certificate_request: bytes


@dataclass(frozen=True, slots=True)
class ListDenied:
    """Asks for the deny-list (coordinators)."""


@dataclass(frozen=True, slots=True)
class Revoke:
    """Puts all certificates of a member on the deny-list (operators)."""

    name: str


@dataclass(frozen=True, slots=True)
class CreateTokens:
    """Asks for join tokens (operators).

    Attributes:
        role: ``DEVICE`` or ``TRAINER``.
        name: The new member's name; with ``is_group``, what the names start with.
        is_group: Each token lets in a member with a name of its own.
        num_tokens: 1 to 1000; 1 unless ``is_group``.
        valid_for_s: How long each may be used.
        device_class: Of devices; else empty.
    """

    role: Role
    name: str
    is_group: bool
    num_tokens: int
    valid_for_s: int
    device_class: str


@dataclass(frozen=True, slots=True)
class ListMembers:
    """Asks who has joined (operators); ``role`` None for all, ``after_name`` empty for the first page."""

    role: Role | None
    after_name: str


# --- down ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuthorityOffer:
    """The root certificate, and the authority's time in ms since 1970 (UTC)."""

    root_certificate: bytes
    now_ms: int


@dataclass(frozen=True, slots=True)
class Membership:
    """All that a member needs besides its key and the root.

    Attributes:
        certificates: The member's own, then the intermediate.
        operator_keys: Whose signature makes a campaign.
        coordinator_address: ``host:port``.
        authority_address: ``host:port`` of the authority's port for members.
        device_class: Of a device; else empty.
    """

    certificates: tuple[bytes, ...]
    operator_keys: tuple[bytes, ...]
    coordinator_address: str
    authority_address: str
    device_class: str


@dataclass(frozen=True, slots=True)
class DenyList:
    """Serial numbers (lower-case hex, no leading zeros) of all denied certificates that have not expired."""

    serials: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Revoked:
    """The member's certificates are on the deny-list."""


@dataclass(frozen=True, slots=True)
class TokenList:
    """Join tokens; shown once."""

    tokens: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Member:
    """One member, by its latest certificate, valid until ``valid_until_ms`` since 1970 (UTC)."""

    name: str
    role: Role
    public_key: bytes
    valid_until_ms: int
    is_revoked: bool


@dataclass(frozen=True, slots=True)
class MemberList:
    """A page of members by name, at most 1000; a shorter page is the last."""

    members: tuple[Member, ...]


AuthorityUp = GetAuthority | Join | Renew | ListDenied | Revoke | CreateTokens | ListMembers
AuthorityDown = AuthorityOffer | Membership | DenyList | Revoked | TokenList | MemberList
