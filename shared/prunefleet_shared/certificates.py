"""Makes certificates: a root, intermediates that it signs, and leaves for members. Who may have one, others decide.

Leaves carry one identity of ours, in the URI; a server's also the hosts at which it is reached.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from prunefleet_shared.errors import ConfigError
from prunefleet_shared.identity import Credentials, create_signing_key, key_from_pem, key_to_pem, require_aware
from prunefleet_shared.roles import Role

CLOCK_SKEW = timedelta(minutes=5)
"""How far a member's clock may lag behind the authority's."""

DEFAULT_VALIDITY_H = 24
LOCAL_HOSTS = ("localhost", "127.0.0.1")
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_DNS_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate with the key to sign others.

    Attributes:
        cert_pem: Its certificate.
        key_pem: Its private key, PKCS#8; never printed.
    """

    cert_pem: bytes
    key_pem: bytes = field(repr=False)


def create_authority(now: datetime, *, validity_h: int = 7 * DEFAULT_VALIDITY_H) -> Authority:
    """A fresh self-signed root, valid from now on for ``validity_h`` hours; it signs leaves and intermediates.

    Raises:
        LocalProtocolError: ``now`` has no time zone (the caller's bug).
        ConfigError: ``validity_h`` is not positive.
    """
    key = create_signing_key()
    builder = _authority(key.public_key(), _common_name("prunefleet root"), path_length=1)
    return _signed_authority(builder, key, key, _common_name("prunefleet root"), now, _end(now, validity_h))


def create_intermediate(root: Authority, now: datetime, *, validity_h: int) -> Authority:
    """An authority that signs leaves for ``root``, so that the root's key can stay offline; ends with it.

    Raises:
        LocalProtocolError: ``now`` has no time zone (the caller's bug).
        ConfigError: ``validity_h`` is not positive, the root's key is none, or the root has ended (the user's to mend).
    """
    parent, key = x509.load_pem_x509_certificate(root.cert_pem), create_signing_key()
    builder = _authority(key.public_key(), _common_name("prunefleet intermediate"), path_length=0)
    builder = builder.add_extension(_authority_key(parent), critical=False)
    end = _end_with(parent, now, validity_h, "make a new fleet: prunefleet ca init")
    return _signed_authority(builder, key, key_from_pem(root.key_pem), parent.subject, now, end)


def _authority(key: ec.EllipticCurvePublicKey, name: x509.Name, path_length: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signed_authority(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    now: datetime,
    end: datetime,
) -> Authority:
    certificate = _dated(builder, now, end).issuer_name(issuer).sign(signer, hashes.SHA256())
    return Authority(_pem(certificate), key_to_pem(key))


def issue(
    authority: Authority,
    role: Role,
    name: str,
    now: datetime,
    *,
    validity_h: int = DEFAULT_VALIDITY_H,
    hosts: Sequence[str] = LOCAL_HOSTS,
) -> Credentials:
    """A fresh key and a certificate for it; see :func:`sign_leaf`. They hold the leaf alone."""
    key = create_signing_key()
    leaf = sign_leaf(authority, role, name, key.public_key(), now, validity_h=validity_h, hosts=hosts)
    return Credentials(leaf, key_to_pem(key), authority.cert_pem)


def sign_leaf(
    authority: Authority,
    role: Role,
    name: str,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    *,
    validity_h: int = DEFAULT_VALIDITY_H,
    hosts: Sequence[str] = LOCAL_HOSTS,
) -> bytes:
    """A certificate (PEM) for somebody's ``key``, which ends with the authority's at the latest.

    Args:
        authority: Signs it.
        role: Coordinator and authority serve (and the coordinator also calls the authority); the others only call.
        name: 1 to 64 of ``a-z 0-9 -``.
        key: Whose possession the holder has proved.
        now: Aware.
        validity_h: Hours.
        hosts: DNS names and IP addresses at which a server is reached; others have none.

    Raises:
        ConfigError: ``name``, ``hosts`` or ``validity_h`` is out of range, or the authority's own certificate has ended
            (the user's to mend).
        LocalProtocolError: ``now`` has no time zone (the caller's bug).
    """
    if not _NAME.fullmatch(name):
        msg = f"name: expected 1 to 64 of a-z 0-9 -, got {name!r}"
        raise ConfigError(msg)
    parent = x509.load_pem_x509_certificate(authority.cert_pem)
    end = _end_with(parent, now, validity_h, "replace it: prunefleet ca rotate")
    builder = _dated(x509.CertificateBuilder(), now, end)
    builder = builder.subject_name(_common_name(name)).issuer_name(parent.subject).public_key(key)
    for extension, critical in _leaf_extensions(role, name, key, parent, hosts):
        builder = builder.add_extension(extension, critical=critical)
    return _pem(builder.sign(key_from_pem(authority.key_pem), hashes.SHA256()))


_USAGES = {
    Role.COORDINATOR: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    Role.AUTHORITY: (ExtendedKeyUsageOID.SERVER_AUTH,),
}


def _leaf_extensions(
    role: Role, name: str, key: ec.EllipticCurvePublicKey, parent: x509.Certificate, hosts: Sequence[str]
) -> list[tuple[x509.ExtensionType, bool]]:
    """Extensions of a leaf, each with whether it is critical."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"spiffe://prunefleet/{role}/{name}")]
    names += [_host(host) for host in hosts] if role in _USAGES else []
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage(_USAGES.get(role, (ExtendedKeyUsageOID.CLIENT_AUTH,))), False),
        (x509.SubjectAlternativeName(names), False),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (_authority_key(parent), False),
    ]


def _authority_key(parent: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    parent_key = parent.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(parent_key)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _DNS_NAME.fullmatch(host):
        msg = f"hosts: expected a DNS name or an IP address, got {host!r}"
        raise ConfigError(msg)
    return x509.DNSName(host)


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
    require_aware(now)
    if validity_h <= 0:
        msg = f"validity_h: expected a positive number of hours, got {validity_h}"
        raise ConfigError(msg)
    return now + timedelta(hours=validity_h)


def _end_with(parent: x509.Certificate, now: datetime, validity_h: int, remedy: str) -> datetime:
    """The end of a certificate that ends with its parent's at the latest."""
    end = _end(now, validity_h)
    if parent.not_valid_after_utc <= now:
        msg = f"the authority's own certificate ended on {parent.not_valid_after_utc:%Y-%m-%d}; {remedy}"
        raise ConfigError(msg)
    return min(end, parent.not_valid_after_utc)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
