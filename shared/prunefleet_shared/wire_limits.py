"""How big anything on the wire may be, and the checks of a single field. No protobuf here; ``wire`` applies them.

A check names the field, what was expected and how it differs (a length, never the value), so that a rejection can go
back to a stranger and into a log.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import TypeVar

from prunefleet_shared.documents import MAX_DOCUMENT_BYTES
from prunefleet_shared.errors import LocalProtocolError, RejectReason, RemoteProtocolError, reject

CHUNK_BYTES = 256 * 1024
"""One piece of a model. A sixteenth of gRPC's default limit of 4 MiB: a slow line loses little when it breaks."""

MAX_MODEL_BYTES = 512 * 1024**2
"""Five times ResNet-50 in float32."""

MAX_CONTRIBUTION_BYTES = 1024**2
"""A masked vector of 30,000 lanes of 16 bits takes 60 kB."""

MAX_LANES = 1 << 20
"""Lanes of a vector: a contribution of :data:`MAX_CONTRIBUTION_BYTES` has a byte for each, about."""

MAX_OUTCOME_LANES = 256
"""Lanes of an outcome, four times what there are today."""

MAX_DEVICES = 1_000_000
"""Devices in all cohorts of a round."""

MAX_TOTAL_BYTES = 5 * MAX_LANES
"""Five bytes hold any sum over that many devices, noise included."""

MAX_OUTCOME_TOTALS_BYTES = 8 * (5 * MAX_OUTCOME_LANES + 32)
"""Of every level of the longest schedule one."""

MAX_SLIM_BASE_BYTES = 64 * 1024
"""The trainer's document names a model and holds none: a few hundred bytes."""

ENVELOPE_BYTES = 1024
"""Everything in a message that is not its payload, and all of a message that has none."""

MAX_LIST_BYTES = 4 * 1024 * 1024
"""100,000 serial numbers take 2.2 MB, 100 campaigns that each wait for 200 devices 1.3 MB."""

MAX_CERTIFICATE_BYTES = 4 * 1024
"""A P-256 certificate takes about 600 bytes."""

MAX_MEMBERSHIP_BYTES = 16 * 1024
"""Two certificates, 16 keys of 91 bytes and three short texts."""

MAX_REJECTION_BYTES = 4 * 1024
"""Three texts of 200 characters of at most 4 bytes; stays below gRPC's 8 KiB of metadata."""

MAX_REJECTION_CHARACTERS = 200
MAX_DOCUMENT_MESSAGE_BYTES = MAX_DOCUMENT_BYTES + ENVELOPE_BYTES
MAX_CHUNK_MESSAGE_BYTES = CHUNK_BYTES + ENVELOPE_BYTES
MAX_REQUEST_BYTES = MAX_CONTRIBUTION_BYTES + ENVELOPE_BYTES
"""The longest contribution's message. Operators may send documents, which are longer (``wire_methods``)."""

MAX_ROSTER = 1000
"""Devices in a private sum: each works with every other, so cohorts stay far below."""

MIN_ROSTER = 2
"""A sum over one device is that device's."""

MEMBER_SET_BYTES = range(1, (MAX_ROSTER + 7) // 8 + 1)
KEY_BYTES = 32
RAW_SIGNATURE_BYTES = 64
"""An ECDSA P-256 signature as r then s."""

SEALED_SHARES_BYTES = 80
SHARE_BYTES = 32
ROSTER_ENTRY_BYTES = 2 * KEY_BYTES + 32 + RAW_SIGNATURE_BYTES + 4 * 2
"""A :class:`~prunefleet_shared.sum_messages.RosterEntry` as protobuf."""

MAX_ADVERT_BYTES = 2 * MAX_CERTIFICATE_BYTES + ENVELOPE_BYTES
MAX_ROSTER_BYTES = MAX_ROSTER * (ROSTER_ENTRY_BYTES + 4) + ENVELOPE_BYTES
MAX_DIGESTS_BYTES = MAX_ROSTER * (32 + 2) + ENVELOPE_BYTES
MAX_CERTIFICATE_LIST_BYTES = 2 * MAX_ROSTER * (MAX_CERTIFICATE_BYTES + 4) + ENVELOPE_BYTES
"""Room for any roster that was admitted; 1000 certificates of a usual fleet take 0.7 MB."""

MAX_SEALED_BYTES = (MAX_ROSTER - 1) * SEALED_SHARES_BYTES + ENVELOPE_BYTES
MAX_PEER_SHARES_BYTES = MAX_SEALED_BYTES + MAX_ROSTER * RAW_SIGNATURE_BYTES
MAX_CONFIRMATIONS_BYTES = MAX_ROSTER * RAW_SIGNATURE_BYTES + ENVELOPE_BYTES
MAX_SHARES_BYTES = MAX_ROSTER * SHARE_BYTES + ENVELOPE_BYTES

ID_BYTES = 16
TOKEN_ID_BYTES = 8
TOKEN_SECRET_BYTES = 32
SERIAL_BYTES = range(1, 21)
"""RFC 5280, section 4.1.2.2: at most 20 octets."""

MAX_DENIED = 100_000
MAX_PAGE = 1000
"""Members in a page, tokens at once."""

MAX_CAMPAIGNS = 100
MAX_AWAITED_IDS = 200
MAX_TOKEN_CHARACTERS = 512
MAX_OPERATOR_KEYS = 16
MAX_ADDRESS_CHARACTERS = 255
TOKEN_VALID_FOR_S = range(60, 30 * 24 * 3600 + 1)
DIGEST_BYTES = 32
SIGNATURE_BYTES = range(8, 73)
"""An ECDSA P-256 signature in DER."""

PUBLIC_KEY_BYTES = range(91, 92)
"""A P-256 key as DER SubjectPublicKeyInfo."""

MAX_ATTEMPT = 1000
_DEVICE_CLASS = re.compile(r"[a-z0-9-]{1,32}")
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_ADDRESS = re.compile(r"(\[[0-9a-f:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")
_REMEDY = "speak protocol prunefleet.v1"
Closed = TypeVar("Closed", bound=enum.IntEnum)


def malformed(expected: str, got: str) -> RemoteProtocolError:
    """The error for a message that is none of its kind; the sender's fault."""
    return reject(RejectReason.MALFORMED, expected=expected, got=got, remedy=_REMEDY)


def hex_of(raw: bytes, num_bytes: int, field: str) -> str:
    """An identifier or digest as hex digits; raises ``MALFORMED`` unless it has ``num_bytes``."""
    return exactly(raw, num_bytes, field).hex()


def raw_of(hex_digits: str) -> bytes:
    """The bytes of our own identifier or digest.

    Raises:
        LocalProtocolError: It is not lower-case hex (a bug of ours: nothing is sent).
    """
    try:
        return bytes.fromhex(hex_digits)
    except (TypeError, ValueError) as error:
        msg = "an identifier or digest is not hex digits"
        raise LocalProtocolError(msg) from error


def sized(raw: bytes, num_bytes: range, field: str) -> bytes:
    """``raw`` itself; raises ``MALFORMED`` unless its length is in ``num_bytes``."""
    if len(raw) not in num_bytes:
        raise malformed(f"{field} of {_span(num_bytes)} bytes", f"{len(raw)} bytes")
    return raw


def exactly(raw: bytes, num_bytes: int, field: str) -> bytes:
    """``raw`` itself; raises ``MALFORMED`` unless it has ``num_bytes``."""
    return sized(raw, range(num_bytes, num_bytes + 1), field)


def each_sized(values: Iterable[bytes], num_bytes: range, field: str) -> tuple[bytes, ...]:
    """``values`` themselves; raises ``MALFORMED`` unless the length of each is in ``num_bytes``."""
    return tuple(sized(value, num_bytes, field) for value in values)


def bounded(value: int, allowed: range, field: str) -> int:
    """``value`` itself; raises ``MALFORMED`` unless it is ``allowed``."""
    if value not in allowed:
        raise malformed(f"{field} of {_span(allowed)}", f"{'less' if value < allowed.start else 'more'}")
    return value


def closed(members: type[Closed], value: int, field: str) -> Closed:
    """The member of a closed enum; raises ``MALFORMED`` for 0 (unset) and for numbers we do not know."""
    try:
        return members(value)
    except ValueError:
        got = "unset" if value == 0 else "an unknown number"
        raise malformed(f"{field}, a {members.__name__}", got) from None


def device_class(text: str) -> str:
    """``text`` itself; raises ``MALFORMED`` unless it is 1 to 32 of ``a-z 0-9 -``: no room for anything else."""
    if not _DEVICE_CLASS.fullmatch(text):
        raise malformed("device_class of 1 to 32 of a-z 0-9 -", f"{len(text)} characters, or others")
    return text


def member_name(text: str, field: str) -> str:
    """``text`` itself; raises ``MALFORMED`` unless it is 1 to 64 of ``a-z 0-9 -``."""
    if not _NAME.fullmatch(text):
        raise malformed(f"{field} of 1 to 64 of a-z 0-9 -", f"{len(text)} characters, or others")
    return text


def address(text: str, field: str) -> str:
    """``text`` itself; raises ``MALFORMED`` unless it is printable ASCII ``host:port`` of a sane length."""
    if not _ADDRESS.fullmatch(text) or len(text) > MAX_ADDRESS_CHARACTERS:
        raise malformed(f"{field} as host:port", f"{len(text)} characters, or others")
    return text


def short_text(text: str, field: str, max_characters: int = MAX_REJECTION_CHARACTERS) -> str:
    """``text`` itself; raises ``MALFORMED`` when it is long or could play tricks on a terminal."""
    if len(text) > max_characters or not text.isprintable():
        raise malformed(f"{field} of at most {max_characters} printable characters", f"{len(text)}, or others")
    return text


def shortened(text: str) -> str:
    """Our own text made fit for :func:`short_text`: cut off, and ``?`` for what does not print."""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_REJECTION_CHARACTERS])


def _span(allowed: range) -> str:
    first, last = allowed.start, allowed.stop - 1
    return f"{first}" if first == last else f"{first} to {last}"
