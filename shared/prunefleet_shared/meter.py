"""How many bytes a peer really exchanged, by method; model downloads apart from everything else.

A carrier reports each serialised request and answer here ("wire bytes": without TLS, HTTP/2 and TCP, which
``prunefleet_simulation.proxy`` counts). A device's owner can pass ``record`` and look at every byte.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from prunefleet_shared.messages import FetchModel
from prunefleet_shared.wire_methods import METHODS

_MODEL_METHODS = frozenset(path for path, method in METHODS.items() if method.up is FetchModel)


class Direction(enum.StrEnum):
    """Seen from the device or trainer."""

    UP = "up"
    DOWN = "down"


Record = Callable[[str, str, Direction, bytes], None]
"""Gets peer id, method path, direction and the serialised message (or rejection)."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was exchanged, in bytes of serialised messages.

    Attributes:
        up_bytes: Requests.
        down_bytes: Answers and rejections of all other methods.
        model_bytes: Answers and rejections of ``FetchModel``.
        num_calls: Requests sent, answered or not.
    """

    up_bytes: int
    down_bytes: int
    model_bytes: int
    num_calls: int


class Meter:
    """Counts per peer and method; one may serve many links of one process."""

    def __init__(self, record: Record | None = None) -> None:
        self._bytes: Counter[tuple[str, str, Direction]] = Counter()
        self._calls: Counter[tuple[str, str]] = Counter()
        self._record = record

    def count(self, peer_id: str, method: str, direction: Direction, data: bytes) -> None:
        """Add one serialised message; a carrier calls this just before sending and just after receiving."""
        self._bytes[peer_id, method, direction] += len(data)
        if direction is Direction.UP:
            self._calls[peer_id, method] += 1
        if self._record is not None:
            self._record(peer_id, method, direction, data)

    def peers(self) -> tuple[str, ...]:
        """Everyone who was heard, sorted."""
        return tuple(sorted({peer_id for peer_id, _, _ in self._bytes}))

    def methods(self, peer_id: str) -> tuple[str, ...]:
        """Paths of the methods that this peer called, sorted."""
        return tuple(sorted({method for peer, method, _ in self._bytes if peer == peer_id}))

    def traffic(self, peer_id: str | None = None, method: str | None = None) -> Traffic:
        """The sum over one peer (or all) and one method (or all)."""
        up = down = models = 0
        for (peer, path, direction), num_bytes in self._bytes.items():
            if peer_id not in (None, peer) or method not in (None, path):
                continue
            if direction is Direction.UP:
                up += num_bytes
            elif path in _MODEL_METHODS:
                models += num_bytes
            else:
                down += num_bytes
        calls = (n for (peer, path), n in self._calls.items() if peer_id in (None, peer) and method in (None, path))
        return Traffic(up, down, models, sum(calls))
