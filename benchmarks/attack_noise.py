"""The noise of privacy mode ``sum+dp``, from the product's own code, for many releases at once.

As much as a sum needs (one share): if more devices are honest than the threshold asks for, a real sum carries more.
"""

from __future__ import annotations

import numpy as np

from prunefleet_shared.campaign import Campaign
from prunefleet_shared.lanes import LaneTable, vote_lanes
from prunefleet_shared.masks import FloatArray, IntArray
from prunefleet_shared.noise import lane_variances_milli
from prunefleet_shared.privacy_budget import multiplier_milli_for
from prunefleet_shared.skellam import sample

DELTA = 1e-6
EPSILONS = (8.0, 4.0, 1.0)


def noisy_table(campaign: Campaign) -> LaneTable:
    """The lane table of the campaign's votes if it had noise: a mask of one bit per channel in place of grades."""
    return vote_lanes(campaign.layout, len(campaign.levels), is_noisy=True)


def multiplier_milli(table: LaneTable, epsilon: float) -> int:
    """Noise multiplier, in thousandths, at which one vote sum costs ``epsilon`` at :data:`DELTA`."""
    return multiplier_milli_for([table], epsilon, DELTA)


def variances_milli(table: LaneTable, epsilon: float | None) -> IntArray:
    """Variance of the summed noise on each lane, in thousandths; zeros for None, an exact sum."""
    if epsilon is None:
        return np.zeros(table.num_lanes, dtype=np.int64)
    return lane_variances_milli(table, multiplier_milli(table, epsilon), 1)


def noise(variances_F: IntArray, num_draws: int, rng: np.random.Generator) -> IntArray:
    """Noise of ``num_draws`` sums, int64 [draws, lanes]; reproducible, so not for secrets."""
    drawn_TF = np.zeros((num_draws, len(variances_F)), dtype=np.int64)
    for variance in np.unique(variances_F):
        is_here_F = variances_F == variance
        values = sample(int(variance), num_draws * int(is_here_F.sum()), rng.bytes)
        drawn_TF[:, is_here_F] = values.reshape(num_draws, -1)
    return drawn_TF


def stds(variances_F: IntArray) -> FloatArray:
    """Standard deviation of each lane."""
    return np.sqrt(variances_F / 1000)
