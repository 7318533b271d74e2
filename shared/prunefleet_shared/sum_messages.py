"""The messages of a private sum, stage by stage: up from a device, down from the coordinator. The story is in
``secure_sum``; the first stage's answer, ``Roster``, fixes the order in which everything after it speaks of devices.

A *member set* (``senders``, ``survivors``, ``confirmers``, ``holders``) is a string of bits, one for each device of the
roster in order, bit 0 of byte 0 first, padded with zeros. Lists of equal things are one string of bytes each: their
length follows from the roster and a member set, so a longer or shorter one is malformed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass(frozen=True, slots=True)
class RosterEntry:
    """One device of a roster.

    Attributes:
        certificate_digest: SHA-256 of its certificate, DER; 32 bytes.
        mask_key: X25519 public key from which pair masks follow; 32 bytes.
        share_key: X25519 public key to which peers encrypt its shares; 32 bytes.
        signature: Of its certificate's key over session and both keys; ECDSA P-256, r then s; 64 bytes.
    """

    certificate_digest: bytes
    mask_key: bytes
    share_key: bytes
    signature: bytes


# --- up --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Advertise:
    """Stage 1. A device's entry for the roster.

    Attributes:
        session_id: From the invitation.
        certificates: Its certificate, then the intermediate's where there is one; DER.
        entry: What peers will see.
        self_mask_digest: For the coordinator: by it a wrong share of the self mask is noticed; 32 bytes.
    """

    session_id: str
    certificates: tuple[bytes, ...]
    entry: RosterEntry
    self_mask_digest: bytes


@dataclass(frozen=True, slots=True)
class FetchCertificates:
    """Asks for the certificates of roster entries that this device has not seen before, by digest, 32 bytes each."""

    session_id: str
    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ShareKeys:
    """Stage 2.

    Attributes:
        session_id: From the invitation.
        shares: For every other device, in order, 80 encrypted bytes.
        signature: Over the roster this device saw; 64 bytes.
    """

    session_id: str
    shares: bytes = field(repr=False)
    signature: bytes


@dataclass(frozen=True, slots=True)
class Contribute:
    """Stage 3, and the only stage of ``plain``. ``payload`` has the one length that session and mode prescribe."""

    session_id: str
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConfirmSurvivors:
    """Stage 4. Signs the survivors this device was told; 64 bytes."""

    session_id: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Unmask:
    """Stage 5.

    Attributes:
        session_id: From the invitation.
        holders: Whose shares follow; those whose encrypted shares could not be opened are missing.
        shares: For each of ``holders``, in order, 32 bytes: of a survivor's self mask, or of a drop-out's mask key.
    """

    session_id: str
    holders: bytes
    shares: bytes = field(repr=False)


# --- down ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Roster:
    """Answers :class:`Advertise`: who takes part, in ascending order of certificate digests."""

    entries: tuple[RosterEntry, ...]


@dataclass(frozen=True, slots=True)
class CertificateList:
    """Answers :class:`FetchCertificates`: the certificates asked for, in that order, and the intermediates'; DER."""

    certificates: tuple[bytes, ...]
    intermediates: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PeerShares:
    """Answers :class:`ShareKeys`: what those who got that far sent.

    Attributes:
        senders: The devices whose shares arrived, the receiver's own among them.
        shares: For each of them but the receiver, in order, the 80 bytes it encrypted to the receiver.
        signatures: For each of them, in order, its signature over the roster; 64 bytes.
    """

    senders: bytes
    shares: bytes = field(repr=False)
    signatures: bytes


@dataclass(frozen=True, slots=True)
class Survivors:
    """Answers :class:`Contribute`: the devices whose masked vectors arrived."""

    survivors: bytes


@dataclass(frozen=True, slots=True)
class Confirmations:
    """Answers :class:`ConfirmSurvivors`: signatures over the survivors, 64 bytes for each of ``confirmers``."""

    confirmers: bytes
    signatures: bytes


@dataclass(frozen=True, slots=True)
class ContributionCounted:
    """Answers :class:`Unmask`, and ``Contribute`` in ``plain``: nothing more is asked of the device in this session."""

    session_id: str


SumUp = Advertise | FetchCertificates | ShareKeys | Contribute | ConfirmSurvivors | Unmask
"""What a device says in a private sum."""
SumDown = Roster | CertificateList | PeerShares | Survivors | Confirmations | ContributionCounted
"""What it is answered."""


def said_bytes(message: SumUp) -> bytes:
    """All that a message says beside its session, in the order of its fields: what an audit takes the digest of."""
    parts: list[object] = [getattr(message, field.name) for field in fields(message) if field.name != "session_id"]
    if isinstance(message, Advertise):
        entry = message.entry
        parts = [*message.certificates, entry.mask_key, entry.share_key, message.self_mask_digest, entry.signature]
    flat = [piece for part in parts for piece in (part if isinstance(part, tuple) else (part,))]
    return b"".join(piece for piece in flat if isinstance(piece, bytes))


def member_set(positions: frozenset[int] | set[int], num_members: int) -> bytes:
    """The member set of these positions (from 0) in a roster of ``num_members``."""
    bits = sum(1 << position for position in positions)
    return bits.to_bytes((num_members + 7) // 8, "little")


def positions_in(members: bytes, num_members: int) -> frozenset[int] | None:
    """Undo :func:`member_set`; None if it is of another roster's size, or a padding bit is set."""
    if len(members) != (num_members + 7) // 8:
        return None
    bits = int.from_bytes(members, "little")
    return None if bits >> num_members else frozenset(i for i in range(num_members) if bits >> i & 1)
