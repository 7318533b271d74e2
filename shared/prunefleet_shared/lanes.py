"""The lane table: every integer a device may contribute, with its range, and how the vector is packed.

A contribution is one vector of small non-negative integers. A :class:`LaneBlock` names a run of them, clips them and
says what an honest run looks like. Plain contributions are packed at ``value_bits``, little-endian within the vector:
lane 0 fills the lowest bits of byte 0. Padding bits are zero.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prunefleet_shared.errors import LocalProtocolError, RejectReason, reject
from prunefleet_shared.layout import NUM_WIDTH_OPTIONS, Layout
from prunefleet_shared.masks import NUM_MASKS, IntArray, grades_by_rank, half_of


class LaneRule(enum.StrEnum):
    """What an honest block looks like; the coordinator checks it wherever it may see the block."""

    GRADES = "grades"  # a permutation of grades_by_rank(length)
    HALF = "half"  # half_of(length) ones: a mask that keeps the better half
    ONE_HOT = "one_hot"  # exactly one 1
    AT_MOST_ONE = "at_most_one"  # one 1, or none (a device that did not get that far)
    FLAG = "flag"  # a single 0 or 1


@dataclass(frozen=True, slots=True)
class LaneBlock:
    """A run of lanes under one rule.

    Attributes:
        name: Unique within the table, such as ``grade/blocks.0.conv1`` or ``width/1/blocks.0.conv1``.
        length: Number of lanes.
        clip: Largest honest value of a lane (the smallest is 0).
        rule: What the block as a whole must satisfy.
    """

    name: str
    length: int
    clip: int
    rule: LaneRule

    @property
    def value_bits(self) -> int:
        """Bits of one device's value."""
        return self.clip.bit_length()


@dataclass(frozen=True, slots=True)
class LaneTable:
    """The blocks of one contribution, in order."""

    blocks: tuple[LaneBlock, ...]

    @property
    def num_lanes(self) -> int:
        """Length of the vector."""
        return sum(block.length for block in self.blocks)

    @property
    def packed_bytes(self) -> int:
        """Size of one packed contribution; the same for every device, whatever its data."""
        return (sum(block.length * block.value_bits for block in self.blocks) + 7) // 8

    def sum_bits(self, max_devices: int) -> IntArray:
        """Bits that each lane's sum over ``max_devices`` honest devices may take."""
        return np.repeat(
            [(block.clip * max_devices).bit_length() for block in self.blocks], [block.length for block in self.blocks]
        )

    def split(self, vector: npt.ArrayLike) -> dict[str, IntArray]:
        """The vector's blocks by name."""
        lanes = np.asarray(vector, dtype=np.int64)
        ends = np.cumsum([block.length for block in self.blocks])
        parts = np.split(lanes, ends[:-1])
        return {block.name: part for block, part in zip(self.blocks, parts, strict=True)}


def grade_lane(group_name: str) -> str:
    """Name of the graded-mask block of a group."""
    return f"grade/{group_name}"


def lift_lane(group_name: str) -> str:
    """Name of the lift-mask block of a group; only campaigns that steer have it."""
    return f"lift/{group_name}"


def width_lane(level: int, group_name: str) -> str:
    """Name of the width-vote block of a group at a level (0-based index into the schedule)."""
    return f"width/{level}/{group_name}"


def vote_lanes(layout: Layout, num_levels: int, *, is_noisy: bool = False, is_steered: bool = False) -> LaneTable:
    """A vote: one graded mask, one lift mask where the campaign steers, then one width vote per level and group.

    With noise a mask has one bit for a channel, its better half: the less a device can change in a sum, the less noise
    hides it.
    """
    clip, rule = (1, LaneRule.HALF) if is_noisy else (NUM_MASKS, LaneRule.GRADES)
    names = (grade_lane, lift_lane) if is_steered else (grade_lane,)
    masks = [LaneBlock(name(g.name), g.num_channels, clip, rule) for name in names for g in layout.groups]
    widths = [
        LaneBlock(width_lane(level, g.name), NUM_WIDTH_OPTIONS, 1, LaneRule.ONE_HOT)
        for level in range(num_levels)
        for g in layout.groups
    ]
    return LaneTable((*masks, *widths))


def pack(table: LaneTable, vector: npt.ArrayLike) -> bytes:
    """Pack one device's vector, ``table.packed_bytes`` long.

    Raises:
        LocalProtocolError: The vector breaks the table (our bug: fail closed, nothing is sent).
    """
    lanes = np.asarray(vector, dtype=np.int64)
    why = why_out_of_range(table, lanes)
    if why:
        msg = f"refusing to pack: {why}"
        raise LocalProtocolError(msg)
    bits = [
        ((part[:, None] >> np.arange(block.value_bits)) & 1).astype(np.uint8).ravel()
        for block, part in zip(table.blocks, table.split(lanes).values(), strict=True)
    ]
    return np.packbits(np.concatenate(bits), bitorder="little").tobytes()


def unpack(table: LaneTable, packed: bytes) -> IntArray:
    """The vector of a packed contribution, checked against every rule of the table.

    Raises:
        RemoteProtocolError: ``WRONG_LENGTH`` or ``OUT_OF_RANGE`` (the sender's fault).
    """
    if len(packed) != table.packed_bytes:
        raise reject(
            RejectReason.WRONG_LENGTH,
            expected=f"{table.packed_bytes} bytes",
            got=str(len(packed)),
            remedy="fetch the campaign again and rebuild the vector from its lane table",
        )
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little").astype(np.int64)
    lanes, used = _lanes_from_bits(table, bits)
    why = "padding bits set" if bits[used:].any() else why_out_of_range(table, lanes)
    if why:
        raise reject(RejectReason.OUT_OF_RANGE, expected="the signed lane table", got=why)
    return lanes


def _lanes_from_bits(table: LaneTable, bits: IntArray) -> tuple[IntArray, int]:
    parts, used = [], 0
    for block in table.blocks:
        size = block.length * block.value_bits
        weights = 1 << np.arange(block.value_bits)
        parts.append(bits[used : used + size].reshape(block.length, block.value_bits) @ weights)
        used += size
    return np.concatenate(parts), used


def why_out_of_range(table: LaneTable, lanes: IntArray) -> str | None:
    """The first rule that ``lanes`` breaks, naming the block and never a value; None when it is honest."""
    if lanes.shape != (table.num_lanes,):
        return f"{lanes.shape} lanes instead of ({table.num_lanes},)"
    for block, part in zip(table.blocks, table.split(lanes).values(), strict=True):
        if part.min() < 0 or part.max() > block.clip:
            return f"{block.name} outside 0..{block.clip}"
        if not _obeys(block, part):
            return f"{block.name} is not {block.rule.value}"
    return None


def _obeys(block: LaneBlock, part: IntArray) -> bool:
    match block.rule:
        case LaneRule.GRADES:
            return bool((np.sort(part)[::-1] == grades_by_rank(block.length)).all())
        case LaneRule.HALF:
            return int(part.sum()) == half_of(block.length)
        case LaneRule.ONE_HOT:
            return int(part.sum()) == 1
        case LaneRule.AT_MOST_ONE:
            return int(part.sum()) <= 1
        case LaneRule.FLAG:
            return True


def why_sum_impossible(table: LaneTable, total: Sequence[int] | IntArray, num_devices: int) -> str | None:
    """The first block of a cohort's sum that no ``num_devices`` honest devices could have made; None if possible."""
    lanes = np.asarray(total, dtype=np.int64)
    if lanes.shape != (table.num_lanes,):
        return f"{lanes.shape} lanes instead of ({table.num_lanes},)"
    for block, part in zip(table.blocks, table.split(lanes).values(), strict=True):
        if part.min() < 0 or part.max() > block.clip * num_devices:
            return f"{block.name} outside 0..{block.clip * num_devices}"
        if not _sum_obeys(block, int(part.sum()), num_devices):
            return f"{block.name} does not add up for {num_devices} devices"
    return None


def _sum_obeys(block: LaneBlock, total: int, num_devices: int) -> bool:
    match block.rule:
        case LaneRule.GRADES:
            return total == num_devices * int(grades_by_rank(block.length).sum())
        case LaneRule.HALF:
            return total == num_devices * half_of(block.length)
        case LaneRule.ONE_HOT:
            return total == num_devices
        case LaneRule.AT_MOST_ONE | LaneRule.FLAG:
            return total <= num_devices
