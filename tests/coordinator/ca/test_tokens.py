"""Who is let in with what token: the matrix, by the rules alone."""

import inspect
from dataclasses import replace
from datetime import timedelta

import pytest
from authority_world import NEWCOMER, Core, reason_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from prunefleet_coordinator.ca.authority_service import AuthorityService
from prunefleet_coordinator.ca.server import DATABASE
from prunefleet_coordinator.ca.tokens import TokenOrder
from prunefleet_shared import wire
from prunefleet_shared.authority_messages import GetAuthority, Join, Renew
from prunefleet_shared.documents import digest, public_bytes
from prunefleet_shared.errors import CarrierError, ConfigError
from prunefleet_shared.identity import create_request, create_signing_key, read_passport
from prunefleet_shared.messages import Peer, Role

HOUR_S = 3600


def leaf_of(membership):
    return x509.load_der_x509_certificate(membership.certificates[0])


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


# --- the matrix


def test_a_good_token_lets_its_name_in(core):
    key = create_signing_key()
    membership = core.join(core.token(device_class="camera"), key)
    passport = read_passport(pem(leaf_of(membership)))
    assert passport.peer == Peer("device-01", Role.DEVICE)
    assert passport.public_key == public_bytes(key.public_key())
    assert (membership.device_class, membership.coordinator_address) == ("camera", "coordinator.example:8470")
    leaf, intermediate = map(x509.load_der_x509_certificate, membership.certificates)
    leaf.verify_directly_issued_by(intermediate)
    offer = core.ask(GetAuthority())
    intermediate.verify_directly_issued_by(x509.load_der_x509_certificate(offer.root_certificate))


def test_the_answer_fits_the_wire(core):
    membership = core.join(core.token())
    path = "/prunefleet.v1.Enrolment/Join"
    assert wire.decode_down(path, wire.encode_down(path, membership)) == membership


def test_a_used_token_lets_nobody_else_in(core):
    token = core.token()
    core.join(token)
    assert reason_of(lambda: core.join(token)) == "USED_TOKEN"
    core.restart()
    assert reason_of(lambda: core.join(token)) == "USED_TOKEN"
    assert len(core.members()) == 1


def test_a_lost_answer_is_given_again_to_the_same_key(core):
    token, key = core.token(name="shed", is_group=True), create_signing_key()
    first, again = core.join(token, key), core.join(token, key)
    assert read_passport(pem(leaf_of(first))).peer == read_passport(pem(leaf_of(again))).peer
    core.later(days=2)
    assert reason_of(lambda: core.join(token, key)) == "EXPIRED_TOKEN"


def test_an_old_token_lets_nobody_in(core):
    token = core.token(valid_for_s=HOUR_S)
    core.later(seconds=HOUR_S)
    core.join(token, key := create_signing_key())
    core.later(seconds=1)
    assert reason_of(lambda: core.join(token, key)) == "EXPIRED_TOKEN"
    assert reason_of(lambda: core.join(token)) == "USED_TOKEN"
    unused = core.token(name="device-02", valid_for_s=HOUR_S)
    core.later(seconds=HOUR_S + 1)
    assert reason_of(lambda: core.join(unused)) == "EXPIRED_TOKEN"


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("is_old", [False, True])
def test_a_forged_secret_learns_nothing_about_the_token(core, is_used, is_old):
    token = core.token()
    if is_used:
        core.join(token)
    if is_old:
        core.later(days=2)
    forged = bytes([token.secret[0] ^ 1]) + token.secret[1:]
    assert reason_of(lambda: core.join(token, secret=forged)) == "UNKNOWN_TOKEN"


def test_a_token_that_was_never_made(core):
    token = core.token()
    for unknown in (replace(token, token_id="00" * 8), replace(token, token_id="00" * 8, secret=b"")):
        assert reason_of(lambda unknown=unknown: core.join(unknown, secret=unknown.secret)) == "UNKNOWN_TOKEN"


def test_a_request_that_proves_nothing_costs_no_token(core):
    token = core.token()
    assert reason_of(lambda: core.join(token, request=b"no request")) == "MALFORMED"
    core.join(token)


def test_members_of_a_group_get_names_of_their_own(core):
    names = {read_passport(pem(leaf_of(core.join(core.token(name="shed", is_group=True))))).peer.peer_id for _ in "abc"}
    assert len(names) == 3
    assert all(name.startswith("shed-") and len(name) == 13 for name in names)


def test_a_group_never_takes_over_a_name(core):
    bytes_to_come = [bytes(8), bytes(32), bytes(4), bytes(8)[:-1] + b"1", bytes(32), bytes(4), b"abcd"]
    core.service._random_bytes = lambda _: bytes_to_come.pop(0)
    first, second = (core.join(core.token(name="shed", is_group=True)) for _ in "ab")
    names = [read_passport(pem(leaf_of(membership))).peer.peer_id for membership in (first, second)]
    assert names == ["shed-00000000", "shed-61626364"]


# --- too many tries


def test_too_many_wrong_tokens_close_the_door_for_that_address_only(core):
    good, wrong = core.token(), core.token(name="device-02")
    for _ in range(10):
        assert reason_of(lambda: core.join(wrong, secret=bytes(32))) == "UNKNOWN_TOKEN"
    assert reason_of(lambda: core.join(good)) == "TOO_MANY_TRIES"
    elsewhere = Peer("ipv4:192.0.2.8", Role.NEWCOMER)
    core.join(core.token(name="device-03"), peer=elsewhere)
    core.seconds += 6
    core.join(good)


def test_good_tokens_are_not_counted(core):
    for number in range(50):
        core.join(core.token(name=f"device-{number}"), peer=NEWCOMER)


# --- what a request asks for beyond its key


def greedy_request(key):
    """A certificate request for an operator's name, every host, and the right to sign others."""
    names = [x509.UniformResourceIdentifier("spiffe://prunefleet/operator/root"), x509.DNSName("coordinator.example")]
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "operator")]))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=3), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def check_plain_device(leaf):
    extensions = leaf.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names == x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier("spiffe://prunefleet/device/device-01")]
    )
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(days=7, minutes=6)


def test_a_greedy_request_gets_a_plain_certificate(core):
    request = greedy_request(create_signing_key())
    check_plain_device(leaf_of(core.join(core.token(), request=request)))


def test_a_renewal_is_not_greedier(core):
    core.join(core.token())
    membership = core.ask(Renew(greedy_request(create_signing_key())), Peer("device-01", Role.DEVICE))
    check_plain_device(leaf_of(membership))


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_another_kind_of_key_gets_nothing(core, key):
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    der = request.public_bytes(serialization.Encoding.DER)
    assert reason_of(lambda: core.join(core.token(), request=der)) == "MALFORMED"


def test_somebody_elses_key_gets_nothing(core):
    """The request carries our public key, but is signed with another one: possession is not proved."""
    theirs, ours = create_request(create_signing_key()), create_request(create_signing_key())
    their_key = public_bytes(x509.load_der_x509_csr(theirs).public_key())
    our_key = public_bytes(x509.load_der_x509_csr(ours).public_key())
    forged = ours.replace(our_key, their_key)
    assert forged != ours
    assert reason_of(lambda: core.join(core.token(), request=forged)) == "MALFORMED"


# --- names and roles


def test_a_name_stays_with_its_role(core):
    core.join(core.token(Role.TRAINER, "alpha"))
    assert reason_of(lambda: core.token(Role.DEVICE, "alpha")) == "WRONG_ROLE"


def test_two_tokens_for_one_name_and_two_roles_let_in_the_first(core):
    trainer, device = core.token(Role.TRAINER, "alpha"), core.token(Role.DEVICE, "alpha")
    core.join(trainer)
    assert reason_of(lambda: core.join(device)) == "WRONG_ROLE"


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.COORDINATOR])
def test_operators_make_no_tokens_that_rule(core, role):
    assert reason_of(lambda: core.order(role)) == "WRONG_ROLE"
    assert core.store.load_log() == ()


def test_operators_make_tokens_for_devices_and_trainers(core):
    assert len(core.order(Role.DEVICE, count=3, device_class="camera")) == 3
    assert len(core.order(Role.TRAINER, "trainer", is_group=False)) == 1


@pytest.mark.parametrize(
    "order",
    [
        TokenOrder(Role.AUTHORITY, "a"),
        TokenOrder(Role.NEWCOMER, "a"),
        TokenOrder(Role.DEVICE, ""),
        TokenOrder(Role.DEVICE, "A"),
        TokenOrder(Role.DEVICE, "a" * 65),
        TokenOrder(Role.DEVICE, "a" * 49, is_group=True),
        TokenOrder(Role.DEVICE, "a", count=2),
        TokenOrder(Role.DEVICE, "a", is_group=True, count=0),
        TokenOrder(Role.DEVICE, "a", is_group=True, count=1001),
        TokenOrder(Role.DEVICE, "a", valid_for_s=59),
        TokenOrder(Role.DEVICE, "a", valid_for_s=30 * 24 * HOUR_S + 1),
        TokenOrder(Role.DEVICE, "a", device_class="No Class"),
        TokenOrder(Role.TRAINER, "a", device_class="camera"),
        TokenOrder(Role.DEVICE, "a", hosts=("coordinator.example",)),
    ],
)
def test_orders_out_of_range(core, order):
    assert reason_of(lambda: core.service.create_tokens(order)) == "OUT_OF_RANGE"


def test_a_coordinator_is_reached_at_its_hosts_and_from_beside_it(core):
    def hosts(membership):
        names = leaf_of(membership).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return set(names.get_values_for_type(x509.DNSName))

    assert hosts(core.join(core.token(Role.COORDINATOR, "c"))) == {"coordinator.example", "localhost"}
    assert hosts(core.join(core.token(Role.COORDINATOR, "d", hosts=("d.example",)))) == {"d.example", "localhost"}


def test_members_are_told_the_keys_of_operators_in_good_standing(core):
    keys = [create_signing_key() for _ in "ab"]
    for number, key in enumerate(keys):
        core.join(core.token(Role.OPERATOR, f"operator-{number}"), key)
    core.later(days=8)  # their certificates have ended; what they signed has not
    told = core.join(core.token()).operator_keys
    assert set(told) == {public_bytes(key.public_key()) for key in keys}
    core.revoke("operator-0")
    assert core.renew("device-01").operator_keys == (public_bytes(keys[1].public_key()),)


# --- what is kept


def test_no_secret_is_kept_or_logged(core, caplog):
    with caplog.at_level("DEBUG"):
        token = core.token()
        core.join(token)
        reason_of(lambda: core.join(token))
    core.store.close()
    kept = b"".join(path.read_bytes() for path in core.state.glob(f"{DATABASE}*"))
    text = token.text().split(".")[-1].split("@")[0]
    for secret in (token.secret, token.secret.hex().encode(), text.encode()):
        assert secret not in kept
        assert secret not in caplog.text.encode()
    assert digest(token.secret).encode() in kept


def test_nothing_secret_is_printed(core):
    token = core.token()
    message = Join(token.token_id, token.secret, b"x")
    for printed in (repr(token), repr(message), str(token), repr(core.store.load_token(token.token_id))):
        assert repr(token.secret) not in printed
        assert token.text().split(".")[-1].split("@")[0] not in printed


def test_a_certificate_that_cannot_be_kept_is_not_given(core, monkeypatch):
    token, key = core.token(), create_signing_key()

    def full(*_):
        raise ConfigError("disk full")

    monkeypatch.setattr(core.store, "save_joined", full)
    with pytest.raises(CarrierError) as caught:
        core.join(token, key)
    assert caught.value.retryable
    assert "disk full" not in str(caught.value), "the peer need not know"
    monkeypatch.undo()
    core.join(token, key)


def test_two_keys_at_the_same_moment_get_one_certificate(state, monkeypatch):
    """Both have read the token as unused; the store lets one of them in."""
    first, second = Core(state), Core(state)
    token = first.token()
    read = first.store.load_token(token.token_id)
    second.join(token)
    monkeypatch.setattr(first.store, "load_token", lambda _: read)
    assert reason_of(lambda: first.join(token)) == "USED_TOKEN"
    assert len(first.members()) == 1
    first.store.close()
    second.store.close()


def test_secrets_are_compared_in_constant_time_before_anything_is_said():
    """The order of the checks is the promise; a comparison with == would be a bug that no test of time would find."""
    source = inspect.getsource(AuthorityService._open_token)
    assert source.index("hmac.compare_digest") < source.index("used_by") < source.index("expires_at_ms")
