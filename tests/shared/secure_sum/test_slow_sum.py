"""Two implementations that share no code say the same, byte for byte."""

from random import Random

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, example, given, settings
from slow_sum import SlowDevice, SlowSession, hkdf, packed, solved, unpacked, x25519
from sum_world import CONTEXT, Session, identity, members, seeded

from prunefleet_shared.secure_sum.context import most_colluders, threshold
from prunefleet_shared.secure_sum.ring import Ring
from prunefleet_shared.secure_sum.shamir import Reconstruction, split

LANES = st.lists(st.integers(1, 48), min_size=1, max_size=6)


@st.composite
def sessions(draw):
    num_devices, widths = draw(st.integers(3, 6)), draw(LANES)
    spare = num_devices - threshold(num_devices)
    gone = draw(st.permutations(range(num_devices)))[: draw(st.integers(0, spare))]
    drops = {}
    for each in gone:
        drops.setdefault(draw(st.integers(2, 5)), []).append(each)
    rows = st.lists(st.integers(-(2**40), 2**40), min_size=len(widths), max_size=len(widths))
    vectors = draw(st.lists(rows, min_size=num_devices, max_size=num_devices))
    return widths, np.array(vectors, dtype=np.int64), drops, draw(st.integers(0, 2**32))


def slow_twin(session, widths, seed):
    """The same devices, slow, and which position each has."""
    devices = [
        SlowDevice(identity(i).certificate_digest, [int(x) for x in vector], seeded(seed, i))
        for i, vector in enumerate(session.vectors)
    ]
    return SlowSession(CONTEXT, devices, widths), {i: at for at, i in enumerate(session.order())}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sessions())
@example(([16, 17, 3, 48, 1, 16], np.full((5, 6), -1), {2: [0]}, 7))
def test_a_slow_twin_says_the_same_bytes(drawn):
    widths, vectors, drops, seed = drawn
    session = Session(vectors, widths, seed=seed).run(drops)
    slow, at = slow_twin(session, widths, seed)
    senders, survivors = ({at[i] for i in session.up[stage]} for stage in (2, 3))
    for i, advert in session.up[1].items():
        entry = advert.entry
        assert entry.certificate_digest + entry.mask_key + entry.share_key == slow.devices[at[i]].facts()
        assert signed(i, slow.signed(b"advert", slow.devices[at[i]].facts()), entry.signature)
    for i, message in session.up[2].items():
        assert message.shares == slow.sealed(at[i])
        assert signed(i, slow.signed(b"roster", slow.roster), message.signature)
    for i, message in session.up[3].items():
        assert message.payload == slow.masked(at[i], senders)
    for i, message in session.up[4].items():
        assert signed(i, slow.signed(b"survivors", slow.roster + slow.bits(survivors)), message.signature)
    for i, message in session.up[5].items():
        assert message.holders == slow.bits(senders)
        assert message.shares == slow.given(at[i], senders, survivors)
    total = slow.total(
        {at[i]: message.payload for i, message in session.up[3].items()},
        {s: {at[i]: slow.dealt[s][s not in survivors][at[i]] for i in session.up[5]} for s in senders},
        senders,
    )
    assert total == session.total().tolist() == session.expected(session.up[3]).tolist()


def signed(number, statement, signature):
    return members().admit(identity(number).certificates[0], ()).signed(statement, signature)


def test_the_slow_parts_are_the_standards():
    """RFC 7748 section 5.2, RFC 5869 A.1: the twin stands on its own."""
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert x25519(scalar, point).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    derived = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert derived.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


@settings(max_examples=40, deadline=None)
@given(st.data(), LANES)
def test_both_pack_alike(data, widths):
    values = [data.draw(st.integers(-(2**47), 2**47)) for _ in widths]
    ours = Ring(widths).pack(np.array(values, dtype=np.int64))
    assert ours == packed(values, widths)
    reduced = [value % 2**width for value, width in zip(values, widths, strict=True)]
    assert Ring(widths).unpack(ours).tolist() == unpacked(ours, widths) == reduced


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(0, 4), st.integers(0, 2**32))
def test_both_give_a_secret_back_from_any_threshold_of_shares(needed, more, seed):
    random, draw = Random(seed), seeded("shamir", seed)
    secret = b"\0" + draw(31)
    shares = split(secret, needed, needed + more, draw)
    points = sorted(random.sample(range(1, needed + more + 1), needed))
    chosen = {point: shares[point - 1] for point in points}
    assert Reconstruction(needed).secret(chosen) == secret
    assert solved(points, [int.from_bytes(share) for share in chosen.values()]).to_bytes(32) == secret
    if needed > 1:
        fewer = dict(list(chosen.items())[1:])
        assert Reconstruction(needed).secret(fewer) is None
        assert Reconstruction(needed - 1).secret(fewer) != secret


def test_threshold_is_more_than_two_thirds_and_no_more_than_it_must():
    for num_devices in range(1, 1001):
        assert 3 * threshold(num_devices) > 2 * num_devices >= 3 * (threshold(num_devices) - 1)
        assert 2 * threshold(num_devices) - num_devices - most_colluders(num_devices) == 1
