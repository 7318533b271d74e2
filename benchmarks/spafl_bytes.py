"""Bytes of ``benchmarks/fleet_spafl.py``: what a device sends and fetches, plain and through a private sum.

``plain`` counts payloads: packed votes and outcomes; for federated averaging the model as bare 32-bit floats. ``sum``
counts all that a device sends in the five stages of the protocol, by the table of sizes in ``docs/protocol.md``, its
request for certificates included and protobuf's framing left out (a test compares it with the real ends). Federated
averaging through the same protocol is given words of 32 bits for its weights, the least that it could do with.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedavg import FedAvgPlan

from prunefleet_shared.campaign import Campaign
from prunefleet_shared.documents import canonical_bytes
from prunefleet_shared.messages import SessionKind
from prunefleet_shared.private_sum import ring_of

CERTIFICATE_BYTES = 600
"""A device's certificate on the wire, at most."""
_ENTRY, _DIGEST, _SHARES, _SIGNATURE = 160, 32, 80, 64
BYTES_PER_WEIGHT = 4


def private_sum_up_bytes(num_devices: int, payload_bytes: int) -> int:
    """What one device sends in a private sum in which nobody is silent and nobody has met before.

    Args:
        num_devices: In the roster.
        payload_bytes: Of the masked vector.
    """
    peers = num_devices - 1
    advertise = CERTIFICATE_BYTES + _ENTRY + _DIGEST + _DIGEST * peers
    share_keys = _SHARES * peers + _SIGNATURE
    unmask = 32 * num_devices + -(-num_devices // 8)
    return advertise + share_keys + payload_bytes + _SIGNATURE + unmask


def fleet_up_bytes(campaign: Campaign, level: int) -> tuple[int, int]:
    """What a device has sent when it has said what came of ``level``: its vote, and an outcome of each level so far.

    Returns:
        Bytes in ``plain``, and in ``sum``.
    """
    times = {SessionKind.VOTE: 1, SessionKind.OUTCOME: level + 1}
    tables = {kind: campaign.lanes_of(kind) for kind in times}
    plain = sum(times[kind] * table.packed_bytes for kind, table in tables.items())
    size = campaign.cohort.size
    through_sum = sum(
        times[kind] * private_sum_up_bytes(size, ring_of(campaign, table).packed_bytes)
        for kind, table in tables.items()
    )
    return plain, through_sum


def fleet_down_bytes(campaign: Campaign, base: bytes, slim_bases: Sequence[bytes]) -> int:
    """What a device has fetched: the campaign, the base, and the slim bases of the levels so far."""
    return len(canonical_bytes(campaign)) + len(base) + sum(len(weights) for weights in slim_bases)


def fedavg_up_bytes(times_chosen: int, num_weights: int, plan: FedAvgPlan) -> tuple[int, int]:
    """What a device has sent that was chosen in so many rounds; ``plain``, and ``sum`` among a round's devices."""
    payload = BYTES_PER_WEIGHT * num_weights
    return times_chosen * payload, times_chosen * private_sum_up_bytes(plan.devices_per_round, payload)


def fedavg_down_bytes(times_chosen: int, num_weights: int) -> int:
    """What it has fetched: each round's model before it trained, and the model that it is left with."""
    return (times_chosen + 1) * BYTES_PER_WEIGHT * num_weights
