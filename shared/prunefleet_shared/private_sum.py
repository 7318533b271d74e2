"""The two ends of a private sum, as the rounds see them, and the plain form.

A round only knows that a device turns a vector into stage messages and that the coordinator turns stage messages into
one total. ``plain`` has a single stage and hides nothing: the coordinator sees each vector for as long as it takes to
add it (never on disk). The secure sum will have five stages behind the same two interfaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from prunefleet_shared.errors import LocalProtocolError, RejectReason, reject
from prunefleet_shared.lanes import LaneTable, pack, unpack, why_sum_impossible
from prunefleet_shared.masks import IntArray

PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Total:
    """What a closed session yields.

    Attributes:
        lanes: The sum, one integer per lane.
        num_devices: Contributions in it.
    """

    lanes: tuple[int, ...]
    num_devices: int


class DeviceSum(Protocol):
    """A device's end of one session."""

    def first_payload(self) -> bytes:
        """The first stage's message; the same bytes however often it is asked for."""
        ...


class CoordinatorSum(Protocol):
    """The coordinator's end of one session."""

    @property
    def contributors(self) -> frozenset[str]:
        """Devices whose vector is in the sum."""
        ...

    def receive(self, device_id: str, payload: bytes) -> None:
        """Take one stage message.

        Raises:
            RemoteProtocolError: It breaks a rule; nothing has changed.
        """
        ...

    def close(self) -> Total:
        """End the session and return the sum. Nothing can be received afterwards."""
        ...


class PlainDeviceSum:
    """Sends the vector itself, packed at one device's bits."""

    def __init__(self, table: LaneTable, vector: IntArray) -> None:
        self._packed = pack(table, vector)

    def first_payload(self) -> bytes:
        """The packed vector, ``table.packed_bytes`` long."""
        return self._packed


class PlainCoordinatorSum:
    """Adds vectors as they come; keeps who contributed, never what."""

    def __init__(self, table: LaneTable) -> None:
        self._table = table
        self._total = np.zeros(table.num_lanes, dtype=np.int64)
        self._contributors: set[str] = set()
        self._closed = False

    @property
    def contributors(self) -> frozenset[str]:
        """Devices already added."""
        return frozenset(self._contributors)

    def receive(self, device_id: str, payload: bytes) -> None:
        """Check and add one packed vector.

        Raises:
            RemoteProtocolError: ``DUPLICATE``, ``WRONG_LENGTH`` or ``OUT_OF_RANGE``; the sum is unchanged.
        """
        if self._closed:
            msg = "receive() after close()"
            raise LocalProtocolError(msg)
        if device_id in self._contributors:
            raise reject(RejectReason.DUPLICATE, remedy="nothing to do: the first contribution is in the sum")
        vector = unpack(self._table, payload)
        self._total += vector
        self._contributors.add(device_id)

    def close(self) -> Total:
        """The sum so far, after a last check that honest devices could have made it."""
        self._closed = True
        why = why_sum_impossible(self._table, self._total, len(self._contributors))
        if why:
            msg = f"the sum is impossible: {why}"
            raise LocalProtocolError(msg)
        return Total(tuple(int(lane) for lane in self._total), len(self._contributors))


def open_device_sum(mode: str, table: LaneTable, vector: IntArray) -> DeviceSum:
    """A device's end for a campaign's privacy mode."""
    if mode != PLAIN:
        raise reject(RejectReason.WRONG_CAMPAIGN, expected="privacy mode plain", got=mode, remedy="update the client")
    return PlainDeviceSum(table, vector)


def open_coordinator_sum(mode: str, table: LaneTable) -> CoordinatorSum:
    """The coordinator's end for a campaign's privacy mode."""
    if mode != PLAIN:
        msg = f"no private sum is called {mode}"
        raise LocalProtocolError(msg)
    return PlainCoordinatorSum(table)
