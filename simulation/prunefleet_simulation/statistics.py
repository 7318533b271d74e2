"""What may be said of a fleet from its numbers: paired differences with an interval, worst tenths, agreement of votes.

Accuracies come as one array per seed, one number per device. Means are taken over devices first, then over seeds, so
that a seed counts once however many devices it had. Intervals are percentile bootstraps (Efron & Tibshirani, *An
Introduction to the Bootstrap*, 1993, ch. 13) over devices within seeds: seeds are given, devices are a sample. They
therefore say how far the mean would move with other devices, not with other partitions or other base models.

Agreement is read from the cohort's sum alone, as a coordinator under the private sum could: nothing here takes the vote
of one device.

>>> import numpy as np
>>> bootstrap_mean([np.array([0.1, 0.1]), np.array([0.3, 0.3])])
MeanInterval(mean=0.2, ci95_low=0.2, ci95_high=0.2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunefleet_shared.campaign import Campaign
from prunefleet_shared.lanes import grade_lane, width_lane
from prunefleet_shared.masks import FloatArray, IntArray, grades_by_rank
from prunefleet_shared.private_sum import Total

NUM_RESAMPLES = 10_000
BOOTSTRAP_SEED = 20_240_229
"""Fixed, so that the same measurements always give the same interval."""
WORSE_MARGIN = 0.005
"""A device counts as worse when it loses more than this (fraction): half a percentage point is noise of its split."""
_ROUND_OFF = 1e-9


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """A mean over devices, then seeds, with its 95 % interval; in the unit of what was averaged."""

    mean: float
    ci95_low: float
    ci95_high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """One arm minus another on the same devices, fractions in [-1, 1].

    Attributes:
        interval: Mean difference with its 95 % interval.
        share_worse: Share of device × seed pairs that lose more than :data:`WORSE_MARGIN`.
    """

    interval: MeanInterval
    share_worse: float


def bootstrap_mean(values_by_seed: Sequence[FloatArray]) -> MeanInterval:
    """Mean over devices, then seeds, with a 95 % percentile interval from :data:`NUM_RESAMPLES` resamples.

    Args:
        values_by_seed: For every seed, one value per device (any unit).

    Raises:
        ValueError: No seed, or a seed without devices (a bug in the caller).
    """
    if not values_by_seed or any(len(values) == 0 for values in values_by_seed):
        msg = "a mean needs at least one seed, and a device in every seed"
        raise ValueError(msg)
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    resampled_RS = np.stack([_resampled_means(values, generator) for values in values_by_seed], axis=1)
    low, high = np.quantile(resampled_RS.mean(axis=1), (0.025, 0.975))
    # Rounded where float summation order would otherwise show: a constant must give an interval of no width.
    return MeanInterval(*(round(float(x), 12) for x in (mean_over_seeds(values_by_seed), low, high)))


def _resampled_means(values_D: FloatArray, generator: np.random.Generator) -> FloatArray:
    # How often each device is drawn is multinomial; one small matrix product then replaces gathering R×D values.
    num_devices = len(values_D)
    draws_RD = generator.multinomial(num_devices, np.full(num_devices, 1 / num_devices), size=NUM_RESAMPLES)
    return np.asarray(draws_RD @ values_D / num_devices, dtype=np.float64)


def mean_over_seeds(values_by_seed: Sequence[FloatArray]) -> float:
    """Mean over devices within each seed, then over seeds."""
    return float(np.mean([np.mean(values) for values in values_by_seed]))


def paired_difference(ours_by_seed: Sequence[FloatArray], theirs_by_seed: Sequence[FloatArray]) -> PairedDifference:
    """``ours`` minus ``theirs``, device by device.

    Raises:
        ValueError: Seeds or devices do not pair up (a bug in the caller).
    """
    differences = [ours - theirs for ours, theirs in zip(ours_by_seed, theirs_by_seed, strict=True)]
    pooled = np.concatenate(differences)
    share_worse = float(np.mean(pooled < -(WORSE_MARGIN + _ROUND_OFF)))
    return PairedDifference(bootstrap_mean(differences), share_worse)


def worst_decile(values_by_seed: Sequence[FloatArray]) -> float:
    """Mean of the lowest tenth of devices (at least one) of each seed, then over seeds."""
    return float(np.mean([np.sort(values)[: max(1, len(values) // 10)].mean() for values in values_by_seed]))


def width_agreement(campaign: Campaign, vote_total: Total, level: int) -> float:
    """How far the devices voted for the same widths at ``level``: 1 = all alike.

    The mean over groups of the largest share of devices that chose one option; 1/8 at least.
    """
    blocks = _vote_blocks(campaign, vote_total)
    largest = [int(blocks[width_lane(level, group.name)].max()) for group in campaign.layout.groups]
    return float(np.mean(largest)) / vote_total.num_devices


def channel_agreement(campaign: Campaign, vote_total: Total) -> float:
    """How far the devices rank channels alike: 1 = same grades everywhere, about 1/devices by chance alone.

    Kendall's coefficient of concordance W = Var(sum of grades) / (n² Var(one device's grades)) in each group, averaged
    by group size (M. G. Kendall & B. Babington Smith, "The problem of m rankings", Ann. Math. Statist. 10, 1939). Every
    device hands out the same grades, so the denominator is known without seeing any. Groups of one channel rank
    nothing and are left out; with no other group the answer is 1.
    """
    blocks = _vote_blocks(campaign, vote_total)
    ranked = [group for group in campaign.layout.groups if np.var(grades_by_rank(group.num_channels)) > 0]
    if not ranked:
        return 1.0
    concordance = [_kendall_w(blocks[grade_lane(group.name)], vote_total.num_devices) for group in ranked]
    return float(np.average(concordance, weights=[group.num_channels for group in ranked]))


def _kendall_w(tally_C: IntArray, num_devices: int) -> float:
    return float(np.var(tally_C) / (num_devices**2 * np.var(grades_by_rank(len(tally_C)))))


def _vote_blocks(campaign: Campaign, vote_total: Total) -> dict[str, IntArray]:
    return campaign.vote_lanes.split(vote_total.lanes)
