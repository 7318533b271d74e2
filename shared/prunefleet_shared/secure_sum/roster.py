"""Who takes part in a private sum: peers' certificates, the roster that follows from adverts, and what members sign.

Signatures are ECDSA P-256 with SHA-256 by the key of a member's certificate, as r then s, 64 bytes: of one length, so
that messages are too.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from prunefleet_shared.errors import RejectReason, RemoteProtocolError, reject
from prunefleet_shared.identity import Credentials, key_from_pem, read_passport
from prunefleet_shared.roles import Role
from prunefleet_shared.secure_sum.context import DOMAIN
from prunefleet_shared.sum_messages import RosterEntry

SIGNATURE_BYTES = 64
MAX_CACHED_PEERS = 4096
_ECDSA = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, slots=True)
class SumIdentity:
    """A device's name in private sums: its certificate and the key of it.

    Attributes:
        certificates: Its certificate, then the intermediate's where there is one; DER.
        key: The certificate's key; never printed.
    """

    certificates: tuple[bytes, ...]
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def of(cls, credentials: Credentials) -> SumIdentity:
        """The identity in a member's credentials."""
        chain = x509.load_pem_x509_certificates(credentials.cert_pem)
        return cls(tuple(_der(certificate) for certificate in chain), key_from_pem(credentials.key_pem))

    @property
    def certificate_digest(self) -> bytes:
        """SHA-256 of the certificate, 32 bytes."""
        return hashlib.sha256(self.certificates[0]).digest()

    def sign(self, statement: bytes) -> bytes:
        """64 bytes; the same for the same statement (RFC 6979)."""
        der = self.key.sign(statement, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = decode_dss_signature(der)
        return r.to_bytes(32) + s.to_bytes(32)


@dataclass(frozen=True, slots=True)
class Member:
    """A device that the fleet's authority vouches for.

    Attributes:
        name: In its certificate; one device has one name, however often its certificate is renewed.
        public_key: Of its certificate.
        valid_until: End of its certificate.
        intermediates: The certificates that link it to the root, DER.
    """

    name: str
    public_key: ec.EllipticCurvePublicKey
    valid_until: datetime
    intermediates: tuple[bytes, ...] = ()

    def signed(self, statement: bytes, signature: bytes) -> bool:
        """Whether ``signature`` (64 bytes) is this member's over ``statement``."""
        der = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
        try:
            self.public_key.verify(der, statement, _ECDSA)
        except InvalidSignature:
            return False
        return True


class Members:
    """Checks certificates against the fleet's root, and remembers those that held.

    Args:
        root_pem: The root certificate this process was given when it joined.
        utc_now: The time, aware.
    """

    def __init__(self, root_pem: bytes, utc_now: Callable[[], datetime]) -> None:
        root = x509.load_pem_x509_certificate(root_pem)
        self.fleet = hashlib.sha256(_der(root)).hexdigest()
        self._store = Store([root])
        self._utc_now = utc_now
        self._known: OrderedDict[bytes, Member] = OrderedDict()

    def get(self, certificate_digest: bytes) -> Member | None:
        """A device seen before whose certificate still holds."""
        member = self._known.get(certificate_digest)
        if member is None or member.valid_until < self._utc_now():
            return None
        self._known.move_to_end(certificate_digest)
        return member

    def admit(self, certificate: bytes, intermediates: Sequence[bytes]) -> Member:
        """The device that a certificate names.

        Args:
            certificate: Its certificate, DER.
            intermediates: Certificates that may link it to the root, DER.

        Raises:
            RemoteProtocolError: ``STRANGER``: not a device's of this fleet, or not valid now.
        """
        try:
            leaf, *rest = (x509.load_der_x509_certificate(der) for der in (certificate, *intermediates))
            PolicyBuilder().store(self._store).time(self._utc_now()).build_client_verifier().verify(leaf, rest)
        except (ValueError, VerificationError, x509.InvalidVersion):  # InvalidVersion is an Exception, no ValueError
            raise _stranger() from None
        passport = read_passport(leaf.public_bytes(serialization.Encoding.PEM))
        key = leaf.public_key()
        if passport.peer.role is not Role.DEVICE or not isinstance(key, ec.EllipticCurvePublicKey):
            raise _stranger()
        member = Member(passport.peer.peer_id, key, passport.valid_until, tuple(intermediates))
        self._known[hashlib.sha256(certificate).digest()] = member
        if len(self._known) > MAX_CACHED_PEERS:
            self._known.popitem(last=False)
        return member


def _stranger() -> RemoteProtocolError:
    return reject(
        RejectReason.STRANGER,
        expected="certificates of this fleet's devices",
        got="one that is not, or not valid now",
        remedy="check this machine's clock; if it is right, tell the operator",
    )


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


# --- what members sign -----------------------------------------------------------------------------------------------


def advert_statement(context: bytes, entry: RosterEntry) -> bytes:
    """What a device signs of itself: in this session, these are my keys."""
    return DOMAIN + b"advert|" + context + entry.certificate_digest + entry.mask_key + entry.share_key


def roster_digest(entries: Sequence[RosterEntry]) -> bytes:
    """32 bytes that name a roster: all keys, in order."""
    parts = (entry.certificate_digest + entry.mask_key + entry.share_key for entry in entries)
    return hashlib.sha256(DOMAIN + b"members|" + b"".join(parts)).digest()


def roster_statement(context: bytes, roster: bytes) -> bytes:
    """What a device signs of the roster it saw."""
    return DOMAIN + b"roster|" + context + roster


def survivors_statement(context: bytes, roster: bytes, survivors: bytes) -> bytes:
    """What a device signs of the survivors it was told."""
    return DOMAIN + b"survivors|" + context + roster + survivors


def salt_of(context: bytes, roster: bytes) -> bytes:
    """What keys are derived with: a share or a mask is of no use in another session, or under another roster."""
    return hashlib.sha256(DOMAIN + b"salt|" + context + roster).digest()


# --- what a roster must satisfy --------------------------------------------------------------------------------------


def why_roster_wrong(
    entries: Sequence[RosterEntry], own: RosterEntry, min_devices: int, max_devices: int
) -> str | None:
    """The first rule a roster breaks, certificates and signatures apart; None if it is as it should be."""
    digests = [entry.certificate_digest for entry in entries]
    keys = {key for entry in entries for key in (entry.mask_key, entry.share_key)}
    if not min_devices <= len(entries) <= max_devices:
        return f"{len(entries)} devices, where {min_devices} to {max_devices} may be"
    if digests != sorted(set(digests)):
        return "devices twice, or out of order"
    if len(keys) != 2 * len(entries):
        return "one key in two places"
    if own not in entries:
        return "this device's own entry is missing or altered"
    return None


def members_of(entries: Sequence[RosterEntry], members: Members, context: bytes) -> list[Member]:
    """The members of a roster whose certificates have all been admitted.

    Raises:
        RemoteProtocolError: ``STRANGER`` (a certificate is unknown or has ended), ``BAD_ROSTER`` (one device under two
            certificates), ``BAD_SIGNATURE`` (an entry that its device did not sign).
    """
    found = [members.get(entry.certificate_digest) for entry in entries]
    known = [member for member in found if member is not None]
    if len(known) != len(entries):
        raise _stranger()
    if len({member.name for member in known}) != len(known):
        raise bad_roster("one device under two certificates")
    for entry, member in zip(entries, known, strict=True):
        if not member.signed(advert_statement(context, entry), entry.signature):
            remedy = "take part in the next session; if it repeats, the coordinator is not to be trusted"
            raise reject(RejectReason.BAD_SIGNATURE, expected="adverts signed by their devices", remedy=remedy)
    return known


def bad_roster(got: str) -> RemoteProtocolError:
    """The error for a roster that no honest coordinator would send."""
    return reject(
        RejectReason.BAD_ROSTER,
        expected="a roster of distinct devices, this one among them, on the campaign's terms",
        got=got,
        remedy="take part in the next session; if it repeats, the coordinator is not to be trusted",
    )
