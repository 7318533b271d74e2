"""A coordinator that lies about who takes part is refused by name; the session's keys are gone."""

from dataclasses import replace

import pytest
from hostile import entry_of, impostor, in_order, public_of, signed_entry
from sum_world import Session, drawn_vectors
from victim import (
    BITS,
    LOW_ORDER,
    VICTIM,
    N,
    assert_refused,
    colluder_with,
    others,
    own,
    told_at,
    with_first,
)

from prunefleet_shared.errors import RejectReason
from prunefleet_shared.secure_sum.device_end import Stage, SumTerms
from prunefleet_shared.sum_messages import (
    CertificateList,
)

BAD_ROSTERS = {
    "mask key swapped": (lambda r: with_first(r, mask_key=public_of(b"x")), "BAD_SIGNATURE"),
    "share key swapped": (lambda r: with_first(r, share_key=public_of(b"x")), "BAD_SIGNATURE"),
    "keys exchanged": (
        lambda r: with_first(r, mask_key=others(r)[0].share_key, share_key=others(r)[0].mask_key),
        "BAD_SIGNATURE",
    ),
    "another's signature": (lambda r: with_first(r, signature=others(r)[1].signature), "BAD_SIGNATURE"),
    "signature of zeros": (lambda r: with_first(r, signature=bytes(64)), "BAD_SIGNATURE"),
    "own key altered": (
        lambda r: in_order([*others(r), replace(own(r), mask_key=public_of(b"x"))]),
        "BAD_ROSTER",
    ),
    "own signature altered": (lambda r: in_order([*others(r), replace(own(r), signature=bytes(64))]), "BAD_ROSTER"),
    "own entry missing": (lambda r: in_order(others(r)), "BAD_ROSTER"),
    "own keys again": (
        lambda r: colluder_with(r, own(r).mask_key, own(r).share_key),
        "BAD_ROSTER",
    ),
    "another's keys again": (lambda r: colluder_with(r, others(r)[0].share_key, public_of(b"x")), "BAD_ROSTER"),
    "one key for both": (lambda r: colluder_with(r, public_of(b"x"), public_of(b"x")), "BAD_ROSTER"),
    "foreign authority": (lambda r: in_order([*r.entries, entry_of("foreign")]), "STRANGER"),
    "a trainer": (lambda r: in_order([*r.entries, entry_of("trainer")]), "STRANGER"),
    "expired": (lambda r: in_order([*r.entries, entry_of("expired")]), "STRANGER"),
    "one device, two certificates": (lambda r: in_order([*r.entries, entry_of("renewed")]), "BAD_ROSTER"),
    "too few": (lambda r: in_order([own(r), others(r)[0]]), "BAD_ROSTER"),
    "too many": (lambda r: in_order([*others(r) * 20, own(r)]), "BAD_ROSTER"),
    "empty": (lambda r: replace(r, entries=()), "BAD_ROSTER"),
    "unsorted": (lambda r: replace(r, entries=r.entries[::-1]), "BAD_ROSTER"),
    "an entry twice": (lambda r: in_order([*r.entries, others(r)[0]]), "BAD_ROSTER"),
    "signed for another session": (
        lambda r: in_order([*r.entries, signed_entry(impostor("other"), public_of(b"x"), public_of(b"y"), bytes(32))]),
        "BAD_SIGNATURE",
    ),
    **{
        f"share key of low order {i}": (lambda r, k=key: colluder_with(r, public_of(b"x"), k), "BAD_ROSTER")
        for i, key in enumerate(LOW_ORDER)
    },
}


@pytest.mark.parametrize("name", BAD_ROSTERS)
def test_rosters(name):
    change, reason = BAD_ROSTERS[name]
    session, good = told_at(1)
    assert_refused(session, change(good), RejectReason[reason])


def test_a_roster_of_another_session():
    session, _ = told_at(1)
    other = Session(drawn_vectors(N, BITS), BITS, context=bytes(32)).run(until=1)
    assert_refused(session, other.down[1][VICTIM], RejectReason.BAD_ROSTER)


@pytest.mark.parametrize("field", ["certificate_digest", "mask_key", "share_key", "signature"])
@pytest.mark.parametrize("byte", [0, 15, 31])
def test_any_bit_of_another_devices_entry(field, byte):
    session, good = told_at(1)
    flipped = bytearray(getattr(others(good)[0], field))
    flipped[byte] ^= 4
    device = session.devices[VICTIM]
    asked = device.receive(with_first(good, **{field: bytes(flipped)}))
    honest = session.coordinator._certificates
    certificates = tuple(honest[digest][0] for digest in asked.digests if digest in honest)
    reason = RejectReason.STRANGER if field == "certificate_digest" else RejectReason.BAD_SIGNATURE
    assert_refused(session, CertificateList(certificates, ()), reason)


def test_a_certificate_of_a_version_that_is_none():
    session, good = told_at(1)
    device = session.devices[VICTIM]
    asked = device.receive(good)
    certificate = bytearray(session.coordinator._certificates[asked.digests[0]][0])
    assert certificate[8:13] == bytes.fromhex("a003020102")
    certificate[12] = 9
    assert_refused(session, CertificateList((bytes(certificate),), ()), RejectReason.STRANGER)


def test_max_devices_is_the_lanes():
    session, good = told_at(1)
    session.devices[VICTIM]._terms = SumTerms(3, N)
    assert_refused(session, in_order([*good.entries, entry_of("other")]), RejectReason.BAD_ROSTER)


@pytest.mark.parametrize("certificates", [(), (b"",), (b"\x30\x03\x02\x01\x01",), impostor("other").certificates])
def test_certificates_that_are_not_those_asked_for(certificates):
    session, good = told_at(1)
    device = session.devices[VICTIM]
    device.receive(good)
    assert device.stage is Stage.ASKED
    assert_refused(session, CertificateList(tuple(certificates), ()), RejectReason.STRANGER)
