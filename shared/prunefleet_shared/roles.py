"""Who can speak: what a certificate allows, and the peer it names."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Role(enum.StrEnum):
    """What a certificate allows; a part of the name in it (``spiffe://prunefleet/<role>/<name>``)."""

    DEVICE = "device"
    TRAINER = "trainer"
    OPERATOR = "operator"
    COORDINATOR = "coordinator"
    AUTHORITY = "authority"
    NEWCOMER = "newcomer"  # has no certificate yet; none ever says this


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is speaking, as the certificate says.

    Attributes:
        peer_id: Name in the certificate, such as ``device-03``; of a newcomer, the address it calls from.
        role: What it may do.
    """

    peer_id: str
    role: Role
