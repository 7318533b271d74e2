"""The authority's own certificate: in memory only, made anew in time, for the hosts at which it is reached."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from prunefleet_coordinator.ca.files import AuthoritySettings, init_authority, rotate_intermediate
from prunefleet_coordinator.ca.signer import SERVER_VALIDITY_H, ServerCertificate
from prunefleet_shared.certificates import CLOCK_SKEW
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.identity import identity_of
from prunefleet_shared.messages import Role

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
SETTINGS = AuthoritySettings(("ca.example", "192.0.2.7", "localhost"), "coordinator.example:8470")


class Clock:
    now = START

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state(tmp_path):
    init_authority(tmp_path / "ca", tmp_path / "root", SETTINGS, START)
    return tmp_path / "ca"


@pytest.fixture
def certificate(state, clock):
    return ServerCertificate(state, SETTINGS, clock)


def leaf_of(credentials):
    return x509.load_pem_x509_certificate(credentials.cert_pem)


def test_it_names_the_authority_and_every_host_once(certificate):
    names = leaf_of(certificate()).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ca.example", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "127.0.0.1"]
    assert identity_of(certificate().cert_pem) == (Role.AUTHORITY, "authority")


def test_it_comes_with_the_intermediate_and_ends_at_the_root(certificate):
    leaf, intermediate = x509.load_pem_x509_certificates(certificate().cert_pem)
    leaf.verify_directly_issued_by(intermediate)
    root = x509.load_pem_x509_certificate(certificate().ca_pem)
    intermediate.verify_directly_issued_by(root)


def test_it_is_made_anew_when_two_thirds_are_over(certificate, clock):
    first = certificate()
    clock.now = START + timedelta(hours=SERVER_VALIDITY_H * 2 / 3, seconds=-1)
    assert certificate() is first
    clock.now += timedelta(seconds=1)
    second = certificate()
    assert leaf_of(second).serial_number != leaf_of(first).serial_number
    assert leaf_of(second).not_valid_after_utc == clock.now + timedelta(hours=SERVER_VALIDITY_H)
    assert certificate() is second


def test_a_clock_that_is_set_back_makes_one_that_holds_then(certificate, clock):
    clock.now = START - timedelta(hours=1)
    assert leaf_of(certificate()).not_valid_before_utc == clock.now - CLOCK_SKEW


def test_it_is_on_no_disk(state, certificate):
    key_line = certificate().key_pem.splitlines()[1]
    for path in state.rglob("*"):
        assert not path.is_file() or key_line not in path.read_bytes()


def test_a_rotation_is_in_the_next_one(state, certificate, clock, tmp_path):
    old = certificate()
    rotate_intermediate(state, tmp_path / "root", START)
    assert certificate() is old, "which the root still vouches for"
    clock.now = START + timedelta(hours=SERVER_VALIDITY_H)
    assert (
        x509.load_pem_x509_certificates(certificate().cert_pem)[1] != x509.load_pem_x509_certificates(old.cert_pem)[1]
    )


def test_an_intermediate_that_has_ended_says_what_to_do(state, certificate, clock):
    clock.now = START + timedelta(days=366)
    with pytest.raises(ConfigError, match="ca rotate"):
        certificate()
