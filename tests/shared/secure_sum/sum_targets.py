"""Everything that reads what a peer sent, as functions of bytes: whatever the bytes, only refusals may come of it.

``fuzz/fuzz_decoders.py`` searches these for crashes by coverage, ``test_sum_decoders.py`` by hypothesis.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from sum_world import VECTORS, Session, drawn_vectors, identity, members, name_of

from prunefleet_shared import wire
from prunefleet_shared.errors import RemoteProtocolError
from prunefleet_shared.secure_sum.coordinator_end import SumFailedError
from prunefleet_shared.secure_sum.device_end import SecureDeviceSum, Stage
from prunefleet_shared.secure_sum.ring import Ring
from prunefleet_shared.secure_sum.shamir import Reconstruction
from prunefleet_shared.sum_messages import FetchCertificates, positions_in

BITS = [3, 3, 3, 16, 17, 48, 1]
NUM_DEVICES = 4
_PATHS = sorted(wire.METHODS)
_RING = Ring(BITS)


def read_up(data: bytes) -> None:
    """A request of the method that the first byte picks."""
    _only_refuses(lambda: wire.decode_up(_PATHS[data[0] % len(_PATHS)], data[1:]))


def read_down(data: bytes) -> None:
    """An answer likewise."""
    _only_refuses(lambda: wire.decode_down(_PATHS[data[0] % len(_PATHS)], data[1:]))


def read_members(data: bytes) -> None:
    """A member set: what is read is written the same."""
    num_members = data[0] * 4 + 1
    positions = positions_in(data[1:], num_members)
    assert positions is None or all(0 <= position < num_members for position in positions)


def read_vector(data: bytes) -> None:
    """A packed vector: whatever is read is packed the same, so one vector has one spelling."""
    padded = data.ljust(_RING.packed_bytes, b"\0") if data[0] & 1 else data
    lanes = _only_refuses(lambda: _RING.unpack(padded))
    assert lanes is None or _RING.pack(lanes) == padded


def read_shares(data: bytes) -> None:
    """Shares of a secret, of any value, at any points."""
    needed = data[0] % 5 + 1
    shares = {1 + point: data[32 * point : 32 * point + 32].ljust(32, b"\1") for point in range(len(data) // 32 + 1)}
    secret = Reconstruction(needed).secret(shares)
    assert (secret is None) == (len(shares) < needed)


def read_certificate(data: bytes) -> None:
    """A certificate, made of a good one."""
    good = identity(0).certificates[0]
    _only_refuses(lambda: members().admit(changed(good, data[1:]), [changed(good, data)] * (data[0] % 2)))


# --- whole state machines --------------------------------------------------------------------------------------------


def hear(data: bytes) -> bool:
    """A device hears a good answer with changes, over the wire; when it refuses, nothing of it is left.

    Returns:
        Whether it took the answer.
    """
    device, path, good = _listeners()[data[0] % len(_listeners())]
    before = _remembered(device)
    try:
        answer: Any = wire.decode_down(path, changed(good, data[1:]))
        if type(answer).__name__ != "ComeBack":
            device.receive(answer)
    except RemoteProtocolError:
        return False
    else:
        return True
    finally:
        assert device.stage is not Stage.OVER or device._secrets is None
        vars(device).update(before)


def say(data: bytes) -> bool:
    """A coordinator is told a good message with changes, over the wire.

    Returns:
        Whether it took the message.
    """
    coordinator, path, good = _speakers()[data[0] % len(_speakers())]
    try:
        message: Any = wire.decode_up(path, changed(good, data[1:]))
        _copied(coordinator).receive(name_of(0), message)
    except (RemoteProtocolError, SumFailedError):
        return False
    return True


TARGETS: Mapping[str, Callable[[bytes], object]] = {
    "up": read_up,
    "down": read_down,
    "member_set": read_members,
    "vector": read_vector,
    "shares": read_shares,
    "certificate": read_certificate,
    "device": hear,
    "coordinator": say,
}
"""By name; each takes at least one byte."""


def seeds(name: str) -> list[bytes]:
    """Inputs to begin with: good messages where a target reads whole ones, else a byte for each of its choices."""
    if name not in ("up", "down"):
        return [bytes([first]) for first in range(6)]
    known = json.loads((VECTORS.parent / "wire.json").read_text(encoding="utf-8"))
    good = [(each["method"], bytes.fromhex(each["hex"])) for each in known if each.get("direction") == name]
    good += [(path, message) for _, path, message in (_speakers() if name == "up" else _listeners())]
    return [bytes([_PATHS.index(path)]) + message for path, message in good]


def changed(good: bytes, data: bytes) -> bytes:
    """``good`` with changes that ``data`` spells: four bytes each, what to do, where (two), with what."""
    bad = bytearray(good)
    for start in range(0, len(data) - 3, 4):
        kind, at, value = data[start] % 4, int.from_bytes(data[start + 1 : start + 3]) % (len(bad) + 1), data[start + 3]
        match kind:
            case 0 if at < len(bad):
                bad[at] = value
            case 1:
                bad.insert(at, value)
            case 2:
                del bad[at : at + value]
            case _:
                bad[at:at] = bad[max(0, at - value) : at]
    return bytes(bad)


def _only_refuses(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RemoteProtocolError:
        return None


def _session(stage: int) -> Session:
    session = Session(drawn_vectors(NUM_DEVICES, BITS), BITS).run(until=stage - 1)
    session.send(stage)
    return session


@cache
def _listeners() -> list[tuple[SecureDeviceSum, str, bytes]]:
    """A device waiting for each answer: the method, and the good answer on the wire."""
    found = []
    for stage in (1, 2, 3, 4, 5):
        session = _session(stage)
        message = session.up[stage][0]
        path, good = wire.method_of(message).path, session.ask(0, message)
        found.append((session.devices[0], path, wire.encode_down(path, good)))
    session = _session(1)
    asked = session.devices[0].receive(session.ask(0, session.up[1][0]))
    assert isinstance(asked, FetchCertificates)
    path = wire.method_of(asked).path
    found.append((session.devices[0], path, wire.encode_down(path, session.ask(0, asked))))
    return found


@cache
def _speakers() -> list[tuple[Any, str, bytes]]:
    """A coordinator waiting for each message of device 0, who is the last to speak."""
    found = []
    for stage in range(1, 6):
        session = Session(drawn_vectors(NUM_DEVICES, BITS), BITS).run(until=stage - 1)
        session.alive -= {0}
        session.send(stage)
        message: Any = session._next[0]
        found.append((session.coordinator, wire.method_of(message).path, wire.encode_up(message)))
    return found


def _copied(coordinator: Any) -> Any:
    """A coordinator to try things on; what is never changed is shared."""
    shared = {id(thing): thing for thing in (coordinator._members, coordinator._ring)}
    shared |= {id(known.member): known.member for known in coordinator._adverts.values()}
    return copy.deepcopy(coordinator, shared)


def _remembered(device: SecureDeviceSum) -> dict[str, Any]:
    held = device._secrets
    assert held is not None or device.stage is Stage.UNMASKED
    kept = held and replace(held, shared_with=dict(held.shared_with), sealed_from=dict(held.sealed_from))
    return dict(vars(device)) | {"_secrets": kept}
