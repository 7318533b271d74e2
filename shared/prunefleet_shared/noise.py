"""Noise of a campaign in mode ``sum+dp``: how much each lane needs, and what a device adds to its vector.

**What is hidden.** Two worlds are compared, with the same roster: in one, a device's vector comes from its data; in the
other, the same device tosses a fair coin for every lane of its masks and leaves the rest at 0. Noise is added in both.
Whoever sees the sum, the coordinator included, can hardly tell the worlds apart (``privacy_budget`` says how hardly).
We call this *fill-in* adjacency; it is zero-out adjacency with coins where a zero would be far from every mask.

**Why this one.** A mask of k out of d channels, k = d/2, is at distance sqrt(k) = sqrt(d/2) from zero, but only
sqrt(d)/2 from "half a vote in every lane", whatever the mask: each of its d lanes is off by exactly 1/2. No constant is
closer (for odd d, by a hair). Half votes cannot be sent in integers, and integer noise would give them away at once; a
coin can, and noise plus a coin is as hard to tell from noise plus 0 as the half step suggests
(``skellam.coin_divergences`` computes it rather than takes it as given). What the others cost, at the same epsilon:
plain zero-out sqrt(2) times the noise. *Replace-one* (a device's data against any other data) goes through the coins
twice, so twice the noise at most; the same noise serves it too, at a larger epsilon, which the privacy report states
beside the first.

**Who adds it.** Every device adds its share, drawn before it knows who else is in. A session closes only if enough of
its roster survived, and only so many collude and know their own noise; so at least :func:`honest_devices` shares are
unknown to anybody, and each is one part in that many of what the sum needs. The rest is too much, the price of not
trusting everybody: with m the fewest devices allowed and n in the sum, 2n/m times the variance needed, about.

**Several blocks at once.** A vector falls into *parts*: all graded masks; all lift masks; all width votes of one
level; each block of an outcome. A part b with sensitivity D_b gets the standard deviation z * D_b * sqrt(P), with P
parts. Divergences of independent lanes add up, so a whole sum is as private as one Gaussian mechanism with noise
multiplier z: sum over b of D_b² / (z * D_b * sqrt(P))² = 1 / z². Source: Dong, Roth and Su, "Gaussian Differential
Privacy", 2022.

All variances are integers, in thousandths and rounded up: every device, and a decision replayed years later, must get
the same ones.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.lanes import LaneBlock, LaneRule, LaneTable
from prunefleet_shared.masks import FloatArray, IntArray, half_of
from prunefleet_shared.skellam import RandomBytes, sample

NOISE_SIGMAS = 8
"""What a lane leaves room for, in standard deviations."""
NOISE_MARGIN = 8
"""And this much on top, for the fatter tails of small variances: together passed once in 10**12 lanes, or less."""


@dataclass(frozen=True, slots=True)
class NoisePart:
    """Blocks whose lanes all get the same noise.

    Attributes:
        name: ``grade``, ``lift``, ``width/LEVEL``, or the name of an outcome's block.
        num_lanes: Lanes in it.
        coin_lanes: Of these, lanes of masks: each is half a step from a coin.
        shift_lanes: Lanes that one device moves by a whole step: one for each one-hot block or flag.
        swap_lanes: Lanes that change by a whole step, at most, when a device's data are replaced by other data.
    """

    name: str
    num_lanes: int
    coin_lanes: int
    shift_lanes: int
    swap_lanes: int

    @property
    def four_squares(self) -> int:
        """Four times the squared sensitivity."""
        return self.coin_lanes + 4 * self.shift_lanes

    @property
    def sensitivity(self) -> float:
        """How far a device's lanes are from what would stand there without its data, in L2."""
        return math.sqrt(self.four_squares) / 2


def is_mask(block: LaneBlock) -> bool:
    """Whether ``block`` is a mask of one bit per channel, with a fixed number of ones."""
    return block.rule is LaneRule.HALF


def part_name(block: LaneBlock) -> str:
    """The part a block belongs to; see :class:`NoisePart`."""
    kind, _, rest = block.name.partition("/")
    if kind == "width":
        return f"width/{rest.partition('/')[0]}"
    return kind


def block_part(block: LaneBlock) -> NoisePart:
    """What one device can do to a single block.

    Raises:
        LocalProtocolError: Its lanes hold more than one bit (our bug: graded masks are not for this mode).
    """
    if block.clip != 1:
        msg = f"{block.name} holds 0..{block.clip}: with noise, lanes hold one bit"
        raise LocalProtocolError(msg)
    name, length = part_name(block), block.length
    if is_mask(block):
        swapped = 2 * min(half_of(length), length - half_of(length))
        return NoisePart(name, length, coin_lanes=length, shift_lanes=0, swap_lanes=swapped)
    return NoisePart(name, length, coin_lanes=0, shift_lanes=1, swap_lanes=min(length, 2))


@functools.lru_cache(maxsize=16)
def noise_parts(table: LaneTable) -> tuple[NoisePart, ...]:
    """The parts of a vector, in the order in which they begin.

    Raises:
        LocalProtocolError: As :func:`block_part`.
    """
    parts: dict[str, NoisePart] = {}
    for block in table.blocks:
        one = block_part(block)
        so_far = parts.get(one.name, NoisePart(one.name, 0, 0, 0, 0))
        parts[one.name] = NoisePart(
            one.name,
            so_far.num_lanes + one.num_lanes,
            so_far.coin_lanes + one.coin_lanes,
            so_far.shift_lanes + one.shift_lanes,
            so_far.swap_lanes + one.swap_lanes,
        )
    return tuple(parts.values())


def sensitivity(table: LaneTable) -> float:
    """L2 distance between any device's whole vector and what would stand there without its data."""
    return math.sqrt(sum(part.four_squares for part in noise_parts(table))) / 2


# --- how much --------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def honest_devices(min_devices: int, max_devices: int) -> int:
    """Devices in a sum whose noise nobody else knows, at least; in any roster that a device accepts.

    Of a roster of n, at least t = floor(2n/3) + 1 and at least ``min_devices`` survive, and at most 2t - n - 1 collude
    (``secure_sum.context``). The fewest honest ones are left at n = 1.5 ``min_devices``: about half of ``min_devices``.

    Args:
        min_devices: Fewest devices in any sum, at least 1.
        max_devices: Largest roster.
    """
    return min(_honest_of(num_devices, min_devices) for num_devices in range(min_devices, max_devices + 1))


def _honest_of(num_devices: int, min_devices: int) -> int:
    threshold = 2 * num_devices // 3 + 1
    return max(threshold, min_devices) - (2 * threshold - num_devices - 1)


def part_variance_milli(part: NoisePart, num_parts: int, multiplier_milli: int, num_shares: int) -> int:
    """Variance of one of ``num_shares`` equal shares of a part's noise, in thousandths, rounded up.

    Args:
        part: Which lanes.
        num_parts: Parts in the vector.
        multiplier_milli: Noise multiplier z of the whole sum, in thousandths.
        num_shares: 1 for the noise a sum needs; ``honest_devices`` for what a device adds.
    """
    # (z / 1000)² * (four_squares / 4) * num_parts * 1000
    return -(-(multiplier_milli**2 * part.four_squares * num_parts) // (4000 * num_shares))


def variances_milli(table: LaneTable, multiplier_milli: int, num_shares: int) -> dict[str, int]:
    """:func:`part_variance_milli` of every part of ``table``, by the part's name."""
    parts = noise_parts(table)
    return {part.name: part_variance_milli(part, len(parts), multiplier_milli, num_shares) for part in parts}


def lane_variances_milli(table: LaneTable, multiplier_milli: int, num_shares: int) -> IntArray:
    """:func:`variances_milli` lane by lane (int64)."""
    by_part = variances_milli(table, multiplier_milli, num_shares)
    return np.concatenate(
        [np.full(block.length, by_part[part_name(block)], dtype=np.int64) for block in table.blocks],
    )


def std_per_lane(table: LaneTable, multiplier_milli: int, num_shares: int) -> FloatArray:
    """Standard deviation (float64) of one share of the noise in each lane; for people, never for a decision."""
    return np.sqrt(lane_variances_milli(table, multiplier_milli, num_shares) / 1000.0)


def noise_margin(variance_milli: int) -> int:
    """How far noise may take a lane, or a sum of lanes, of this variance (thousandths); an integer on every machine."""
    return math.isqrt(NOISE_SIGMAS**2 * variance_milli // 1000) + 1 + NOISE_MARGIN


def sum_range(block: LaneBlock, max_devices: int, variance_milli: int) -> tuple[int, int]:
    """The smallest and the largest value a lane of a noisy sum may take.

    Args:
        block: The lane's block.
        max_devices: Largest roster.
        variance_milli: Variance of the noise in a lane of the sum of ``max_devices``, in thousandths.

    Returns:
        ``(lowest, highest)``, the lowest negative; ``range_bits`` says how many bits hold them.
    """
    margin = noise_margin(variance_milli)
    return -margin, block.clip * max_devices + margin


def range_bits(lowest: int, highest: int) -> int:
    """Bits of an integer modulo a power of two that tells all of ``lowest`` … ``highest`` apart."""
    return (highest - lowest).bit_length()


def noisy_ranges(
    table: LaneTable, multiplier_milli: int, num_shares: int, max_devices: int
) -> tuple[IntArray, IntArray]:
    """For every lane of a noisy sum (int64): its lowest value, and the bits it takes above that."""
    by_part = variances_milli(table, multiplier_milli, num_shares)
    ranges = [sum_range(block, max_devices, max_devices * by_part[part_name(block)]) for block in table.blocks]
    lengths = [block.length for block in table.blocks]
    lowest = np.repeat(np.asarray([low for low, _ in ranges], dtype=np.int64), lengths)
    return lowest, np.repeat(np.asarray([range_bits(*both) for both in ranges], dtype=np.int64), lengths)


def unwrapped(lanes: IntArray, lowest: IntArray, bits: IntArray) -> IntArray:
    """The sum (int64) of which only the residue modulo ``2**bits`` is known, lane by lane, given its lowest values."""
    return lowest + ((lanes - lowest) & ((np.int64(1) << bits) - 1))


# --- adding it -------------------------------------------------------------------------------------------------------


def device_noise(table: LaneTable, multiplier_milli: int, num_shares: int, random_bytes: RandomBytes) -> IntArray:
    """What one device adds to its vector (int64, ``table.num_lanes`` long), fresh for every attempt.

    Args:
        table: The lane table of the session.
        multiplier_milli: The campaign's noise multiplier, in thousandths.
        num_shares: ``honest_devices`` of the campaign.
        random_bytes: ``secrets.token_bytes``; anything that can be predicted takes the privacy away.
    """
    by_part = variances_milli(table, multiplier_milli, num_shares)
    drawn = {part.name: sample(by_part[part.name], part.num_lanes, random_bytes) for part in noise_parts(table)}
    used = dict.fromkeys(drawn, 0)
    pieces = []
    for block in table.blocks:
        name = part_name(block)
        pieces.append(drawn[name][used[name] : used[name] + block.length])
        used[name] += block.length
    return np.concatenate(pieces)
