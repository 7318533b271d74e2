"""Certificates: what is issued names its peer, and nothing else does."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from prunefleet_shared.errors import ConfigError, LocalProtocolError, RejectReason, RemoteProtocolError
from prunefleet_shared.identity import (
    CLOCK_SKEW,
    COORDINATOR,
    create_authority,
    create_signing_key,
    issue,
    peer_from_certificate,
)
from prunefleet_shared.messages import Peer, Role

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority():
    return create_authority(NOW)


def certificate_with(*names, key=None, usage=ExtendedKeyUsageOID.CLIENT_AUTH):
    """A certificate as nobody of ours would issue it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device-01")])
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW - HOUR)
        .not_valid_after(NOW + HOUR)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def uri(text):
    return x509.UniformResourceIdentifier(text)


OURS = uri("spiffe://prunefleet/device/device-01")


@pytest.mark.parametrize("role", list(Role))
def test_an_issued_certificate_names_its_peer(authority, role):
    credentials = issue(authority, role, "device-01", NOW)
    assert peer_from_certificate(credentials.cert_pem, NOW) == Peer("device-01", role)
    assert credentials.name == "device-01"


def test_the_stranger_matrix_starts_from_a_valid_one():
    assert peer_from_certificate(certificate_with(OURS), NOW) == Peer("device-01", Role.DEVICE)


@pytest.mark.parametrize(
    "cert_pem",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        certificate_with(),
        certificate_with(x509.DNSName("device-01")),
        certificate_with(uri("https://prunefleet/device/device-01")),
        certificate_with(uri("spiffe://other/device/device-01")),
        certificate_with(uri("spiffe://prunefleet/admin/device-01")),
        certificate_with(uri("spiffe://prunefleet/coordinator/device-01")),
        certificate_with(uri("spiffe://prunefleet/device/device-01/x")),
        certificate_with(uri("spiffe://prunefleet/device/")),
        certificate_with(uri("spiffe://prunefleet/device/Device_01")),
        certificate_with(uri("spiffe://prunefleet/device/" + "a" * 65)),
        certificate_with(OURS, uri("spiffe://prunefleet/trainer/t")),
        certificate_with(OURS, usage=None),
        certificate_with(OURS, usage=ExtendedKeyUsageOID.SERVER_AUTH),
        certificate_with(OURS, key=ec.generate_private_key(ec.SECP384R1())),
        certificate_with(OURS, key=ed25519.Ed25519PrivateKey.generate()),
    ],
)
def test_anyone_else_is_a_stranger(cert_pem):
    with pytest.raises(RemoteProtocolError) as caught:
        peer_from_certificate(cert_pem, NOW)
    assert caught.value.rejection.reason is RejectReason.STRANGER


def test_the_coordinators_certificate_is_no_peer(authority):
    with pytest.raises(RemoteProtocolError):
        peer_from_certificate(issue(authority, COORDINATOR, "c", NOW).cert_pem, NOW)


@pytest.mark.parametrize(
    ("age", "holds"),
    [
        (-CLOCK_SKEW - timedelta(seconds=1), False),
        (-CLOCK_SKEW, True),
        (2 * HOUR, True),
        (2 * HOUR + timedelta(seconds=1), False),
    ],
)
def test_a_certificate_holds_for_its_hours(authority, age, holds):
    cert_pem = issue(authority, Role.DEVICE, "d", NOW, validity_h=2).cert_pem
    if holds:
        assert peer_from_certificate(cert_pem, NOW + age).peer_id == "d"
        return
    with pytest.raises(RemoteProtocolError) as caught:
        peer_from_certificate(cert_pem, NOW + age)
    assert caught.value.rejection.reason is RejectReason.STRANGER


def test_a_certificate_ends_with_its_authority():
    short = create_authority(NOW, validity_h=1)
    certificate = x509.load_pem_x509_certificate(issue(short, Role.DEVICE, "d", NOW, validity_h=48).cert_pem)
    assert certificate.not_valid_after_utc == NOW + HOUR


def test_the_authority_signed_it_and_signs_leaves_only(authority):
    parent = x509.load_pem_x509_certificate(authority.cert_pem)
    leaf = x509.load_pem_x509_certificate(issue(authority, Role.DEVICE, "d", NOW).cert_pem)
    leaf.verify_directly_issued_by(parent)
    assert parent.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)


def test_the_server_certificate_is_for_this_machine(authority):
    leaf = x509.load_pem_x509_certificate(issue(authority, COORDINATOR, "c", NOW).cert_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_keys_are_never_printed(authority):
    credentials = issue(authority, Role.DEVICE, "d", NOW)
    for printed in (repr(credentials), repr(authority), str(credentials)):
        assert "PRIVATE" not in printed
        assert "key_pem" not in printed


@pytest.mark.parametrize("name", ["", "a" * 65, "Device", "a/b", "a b", "a\n", "ü"])
def test_a_name_that_is_no_name_is_the_users_to_mend(authority, name):
    with pytest.raises(ConfigError, match="name"):
        issue(authority, Role.DEVICE, name, NOW)


def test_no_hours_are_the_users_to_mend(authority):
    with pytest.raises(ConfigError, match="validity_h"):
        issue(authority, Role.DEVICE, "d", NOW, validity_h=0)


def test_a_clock_without_a_zone_is_our_bug(authority):
    naive = NOW.replace(tzinfo=None)
    cert_pem = issue(authority, Role.DEVICE, "d", NOW).cert_pem
    for attempt in (lambda: create_authority(naive), lambda: peer_from_certificate(cert_pem, naive)):
        with pytest.raises(LocalProtocolError):
            attempt()


def test_a_seed_repeats_its_key_and_no_seed_does_not():
    def scalar(seed=None):
        return create_signing_key(seed).private_numbers().private_value

    assert scalar(7) == scalar(7)
    assert len({scalar(0), scalar(1), scalar(2**256 - 1), scalar(), scalar()}) == 5


@pytest.mark.parametrize("seed", [-1, 2**256])
def test_a_seed_out_of_range_is_the_users_to_mend(seed):
    with pytest.raises(ConfigError, match="seed"):
        create_signing_key(seed)
