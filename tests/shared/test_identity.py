"""Certificates: what is issued names its peer, and nothing else does."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from prunefleet_shared.certificates import CLOCK_SKEW, create_authority, create_intermediate, issue, sign_leaf
from prunefleet_shared.documents import public_bytes
from prunefleet_shared.errors import ConfigError, LocalProtocolError, RejectReason, RemoteProtocolError
from prunefleet_shared.identity import (
    CALLERS,
    Credentials,
    create_request,
    create_signing_key,
    identity_of,
    key_from_pem,
    key_to_pem,
    peer_from_certificate,
    read_passport,
    read_request,
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


@pytest.mark.parametrize("role", sorted(CALLERS))
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
        certificate_with(uri("spiffe://prunefleet/authority/device-01")),
        certificate_with(uri("spiffe://prunefleet/newcomer/device-01")),
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


@pytest.mark.parametrize("role", sorted(set(Role) - CALLERS))
def test_who_only_serves_or_has_no_certificate_is_no_peer(authority, role):
    with pytest.raises(RemoteProtocolError):
        peer_from_certificate(issue(authority, role, "c", NOW).cert_pem, NOW)


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
    assert parent.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 1)
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)


def test_the_server_certificate_is_for_this_machine(authority):
    leaf = x509.load_pem_x509_certificate(issue(authority, Role.COORDINATOR, "c", NOW).cert_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize("role", [Role.DEVICE, Role.TRAINER, Role.OPERATOR])
def test_who_only_calls_has_neither_host_nor_server_usage(authority, role):
    leaf = x509.load_pem_x509_certificate(issue(authority, role, "c", NOW, hosts=["coordinator"]).cert_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://prunefleet/{role}/c"]
    assert len(list(names)) == 1
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]


@pytest.mark.parametrize("host", ["", "a b", "*.example.org", "x/y", "a" * 64, "host:8470"])
def test_a_host_that_is_none_is_the_users_to_mend(authority, host):
    with pytest.raises(ConfigError, match="hosts"):
        issue(authority, Role.COORDINATOR, "c", NOW, hosts=[host])


# --- intermediates ---------------------------------------------------------------------------------------------------


def test_an_intermediate_signs_leaves_and_no_authority(authority):
    root = x509.load_pem_x509_certificate(authority.cert_pem)
    intermediate = create_intermediate(authority, NOW, validity_h=24)
    parent = x509.load_pem_x509_certificate(intermediate.cert_pem)
    parent.verify_directly_issued_by(root)
    assert parent.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    leaf = x509.load_pem_x509_certificate(issue(intermediate, Role.DEVICE, "d", NOW).cert_pem)
    leaf.verify_directly_issued_by(parent)


def test_an_intermediate_ends_with_its_root_and_a_leaf_with_its_intermediate():
    root = create_authority(NOW, validity_h=3)
    intermediate = create_intermediate(root, NOW, validity_h=24)
    assert x509.load_pem_x509_certificate(intermediate.cert_pem).not_valid_after_utc == NOW + 3 * HOUR
    leaf = x509.load_pem_x509_certificate(issue(intermediate, Role.DEVICE, "d", NOW, validity_h=24).cert_pem)
    assert leaf.not_valid_after_utc == NOW + 3 * HOUR


@pytest.mark.parametrize("late", [timedelta(0), timedelta(days=1)])
def test_an_authority_that_has_ended_says_what_to_do(late):
    root = create_authority(NOW, validity_h=5)
    intermediate = create_intermediate(root, NOW, validity_h=3)
    with pytest.raises(ConfigError, match=r"ended on 2026-11-20; .*ca rotate"):
        issue(intermediate, Role.DEVICE, "d", NOW + 3 * HOUR + late)
    with pytest.raises(ConfigError, match="ca init"):
        create_intermediate(root, NOW + 5 * HOUR + late, validity_h=3)
    assert issue(intermediate, Role.DEVICE, "d", NOW + 3 * HOUR - timedelta(seconds=1)).name == "d"


# --- certificate requests --------------------------------------------------------------------------------------------


def test_a_request_proves_a_key_and_nothing_else():
    key = create_signing_key()
    assert public_bytes(read_request(create_request(key))) == public_bytes(key.public_key())


def greedy_request(key):
    """A request that asks to be an authority, and the operator."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "operator")]))
    for extension in (
        x509.SubjectAlternativeName([uri("spiffe://prunefleet/operator/operator"), x509.DNSName("coordinator")]),
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    ):
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_what_a_request_asks_for_is_ignored(authority):
    key = create_signing_key()
    leaf_pem = sign_leaf(authority, Role.DEVICE, "d", read_request(greedy_request(key)), NOW)
    assert read_passport(leaf_pem).peer == Peer("d", Role.DEVICE)
    leaf = x509.load_pem_x509_certificate(leaf_pem)
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)
    assert b"operator" not in leaf_pem
    assert b"operator" not in leaf.public_bytes(serialization.Encoding.DER)


def not_proven(key):
    """A request whose signature is another key's."""
    request = bytearray(create_request(key))
    request[-1] ^= 1
    return bytes(request)


def foreign_request(key, algorithm=None):
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    "request_der",
    [
        b"",
        b"garbage",
        create_request(create_signing_key())[:-1],
        not_proven(create_signing_key()),
        foreign_request(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
        foreign_request(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["empty", "garbage", "truncated", "not proven", "P-384", "Ed25519"],
)
def test_a_bad_request_is_malformed(request_der):
    with pytest.raises(RemoteProtocolError) as caught:
        read_request(request_der)
    assert caught.value.rejection.reason is RejectReason.MALFORMED


# --- passports and keys ----------------------------------------------------------------------------------------------


def test_a_passport_names_serial_key_and_dates(authority):
    credentials = issue(authority, Role.DEVICE, "d", NOW, validity_h=2)
    passport = read_passport(credentials.cert_pem)
    certificate = x509.load_pem_x509_certificate(credentials.cert_pem)
    assert int(passport.serial, 16) == certificate.serial_number
    assert passport.serial == passport.serial.lower().lstrip("0")
    assert passport.public_key == public_bytes(key_from_pem(credentials.key_pem).public_key())
    assert (passport.valid_from, passport.valid_until) == (NOW - CLOCK_SKEW, NOW + 2 * HOUR)


@pytest.mark.parametrize("role", [Role.DEVICE, Role.AUTHORITY])
def test_an_identity_is_read_from_servers_too(authority, role):
    assert identity_of(issue(authority, role, "x", NOW).cert_pem) == (role, "x")


def test_a_chain_is_read_by_its_leaf(authority):
    intermediate = create_intermediate(authority, NOW, validity_h=24)
    leaf = issue(intermediate, Role.DEVICE, "d", NOW)
    chain = Credentials(leaf.cert_pem + intermediate.cert_pem, leaf.key_pem, authority.cert_pem)
    assert chain.name == "d"
    assert read_passport(chain.cert_pem).peer == Peer("d", Role.DEVICE)


@pytest.mark.parametrize(
    "key_pem",
    [
        b"",
        b"garbage",
        key_to_pem(create_signing_key())[:-60],
        ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        create_signing_key().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        ),
    ],
    ids=["empty", "garbage", "truncated", "P-384", "encrypted"],
)
def test_a_bad_key_is_the_users_to_mend_and_not_repeated(key_pem):
    with pytest.raises(ConfigError, match="P-256") as caught:
        key_from_pem(key_pem)
    assert not key_pem or key_pem.decode()[:40] not in str(caught.value)


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
