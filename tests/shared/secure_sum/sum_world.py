"""Whole private sums in memory: devices, an honest coordinator, drop-outs at any stage. Certificates are made once.

Time stands still at ``NOW``; whatever devices draw follows from a seed, so the same session gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_shared.certificates import Authority, create_authority, issue
from prunefleet_shared.identity import key_to_pem
from prunefleet_shared.roles import Role
from prunefleet_shared.secure_sum.coordinator_end import CohortRule, SecureCoordinatorSum
from prunefleet_shared.secure_sum.device_end import SecureDeviceSum, SumTerms
from prunefleet_shared.secure_sum.ring import Ring
from prunefleet_shared.secure_sum.roster import Members, SumIdentity
from prunefleet_shared.sum_messages import SumDown, SumUp

VECTORS = Path(__file__).parent.parent.parent / "vectors" / "secure_sum.json"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
CONTEXT = hashlib.sha256(b"a session for tests").digest()
SESSION = "5e" * 16
RandomBytes = Callable[[int], bytes]


def seeded(*label: object) -> RandomBytes:
    """Bytes that follow from ``label``: call i of n bytes gives SHAKE-256 of the label's text and i."""
    calls = 0

    def draw(num_bytes: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{label}|{calls}".encode()).digest(num_bytes)

    return draw


@cache
def recorded() -> dict[str, Any] | None:
    """The recorded session, whose certificates stay the same from run to run: what a fuzzer found is found again."""
    return json.loads(VECTORS.read_text(encoding="utf-8")) if VECTORS.exists() else None


def key_of(scalar: str) -> ec.EllipticCurvePrivateKey:
    """A P-256 key of 64 hex digits."""
    return ec.derive_private_key(int(scalar, 16), ec.SECP256R1())


@cache
def root() -> Authority:
    known = recorded()
    if known is None:
        return create_authority(NOW, validity_h=24 * 365)
    return Authority(known["root_pem"].encode(), key_to_pem(key_of(known["root_private_key"])))


@cache
def identity(number: int) -> SumIdentity:
    """Device ``number`` of the fleet; made once, the first few recorded."""
    known = (recorded() or {"devices": []})["devices"]
    if number < len(known):
        return SumIdentity((bytes.fromhex(known[number]["certificate"]),), key_of(known[number]["private_key"]))
    return SumIdentity.of(issue(root(), Role.DEVICE, f"device-{number:03d}", NOW, validity_h=24))


def name_of(number: int) -> str:
    return f"device-{number:03d}"


def members(utc_now: Callable[[], datetime] = lambda: NOW) -> Members:
    return Members(root().cert_pem, utc_now)


def drawn_vectors(num_devices: int, bits: Sequence[int], seed: int = 0, low: int = 0, high: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (num_devices, len(bits)), dtype=np.int64)


def device(
    number: int, ring: Ring, vector: np.ndarray, *, context: bytes = CONTEXT, seed: object = 0, **terms: int
) -> SecureDeviceSum:
    """A device's end; ``terms`` are those of :class:`SumTerms`."""
    held_to = SumTerms(**{"min_devices": 3, "max_devices": 64, **terms})  # type: ignore[arg-type]
    who = identity(number)
    return SecureDeviceSum(
        context, SESSION, ring, vector, identity=who, members=members(), terms=held_to,
        random_bytes=seeded(seed, number),
    )  # fmt: skip


class Session:
    """``vectors`` (devices by lanes) summed in lanes of ``bits``; ``seed`` may be one for each device.

    Attributes:
        up: What devices said, by stage (from 1), by device number; ``FetchCertificates`` left out.
        down: What they were answered, likewise.
        devices: By number; those that dropped out stay where they were.
    """

    def __init__(
        self, vectors: np.ndarray, bits: Sequence[int], *, seed: object = 0, size: int | None = None, fewest: int = 3,
        context: bytes = CONTEXT,
    ) -> None:  # fmt: skip
        self.vectors, self.ring = vectors, Ring(bits)
        rule = CohortRule(size or len(vectors), fewest)
        self.coordinator = SecureCoordinatorSum(context, SESSION, self.ring, rule, members())
        self.devices = {i: device(i, self.ring, vector, context=context, seed=seed) for i, vector in enumerate(vectors)}
        self.alive = set(self.devices)
        self.up: dict[int, dict[int, SumUp]] = {}
        self.down: dict[int, dict[int, SumDown]] = {}
        self._next: dict[int, SumUp | None] = {i: each.start() for i, each in self.devices.items()}

    def stage(self, number: int, dropped: Iterable[int] = ()) -> None:
        """Play one stage without the ``dropped``; raises what the coordinator raises."""
        self.alive -= set(dropped)
        self.send(number)
        if self.coordinator.stage == number:
            self.coordinator.end_stage()
        self.answer(number)

    def send(self, number: int) -> None:
        """Everyone alive says its next message."""
        self.up[number] = {i: self._next[i] for i in sorted(self.alive)}  # type: ignore[misc]
        for i, message in self.up[number].items():
            self.coordinator.receive(name_of(i), message)

    def answer(self, number: int) -> None:
        """Everyone alive hears the stage's answer."""
        self.down[number] = {i: self.ask(i, message) for i, message in self.up[number].items()}
        self._next = {i: self.hear(i, answer) for i, answer in self.down[number].items()}

    def ask(self, number: int, message: SumUp) -> SumDown:
        answer = self.coordinator.receive(name_of(number), message)
        assert answer is not None
        return answer

    def hear(self, number: int, answer: SumDown) -> SumUp | None:
        """A device hears ``answer``; certificates that it asks for are fetched."""
        message = self.devices[number].receive(answer)
        while type(message).__name__ == "FetchCertificates":
            message = self.devices[number].receive(self.ask(number, message))  # type: ignore[arg-type]
        return message

    def run(self, drops: Mapping[int, Iterable[int]] | None = None, until: int = 5) -> Session:
        """Stages 1 to ``until``, with ``drops`` by stage: devices that speak no more from that stage on."""
        for number in range(1, until + 1):
            self.stage(number, (drops or {}).get(number, ()))
        return self

    def total(self) -> np.ndarray:
        return self.coordinator.close()

    def expected(self, survivors: Iterable[int]) -> np.ndarray:
        """The true sum, lane by lane modulo its power of two."""
        return self.ring.reduce(self.vectors[sorted(survivors)].sum(axis=0))

    def order(self) -> list[int]:
        """Device numbers in the roster's order."""
        in_roster = {identity(i).certificate_digest: i for i in self.devices}
        return [in_roster[entry.certificate_digest] for entry in self.down[1][min(self.down[1])].entries]  # type: ignore[union-attr]


def later(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)
