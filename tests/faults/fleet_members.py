"""Certificates of a fleet for mode ``sum``, made once; time stands still for them; what is drawn follows a label."""

from __future__ import annotations

import hashlib
import itertools
from datetime import UTC, datetime
from functools import cache

from prunefleet_edge.runner import SumMembership
from prunefleet_shared.certificates import Authority, create_authority, issue
from prunefleet_shared.messages import Role
from prunefleet_shared.secure_sum.roster import Members, SumIdentity
from prunefleet_shared.secure_sum.shamir import RandomBytes

NOW = datetime(2026, 1, 2, tzinfo=UTC)
MIN_DEVICES = 3


@cache
def root() -> Authority:
    return create_authority(NOW, validity_h=24 * 365)


@cache
def identity(name: str) -> SumIdentity:
    return SumIdentity.of(issue(root(), Role.DEVICE, name, NOW, validity_h=24))


def members() -> Members:
    return Members(root().cert_pem, lambda: NOW)


def membership(name: str, label: object) -> SumMembership:
    """What device ``name`` takes part with; no two labels draw the same keys."""
    return SumMembership(lambda: identity(name), members(), MIN_DEVICES, seeded((name, label)))


def seeded(label: object) -> RandomBytes:
    """Bytes that follow from ``label`` and from how often some were drawn before."""
    calls = itertools.count()
    return lambda num_bytes: hashlib.shake_256(f"{label}|{next(calls)}".encode()).digest(num_bytes)
