"""From a noisy sum to votes that may be decided on: public knowledge where the noise drowns the fleet, the fleet else.

In mode ``sum+dp`` a tally is votes plus noise of known variance. Deciding by it as it stands would, in a small fleet,
be worse than not having asked at all. Two estimates of what the fleet wants are weighed by how reliable each is:

- **Which channels** (:func:`fused_order`). A channel's votes ``t`` are ``s + e``: what the fleet wants plus an error of
  known variance E (noise, and that few devices were asked). The public order says something about ``s``, too: as much
  as it agrees with the tally, which is noise free on average because the noise does not know the public order. With
  ``p`` the standardised public rank, V the variance of ``s`` among channels and C = cov(p, s), the best linear guess is
  ``(E * C * p + R * t) / (R + E)`` with R = V - C²: the public order when E is large, the votes when it is small. This
  is the empirical Bayes estimate of Fay and Herriot, "Estimates of Income for Small Places", JASA 74, 1979. V and C are
  taken from all groups together; a group of 16 channels alone could not tell them from noise.
- **How wide** (:func:`fused_width_votes`). A group's histogram of wishes is drawn towards the mean of all groups by the
  share of its spread that noise explains (James and Stein 1961), then brought back to what votes can be: none negative,
  as many as devices (projection on the simplex; Duchi et al., ICML 2008). Sums of noise-free votes stay as they are.

Integers only: fixed point with 16 bits after the point, every division rounded down. A decision replays bit for bit.

Shape suffixes: ``C`` channels of all groups, ``G`` groups, ``O`` width options.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunefleet_shared.lanes import LaneBlock, LaneRule, LaneTable
from prunefleet_shared.layout import Layout
from prunefleet_shared.masks import half_of
from prunefleet_shared.noise import is_mask, noise_margin

POINT = 16
"""Bits after the point."""
MIN_AGREEMENT = (3, 8)
"""The public order counts as correlated with the fleet's at least this much, however little of it shows …"""
MAX_AGREEMENT = (15, 16)
"""… and at most this much: enough votes win over it in the end."""
CAUTION = 1
"""Standard errors (of what noise adds to the spread) by which the fleet's signal is taken for less than it looks."""
MILLI_VOTES = 1000
"""One vote, as :func:`fused_width_votes` counts."""


def fused_order(
    layout: Layout,
    mask_tally_C: Sequence[int],
    num_devices: int,
    noise_variance_milli: int,
    public_order: Sequence[Sequence[int]],
) -> tuple[tuple[int, ...], ...]:
    """For each group, its channels from the best to the worst, by votes and public order together.

    Args:
        layout: Channel groups.
        mask_tally_C: Noisy votes for every channel, group after group; may be negative.
        num_devices: Devices in the sum, at least 1.
        noise_variance_milli: Variance of the noise in each of these lanes of the sum, in thousandths.
        public_order: For each group a permutation of its channels, best first.

    Returns:
        For each group a permutation of its channels, the ones to keep first; equal ones in the public order.
    """
    groups = [list(mask_tally_C[part]) for part in layout.slices()]
    votes = [_centred(tally) for tally in groups]
    ranks = [_standardised_ranks(order) for order in public_order]
    error = _fixed_error(num_devices, noise_variance_milli)
    slope, rest = _prior_slope_and_rest(votes, ranks, error)
    orders = []
    for vote, rank, public in zip(votes, ranks, public_order, strict=True):
        score = [error * slope * p + (rest * t << POINT) for p, t in zip(rank, vote, strict=True)]
        # sorted() is stable: channels of equal score stay in the order they come in, which is the public one.
        orders.append(tuple(sorted(public, key=lambda channel, score=score: -score[channel])))  # type: ignore[misc]
    return tuple(orders)


def _centred(tally: Sequence[int]) -> list[int]:
    """Votes above the group's mean, in fixed point."""
    num, total = len(tally), sum(tally)
    return [((num * votes - total) << POINT) // num for votes in tally]


def _standardised_ranks(order: Sequence[int]) -> list[int]:
    """Each channel's place in the public order, mean 0 and variance 1 over the group, best highest; fixed point."""
    num = len(order)
    unit = math.isqrt((3 << 4 * POINT) // (num * num - 1)) if num > 1 else 0
    ranks = [0] * num
    for place, channel in enumerate(order):
        ranks[channel] = (num - 1 - 2 * place) * unit >> POINT
    return ranks


def _fixed_error(num_devices: int, noise_variance_milli: int) -> int:
    """Variance of a tally around what the fleet wants: noise, and n votes of yes or no; twice fixed point."""
    # n votes that are 1 with probability q vary by n q (1 - q), at most n / 4.
    return ((4 * noise_variance_milli + 1000 * num_devices) << 2 * POINT) // 4000


def _prior_slope_and_rest(votes: list[list[int]], ranks: list[list[int]], error: int) -> tuple[int, int]:
    """C (fixed point) and R (twice fixed point) of the module's head; both 0 when no signal shows in the votes."""
    freedom = sum(len(group) - 1 for group in votes)
    if freedom == 0:
        return 0, 0
    spread = sum(vote * vote for group in votes for vote in group) // freedom
    signal = spread - error
    if signal <= 0:
        return 0, 0
    pairs = [zip(vote, rank, strict=True) for vote, rank in zip(votes, ranks, strict=True)]
    together = sum(vote * rank for group in pairs for vote, rank in group) // (freedom << POINT)
    deviation = math.isqrt(signal)
    least = deviation * MIN_AGREEMENT[0] // MIN_AGREEMENT[1]
    most = deviation * MAX_AGREEMENT[0] // MAX_AGREEMENT[1]
    slope = max(least, min(most, together))
    doubt = CAUTION * error * math.isqrt((2 << 2 * POINT) // freedom) >> POINT
    return slope, max(0, signal - doubt - slope * slope)


# --- widths ----------------------------------------------------------------------------------------------------------


def fused_width_votes(
    option_tally_GO: Sequence[Sequence[int]], num_devices: int, noise_variance_milli: int
) -> list[list[int]]:
    """Width votes that the knapsack can work with, from noisy ones: in thousandths of a vote.

    Args:
        option_tally_GO: Noisy votes per group and option of one level; may be negative.
        num_devices: Devices in the sum, at least 1.
        noise_variance_milli: Variance of the noise in each of these lanes of the sum, in thousandths.

    Returns:
        As many lists as came, none with a negative entry, each adding up to ``1000 * num_devices``.
    """
    num_groups = len(option_tally_GO)
    mean_O = [(sum(column) << POINT) // num_groups for column in zip(*option_tally_GO, strict=True)]
    excess_GO = [[(votes << POINT) - mean for votes, mean in zip(row, mean_O, strict=True)] for row in option_tally_GO]
    spread = sum(excess * excess for row in excess_GO for excess in row)
    explained = (num_groups - 1) * len(mean_O) * (noise_variance_milli << 2 * POINT) // 1000
    kept = max(0, spread - explained)
    drawn_GO = [
        [mean + (excess * kept // spread if spread else 0) for excess, mean in zip(row, mean_O, strict=True)]
        for row in excess_GO
    ]
    return [
        _nearest_votes([votes * MILLI_VOTES >> POINT for votes in row], num_devices * MILLI_VOTES) for row in drawn_GO
    ]


def _nearest_votes(votes: Sequence[int], total: int) -> list[int]:
    """The non-negative integers that add up to ``total`` and are nearest to ``votes``; any surplus to the largest."""
    held = sorted(votes, reverse=True)
    for num_kept in range(len(held), 0, -1):
        threshold = -((total - sum(held[:num_kept])) // num_kept)  # rounded up: what is left over is not negative
        if held[num_kept - 1] - threshold >= 0 or num_kept == 1:
            break
    nearest = [max(0, vote - threshold) for vote in votes]
    nearest[max(range(len(votes)), key=lambda i: votes[i])] += total - sum(nearest)
    return nearest


# --- what noise cannot explain ---------------------------------------------------------------------------------------


def why_noisy_sum_impossible(
    table: LaneTable, total: Sequence[int], num_devices: int, lane_variances_milli: Sequence[int]
) -> str | None:
    """The first block of a noisy sum that ``num_devices`` honest devices do not make, but once in 10**10; None if fine.

    Args:
        table: The lane table of the session.
        total: The sum, lane by lane.
        num_devices: Devices in it.
        lane_variances_milli: Variance of the noise in each lane of the sum, in thousandths: what one device adds, times
            ``num_devices``.
    """
    if len(total) != table.num_lanes:
        return f"{len(total)} lanes instead of {table.num_lanes}"
    start = 0
    for block in table.blocks:
        lanes = total[start : start + block.length]
        variances = lane_variances_milli[start : start + block.length]
        start += block.length
        margin = noise_margin(int(max(variances)))
        if min(lanes) < -margin or max(lanes) > block.clip * num_devices + margin:
            return f"{block.name} outside {-margin}..{block.clip * num_devices + margin}"
        lowest, highest = _honest_block_sum(block, num_devices)
        margin = noise_margin(sum(int(variance) for variance in variances))
        if not lowest - margin <= sum(lanes) <= highest + margin:
            return f"{block.name} does not add up for {num_devices} devices"
    return None


def _honest_block_sum(block: LaneBlock, num_devices: int) -> tuple[int, int]:
    """Smallest and largest sum over a block's lanes, without noise."""
    if is_mask(block):
        weight = num_devices * half_of(block.length)
        return weight, weight
    if block.rule is LaneRule.ONE_HOT:
        return num_devices, num_devices
    return 0, num_devices
