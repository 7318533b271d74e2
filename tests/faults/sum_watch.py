"""What must hold of private sums whatever happens, watched from outside: every message of a sum that left a device.

**A run fails when** a device gave away shares in two sessions of a round, or said anything in a round after it had done
so in another session, or had not saved before that the round is spent; when a device sent two different vectors in one
session.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from prunefleet_edge.device_state import DeviceState, Release, round_key
from prunefleet_edge.store import MemoryDeviceStore
from prunefleet_shared.messages import Invitation
from prunefleet_shared.sum_messages import Contribute, SumUp, Unmask


class SumWatch:
    """Remembers who gave away shares where."""

    def __init__(self) -> None:
        self.unmasked: dict[tuple[str, str], str] = {}  # device, round → the session in which it gave shares away
        self.spent: dict[str, set[str]] = defaultdict(set)  # round → devices that have closed it for themselves
        self.vectors: dict[tuple[str, str], set[bytes]] = defaultdict(set)  # device, session → what it sent, masked
        self.violations: list[str] = []

    def note(self, device: str, message: SumUp, to: Invitation, state: DeviceState | None) -> None:
        """A message leaves ``device``, whose store is at ``state``."""
        key, what = round_key(to.kind, to.level), f"{device}, {type(message).__name__}, attempt {to.attempt}"
        if self.unmasked.get((device, key), message.session_id) != message.session_id:
            self.violations.append(f"{what}: it has given its shares away in another session of {key}")
        if isinstance(message, Unmask):
            self.unmasked[device, key] = message.session_id
            if state is None or key not in state.spent:
                self.violations.append(f"{what}: it has not saved that {key} is spent")
        if isinstance(message, Contribute):
            self.vectors[device, message.session_id].add(message.payload)

    def check(self) -> None:
        """Raise AssertionError for the first failure condition met."""
        assert not self.violations, self.violations
        for (device, session_id), different in self.vectors.items():
            assert len(different) == 1, f"{device} sent {len(different)} vectors in session {session_id}"


class WatchedStore(MemoryDeviceStore):
    """A device's store that tells which rounds are spent, as they are saved."""

    def __init__(self, on_spent: Callable[[str], None]) -> None:
        super().__init__()
        self._on_spent = on_spent

    def save(self, state: DeviceState, release: Release | None = None) -> None:
        super().save(state, release)
        for key in state.spent:
            self._on_spent(key)
