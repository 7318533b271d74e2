"""Renewing, revoking and listing, by the rules alone."""

import sqlite3
from datetime import timedelta

import pytest
from authority_world import Core, make_state, reason_of
from cryptography import x509

from prunefleet_coordinator.ca.server import DATABASE
from prunefleet_shared import wire_limits
from prunefleet_shared.authority_messages import GetAuthority, Renew
from prunefleet_shared.errors import CarrierError, ConfigError
from prunefleet_shared.identity import create_request, create_signing_key
from prunefleet_shared.messages import Peer, Role


def serial_of(membership):
    return f"{x509.load_der_x509_certificate(membership.certificates[0]).serial_number:x}"


def test_a_device_renews_with_a_fresh_key_and_keeps_its_name_and_class(core):
    core.join(core.token(device_class="camera"))
    core.later(days=5)
    membership = core.renew("device-01")
    assert membership.device_class == "camera"
    leaf = x509.load_der_x509_certificate(membership.certificates[0])
    assert leaf.not_valid_after_utc - core.now == pytest.approx(timedelta(days=7), abs=timedelta(seconds=2))


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.TRAINER, Role.COORDINATOR])
def test_who_signs_documents_keeps_the_key(core, role):
    key = create_signing_key()
    core.join(core.token(role, "alpha"), key)
    core.renew("alpha", role, key)
    assert reason_of(lambda: core.renew("alpha", role)) == "MALFORMED"


def test_a_coordinator_keeps_its_hosts(core):
    key = create_signing_key()
    core.join(core.token(Role.COORDINATOR, "c", hosts=("one.example",)), key)
    leaf = x509.load_der_x509_certificate(core.renew("c", Role.COORDINATOR, key).certificates[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "one.example" in names.get_values_for_type(x509.DNSName)


def test_whom_the_authority_does_not_know_it_does_not_renew(core):
    """For instance after it was restored from an old backup."""
    assert reason_of(lambda: core.renew("device-01")) == "REVOKED"
    core.join(core.token())
    assert reason_of(lambda: core.renew("device-01", Role.TRAINER)) == "REVOKED"


def test_a_revoked_member_is_on_the_list_and_is_not_renewed(core):
    serials = {serial_of(core.join(core.token())), serial_of(core.renew("device-01"))}
    others = serial_of(core.join(core.token(name="device-02")))
    core.revoke("device-01")
    assert set(core.denied()) == serials
    assert all(core.service.is_denied(serial) for serial in serials)
    assert not core.service.is_denied(others)
    assert reason_of(lambda: core.renew("device-01")) == "REVOKED"
    core.restart()
    assert set(core.denied()) == serials


def test_the_list_forgets_certificates_that_have_ended_anyway(core):
    core.join(core.token())
    core.revoke("device-01")
    core.later(days=8)
    assert core.denied() == ()


def test_revoking_twice_changes_nothing_and_revoking_nobody_says_so(core):
    core.join(core.token())
    core.revoke("device-01")
    core.revoke("device-01")
    assert len(core.denied()) == 1
    assert reason_of(lambda: core.revoke("nobody")) == "NOT_FOUND"


def test_a_new_token_lets_the_name_in_again_with_another_key(core):
    token, key = core.token(), create_signing_key()
    old = serial_of(core.join(token, key))
    core.revoke("device-01")
    assert reason_of(lambda: core.join(token, key)) == "REVOKED", "the old token must not undo it"
    assert reason_of(lambda: core.join(core.token(), key)) == "REVOKED", "nor the old key"
    new = serial_of(core.join(core.token()))
    assert core.denied() == (old,)
    assert not core.service.is_denied(new)
    core.renew("device-01")
    assert reason_of(lambda: core.renew("device-01", key=key)) == "REVOKED"


def test_an_expired_member_joins_again_under_its_name(core):
    core.join(core.token())
    core.later(days=30)
    core.join(core.token())
    assert [member.name for member in core.members()] == ["device-01"]


def test_a_revocation_between_check_and_write_wins(state):
    """The owner revokes on the command line while the server is at the renewal."""
    server, command = Core(state), Core(state)
    server.join(server.token())
    sign = server.service._signer.sign

    def slow(*arguments):
        command.service.revoke("device-01")
        return sign(*arguments)

    server.service._signer.sign = slow
    assert reason_of(lambda: server.renew("device-01")) == "REVOKED"
    assert len(server.denied()) == 1
    server.store.close()
    command.store.close()


def test_members_are_listed_by_name_a_page_at_a_time(core, monkeypatch):
    monkeypatch.setattr(wire_limits, "MAX_PAGE", 2)
    for name in ("c", "a", "b"):
        core.join(core.token(name=name))
    core.renew("b")
    core.join(core.token(Role.TRAINER, "t"))
    core.revoke("c")
    first = core.members()
    second = core.members(after_name=first[-1].name)
    assert [(m.name, m.is_revoked) for m in (*first, *second)] == [
        ("a", False),
        ("b", False),
        ("c", True),
        ("t", False),
    ]
    assert [m.name for m in core.members(Role.TRAINER)] == ["t"]
    assert core.members(after_name="t") == ()


def test_certificates_live_seven_days_at_most(tmp_path):
    with pytest.raises(ConfigError, match="validity"):
        make_state(tmp_path / "long", validity_h=169)
    core = Core(make_state(tmp_path / "short", validity_h=2))
    leaf = x509.load_der_x509_certificate(core.join(core.token()).certificates[0])
    assert leaf.not_valid_after_utc - core.now <= timedelta(hours=2)
    core.store.close()


# --- the log


def test_the_log_tells_what_was_issued_and_only_grows(core):
    core.join(core.token())
    core.renew("device-01")
    core.revoke("device-01")
    assert [(line.event, line.name) for line in core.store.load_log()] == [
        (event, "device-01") for event in ("token", "join", "renew", "revoke")
    ]
    connection = sqlite3.connect(core.state / DATABASE)
    for statement in ("DELETE FROM issue_log", "UPDATE issue_log SET name = 'x'"):
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            connection.execute(statement)
    connection.close()


# --- a store that cannot be used


def test_a_corrupt_database_is_the_owners_to_mend(core):
    core.store.close()
    for path in core.state.glob(f"{DATABASE}*"):
        path.write_bytes(b"this is no database, however you read it" * 100)
    with pytest.raises(ConfigError, match="restore a backup"):
        core.open()


def test_a_database_that_fails_later_turns_nobody_away_for_good(core, caplog):
    core.join(core.token())
    core.store.close()
    (core.state / DATABASE).unlink()
    (core.state / DATABASE).mkdir()
    for attempt in (
        lambda: core.renew("device-01"),
        core.denied,
        lambda: core.service.is_denied("ab"),
        lambda: core.ask(Renew(create_request(create_signing_key())), Peer("x", Role.DEVICE)),
    ):
        with pytest.raises(CarrierError) as caught:
            attempt()
        assert caught.value.retryable
    assert "store_failed" in caplog.text
    core.ask(GetAuthority())
