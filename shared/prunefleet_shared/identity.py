"""Who is who: short-lived certificates for a run, and the peer that a certificate names.

ECDSA P-256 throughout, because gRPC refuses Ed25519 leaves (grpc/grpc#24252) and P-521 (#6722). The identity is one URI
in the subject alternative name, ``spiffe://prunefleet/<role>/<name>``; the common name decides nothing. TLS checks the
chain; :func:`peer_from_certificate` checks the rest again on every call, because a connection outlives a certificate.

This authority lives in the coordinator's process: whoever runs that can mint devices ("honest-but-curious only").
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from prunefleet_shared.errors import ConfigError, LocalProtocolError, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.messages import Peer, Role

Coordinator = Literal["coordinator"]
COORDINATOR: Coordinator = "coordinator"
"""The server's place in the SAN; no :class:`Role`, because it never calls anyone."""

CLOCK_SKEW = timedelta(minutes=5)
"""How far a device's clock may lag behind the authority's."""

DEFAULT_VALIDITY_H = 24
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_NAME = re.compile(r"[a-z0-9-]{1,64}")
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
class Authority:
    """A certificate authority for one run.

    Attributes:
        cert_pem: Its self-signed certificate; what everyone trusts.
        key_pem: Its private key, PKCS#8; never printed.
    """

    cert_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one process needs for mTLS.

    Attributes:
        cert_pem: Its certificate.
        key_pem: Its private key, PKCS#8; never printed.
        ca_pem: The authority it trusts.
    """

    cert_pem: bytes
    key_pem: bytes = field(repr=False)
    ca_pem: bytes

    @property
    def name(self) -> str:
        """The name in our own certificate, such as ``device-03``."""
        return _identity(x509.load_pem_x509_certificate(self.cert_pem))[1]


def create_authority(now: datetime, *, validity_h: int = 7 * DEFAULT_VALIDITY_H) -> Authority:
    """A fresh self-signed authority, valid from now on for ``validity_h`` hours; it signs leaves only.

    Raises:
        LocalProtocolError: ``now`` has no time zone (the caller's bug).
        ConfigError: ``validity_h`` is not positive.
    """
    key = create_signing_key()
    name = _common_name("prunefleet run authority")
    public = key.public_key()
    usage = _key_usage(signs_certificates=True)
    builder = (
        _dated(x509.CertificateBuilder(), now, _end(now, validity_h))
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    return Authority(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def issue(
    authority: Authority,
    role: Role | Coordinator,
    name: str,
    now: datetime,
    *,
    validity_h: int = DEFAULT_VALIDITY_H,
) -> Credentials:
    """A fresh key and a certificate for it, which ends with the authority's at the latest.

    Args:
        authority: Signs it.
        role: A coordinator's is a server certificate for this machine only, the others are client certificates.
        name: 1 to 64 of ``a-z 0-9 -``.
        now: Aware.
        validity_h: Hours.

    Raises:
        ConfigError: ``name`` or ``validity_h`` is out of range (the user's to mend).
        LocalProtocolError: ``now`` has no time zone (the caller's bug).
    """
    if not _NAME.fullmatch(name):
        msg = f"name: expected 1 to 64 of a-z 0-9 -, got {name!r}"
        raise ConfigError(msg)
    parent = x509.load_pem_x509_certificate(authority.cert_pem)
    key = create_signing_key()
    builder = _dated(x509.CertificateBuilder(), now, min(_end(now, validity_h), parent.not_valid_after_utc))
    builder = builder.subject_name(_common_name(name)).issuer_name(parent.subject).public_key(key.public_key())
    for extension, critical in _leaf_extensions(role, name, key.public_key(), parent):
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(_load_key(authority.key_pem), hashes.SHA256())
    return Credentials(_pem(certificate), _key_pem(key), authority.cert_pem)


@dataclass(frozen=True, slots=True)
class Passport:
    """What a client certificate says; whether it still holds is asked on every call.

    Attributes:
        peer: Whom it names.
        valid_from: First moment at which it holds.
        valid_until: Last moment.
    """

    peer: Peer
    valid_from: datetime
    valid_until: datetime

    def peer_at(self, now: datetime) -> Peer:
        """Whom it names at ``now``.

        Raises:
            RemoteProtocolError: ``STRANGER``: it does not hold at ``now``.
            LocalProtocolError: ``now`` has no time zone (the caller's bug).
        """
        _require_aware(now)
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
    if role not in set(Role) or ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise _stranger("a certificate for something else")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _stranger("another kind of key")
    return Passport(Peer(name, Role(role)), certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def peer_from_certificate(cert_pem: bytes, now: datetime) -> Peer:
    """The peer that a client certificate names at ``now``: :func:`read_passport`, then :meth:`Passport.peer_at`.

    Raises:
        RemoteProtocolError: ``STRANGER``, for the reasons of either (the peer's fault).
        LocalProtocolError: ``now`` has no time zone (the caller's bug).
    """
    return read_passport(cert_pem).peer_at(now)


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


def _leaf_extensions(
    role: Role | Coordinator, name: str, key: ec.EllipticCurvePublicKey, parent: x509.Certificate
) -> list[tuple[x509.ExtensionType, bool]]:
    """Extensions of a leaf, each with whether it is critical."""
    uri = x509.UniformResourceIdentifier(f"spiffe://prunefleet/{role}/{name}")
    this_machine = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    is_server = role == COORDINATOR
    usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
    parent_key = parent.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([usage]), False),
        (x509.SubjectAlternativeName([uri, *(this_machine if is_server else [])]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(parent_key), False),
    ]


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _dated(builder: x509.CertificateBuilder, now: datetime, end: datetime) -> x509.CertificateBuilder:
    start = (now - CLOCK_SKEW).astimezone(UTC)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(start).not_valid_after(end.astimezone(UTC))


def _end(now: datetime, validity_h: int) -> datetime:
    _require_aware(now)
    if validity_h <= 0:
        msg = f"validity_h: expected a positive number of hours, got {validity_h}"
        raise ConfigError(msg)
    return now + timedelta(hours=validity_h)


def _require_aware(now: datetime) -> None:
    if now.tzinfo is None:
        msg = "now needs a time zone"
        raise LocalProtocolError(msg)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        msg = "the authority's key is not a P-256 key"
        raise ConfigError(msg)
    return key
