"""What a join token may be for, and how one is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from prunefleet_coordinator.ca.store import StoredToken
from prunefleet_shared import wire_limits
from prunefleet_shared.documents import digest
from prunefleet_shared.errors import RejectReason, RemoteProtocolError, reject
from prunefleet_shared.identity import CALLERS
from prunefleet_shared.join_token import JoinToken
from prunefleet_shared.roles import Role

MAX_GROUP_CHARACTERS = 48
"""Room for a dash and eight hex digits in a name."""

DEFAULT_TTL_S = 24 * 3600
_NAME = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class TokenOrder:
    """Join tokens somebody wants.

    Attributes:
        role: What they let in.
        name: Of the new member, or with ``is_group`` what its name starts with.
        is_group: Each new member gets a name of its own.
        count: 1 to 1000; 1 unless ``is_group``.
        valid_for_s: 60 to 2,592,000 (30 days).
        device_class: Of devices; may be empty, and is for others.
        hosts: At which a new coordinator is reached; empty for others.
    """

    role: Role
    name: str
    is_group: bool = False
    count: int = 1
    valid_for_s: int = DEFAULT_TTL_S
    device_class: str = ""
    hosts: tuple[str, ...] = ()


def check_order(order: TokenOrder) -> None:
    """Raise ``OUT_OF_RANGE`` (whoever ordered) unless tokens can be made so."""
    if order.role not in CALLERS:
        raise _out_of_range("a member's role", f"{order.role}")
    if not _NAME.fullmatch(order.name) or (order.is_group and len(order.name) > MAX_GROUP_CHARACTERS):
        raise _out_of_range(f"a name of 1 to 64 of a-z 0-9 -, of a group {MAX_GROUP_CHARACTERS}", "another")
    if not 1 <= order.count <= (wire_limits.MAX_PAGE if order.is_group else 1):
        raise _out_of_range(f"one token for a name, 1 to {wire_limits.MAX_PAGE} for a group", f"{order.count}")
    if order.valid_for_s not in wire_limits.TOKEN_VALID_FOR_S:
        raise _out_of_range("a token that lives 60 s to 30 days", f"{order.valid_for_s} s")
    if order.device_class:
        _check_class(order)
    if order.hosts and order.role is not Role.COORDINATOR:
        raise _out_of_range("hosts for a coordinator only", f"some for a {order.role}")


def _check_class(order: TokenOrder) -> None:
    try:
        wire_limits.device_class(order.device_class)
    except RemoteProtocolError:
        raise _out_of_range("a device class of 1 to 32 of a-z 0-9 -", "another") from None
    if order.role is not Role.DEVICE:
        raise _out_of_range("a class for devices only", f"one for a {order.role}")


def make_tokens(
    order: TokenOrder, root_der: bytes, address: str, now_ms: int, random_bytes: Callable[[int], bytes]
) -> list[tuple[JoinToken, StoredToken]]:
    """Fresh tokens, each with what is kept of it.

    Args:
        order: Checked by :func:`check_order`.
        root_der: The authority's root, pinned in the tokens.
        address: ``host:port`` for newcomers.
        now_ms: Since 1970 (UTC).
        random_bytes: That many unpredictable bytes.
    """
    made = []
    for _ in range(order.count):
        token_id, secret = random_bytes(wire_limits.TOKEN_ID_BYTES).hex(), random_bytes(wire_limits.TOKEN_SECRET_BYTES)
        stored = StoredToken(
            token_id,
            digest(secret),
            order.role,
            order.name,
            order.is_group,
            order.device_class,
            order.hosts,
            now_ms + 1000 * order.valid_for_s,
        )
        made.append((JoinToken(digest(root_der), token_id, secret, address), stored))
    return made


def _out_of_range(expected: str, got: str) -> RemoteProtocolError:
    return reject(RejectReason.OUT_OF_RANGE, expected=expected, got=got, remedy="order other tokens")
