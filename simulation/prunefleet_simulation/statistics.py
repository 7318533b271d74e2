"""What may be said of a simulated fleet from its numbers: paired differences with an interval, worst tenths.

Accuracies come as one array per seed, one number per device. Means are taken over devices first, then over seeds, so
that a seed counts once however many devices it had. Intervals are percentile bootstraps (Efron & Tibshirani, *An
Introduction to the Bootstrap*, 1993, ch. 13) over devices within seeds: seeds are given, devices are a sample. They
therefore say how far the mean would move with other devices, not with other partitions or other base models.

>>> import numpy as np
>>> bootstrap_mean([np.array([0.1, 0.1]), np.array([0.3, 0.3])])
MeanInterval(mean=0.2, ci95_low=0.2, ci95_high=0.2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunefleet_shared.masks import FloatArray

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
