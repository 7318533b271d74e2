"""Who is who: keys, certificate requests, and the peer that a certificate names. ``certificates`` makes certificates.

ECDSA P-256 throughout, because gRPC refuses Ed25519 leaves (grpc/grpc#24252) and P-521 (#6722). The identity is one URI
in the subject alternative name, ``spiffe://prunefleet/<role>/<name>``; the common name decides nothing. TLS checks the
chain; :func:`peer_from_certificate` checks the rest again on every call, because a connection outlives a certificate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID

from prunefleet_shared.documents import public_bytes
from prunefleet_shared.errors import ConfigError, LocalProtocolError, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.roles import Peer, Role

CALLERS = frozenset({Role.DEVICE, Role.TRAINER, Role.OPERATOR, Role.COORDINATOR})
"""Roles whose certificates may call anyone."""

KEEPS_KEY = frozenset({Role.OPERATOR, Role.TRAINER, Role.COORDINATOR})
"""Roles whose key also signs documents, so that it stays the same; a device makes a fresh one at each renewal."""

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SAN = re.compile(r"spiffe://prunefleet/(?P<role>[a-z]{1,16})/(?P<name>[a-z0-9-]{1,64})")
_UNREADABLE = (
    ValueError,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What reading a certificate by a stranger may raise."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one process needs for mTLS.

    Attributes:
        cert_pem: Its certificate, followed by the intermediate's where there is one.
        key_pem: Its private key, PKCS#8; never printed.
        ca_pem: The root it trusts.
    """

    cert_pem: bytes
    key_pem: bytes = field(repr=False)
    ca_pem: bytes

    @property
    def name(self) -> str:
        """The name in our own certificate, such as ``device-03``."""
        return _identity(x509.load_pem_x509_certificate(self.cert_pem))[1]


@dataclass(frozen=True, slots=True)
class Passport:
    """What a client certificate says; whether it still holds is asked on every call.

    Attributes:
        peer: Whom it names.
        serial: Its serial number, lower-case hex: what a deny-list names.
        public_key: DER.
        valid_from: First moment at which it holds.
        valid_until: Last moment.
    """

    peer: Peer
    serial: str
    public_key: bytes
    valid_from: datetime
    valid_until: datetime

    def peer_at(self, now: datetime) -> Peer:
        """Whom it names at ``now``.

        Raises:
            RemoteProtocolError: ``STRANGER``: it does not hold at ``now``.
            LocalProtocolError: ``now`` has no time zone (the caller's bug).
        """
        require_aware(now)
        if not self.valid_from <= now <= self.valid_until:
            raise _stranger("a certificate that is not valid now")
        return self.peer


def read_passport(cert_pem: bytes) -> Passport:
    """Read a client certificate, of which the caller (TLS) has checked that our authority signed it.

    Raises:
        RemoteProtocolError: ``STRANGER``: unreadable, without exactly one URI of ours, no client certificate, or
            another kind of key.
    """
    try:
        certificate = x509.load_pem_x509_certificate(cert_pem)
        role, name = _identity(certificate)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        key = certificate.public_key()
    except _UNREADABLE:
        raise _stranger("a certificate without one") from None
    if role not in CALLERS or ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise _stranger("a certificate for something else")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _stranger("another kind of key")
    valid = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    return Passport(Peer(name, Role(role)), f"{certificate.serial_number:x}", public_bytes(key), *valid)


def identity_of(cert_pem: bytes) -> tuple[Role, str]:
    """Role and name in a certificate of ours, a server's or a client's.

    Raises:
        RemoteProtocolError: ``STRANGER``: unreadable, or without exactly one URI of ours.
    """
    try:
        role, name = _identity(x509.load_pem_x509_certificate(cert_pem))
        return Role(role), name
    except _UNREADABLE:
        raise _stranger("a certificate without one") from None


def peer_from_certificate(cert_pem: bytes, now: datetime) -> Peer:
    """The peer that a client certificate names at ``now``: :func:`read_passport`, then :meth:`Passport.peer_at`.

    Raises:
        RemoteProtocolError: ``STRANGER``, for the reasons of either (the peer's fault).
        LocalProtocolError: ``now`` has no time zone (the caller's bug).
    """
    return read_passport(cert_pem).peer_at(now)


def create_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate request (PKCS#10, DER) that proves possession of ``key`` and says nothing else."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def read_request(request: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key whose possession a certificate request proves; whatever else it asks for is ignored.

    Raises:
        RemoteProtocolError: ``MALFORMED``: unreadable, another kind of key, or not signed with it (the sender's fault).
    """
    try:
        parsed = x509.load_der_x509_csr(request)
        key, is_proven = parsed.public_key(), parsed.is_signature_valid
    except (*_UNREADABLE, UnsupportedAlgorithm):
        key, is_proven = None, False
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1) or not is_proven:
        raise reject(RejectReason.MALFORMED, expected="a PKCS#10 request signed with its own P-256 key", got="another")
    return key


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8, not encrypted: keep it in a file of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_from_pem(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read :func:`key_to_pem`.

    Raises:
        ConfigError: It is no P-256 key (the user's to mend).
    """
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        msg = "expected a P-256 key in PEM, without a password"
        raise ConfigError(msg)
    return key


def create_signing_key(seed: int | None = None) -> ec.EllipticCurvePrivateKey:
    """A P-256 key.

    Args:
        seed: SIMULATIONS ONLY: 0 to 2**256 - 1; the same seed gives the same key, so that a run repeats bit for bit.
            Anyone who guesses the seed has the key. None: a key from the system's randomness.

    Raises:
        ConfigError: ``seed`` is out of range.
    """
    if seed is None:
        return ec.generate_private_key(ec.SECP256R1())
    if not 0 <= seed < 2**256:
        msg = "seed: expected 0 to 2**256 - 1"
        raise ConfigError(msg)
    # 16 bytes more than the order has, so that the remainder is uniform to 2**-128 (FIPS 186-5, A.2.1).
    kdf = HKDF(hashes.SHA256(), length=48, salt=None, info=b"prunefleet/1|simulated signing key")
    scalar = int.from_bytes(kdf.derive(seed.to_bytes(32)))
    return ec.derive_private_key(scalar % (_P256_ORDER - 1) + 1, ec.SECP256R1())


def _stranger(got: str) -> RemoteProtocolError:
    return reject(
        RejectReason.STRANGER,
        expected="a valid certificate of this fleet, with one identity",
        got=got,
        remedy="ask the operator for a new certificate",
    )


def _identity(certificate: x509.Certificate) -> tuple[str, str]:
    """Role and name in the only URI of the certificate; raises one of ``_UNREADABLE``."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    match = _SAN.fullmatch(uris[0]) if len(uris) == 1 else None
    if match is None:
        msg = "not exactly one identity of ours"
        raise ValueError(msg)
    return match["role"], match["name"]


def require_aware(now: datetime) -> None:
    """Raise ``LocalProtocolError`` unless ``now`` has a time zone."""
    if now.tzinfo is None:
        msg = "now needs a time zone"
        raise LocalProtocolError(msg)
