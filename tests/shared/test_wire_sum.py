"""A private sum's messages on the wire: the largest session fits, and what has another length never leaves."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from prunefleet_shared import wire
from prunefleet_shared import wire_limits as limits
from prunefleet_shared.certificates import create_authority, create_intermediate, issue
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.messages import Awaited, ComeBack, Role
from prunefleet_shared.secure_sum.agreement import SEALED_BYTES
from prunefleet_shared.secure_sum.roster import SIGNATURE_BYTES, SumIdentity
from prunefleet_shared.secure_sum.shamir import SECRET_BYTES
from prunefleet_shared.sum_messages import (
    Advertise,
    CertificateList,
    Confirmations,
    ConfirmSurvivors,
    Contribute,
    ContributionCounted,
    FetchCertificates,
    PeerShares,
    Roster,
    RosterEntry,
    ShareKeys,
    Survivors,
    Unmask,
    member_set,
)

ID = "0123456789abcdef" * 2
FLEET = "/prunefleet.v1.Fleet/"
STAGES = ("Advertise", "FetchCertificates", "ShareKeys", "Contribute", "ConfirmSurvivors", "Unmask")
N = limits.MAX_ROSTER
EVERYONE = member_set(set(range(N)), N)
CERTIFICATE = bytes(limits.MAX_CERTIFICATE_BYTES)
KEY, SIGNATURE = b"k" * 32, b"s" * 64
ENTRY = RosterEntry(b"d" * 32, KEY, KEY, SIGNATURE)
ADVERT = Advertise(ID, (CERTIFICATE,) * 2, ENTRY, b"m" * 32)
PEER_SHARES = PeerShares(EVERYONE, bytes(80 * (N - 1)), bytes(64 * N))
CONFIRMATIONS = Confirmations(EVERYONE, bytes(64 * N))


def test_lengths_are_those_that_devices_make():
    assert (limits.SEALED_SHARES_BYTES, limits.RAW_SIGNATURE_BYTES, limits.SHARE_BYTES) == (
        SEALED_BYTES,
        SIGNATURE_BYTES,
        SECRET_BYTES,
    )


@pytest.mark.parametrize(
    "message",
    [
        ADVERT,
        FetchCertificates(ID, (b"d" * 32,) * N),
        ShareKeys(ID, bytes(80 * (N - 1)), SIGNATURE),
        ConfirmSurvivors(ID, SIGNATURE),
        Unmask(ID, EVERYONE, bytes(32 * N)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_the_longest_request_fits(message):
    assert wire.decode_up(wire.method_of(message).path, wire.encode_up(message)) == message


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("Advertise", Roster((ENTRY,) * N)),
        ("FetchCertificates", CertificateList((CERTIFICATE,) * N, (CERTIFICATE,) * N)),
        ("ShareKeys", PEER_SHARES),
        ("Contribute", Survivors(EVERYONE)),
        ("ConfirmSurvivors", CONFIRMATIONS),
        ("Unmask", ContributionCounted(ID)),
        *((stage, ComeBack(2**32 - 1, Awaited.DEVICES)) for stage in STAGES),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_longest_answer_fits(method, message):
    assert wire.decode_down(FLEET + method, wire.encode_down(FLEET + method, message)) == message


@pytest.mark.parametrize("stage", STAGES)
def test_a_limit_leaves_no_room_for_another_kilobyte(stage):
    """A limit that is far above what the largest session needs would be none."""
    longest_up = {type(m): m for m in (ADVERT, Unmask(ID, EVERYONE, bytes(32 * N)), ConfirmSurvivors(ID, SIGNATURE))}
    longest_up[FetchCertificates] = FetchCertificates(ID, (KEY,) * N)
    longest_up[ShareKeys] = ShareKeys(ID, bytes(80 * (N - 1)), SIGNATURE)
    longest_up[Contribute] = Contribute(ID, bytes(limits.MAX_CONTRIBUTION_BYTES))
    row = wire.METHODS[FLEET + stage]
    assert row.max_request_bytes - len(wire.encode_up(longest_up[row.up])) < 1024


def entry(**changed):
    return replace(ENTRY, **changed)


@pytest.mark.parametrize(
    "message",
    [
        replace(ADVERT, certificates=()),
        replace(ADVERT, certificates=(b"c",) * 3),
        replace(ADVERT, certificates=(b"c", b"")),
        replace(ADVERT, certificates=(CERTIFICATE + b"c",)),
        replace(ADVERT, entry=entry(certificate_digest=bytes(33))),
        replace(ADVERT, entry=entry(mask_key=bytes(31))),
        replace(ADVERT, entry=entry(share_key=bytes(33))),
        replace(ADVERT, entry=entry(signature=bytes(72))),
        replace(ADVERT, entry=None),
        replace(ADVERT, self_mask_digest=bytes(31)),
        FetchCertificates(ID, ()),
        FetchCertificates(ID, (KEY,) * (N + 1)),
        FetchCertificates(ID, (KEY, bytes(31))),
        ShareKeys(ID, b"", SIGNATURE),
        ShareKeys(ID, bytes(81), SIGNATURE),
        ShareKeys(ID, bytes(80 * N), SIGNATURE),
        ShareKeys(ID, bytes(80), bytes(63)),
        ConfirmSurvivors(ID, bytes(65)),
        ConfirmSurvivors(ID[2:], SIGNATURE),
        Unmask(ID, b"", b""),
        Unmask(ID, b"\x03", bytes(32)),
        Unmask(ID, b"\x03", bytes(96)),
        Unmask(ID, EVERYONE + b"\x00", bytes(32 * N)),
    ],
    ids=lambda message: repr(message)[:40],
)
def test_a_request_of_another_length_never_leaves(message):
    with pytest.raises(LocalProtocolError):
        wire.encode_up(message)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("Advertise", Roster((ENTRY,))),
        ("Advertise", Roster((ENTRY,) * (N + 1))),
        ("Advertise", Survivors(b"\x03")),
        ("FetchCertificates", CertificateList((), ())),
        ("FetchCertificates", CertificateList((b"c",) * (N + 1), ())),
        ("FetchCertificates", CertificateList((b"c",), (b"i",) * (N + 1))),
        ("FetchCertificates", CertificateList((b"c",), (CERTIFICATE + b"i",))),
        ("ShareKeys", PeerShares(b"\x00", b"", b"")),
        ("ShareKeys", replace(PEER_SHARES, shares=bytes(80 * N))),
        ("ShareKeys", replace(PEER_SHARES, signatures=bytes(64 * (N - 1)))),
        ("ShareKeys", replace(PEER_SHARES, senders=EVERYONE[1:])),
        ("Contribute", Survivors(b"")),
        ("Contribute", Survivors(EVERYONE + b"\x00")),
        ("Contribute", Roster((ENTRY, ENTRY))),
        ("ConfirmSurvivors", replace(CONFIRMATIONS, signatures=bytes(64 * N - 1))),
        ("ConfirmSurvivors", replace(CONFIRMATIONS, confirmers=b"")),
        ("ConfirmSurvivors", ContributionCounted(ID)),
        ("Unmask", ContributionCounted("")),
        ("Unmask", Survivors(b"\x03")),
    ],
)
def test_an_answer_of_another_length_never_leaves(method, message):
    with pytest.raises(LocalProtocolError):
        wire.encode_down(FLEET + method, message)


def test_what_is_secret_is_in_no_message_that_is_printed():
    secret = b"\x9f3c-planted" * 80
    for message in (
        Contribute(ID, secret),
        ShareKeys(ID, secret[:80], SIGNATURE),
        Unmask(ID, b"\x01", secret[:32]),
    ):
        assert "planted" not in repr(wire.decode_up(wire.method_of(message).path, wire.encode_up(message)))


def test_a_real_certificate_with_its_intermediate_fits():
    now = datetime(2026, 11, 21, tzinfo=UTC)
    root = create_authority(now)
    intermediate = create_intermediate(root, now, validity_h=24)
    own = issue(intermediate, Role.DEVICE, "n" * 64, now)
    chain = SumIdentity.of(replace(own, cert_pem=own.cert_pem + intermediate.cert_pem)).certificates
    advert = replace(ADVERT, certificates=chain)
    assert len(chain) == 2
    assert wire.decode_up(FLEET + "Advertise", wire.encode_up(advert)) == advert
