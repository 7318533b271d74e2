"""How private a campaign with noise is: epsilon from the noise, and the noise for an epsilon.

Two accounts, on purpose:

- The **closed form** treats a sum as one Gaussian mechanism with noise multiplier z. n of them, each may depend on the
  ones before, are together as private as one with mu = sqrt(n) / z. Balle and Wang, "Improving the Gaussian Mechanism
  for Differential Privacy", ICML 2018, theorem 8; Dong, Roth and Su, "Gaussian Differential Privacy", JRSS B 2022,
  corollaries 2.13 and 3.3. Exact for Gaussian noise: a yardstick, and where the search for a multiplier starts.
- The **claim** is what a campaign says of itself: Rényi divergences of the noise that is really drawn (Skellam, in
  integers, against a coin; ``skellam``), added up over lanes, parts and sums, and turned into epsilon at the best order
  (Mironov 2017, propositions 1 and 3; Canonne, Kamath and Steinke 2020, arXiv 2004.00010, proposition 12). It is sound.
  Rényi's way costs up to 8 % of epsilon; small integer noise gives some of it back, its tails being fatter.

A device recomputes the claim from the signed campaign before it takes part. Epsilons are natural, deltas probabilities;
multipliers are in thousandths where they are stored. No scipy: a device has none.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from prunefleet_shared.errors import ConfigError
from prunefleet_shared.lanes import LaneTable
from prunefleet_shared.masks import FloatArray
from prunefleet_shared.noise import NoisePart, noise_parts, part_variance_milli
from prunefleet_shared.skellam import coin_divergences, shift_divergences

MAX_EPSILON = 100.0
"""Beyond it a guarantee says nothing, and a campaign may not claim it."""
MAX_MULTIPLIER_MILLI = 1_000_000
ORDERS: FloatArray = np.asarray([1.0 + 0.1 * 1.15**step for step in range(62)])
"""Orders (all above 1, up to 500) at which divergences are computed: the best one differs from campaign to campaign."""


# --- the closed form -------------------------------------------------------------------------------------------------


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Smallest delta for which a mu-GDP mechanism is (epsilon, delta)-DP (Dong et al. 2022, corollary 2.13)."""
    inner = _normal_cdf(-epsilon / mu + mu / 2)
    outer = _normal_cdf(-epsilon / mu - mu / 2)
    return max(0.0, inner - (math.exp(epsilon) * outer if outer else 0.0))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon for which a mu-GDP mechanism is (epsilon, delta)-DP, to 12 digits.

    Raises:
        ConfigError: It is above :data:`MAX_EPSILON` (the campaign's fault: far too little noise).
    """
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    if gaussian_delta(MAX_EPSILON, mu) > delta:
        msg = f"epsilon is above {MAX_EPSILON:g} at delta {delta:g}: expected more noise, or fewer sums"
        raise ConfigError(msg)
    return _bisect(lambda epsilon: gaussian_delta(epsilon, mu) > delta, 0.0, MAX_EPSILON)


def epsilon(multiplier: float, num_sums: int, delta: float) -> float:
    """Epsilon of ``num_sums`` Gaussian mechanisms with noise multiplier ``multiplier`` each, closed form."""
    return gaussian_epsilon(math.sqrt(num_sums) / multiplier, delta)


def multiplier_for(target_epsilon: float, num_sums: int, delta: float) -> float:
    """Noise multiplier at which ``num_sums`` Gaussian mechanisms cost ``target_epsilon``, closed form.

    Raises:
        ConfigError: ``target_epsilon`` is not within 0 … :data:`MAX_EPSILON`, or no multiplier up to 1,000 reaches it.
    """
    _check_target(target_epsilon)

    def is_too_loud(multiplier: float) -> bool:
        return gaussian_delta(target_epsilon, math.sqrt(num_sums) / multiplier) > delta

    most = MAX_MULTIPLIER_MILLI / 1000
    if is_too_loud(most):
        raise ConfigError(_unreachable(target_epsilon))
    return _bisect(is_too_loud, 1e-3, most)


# --- the claim -------------------------------------------------------------------------------------------------------


def vector_divergences(table: LaneTable, multiplier_milli: int, *, swapped: bool = False) -> FloatArray:
    """Rényi divergences (per order of :data:`ORDERS`) between sums with and without one device's data.

    Args:
        table: The lane table that is summed.
        multiplier_milli: Its noise multiplier, in thousandths, above 0.
        swapped: Replace-one instead of fill-in: the device's data against any other data (see ``noise``).
    """
    parts = noise_parts(table)
    total = np.zeros(len(ORDERS))
    for part in parts:
        variance_milli = part_variance_milli(part, len(parts), multiplier_milli, 1)
        total += _part_divergences(part, variance_milli, swapped=swapped)
    return total


def _part_divergences(part: NoisePart, variance_milli: int, *, swapped: bool) -> FloatArray:
    if swapped:
        return part.swap_lanes * _shift(variance_milli)
    coins = part.coin_lanes * _coin(variance_milli) if part.coin_lanes else 0.0
    shifts = part.shift_lanes * _shift(variance_milli) if part.shift_lanes else 0.0
    return np.asarray(coins + shifts, dtype=np.float64)


@functools.lru_cache(maxsize=64)
def _coin(variance_milli: int) -> FloatArray:
    return coin_divergences(variance_milli / 1000, ORDERS)


@functools.lru_cache(maxsize=64)
def _shift(variance_milli: int) -> FloatArray:
    return shift_divergences(variance_milli / 1000, ORDERS)


def epsilon_of(divergences: FloatArray, delta: float) -> float:
    """Epsilon of what has these divergences (per order of :data:`ORDERS`) at ``delta``; the best order's.

    Source: Canonne, Kamath and Steinke 2020, proposition 12.
    """
    if not divergences.any():
        return 0.0
    candidates = divergences + np.log1p(-1.0 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1.0)
    return max(0.0, float(candidates.min()))


def claimed_epsilon(
    tables: Sequence[LaneTable], multiplier_milli: int, delta: float, *, swapped: bool = False
) -> float:
    """Epsilon of one noisy sum over each of ``tables``, as a campaign claims it.

    Args:
        tables: The lane table of every sum that is released: the vote's, then the outcomes', one for each.
        multiplier_milli: Noise multiplier of each sum, in thousandths, above 0.
        delta: Probability in 0 … 1.
        swapped: Replace-one instead of fill-in.
    """
    total = np.zeros(len(ORDERS))
    for table in dict.fromkeys(tables):
        total += tables.count(table) * vector_divergences(table, multiplier_milli, swapped=swapped)
    return epsilon_of(total, delta)


def multiplier_milli_for(tables: Sequence[LaneTable], target_epsilon: float, delta: float) -> int:
    """The smallest multiplier (thousandths) at which :func:`claimed_epsilon` is at most ``target_epsilon``.

    Raises:
        ConfigError: As :func:`multiplier_for`.
    """
    guess = math.ceil(1000 * multiplier_for(target_epsilon, len(tables), delta))
    low, high = guess // 2, guess + guess // 4 + 1
    while claimed_epsilon(tables, high, delta) > target_epsilon:
        low, high = high, high + high // 2 + 1
        if high > MAX_MULTIPLIER_MILLI:
            raise ConfigError(_unreachable(target_epsilon))
    while high - low > 1:
        middle = (low + high) // 2
        if claimed_epsilon(tables, middle, delta) > target_epsilon:
            low = middle
        else:
            high = middle
    return high


def why_overspent(
    tables: Sequence[LaneTable], multiplier_milli: int, target_epsilon: float, delta: float
) -> str | None:
    """Why a campaign's noise does not keep what the campaign promises; None when it does. For a device's own check."""
    real = claimed_epsilon(tables, multiplier_milli, delta)
    if real <= target_epsilon:
        return None
    return f"noise multiplier {multiplier_milli / 1000:g} gives epsilon {real:.3f}, promised is {target_epsilon:g}"


# --- small mathematics -----------------------------------------------------------------------------------------------


def _normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2.0)) / 2


def _bisect(is_below: Callable[[float], bool], low: float, high: float) -> float:
    """The point from which on ``is_below`` is false, from above."""
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if is_below(middle):
            low = middle
        else:
            high = middle
    return high


def _check_target(target_epsilon: float) -> None:
    if not 0.0 < target_epsilon <= MAX_EPSILON:
        msg = f"epsilon {target_epsilon:g}: expected more than 0 and at most {MAX_EPSILON:g}"
        raise ConfigError(msg)


def _unreachable(target_epsilon: float) -> str:
    return f"epsilon {target_epsilon:g} needs a noise multiplier above 1000: expected a larger epsilon, or fewer sums"
