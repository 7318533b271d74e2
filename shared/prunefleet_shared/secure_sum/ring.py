"""The integers a private sum is computed in: lane by lane, modulo a power of two that the sum cannot reach.

A lane takes as many bits as the largest honest sum needs, so that the vector that travels is as short as can be. Masks
are drawn as 16-bit words for lanes of up to 16 bits (*narrow*), else as 64-bit words (*wide*), little-endian, narrow
lanes first, and reduced to the lane's bits only when a vector is packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from prunefleet_shared.bit_packing import MAX_BITS, num_packed_bytes, pack_bits, padding_is_zero, unpack_bits
from prunefleet_shared.errors import LocalProtocolError, RejectReason, reject
from prunefleet_shared.masks import IntArray
from prunefleet_shared.secure_sum.agreement import mask_stream

NARROW_BITS = 16


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring lanes of the same width."""

    num_lanes: int
    bits: int

    @property
    def packed_bytes(self) -> int:
        """Their size on the wire, padded to whole bytes."""
        return num_packed_bytes(self.num_lanes, self.bits)


class Ring:
    """Lanes of given widths.

    Args:
        bits_L: Bits of each lane, 1 to 48.

    Raises:
        LocalProtocolError: A width out of range (whoever made the lane table).
    """

    def __init__(self, bits_L: npt.ArrayLike) -> None:
        bits = np.asarray(bits_L, dtype=np.int64)
        if bits.ndim != 1 or not len(bits) or bits.min() < 1 or bits.max() > MAX_BITS:
            msg = f"lanes take 1 to {MAX_BITS} bits each, and there is at least one"
            raise LocalProtocolError(msg)
        self.runs = tuple(Run(len(list(same)), width) for width, same in groupby(bits.tolist()))
        self._modulus_mask_L = (np.int64(1) << bits) - 1
        self.is_narrow_L = bits <= NARROW_BITS
        self.num_narrow = int(self.is_narrow_L.sum())
        self.num_wide = len(bits) - self.num_narrow

    @property
    def num_lanes(self) -> int:
        """Length of a vector."""
        return len(self.is_narrow_L)

    @property
    def packed_bytes(self) -> int:
        """Size of a packed vector; the same whatever is in it."""
        return sum(run.packed_bytes for run in self.runs)

    def reduce(self, lanes_L: IntArray) -> IntArray:
        """Every lane modulo its power of two, from 0; negative values come out as in two's complement."""
        return lanes_L & self._modulus_mask_L

    def pack(self, lanes_L: IntArray) -> bytes:
        """The reduced vector, ``packed_bytes`` long: run after run."""
        reduced, pieces, start = self.reduce(lanes_L), [], 0
        for run in self.runs:
            pieces.append(pack_bits(reduced[start : start + run.num_lanes], run.bits))
            start += run.num_lanes
        return b"".join(pieces)

    def unpack(self, packed: bytes) -> IntArray:
        """Undo :meth:`pack`.

        Raises:
            RemoteProtocolError: ``WRONG_LENGTH``, or ``OUT_OF_RANGE`` if a padding bit is set (the sender's fault).
        """
        if len(packed) != self.packed_bytes:
            expected, remedy = f"{self.packed_bytes} bytes", "fetch the campaign again and rebuild the vector"
            raise reject(RejectReason.WRONG_LENGTH, expected=expected, got=str(len(packed)), remedy=remedy)
        return np.concatenate([self._unpacked(run, piece) for run, piece in self._pieces(packed)])

    def _unpacked(self, run: Run, piece: bytes) -> IntArray:
        if not padding_is_zero(piece, run.bits, run.num_lanes):
            raise reject(RejectReason.OUT_OF_RANGE, expected="padding bits of zero", got="padding bits set")
        return unpack_bits(piece, run.bits, run.num_lanes).astype(np.int64)

    def _pieces(self, packed: bytes) -> Iterator[tuple[Run, bytes]]:
        start = 0
        for run in self.runs:
            yield run, packed[start : start + run.packed_bytes]
            start += run.packed_bytes


class Accumulator:
    """A running sum of vectors and masks in a :class:`Ring`."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._narrow = np.zeros(ring.num_narrow, dtype=np.uint16)
        self._wide = np.zeros(ring.num_wide, dtype=np.uint64)

    def add(self, lanes_L: IntArray) -> None:
        """Add a vector."""
        if not self._ring.num_wide:  # the usual case, without a copy
            self._narrow += lanes_L.astype(np.uint16)
            return
        self._narrow += lanes_L[self._ring.is_narrow_L].astype(np.uint16)
        self._wide += lanes_L[~self._ring.is_narrow_L].astype(np.uint64)

    def add_mask(self, seed: bytes) -> None:
        """Add the mask of ``seed``."""
        narrow, wide = self._mask(seed)
        self._narrow += narrow
        self._wide += wide

    def subtract_mask(self, seed: bytes) -> None:
        """Take the mask of ``seed`` off."""
        narrow, wide = self._mask(seed)
        self._narrow -= narrow
        self._wide -= wide

    def _mask(self, seed: bytes) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint64]]:
        split = 2 * self._ring.num_narrow
        stream = mask_stream(seed, split + 8 * self._ring.num_wide)
        return np.frombuffer(stream[:split], dtype="<u2"), np.frombuffer(stream[split:], dtype="<u8")

    @property
    def lanes(self) -> IntArray:
        """The sum, reduced: int64, one lane each."""
        lanes_L = np.empty(self._ring.num_lanes, dtype=np.int64)
        lanes_L[self._ring.is_narrow_L] = self._narrow
        lanes_L[~self._ring.is_narrow_L] = self._wide.astype(np.int64)
        return self._ring.reduce(lanes_L)
