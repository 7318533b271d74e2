"""What a device must remember of a campaign, so that a crash neither loses its say nor makes it speak twice.

>>> state = DeviceState("00" * 16, spent=("vote",))
>>> DeviceState.from_bytes(state.to_bytes()) == state
True
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from prunefleet_shared.documents import canonical_bytes, read_document
from prunefleet_shared.messages import SessionKind


def round_key(kind: SessionKind, level: int) -> str:
    """What is said once: ``vote`` (all levels in one), or ``outcome/<level>``, to canaries' sum or rollout alike."""
    return "vote" if kind is SessionKind.VOTE else f"outcome/{level}"


@dataclass(frozen=True, slots=True)
class Release:
    """A sum of votes that this device helped to unmask.

    Two such sums that differ by few devices give away what these said; see ``release_policy``.

    Attributes:
        devices: Names of the devices in the sum, sorted.
    """

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contribution:
    """What this device says in the round at hand, and to whom it last said it.

    Attributes:
        kind: Vote, outcome or rollout.
        level: 0-based level of the schedule (0 for the vote).
        decision_fingerprint: The decision tried, 64 hex digits; empty for the vote.
        session_id: The session it was last sent to.
        attempt: That session's attempt, from 1.
        payload_hex: The sealed bytes, in hex.
    """

    kind: SessionKind
    level: int
    decision_fingerprint: str
    session_id: str
    attempt: int
    payload_hex: str

    @property
    def round_key(self) -> str:
        """The round it belongs to."""
        return round_key(self.kind, self.level)

    @property
    def payload(self) -> bytes:
        """The sealed bytes."""
        return bytes.fromhex(self.payload_hex)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """Everything a device must remember of a campaign to resume after a crash.

    Attributes:
        campaign_id: The campaign.
        spent: Keys of rounds known to be closed, sorted: nothing is ever said in them again.
        contribution: The round at hand; kept until that round is known to be closed.
        rulings_heard: Number of the last ruling that was followed.
        slim_base_heard: On a device without data: 1 + level of the slim base that it runs; 0 before the first.
        is_over: Of a campaign that is judged: its end was heard, and all its rulings before.
    """

    campaign_id: str
    spent: tuple[str, ...] = ()
    contribution: Contribution | None = None
    rulings_heard: int = 0
    is_over: bool = False
    slim_base_heard: int = 0

    def closing(self, *keys: str) -> DeviceState:
        """The same with ``keys`` spent, and the contribution gone if it belonged to one of them."""
        kept = self.contribution
        if kept is not None and kept.round_key in keys:
            kept = None
        return replace(self, spent=tuple(sorted({*self.spent, *keys})), contribution=kept)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_bytes(self)

    @classmethod
    def from_bytes(cls, stored: bytes) -> DeviceState:
        """Read :meth:`to_bytes`.

        Raises:
            RemoteProtocolError: ``MALFORMED`` (whoever stored it; the store says so in its own words).
        """
        return read_document(stored, cls)
