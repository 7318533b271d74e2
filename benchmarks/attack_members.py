"""Was this device in the cohort? The attacker knows the device's exact vote, and the released sum of a cohort.

Worst case: in a real fleet only the device itself knows its vote. The statistic is the likelihood ratio of two normal
sums. Their mean is estimated on the attacker's shadow devices, their covariance on shadow and made-up devices (these
scaled to the spread of the former; shrunk as Ledoit & Wolf 2004). Width votes are left aside: with them the attack is
weaker.
Cohorts are drawn with replacement from the benchmark's devices, so that a sum of n varies as it does in a large fleet.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from attack_noise import DELTA, EPSILONS, multiplier_milli, noise, noisy_table, variances_milli
from attack_shadows import made_up_votes, public_bank
from attack_statistics import Task, auc, tpr_at_fpr
from attack_votes import Votes, World
from result_file import Row
from sklearn.covariance import LedoitWolf

from prunefleet_shared.masks import FloatArray, IntArray
from prunefleet_shared.privacy_budget import claimed_epsilon

SIZES = (8, 32, 100)
FPR = 0.01
BATCH = 500
SPREAD = 0.2
Moments = tuple[FloatArray, FloatArray]
"""Mean [C] and covariance [C, C] of masks."""


def membership_tasks(world: World, devices: Votes, shadows: Votes, num_trials: int, seed: int) -> Iterator[Task]:
    """AUC and true positive rate at 1 % false positives, by form of vote, noise and cohort size."""

    @functools.cache
    def moments(is_one_bit: bool) -> Moments:
        made_up = made_up_votes(world, public_bank(world))
        return estimate(shadows.masks(is_one_bit), made_up.masks(is_one_bit))

    releases = ((False, None), (True, None), *((True, epsilon) for epsilon in EPSILONS))
    for (is_one_bit, epsilon), size in itertools.product(releases, SIZES):
        key = {
            "attack": "membership",
            "vote": "one_bit" if is_one_bit else "graded",
            "cohort": size,
            "epsilon": epsilon,
        }
        masks_NC, known = devices.masks(is_one_bit), functools.partial(moments, is_one_bit)
        yield key, functools.partial(_measures, world, masks_NC, known, size, epsilon, num_trials, seed)


def _measures(
    world: World,
    votes_NC: IntArray,
    known: Callable[[], Moments],
    size: int,
    epsilon: float | None,
    num_trials: int,
    seed: int,
) -> Row:
    rng = np.random.default_rng([seed, size, int(10 * (epsilon or 0))])
    variances_C = variances_milli(noisy_table(world.campaign), epsilon)[: world.campaign.layout.num_channels]
    inside, outside = membership_scores(votes_NC, known(), size, variances_C, num_trials, rng)
    return {
        "delta": None if epsilon is None else DELTA,
        "epsilon_replace_one": _swapped(world, epsilon),
        "trials": num_trials,
        "auc": round(auc(inside, outside), 4),
        "tpr_at_1_percent_fpr": round(tpr_at_fpr(inside, outside, FPR), 4),
    }


def estimate(shadow_NC: IntArray, made_up_NC: IntArray) -> Moments:
    """Mean and covariance of masks, as the attacker knows them."""
    scale_C = (shadow_NC.std(axis=0) + SPREAD) / (made_up_NC.std(axis=0) + SPREAD)
    centred = [shadow_NC - shadow_NC.mean(axis=0), (made_up_NC - made_up_NC.mean(axis=0)) * scale_C]
    covariance_CC: FloatArray = LedoitWolf(assume_centered=True).fit(np.concatenate(centred)).covariance_
    return shadow_NC.mean(axis=0), covariance_CC


def _swapped(world: World, epsilon: float | None) -> float | None:
    """What the same noise claims for the question asked here: this device's data, or another's."""
    if epsilon is None:
        return None
    table = noisy_table(world.campaign)
    return round(claimed_epsilon([table], multiplier_milli(table, epsilon), DELTA, swapped=True), 3)


def membership_scores(
    votes_NC: IntArray,
    known: Moments,
    size: int,
    variances_C: IntArray,
    num_trials: int,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """The statistic where the candidate is one of ``size`` devices, and where another is in its place."""
    mean_C, covariance_CC = known
    precision = np.linalg.inv(size * covariance_CC + np.diag(variances_C / 1000))
    shifts_NC = votes_NC - mean_C
    weights_NC = shifts_NC @ precision
    halves_N = (weights_NC * shifts_NC).sum(axis=1) / 2

    def some(num: int, is_member: bool) -> FloatArray:
        candidate_T = rng.integers(len(votes_NC), size=num)
        sums_TC = _sums(votes_NC, candidate_T, size, is_member, rng) + noise(variances_C, num, rng)
        ratio_T = ((sums_TC - size * mean_C) * weights_NC[candidate_T]).sum(axis=1)
        return ratio_T - halves_N[candidate_T]

    batches = [min(BATCH, num_trials - start) for start in range(0, num_trials, BATCH)]
    inside, outside = (np.concatenate([some(num, is_member) for num in batches]) for is_member in (True, False))
    return inside, outside


def _sums(votes_NC: IntArray, candidate_T: IntArray, size: int, is_member: bool, rng: np.random.Generator) -> IntArray:
    """Sums of cohorts of others, with the candidate as one of them or without."""
    num_devices, num_trials = len(votes_NC), len(candidate_T)
    others = rng.integers(num_devices - 1, size=(num_trials, size - is_member))
    others += others >= candidate_T[:, None]  # everyone but the candidate
    counts_TN = np.zeros((num_trials, num_devices), dtype=np.int64)
    np.add.at(counts_TN, (np.arange(num_trials)[:, None], others), 1)
    if is_member:
        counts_TN[np.arange(num_trials), candidate_T] += 1
    sums: IntArray = np.rint(counts_TN.astype(np.float64) @ votes_NC.astype(np.float64)).astype(np.int64)
    return sums
