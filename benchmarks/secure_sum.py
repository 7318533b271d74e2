"""What a private sum costs each side: processor time and bytes, ours beside Flower's SecAgg+ (flwr 1.41).

    python benchmarks/secure_sum.py
    python benchmarks/secure_sum.py --systems ours --devices 10,32 --lanes 1500

All devices and the coordinator live in one process, on one thread. Time is what the state machines compute: their
``process_time``, without encoding, TLS and waiting. Bytes are whole messages as they are encoded, each counted once. A
coordinator receives each message once and is asked once more for the answer. A share of the devices falls silent after
sharing keys and before contributing, the dearest moment for the coordinator. Rows are appended to
``benchmarks/results/secure_sum.json``; what is there is not run again.

Flower's own workflow and client mod run as they are, over a line in memory, with all devices as neighbours and our
threshold. It sums floats as 32-bit integers and adds weights; of a row's columns that makes the vector's bytes its own
choice, and the rest comparable.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer
from result_file import RESULTS, ResultFile, Row

from prunefleet_shared import wire
from prunefleet_shared.certificates import Authority, create_authority, issue
from prunefleet_shared.roles import Role
from prunefleet_shared.secure_sum.coordinator_end import CohortRule, SecureCoordinatorSum
from prunefleet_shared.secure_sum.device_end import SecureDeviceSum, SumTerms
from prunefleet_shared.secure_sum.ring import Ring
from prunefleet_shared.secure_sum.roster import Members, SumIdentity
from prunefleet_shared.sum_messages import FetchCertificates, SumUp

T = TypeVar("T")
KEY = ("system", "devices", "lanes", "dropped", "certificates_cached")
HIGHEST_VALUE = 7
"""Of one device in one lane: a graded mask."""
CONTRIBUTE = 3
ABOUT = {
    "cpu": "process_time of the state machines, one thread: medians over repetitions; per device: mean of those that "
    "finished",
    "bytes": "encoded messages, each once; ours as protobuf of prunefleet.v1, Flower's as its RecordDict protobuf",
    "dropped": "devices silent from the masked vector on",
    "certificates_cached": "whether devices had met before; Flower's SecAgg+ has no certificates",
    "flower": "SecAggPlusWorkflow and secaggplus_mod of flwr 1.41 run whole, all devices neighbours, our threshold",
}


@dataclass
class Cost:
    """What one session cost.

    Attributes:
        device_s: Processor seconds by device.
        coordinator_s: Processor seconds.
        up_bytes: By device.
        down_bytes: By device.
    """

    coordinator_s: float = 0.0
    device_s: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    up_bytes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    down_bytes: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def of_coordinator(self, call: Callable[[], T]) -> T:
        start_s = time.process_time()
        result = call()
        self.coordinator_s += time.process_time() - start_s
        return result

    def of_device(self, number: int, call: Callable[[], T]) -> T:
        start_s = time.process_time()
        result = call()
        self.device_s[number] += time.process_time() - start_s
        return result

    def columns(self, finished: Iterable[int]) -> Row:
        """The row's measured columns."""
        chosen = list(finished)
        return {
            "cpu_ms_per_device": 1e3 * statistics.mean(self.device_s[i] for i in chosen),
            "cpu_ms_coordinator": 1e3 * self.coordinator_s,
            "up_bytes_per_device": statistics.mean(self.up_bytes[i] for i in chosen),
            "down_bytes_per_device": statistics.mean(self.down_bytes[i] for i in chosen),
        }


# --- ours ------------------------------------------------------------------------------------------------------------


@cache
def authority() -> Authority:
    return create_authority(datetime.now(UTC))


@cache
def identity(number: int) -> SumIdentity:
    return SumIdentity.of(issue(authority(), Role.DEVICE, f"device-{number:04d}", datetime.now(UTC)))


def fresh_members(num_known: int) -> Members:
    """Certificates of the first ``num_known`` devices checked already."""
    members = Members(authority().cert_pem, lambda: datetime.now(UTC))
    for number in range(num_known):
        members.admit(identity(number).certificates[0], ())
    return members


class OurSession:
    """One private sum of ``vectors``, metered."""

    def __init__(self, vectors: np.ndarray, *, certificates_cached: bool) -> None:
        size, num_lanes = vectors.shape
        self.session_id, self.cost = secrets.token_hex(16), Cost()
        context, ring = secrets.token_bytes(32), Ring([(HIGHEST_VALUE * size).bit_length()] * num_lanes)
        known = fresh_members(size) if certificates_cached else None
        self.coordinator = SecureCoordinatorSum(
            context, self.session_id, ring, CohortRule(size, 3), fresh_members(size if certificates_cached else 0)
        )
        terms = SumTerms(3, size)
        self.devices = [
            self.cost.of_device(i, lambda i=i, vector=vector: SecureDeviceSum(  # type: ignore[misc]
                context, self.session_id, ring, vector, identity=identity(i), members=known or fresh_members(0),
                terms=terms, random_bytes=secrets.token_bytes,
            ))
            for i, vector in enumerate(vectors)
        ]  # fmt: skip

    def run(self, dropped: set[int]) -> np.ndarray:
        """All stages; the sum."""
        said: dict[int, SumUp] = {i: self.cost.of_device(i, device.start) for i, device in enumerate(self.devices)}
        for stage in range(1, 6):
            if stage == CONTRIBUTE:
                said = {i: message for i, message in said.items() if i not in dropped}
            said = self._stage(stage, said)
        return self.cost.of_coordinator(self.coordinator.close)

    def _stage(self, stage: int, said: dict[int, SumUp]) -> dict[int, SumUp]:
        for i, message in said.items():
            self._send(i, message)
        if self.coordinator.stage == stage:
            self.cost.of_coordinator(self.coordinator.end_stage)
        heard = {i: self._answered(i, message) for i, message in said.items()}
        return {i: message for i, message in heard.items() if message is not None}

    def _send(self, i: int, message: SumUp) -> None:
        self.cost.up_bytes[i] += len(wire.encode_up(message))
        self.cost.of_coordinator(lambda: self.coordinator.receive(f"device-{i:04d}", message))

    def _answered(self, i: int, message: SumUp) -> SumUp | None:
        answer: Any = self.cost.of_coordinator(lambda: self.coordinator.receive(f"device-{i:04d}", message))
        self.cost.down_bytes[i] += len(wire.encode_down(wire.method_of(message).path, answer))
        reply = self.cost.of_device(i, lambda: self.devices[i].receive(answer))
        if isinstance(reply, FetchCertificates):
            self.cost.up_bytes[i] += len(wire.encode_up(reply))
            return self._answered(i, reply)
        return reply


def ours(vectors: np.ndarray, dropped: set[int], *, certificates_cached: bool) -> Row:
    """One session's measured columns; raises if the sum is wrong."""
    session = OurSession(vectors, certificates_cached=certificates_cached)
    survivors = sorted(set(range(len(vectors))) - dropped)
    if (session.run(dropped) != vectors[survivors].sum(axis=0)).any():
        msg = "a wrong sum"
        raise RuntimeError(msg)
    return session.cost.columns(survivors)


# --- the table -------------------------------------------------------------------------------------------------------


def measured(system: str, vectors: np.ndarray, dropped: set[int], *, certificates_cached: bool) -> Row:
    """One session of a system."""
    if system == "ours":
        return ours(vectors, dropped, certificates_cached=certificates_cached)
    from secure_sum_flower import flower  # it takes seconds to import

    return flower(vectors, dropped)


def median_row(rows: Sequence[Row]) -> Row:
    """Column by column: times to a microsecond, bytes whole."""
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    return {name: round(value, 3) if "cpu" in name else round(value) for name, value in medians.items()}


def summarise(rows: list[Row]) -> Row:
    """Flower's cost over ours, where both were measured."""
    ours_at = {tuple(row[k] for k in KEY[1:4]): row for row in rows if row["system"] == "ours" and row[KEY[4]]}
    ratios = {}
    for row in (row for row in rows if row["system"] == "flower"):
        beside = ours_at.get(tuple(row[k] for k in KEY[1:4]))
        if beside:
            name = f"{row['devices']} devices, {row['lanes']} lanes, {row['dropped']} dropped"
            columns = [column for column in row if column.startswith(("cpu", "up", "down"))]
            ratios[name] = {column: round(row[column] / max(beside[column], 1e-9), 1) for column in columns}
    return {"flower_over_ours": ratios}


def numbers(text: str) -> list[int]:
    """Comma-separated whole numbers."""
    return [int(part) for part in text.split(",")]


def main(
    systems: Annotated[str, typer.Option(help="of ours, flower")] = "ours,flower",
    devices: Annotated[str, typer.Option(help="cohort sizes")] = "10,32,100,256",
    lanes: Annotated[str, typer.Option(help="lengths of the vector")] = "1500,30000",
    dropped_percent: Annotated[str, typer.Option(help="of the devices")] = "0,10",
    repetitions: Annotated[int, typer.Option(min=1, help="of ours; Flower's runs take minutes and are run once")] = 5,
    flower_most_devices: Annotated[int, typer.Option(help="larger cohorts take Flower hours")] = 100,
    out: Annotated[Path, typer.Option(help="the result file")] = RESULTS / "secure_sum.json",
) -> None:
    """Measure what is not in the result file yet."""
    command = f"python benchmarks/secure_sum.py --systems {systems} --devices {devices} --lanes {lanes}"
    results = ResultFile(out, command, ABOUT, KEY, summarise)
    tables = product(systems.split(","), numbers(devices), numbers(lanes), numbers(dropped_percent), (True, False))
    for system, size, num_lanes, percent, is_cached in tables:
        key = dict(zip(KEY, (system, size, num_lanes, size * percent // 100, is_cached), strict=True))
        is_flower = system == "flower"
        if results.has(**key) or (is_flower and (size > flower_most_devices or not is_cached)):
            continue
        vectors = np.random.default_rng(size).integers(0, HIGHEST_VALUE + 1, (size, num_lanes), dtype=np.int64)
        times = 1 if is_flower else repetitions
        found = [
            measured(system, vectors, set(range(key["dropped"])), certificates_cached=is_cached) for _ in range(times)
        ]
        row = key | {"repetitions": times} | median_row(found)
        results.add([row])
        typer.echo(row)


if __name__ == "__main__":
    typer.run(main)
