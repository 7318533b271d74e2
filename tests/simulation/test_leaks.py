"""What a device knows is planted with marks, and no byte it sends carries one, whatever the disguise.

Two devices do their real work in torch and speak real gRPC with mutual TLS to a real coordinator and trainer. The
scanner that finds nothing is shown to find every mark once it is put into a message.
"""

from __future__ import annotations

import base64
import gzip
import random
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from leak_world import (
    LABEL_CANARY,
    NAME_CANARY,
    PIXEL_CANARY,
    Overheard,
    Scanner,
    campaign_files,
    canaries,
    other,
    planted,
    play,
    weights_too,
)
from safetensors.numpy import load_file

from prunefleet_coordinator.store import SqlStore
from prunefleet_shared import wire
from prunefleet_shared.documents import digest
from prunefleet_shared.lanes import unpack
from prunefleet_shared.messages import SessionKind
from prunefleet_shared.sum_messages import Contribute


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def overheard(folder: Path) -> Overheard:
    return play(folder, planted)


@pytest.fixture(scope="module")
def scanner(folder: Path, overheard: Overheard) -> Scanner:
    """The canaries, and every weight of every dense copy that the devices trained."""
    return weights_too(canaries(), folder)


# --- nothing leaves --------------------------------------------------------------------------------------------------


def test_nothing_planted_is_in_any_byte_a_device_sent(overheard: Overheard, scanner: Scanner) -> None:
    sent = [data for _, data in overheard.up["device-0"]]
    assert [scanner.found(data) for data in sent] == [set()] * len(sent)
    assert scanner.found(b"".join(sent)) == set(), "nor across messages"
    assert scanner.found(b"".join(data for _, data in overheard.up["device-0"][::-1])) == set()


def test_both_devices_said_something_of_each_kind(overheard: Overheard) -> None:
    for name in ("device-0", "device-1"):
        methods = [method for method, _ in overheard.up[name]]
        assert set(methods) == {"GetCampaign", "FetchModel", "CheckIn", "Contribute"}
        assert methods.count("Contribute") == 2


def hidden() -> Iterable[tuple[str, bytes]]:
    floats = (np.frombuffer(PIXEL_CANARY, dtype=np.uint8).astype("<f4") / 255).astype("<f4").tobytes()
    labels = np.asarray(LABEL_CANARY)
    marks = {
        "pixels as bytes": PIXEL_CANARY,
        "pixels as floats": floats,
        "labels as bytes": labels.astype("u1").tobytes(),
        "labels as integers": labels.astype("<i8").tobytes(),
        "a file's name": NAME_CANARY.encode(),
    }
    disguises: tuple[Callable[[bytes], bytes], ...] = (
        bytes,
        lambda mark: mark.hex().encode(),
        lambda mark: mark.hex().upper().encode(),
        base64.b64encode,
        base64.urlsafe_b64encode,
        zlib.compress,
        gzip.compress,
        lambda mark: zlib.compress(mark, 0),
    )
    for what, mark in marks.items():
        for disguise in disguises:
            yield what, disguise(mark)


def test_the_scanner_finds_every_mark_in_a_contribution_that_carries_it(scanner: Scanner) -> None:
    rng = random.Random(1)
    for what, disguised in hidden():
        payload = rng.randbytes(rng.randrange(40)) + b"|" + disguised + b"|" + rng.randbytes(rng.randrange(40))
        message = wire.encode_up(Contribute("ab" * 16, payload))
        assert what in scanner.found(message), (what, disguised)


def test_the_scanner_finds_a_few_weights_of_the_dense_copy(folder: Path, scanner: Scanner) -> None:
    copy = next((folder / "device-0").rglob("dense-*.safetensors"))
    tensors = load_file(copy)
    name = max(tensors, key=lambda name: tensors[name].size)
    payload = b"\x01" + tensors[name].ravel()[100:104].astype("<f4").tobytes() + b"\x02"
    assert f"weights of {name}" in scanner.found(wire.encode_up(Contribute("ab" * 16, payload)))


def test_the_scanner_is_silent_on_noise(scanner: Scanner) -> None:
    assert scanner.found(random.Random(2).randbytes(4000)) == set()


# --- sizes and records tell nothing either ---------------------------------------------------------------------------


def test_messages_have_the_same_sizes_whatever_the_data(overheard: Overheard, tmp_path: Path) -> None:
    again = play(tmp_path, other)
    assert again.sizes("device-0") == overheard.sizes("device-0")
    contributions = [
        [data for method, data in world.up["device-0"] if method == "Contribute"] for world in (overheard, again)
    ]
    assert contributions[0] != contributions[1], "what is in them does depend on the data, or this would prove nothing"


def test_the_owner_s_audit_lists_every_message(overheard: Overheard) -> None:
    for name, sent in overheard.up.items():
        assert [record.kind for record in overheard.audits[name]] == [method for method, _ in sent]
        contributed = [data for method, data in sent if method == "Contribute"]
        records = [record for record in overheard.audits[name] if record.kind == "Contribute"]
        for record, data in zip(records, contributed, strict=True):
            payload = payload_of(data)
            assert (record.payload_bytes, record.digest) == (len(payload), digest(payload))


def test_the_coordinator_keeps_no_device_s_vector(folder: Path, overheard: Overheard) -> None:
    stored = b"".join(path.read_bytes() for path in sorted(folder.glob("coordinator.sqlite*")))
    assert stored
    for sent in overheard.up.values():
        for payload in (payload_of(data) for method, data in sent if method == "Contribute"):
            assert payload not in stored
            assert payload.hex().encode() not in stored
            assert base64.b64encode(payload) not in stored


def test_the_coordinator_can_say_what_the_fleet_said(folder: Path, overheard: Overheard) -> None:
    """The other side of the same coin: the sum of what was overheard is what is stored."""
    _, campaign = campaign_files()
    store = SqlStore(f"sqlite:///{folder / 'coordinator.sqlite'}")
    closed = store.load_closed(campaign.campaign_id, SessionKind.VOTE, 0)
    store.close()
    assert closed is not None
    total = np.zeros(campaign.vote_lanes.num_lanes, dtype=np.int64)
    for sent in overheard.up.values():
        first = next(data for method, data in sent if method == "Contribute")
        total += unpack(campaign.vote_lanes, payload_of(first))
    assert np.array_equal(closed.total.lanes, total)


def payload_of(data: bytes) -> bytes:
    message = wire.decode_up("/prunefleet.v1.Fleet/Contribute", data)
    assert isinstance(message, Contribute)
    return message.payload
