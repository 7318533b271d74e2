"""Keys stay where they are, are used once, and lengths say nothing."""

from collections import Counter
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from hostile import Keyring
from sum_world import Session, drawn_vectors, identity

from prunefleet_shared.secure_sum import agreement, ring

N, BITS = 5, [7, 7, 16, 20]


@pytest.fixture
def session():
    return Session(drawn_vectors(N, BITS), BITS)


def test_nothing_printed_shows_a_key_or_a_share(session):
    session.run({3: {4}}, until=3)
    held = [session.devices[i]._secrets for i in session.alive]
    secrets = set.union(*(set(Keyring.of(session.devices[i]).secrets) for i in session.alive))
    session.stage(4)
    session.stage(5)
    messages = [m for way in (session.up, session.down) for stage in way.values() for m in stage.values()]
    printed = "".join(repr(thing) for thing in [*messages, *held, *session.devices.values(), session.coordinator])
    printed += "".join(repr(identity(i)) for i in range(N))
    assert "PrivateKey" not in printed
    pieces = secrets | {message.payload for message in session.up[3].values()}
    pieces |= {message.shares for stage in (2, 5) for message in session.up[stage].values()}
    for piece in pieces:
        head = piece[:12]
        assert head.hex() not in printed
        assert repr(head)[2:-1] not in printed


def test_no_mask_stream_and_no_sealing_key_is_used_twice(session, monkeypatch):
    streams, sealings = Counter(), Counter()
    plain_stream, plain_gcm = ring.mask_stream, agreement.AESGCM

    def noted_stream(seed, num_bytes):
        streams[seed] += 1
        return plain_stream(seed, num_bytes)

    class NotedGcm:
        def __init__(self, key):
            self._key, self._gcm = key, plain_gcm(key)

        def encrypt(self, *args):
            sealings[self._key] += 1
            return self._gcm.encrypt(*args)

        def decrypt(self, *args):
            return self._gcm.decrypt(*args)

    monkeypatch.setattr(ring, "mask_stream", noted_stream)
    monkeypatch.setattr(agreement, "AESGCM", NotedGcm)
    session.run()
    masked = Counter(streams)
    assert sorted(masked.values()) == [1] * N + [2] * (N * (N - 1) // 2)  # own masks once, a pair's by both
    assert sealings == Counter(dict.fromkeys(sealings, 1))
    assert len(sealings) == N * (N - 1)
    assert not set(streams) & set(sealings)
    session.total()
    assert streams - masked == {seed: 1 for seed, times in masked.items() if times == 1}  # taken off once


def test_other_sessions_have_other_masks(monkeypatch):
    seen = set()
    plain_stream = ring.mask_stream
    monkeypatch.setattr(ring, "mask_stream", lambda seed, n: seen.add(seed) or plain_stream(seed, n))
    for context in (bytes(32), bytes([1] * 32)):  # even with the same keys, which a broken generator might give
        Session(drawn_vectors(N, BITS), BITS, context=context).run(until=3)
    assert len(seen) == N + 2 * N * (N - 1) // 2


def test_the_same_draws_give_the_same_bytes_and_others_give_others():
    first, again, other = (Session(drawn_vectors(N, BITS), BITS, seed=seed).run() for seed in ("one", "one", "another"))
    assert first.up == again.up
    assert first.down == again.down
    for i in range(N):
        assert first.up[1][i].entry.mask_key != other.up[1][i].entry.mask_key
        assert first.up[2][i].shares != other.up[2][i].shares
        assert first.up[3][i].payload != other.up[3][i].payload


def lengths(value):
    """The shape of a message: every length, no content."""
    if is_dataclass(value):
        return [lengths(getattr(value, each.name)) for each in fields(value)]
    return [lengths(each) for each in value] if isinstance(value, tuple) else len(value)


def test_lengths_are_the_same_whatever_is_summed():
    zeros, full = (Session(np.full((N, len(BITS)), value), BITS, seed=value).run() for value in (0, 127))
    for way in ("up", "down"):
        for stage in range(1, 6):
            for i in range(N):
                shapes = [lengths(getattr(session, way)[stage][i]) for session in (zeros, full)]
                assert shapes[0] == shapes[1], (way, stage)


def test_errors_name_no_key(session):
    session.run(until=2)
    keyring = Keyring.of(session.devices[0])
    with pytest.raises(Exception, match="OUT_OF_TURN") as failure:
        session.devices[0].receive(session.down[2][0])
    text = repr(failure.value)
    assert not any(secret.hex()[:16] in text for secret in keyring.secrets)
