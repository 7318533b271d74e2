"""A second implementation of the private sum: slow, plain, and sharing nothing with the first but AES itself.

X25519 is the ladder of RFC 7748, HKDF is RFC 5869 over ``hmac``, masks are AES blocks of a counter, Shamir's equations
are solved by elimination, vectors are packed as one big integer. It is given every secret of every device.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FIELD = 2**255 - 19
SHARE_PRIME = 115792089237316195423570985008687907853269984665640564039457584007913129639747
DOMAIN = b"prunefleet-sum/1|"


def x25519(scalar: bytes, u: bytes) -> bytes:
    """RFC 7748, section 5."""
    k = int.from_bytes(scalar, "little") & ~7 & ~(1 << 255) | 1 << 254
    x1 = int.from_bytes(u, "little") & (1 << 255) - 1
    x2, z2, x3, z3 = 1, 0, x1, 1
    for t in range(254, -1, -1):
        if k >> t & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % FIELD, x1 * (da - cb) ** 2 % FIELD
        x2, z2 = aa * bb % FIELD, e * (aa + 121665 * e) % FIELD
        if k >> t & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, FIELD - 2, FIELD) % FIELD).to_bytes(32, "little")


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, 32 bytes: one block."""
    extracted = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def key_stream(key: bytes, num_bytes: int) -> bytes:
    """Blocks 0, 1, 2, … encrypted one by one."""
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305 - counter mode, by hand
    blocks = (encryptor.update(i.to_bytes(16, "big")) for i in range(-(-num_bytes // 16)))
    return b"".join(blocks)[:num_bytes]


def mask_of(seed: bytes, widths: Sequence[int]) -> list[int]:
    """One word a lane: 2 bytes for lanes of up to 16 bits, these first, then 8 bytes for the others."""
    sizes = [2 if width <= 16 else 8 for width in widths]
    stream = key_stream(seed, sum(sizes))
    words, start = [0] * len(widths), 0
    for size in (2, 8):
        for lane in (i for i, s in enumerate(sizes) if s == size):
            words[lane] = int.from_bytes(stream[start : start + size], "little")
            start += size
    return words


def packed(values: Sequence[int], widths: Sequence[int]) -> bytes:
    """Each stretch of equal widths as one integer, little-endian."""
    pieces, lane = [], 0
    while lane < len(widths):
        end = lane
        while end < len(widths) and widths[end] == widths[lane]:
            end += 1
        width, whole = widths[lane], 0
        for value in reversed(values[lane:end]):
            whole = whole << width | value % (1 << width)
        pieces.append(whole.to_bytes(((end - lane) * width + 7) // 8, "little"))
        lane = end
    return b"".join(pieces)


def unpacked(data: bytes, widths: Sequence[int]) -> list[int]:
    """Undo :func:`packed`, the lanes of a stretch at a time."""
    values: list[int] = []
    while len(values) < len(widths):
        width, count = widths[len(values)], 1
        while widths[len(values) : len(values) + count + 1] == [width] * (count + 1):
            count += 1
        size = (count * width + 7) // 8
        whole, data = int.from_bytes(data[:size], "little"), data[size:]
        values += [whole >> i * width & (1 << width) - 1 for i in range(count)]
    return values


def plus(values: Sequence[int], mask: Sequence[int], times: int) -> list[int]:
    return [value + times * word for value, word in zip(values, mask, strict=True)]


def solved(points: Sequence[int], values: Sequence[int]) -> int:
    """The constant term of the polynomial through these points: Vandermonde's equations, by elimination."""
    rows = [[pow(x, k, SHARE_PRIME) for k in range(len(points))] + [y] for x, y in zip(points, values, strict=True)]
    for column in reversed(range(len(points))):  # highest power first, so that the constant is left for the last
        pivot = next(row for row in rows if row[column] % SHARE_PRIME)
        rows.remove(pivot)
        if not column:
            return pivot[-1] * pow(pivot[0], -1, SHARE_PRIME) % SHARE_PRIME
        inverse = pow(pivot[column], -1, SHARE_PRIME)
        rows = [[value % SHARE_PRIME for value in plus(row, pivot, -row[column] * inverse)] for row in rows]
    raise AssertionError


@dataclass
class SlowDevice:
    """A device and everything it draws, in the order in which it does."""

    certificate_digest: bytes
    vector: Sequence[int]
    draw: Callable[[int], bytes]
    mask_secret: bytes = field(init=False)
    share_secret: bytes = field(init=False)
    self_mask: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.mask_secret, self.share_secret, self.self_mask = (self.scalar() for _ in range(3))
        base = (9).to_bytes(32, "little")
        self.mask_key, self.share_key = x25519(self.mask_secret, base), x25519(self.share_secret, base)

    def scalar(self) -> bytes:
        while int.from_bytes(drawn := self.draw(32), "big") >= SHARE_PRIME:
            pass
        return drawn

    def facts(self) -> bytes:
        return self.certificate_digest + self.mask_key + self.share_key


class SlowSession:
    """All devices of a roster, whose secrets it knows; they are spoken of by position."""

    def __init__(self, context: bytes, devices: Sequence[SlowDevice], widths: Sequence[int]) -> None:
        self.context, self.widths = context, list(widths)
        self.devices = sorted(devices, key=lambda each: each.certificate_digest)
        self.needed = 2 * len(devices) // 3 + 1
        facts = b"".join(each.facts() for each in self.devices)
        self.roster = hashlib.sha256(DOMAIN + b"members|" + facts).digest()
        self.salt = hashlib.sha256(DOMAIN + b"salt|" + context + self.roster).digest()
        self.dealt = [[self._shares_of(each, which) for which in ("self_mask", "mask_secret")] for each in self.devices]

    def _shares_of(self, each: SlowDevice, which: str) -> list[bytes]:
        drawn = [int.from_bytes(each.scalar(), "big") for _ in range(self.needed - 1)]
        terms = [*drawn, int.from_bytes(getattr(each, which), "big")]
        powers = range(self.needed - 1, -1, -1)
        return [
            (sum(c * x**k for c, k in zip(terms, powers, strict=True)) % SHARE_PRIME).to_bytes(32, "big")
            for x in range(1, len(self.devices) + 1)
        ]

    def signed(self, what: bytes, extra: bytes) -> bytes:
        """What devices sign of ``what``."""
        return DOMAIN + what + b"|" + self.context + extra

    def bits(self, positions: set[int]) -> bytes:
        return sum(2**at for at in positions).to_bytes((len(self.devices) + 7) // 8, "little")

    def sealed(self, at: int) -> bytes:
        """What a device sends in stage 2."""
        (self_shares, key_shares), pieces = self.dealt[at], []
        for peer in (p for p in range(len(self.devices)) if p != at):
            secret = x25519(self.devices[at].share_secret, self.devices[peer].share_key)
            key = self.derived(secret, b"shares|", at, peer)
            pieces.append(AESGCM(key).encrypt(bytes(12), self_shares[peer] + key_shares[peer], None))
        return b"".join(pieces)

    def derived(self, secret: bytes, purpose: bytes, one: int, other: int) -> bytes:
        return hkdf(secret, self.salt, DOMAIN + purpose + bytes([one >> 8, one & 255, other >> 8, other & 255]))

    def pair_mask(self, low: int, high: int) -> list[int]:
        secret = x25519(self.devices[low].mask_secret, self.devices[high].mask_key)
        return mask_of(self.derived(secret, b"pair|", low, high), self.widths)

    def masked(self, at: int, senders: set[int]) -> bytes:
        """What a device sends in stage 3."""
        values = plus(self.devices[at].vector, mask_of(self.devices[at].self_mask, self.widths), 1)
        for peer in senders - {at}:
            values = plus(values, self.pair_mask(min(at, peer), max(at, peer)), 1 if at < peer else -1)
        return packed(values, self.widths)

    def given(self, holder: int, senders: set[int], survivors: set[int]) -> bytes:
        """What a device sends in stage 5."""
        return b"".join(self.dealt[at][at not in survivors][holder] for at in sorted(senders))

    def total(
        self, vectors: Mapping[int, bytes], shares: Mapping[int, Mapping[int, bytes]], senders: set[int]
    ) -> list[int]:
        """The sum, from masked vectors by survivor and, for every sender, shares by holder."""
        sums = [sum(column) for column in zip(*(unpacked(v, self.widths) for v in vectors.values()), strict=True)]
        for at in senders:
            held = sorted(shares[at].items())[-self.needed :]
            secret = solved([h + 1 for h, _ in held], [int.from_bytes(s, "big") for _, s in held]).to_bytes(32, "big")
            if at in vectors:
                sums = plus(sums, mask_of(secret, self.widths), -1)
                continue
            assert secret == self.devices[at].mask_secret
            for peer in vectors:
                sums = plus(sums, self.pair_mask(min(at, peer), max(at, peer)), -1 if peer < at else 1)
        return [s % (1 << width) for s, width in zip(sums, self.widths, strict=True)]
