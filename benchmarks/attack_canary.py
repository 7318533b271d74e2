"""An audit of the noise: the largest epsilon that many releases with and without a canary's data refute.

The attacker knows every other vote (so they cancel) and the canary's. Without its data the canary tosses a coin for
each channel and votes for no width, as ``noise`` in shared defines it. The statistic sums a release along the canary's
vote, each lane weighted by its noise: the best test there is for normal noise, and ours is close to it. What it refutes
must stay below the claim; with half of the noise (the control) it must not.

Variances come from the product's calibration, draws from its sampler. Lanes of one part have the same variance and the
same weight but for the sign, and noise is symmetric: so their weighted sum is drawn at once, as one Skellam variable of
all their variance. That buys millions of releases.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from attack_noise import DELTA, EPSILONS, multiplier_milli
from attack_statistics import CONFIDENCE, Task, epsilon_lower_bound
from result_file import Row

from prunefleet_shared.lanes import vote_lanes
from prunefleet_shared.layout import ChannelGroup, Layout
from prunefleet_shared.masks import FloatArray
from prunefleet_shared.noise import noise_parts, variances_milli
from prunefleet_shared.skellam import sample

WIDTHS = (16,) * 4 + (32,) * 4 + (64,) * 4
GROUPS = tuple(ChannelGroup(f"group{index}", width) for index, width in enumerate(WIDTHS))
TABLE = vote_lanes(Layout(GROUPS), num_levels=2, is_noisy=True)
"""The groups of ResNet-20: few lanes have little noise, which is further from normal, and the test weaker."""
NOISES = {"as_claimed": 1.0, "half_the_std": 0.5}


def canary_tasks(num_trials: int, seed: int) -> Iterator[Task]:
    """The lower bound for each claimed epsilon, with the right noise and with half of it."""
    for epsilon in EPSILONS:
        for name in NOISES:
            key = {"attack": "canary", "noise": name, "epsilon": epsilon}
            yield key, functools.partial(audit, epsilon, name, num_trials, seed)


def audit(epsilon: float, name: str, num_trials: int, seed: int) -> Row:
    """What ``num_trials`` releases with and as many without the canary's data refute."""
    factor = NOISES[name]
    rng = np.random.default_rng([seed, int(10 * epsilon), int(10 * factor)])
    multiplier = round(factor * multiplier_milli(TABLE, epsilon))
    inside, outside = (statistics(multiplier, has_data, num_trials, rng) for has_data in (True, False))
    found = epsilon_lower_bound(inside, outside, DELTA)
    return {
        "delta": DELTA,
        "trials": num_trials,
        "confidence": CONFIDENCE,
        "epsilon_lower_bound": round(found, 3),
        "refutes_the_claim": bool(found > epsilon),
    }


def statistics(multiplier: int, has_data: bool, num_trials: int, rng: np.random.Generator) -> FloatArray:
    """The attacker's statistic of ``num_trials`` releases, float64.

    A mask lane, less 1/2 and with the sign of the canary's vote, is 1/2 with its data and +1/2 or -1/2 by a coin
    without; a lane of a width it votes for is 1 or 0.
    """
    total = np.zeros(num_trials)
    by_part = variances_milli(TABLE, multiplier, 1)
    for part in noise_parts(TABLE):
        used, step = part.coin_lanes + part.shift_lanes, 0.5 if part.coin_lanes else 1.0
        if has_data:
            sent = np.full(num_trials, used * step)
        else:
            sent = rng.binomial(part.coin_lanes, 0.5, num_trials) - part.coin_lanes / 2
        noise = sample(used * by_part[part.name], num_trials, rng.bytes)
        total += (sent + noise) * step / by_part[part.name]
    return total
