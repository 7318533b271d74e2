"""Devices that misbehave towards the coordinator and the others: refused, or blamed, or the sum fails cleanly."""

from dataclasses import replace

import pytest
from hostile import impostor, public_of, signed_entry
from sum_world import SESSION, Session, drawn_vectors, identity, name_of

from prunefleet_shared.errors import LocalProtocolError, RemoteProtocolError
from prunefleet_shared.secure_sum.coordinator_end import SumFailedError
from prunefleet_shared.sum_messages import Advertise, Contribute, FetchCertificates, ShareKeys, Unmask

N, BITS = 6, [7] * 5
CULPRIT = 1


def at(stage):
    session = Session(drawn_vectors(N, BITS), BITS).run(until=stage - 1)
    return session, session._next[CULPRIT]


def refusal(session, message, number=CULPRIT):
    with pytest.raises(RemoteProtocolError) as error:
        session.coordinator.receive(name_of(number), message)
    return error.value.rejection.reason.name


def finishes(session, stage):
    """Nothing has changed by what was refused: the session ends well."""
    for number in range(stage, 6):
        session.stage(number)
    assert session.total().tolist() == session.expected(range(N)).tolist()


def entry(message, **changes):
    return replace(message, entry=replace(message.entry, **changes))


def advert_of(who, mask_key=None):
    keys = (mask_key or public_of(b"mask"), public_of(b"share"))
    return Advertise(SESSION, who.certificates, signed_entry(who, *keys), bytes(32))


BAD_ADVERTS = {
    "another's certificate": (lambda m: replace(m, certificates=identity(0).certificates), "MALFORMED"),
    "another's digest": (lambda m: entry(m, certificate_digest=identity(0).certificate_digest), "MALFORMED"),
    "a stranger": (lambda m: advert_of(impostor("foreign")), "STRANGER"),
    "a trainer": (lambda m: advert_of(impostor("trainer")), "STRANGER"),
    "expired": (lambda m: advert_of(impostor("expired")), "STRANGER"),
    "one key twice": (lambda m: entry(m, mask_key=m.entry.share_key), "MALFORMED"),
    "keys altered": (lambda m: entry(m, mask_key=public_of(b"x")), "BAD_SIGNATURE"),
    "no signature": (lambda m: entry(m, signature=bytes(64)), "BAD_SIGNATURE"),
    "not a certificate": (lambda m: replace(m, certificates=(b"x",)), "STRANGER"),
}


@pytest.mark.parametrize("name", BAD_ADVERTS)
def test_adverts(name):
    change, reason = BAD_ADVERTS[name]
    session, good = at(1)
    assert refusal(session, change(good)) == reason
    finishes(session, 1)


def test_a_key_that_another_advertised():
    session, _ = at(1)
    session.coordinator.receive(name_of(0), session._next[0])
    mine = session._next[0].entry.share_key
    assert refusal(session, advert_of(identity(CULPRIT), mask_key=mine)) == "MALFORMED"
    finishes(session, 1)


def test_a_key_of_low_order_is_kept_out_of_the_roster():
    session, _ = at(1)
    assert refusal(session, advert_of(identity(CULPRIT), mask_key=bytes(32))) == "MALFORMED"
    finishes(session, 1)


def test_a_signature_over_another_roster_is_noticed_by_the_coordinator():
    session, good = at(2)
    assert refusal(session, replace(good, signature=bytes(64))) == "BAD_SIGNATURE"
    finishes(session, 2)


def test_a_restarted_device_may_bring_other_keys_until_the_roster_is_closed():
    session, _ = at(1)
    session.coordinator.receive(name_of(CULPRIT), advert_of(identity(CULPRIT)))
    finishes(session, 1)
    assert refusal(session, advert_of(identity(CULPRIT))) == "LATE"


def test_messages_before_their_time_and_from_outside_the_roster():
    session, _ = at(1)
    for early in (ShareKeys(SESSION, b"", b""), Contribute(SESSION, b""), FetchCertificates(SESSION, ())):
        assert refusal(session, early) == "OUT_OF_TURN"
    session.stage(1)
    for early in (Contribute(SESSION, b""), Unmask(SESSION, b"", b"")):
        assert refusal(session, early) == "OUT_OF_TURN"
    assert refusal(session, session._next[0], number=77) == "LATE"
    assert refusal(session, FetchCertificates(SESSION, (bytes(32),))) == "NOT_FOUND"
    finishes(session, 2)


@pytest.mark.parametrize("cut", [0, 79, 80 * (N - 1) - 1, 80 * N])
def test_shares_of_another_length(cut):
    session, good = at(2)
    assert refusal(session, replace(good, shares=bytes(cut))) == "WRONG_LENGTH"
    finishes(session, 2)


@pytest.mark.parametrize(("payload", "reason"), [(bytes(4), "WRONG_LENGTH"), (bytes(6), "WRONG_LENGTH"),
                                                 (b"\xff" * 5, "OUT_OF_RANGE")])  # fmt: skip
def test_vectors_that_are_none(payload, reason):
    session, _ = at(3)
    assert refusal(session, Contribute(SESSION, payload)) == reason
    finishes(session, 3)


def test_signatures_over_other_survivors():
    session, good = at(4)
    assert refusal(session, replace(good, signature=bytes(64))) == "BAD_SIGNATURE"
    finishes(session, 4)


@pytest.mark.parametrize(("holders", "num_shares"), [(b"\x7f", 7), (b"\x3f\0", 6), (b"\x3f", 5), (b"\x1f", 6)])
def test_unmasking_of_another_shape(holders, num_shares):
    session, _ = at(5)
    assert refusal(session, Unmask(SESSION, holders, bytes(32 * num_shares))) == "MALFORMED"
    finishes(session, 5)


def test_a_wrong_share_spoils_the_sum_and_is_noticed():
    session, good = at(5)
    session._next[CULPRIT] = replace(good, shares=bytes(len(good.shares)))
    session.stage(5)
    with pytest.raises(SumFailedError, match="do not give what it advertised"):
        session.total()


def test_shares_that_nobody_can_open_are_their_makers():
    session, good = at(2)
    session._next[CULPRIT] = replace(good, shares=bytes(len(good.shares)))
    for number in (2, 3, 4):
        session.stage(number)
    session.send(5)
    with pytest.raises(SumFailedError) as failure:
        session.coordinator.end_stage()
    assert failure.value.blamed == {name_of(CULPRIT)}
    with pytest.raises(LocalProtocolError):
        session.total()


def test_nobody_is_blamed_whom_few_others_can_accuse():
    """One liar leaves out the share that an honest device gave it, when exactly a threshold answers."""
    session, good = at(5)
    order = session.order()
    framed = order.index(0)
    shares = [good.shares[32 * k : 32 * k + 32] for k in range(N) if k != framed]
    bits = int.from_bytes(good.holders, "little") & ~(1 << framed)
    session._next[CULPRIT] = replace(good, holders=bits.to_bytes(1, "little"), shares=b"".join(shares))
    session.alive -= {5}
    session.send(5)
    with pytest.raises(SumFailedError) as failure:
        session.coordinator.end_stage()
    assert failure.value.blamed == frozenset()
