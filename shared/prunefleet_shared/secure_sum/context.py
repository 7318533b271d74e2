"""What one private sum is about. Every key and every signature of a session is bound to its digest.

A device computes the context from the signed campaign it verified and the invitation it holds, the coordinator from
what it announced: when they differ in anything, nothing that one makes is of use to the other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.lanes import LaneTable

DOMAIN = b"prunefleet-sum/1|"
"""Begins everything that is signed or hashed here, so that no signature of another protocol fits."""


@dataclass(frozen=True, slots=True)
class SumContext:
    """The facts of one session that everyone in it must agree on.

    Attributes:
        fleet: SHA-256 (hex) of the fleet's root certificate, DER.
        campaign: SHA-256 (hex) of the signed campaign's payload: network, schedule, privacy terms, everything.
        session_id: 32 hex digits.
        kind: ``"vote"`` or ``"outcome"``.
        level: 0-based level of the schedule; 0 for the vote.
        attempt: From 1.
        decision: SHA-256 (hex) of the decision's canonical JSON; empty for the vote.
        lanes: SHA-256 (hex) of the lane table's canonical JSON.
    """

    fleet: str
    campaign: str
    session_id: str
    kind: str
    level: int
    attempt: int
    decision: str
    lanes: str

    @property
    def digest(self) -> bytes:
        """32 bytes: SHA-256 over the canonical JSON, under this protocol's domain."""
        return hashlib.sha256(DOMAIN + b"context|" + canonical_bytes(self)).digest()


def context_of(
    fleet: str,
    campaign: Campaign,
    table: LaneTable,
    *,
    session_id: str,
    kind: str,
    level: int,
    attempt: int,
    decision: Decision | None,
) -> SumContext:
    """The context of a session of ``campaign`` over ``table``; see :class:`SumContext` for the rest."""
    return SumContext(
        fleet=fleet,
        campaign=digest(canonical_bytes(campaign)),
        session_id=session_id,
        kind=kind,
        level=level,
        attempt=attempt,
        decision=digest(canonical_bytes(decision)) if decision else "",
        lanes=digest(canonical_bytes(table)),
    )


def threshold(num_devices: int) -> int:
    """Devices of a roster that must act together: more than two thirds, ``floor(2n/3) + 1``.

    Two sets of this size share more than a third of the roster; so as long as at most a third colludes with the
    coordinator, an honest device is in both, and it signs only one roster and one set of survivors. (A simple majority
    is enough against a coordinator that follows the protocol.)
    """
    return 2 * num_devices // 3 + 1


def most_colluders(num_devices: int) -> int:
    """Devices of a roster that may collude with a lying coordinator without learning more than the sum.

    With threshold t, two sets of t overlap in at least 2t - n devices; one of these must be honest.
    """
    return 2 * threshold(num_devices) - num_devices - 1
