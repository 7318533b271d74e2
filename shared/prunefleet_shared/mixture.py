"""What mixture of public classes explains a fleet's tally: a fit in integers, the same on every machine.

Each public class has a *profile*: the mask that a device would send whose images are all of that class. A fleet's tally
is, nearly, the sum of such masks over the classes that its devices see. :func:`fit_mixture` looks for the non-negative
weights that explain the tally best (non-negative least squares with a ridge, which spreads the weight over classes that
look alike; Lawson & Hanson 1974, chapter 23, solved by cyclic coordinate descent). A tally that says nothing about the
classes is still explained a little, by chance. How much, is told by the same fit to the tally with its channels moved
round within their groups: a fit is *confident* when it explains clearly more than each of those.

Shape suffixes: ``K`` public classes (or clusters), ``C`` channels of all groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.layout import Layout
from prunefleet_shared.masks import IntArray

PPM = 1_000_000
"""Weights and shares are counted in parts per million."""
POINT = 16
"""Bits after the point while solving."""
RIDGE_PERMILLE = 30
"""The ridge, in thousandths of the mean squared length of a profile."""
MAX_SWEEPS = 1000
"""Coordinate descent stops here, if it has not stood still before."""
NUM_SHIFTED = 19
"""Shifted tallies that a fit is compared with: to beat them all by chance happens one time in twenty."""
LEAD_PERMILLE = 1500
"""A confident fit explains at least this many thousandths of what is explained of any shifted tally …"""
MIN_EXPLAINED_PPM = 500_000
"""… and at least this much. A fleet that sees all classes alike is explained less, if only just (validation seeds 101
and 102 of CIFAR-100: 0.47 and 0.50, against 0.56 to 0.92 for fleets that see 10 to 40 classes of 100)."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """What a fleet seems to see.

    Attributes:
        weights_ppm: For each public class its share, parts per million, none negative, adding up to 1,000,000. Uniform
            when the fit is not confident.
        explained_ppm: How much of the tally's departure from an even one the fit explains, 0 to 1,000,000.
        by_chance_ppm: The most that it explains of any shifted tally.
        is_confident: Whether the weights are the fit's, and not uniform for want of one.
    """

    weights_ppm: tuple[int, ...]
    explained_ppm: int
    by_chance_ppm: int
    is_confident: bool


def fit_mixture(
    layout: Layout, profiles_KC: Sequence[Sequence[int]] | IntArray, tally_C: Sequence[int], num_devices: int, clip: int
) -> Mixture:
    """The mixture of profiles that explains a tally.

    Args:
        layout: Channel groups.
        profiles_KC: One mask per class, 0..``clip`` per channel.
        tally_C: The fleet's masks, summed; noise may have made some negative.
        num_devices: Devices in the sum, at least 1.
        clip: The largest value of a lane: 7 for graded masks, 1 for masks of one bit.

    Raises:
        LocalProtocolError: Shapes do not fit (our bug).
    """
    profiles, tally = np.asarray(profiles_KC, dtype=np.int64), np.asarray(tally_C, dtype=np.int64)
    if profiles.ndim != 2 or profiles.shape[1:] != tally.shape or num_devices < 1:
        msg = f"profiles of shape {profiles.shape} do not fit a tally of {tally.shape} from {num_devices} devices"
        raise LocalProtocolError(msg)
    centred_KC = 2 * profiles - clip
    departure_C = ((2 * tally - clip * num_devices) << POINT) // num_devices
    weights_K, explained_ppm = _fit(centred_KC, departure_C)
    shifted = (_fit(centred_KC, _shifted(layout, departure_C, step))[1] for step in range(1, NUM_SHIFTED + 1))
    by_chance_ppm = max(shifted)
    is_clear = explained_ppm >= max(MIN_EXPLAINED_PPM, -(-by_chance_ppm * LEAD_PERMILLE // 1000))
    is_confident = is_clear and bool(weights_K.any())
    shares = _without_noise(weights_K) if is_confident else np.ones_like(weights_K)
    return Mixture(shares_ppm(shares.tolist()), explained_ppm, by_chance_ppm, is_confident)


def _without_noise(weights_K: IntArray) -> IntArray:
    """The weights without those at or below the mean: no more than a draw at random would give is taken for noise."""
    is_above = weights_K * len(weights_K) > weights_K.sum()
    return np.where(is_above, weights_K, 0) if is_above.any() else weights_K


def _fit(centred_KC: IntArray, departure_C: IntArray) -> tuple[IntArray, int]:
    """Weights, in fixed point, and the share of the departure's squares that they explain, parts per million."""
    gram_KK, wanted_K = centred_KC @ centred_KC.T, centred_KC @ departure_C
    weights_K = _descend(gram_KK, wanted_K)
    rest_C = departure_C - centred_KC.T @ weights_K
    before, after = (int(sum(value * value for value in part.tolist())) for part in (departure_C, rest_C))
    return weights_K, max(0, (before - after) * PPM // before) if before else 0


def _descend(gram_KK: IntArray, wanted_K: IntArray) -> IntArray:
    """Minimise ``w G w - 2 h w`` plus the ridge over ``w >= 0``: one coordinate after the other, until none moves."""
    lengths_K = np.diagonal(gram_KK)
    ridge = int(lengths_K.sum()) * RIDGE_PERMILLE // (1000 * len(gram_KK))
    steepness_K = np.maximum(1, lengths_K + ridge)
    weights_K = np.zeros(len(gram_KK), dtype=np.int64)
    for _ in range(MAX_SWEEPS):
        before_K = weights_K.copy()
        for k in range(len(weights_K)):
            others = int(gram_KK[k] @ weights_K) - int(lengths_K[k] * weights_K[k])
            weights_K[k] = max(0, (int(wanted_K[k]) - others) // int(steepness_K[k]))
        if int(np.abs(weights_K - before_K).max()) <= 1:  # floors may make the last bit go to and fro
            break
    return weights_K


def _shifted(layout: Layout, departure_C: IntArray, step: int) -> IntArray:
    """The departure with the channels of each group moved round, so that it fits no class but by chance."""
    return np.concatenate([_moved_round(departure_C[part], step) for part in layout.slices()])


def _moved_round(part: IntArray, step: int) -> IntArray:
    return np.roll(part, 1 + (step * (len(part) - 1)) // (NUM_SHIFTED + 1)) if len(part) > 1 else part


def shares_ppm(weights_K: Sequence[int]) -> tuple[int, ...]:
    """Weights as parts per million: rounded down, what is left goes to the largest remainders, lowest index first.

    Raises:
        LocalProtocolError: No weight above 0, or one below (our bug).
    """
    total = sum(weights_K)
    if total <= 0 or min(weights_K) < 0:
        msg = "shares need weights that are not negative, and one above 0"
        raise LocalProtocolError(msg)
    parts = [divmod(weight * PPM, total) for weight in weights_K]
    left = PPM - sum(whole for whole, _ in parts)
    first = sorted(range(len(parts)), key=lambda k: -parts[k][1])[:left]
    return tuple(whole + (k in first) for k, (whole, _) in enumerate(parts))
