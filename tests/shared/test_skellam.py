"""Skellam noise: drawn with its exact distribution, and its divergences against plain sums and a published bound."""

import hashlib
import math

import numpy as np
import pytest

from prunefleet_shared.skellam import MAX_TABLE_VARIANCE_MILLI, coin_divergences, sample, shift_divergences

ORDERS = np.asarray([1.5, 2.0, 4.0, 16.0, 64.0])


def random_bytes(seed):
    """Bytes of SHAKE-256, the same each time."""
    position = 0

    def take(num_bytes):
        nonlocal position
        position += 1
        return hashlib.shake_256(f"{seed}/{position}".encode()).digest(num_bytes)

    return take


# --- drawing it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance_milli", [300, 4_000, 900_000])
def test_what_is_drawn_has_the_skellam_distribution(variance_milli):
    """Chi-square over the bins that matter, against an independent way: sums over two Poisson variables."""
    variance, num = variance_milli / 1000, 200_000
    values = sample(variance_milli, num, random_bytes("chi"))
    edge = max(2, int(2.5 * math.sqrt(variance)))
    expected = np.asarray([_skellam_pmf(k, variance) for k in range(-edge, edge + 1)]) * num
    counts = np.asarray([(values == k).sum() for k in range(-edge, edge + 1)])
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(expected)
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def _skellam_pmf(k, variance):
    """``P(A - B = k)`` for Poisson A and B of mean ``variance / 2``, summed over B."""
    mean, last = variance / 2, int(variance + 12 * math.sqrt(variance)) + 40
    return math.fsum(
        math.exp((k + 2 * b) * math.log(mean) - variance - math.lgamma(k + b + 1) - math.lgamma(b + 1))
        for b in range(max(0, -k), last)
    )


@pytest.mark.parametrize("variance_milli", [4_000, 900_000, MAX_TABLE_VARIANCE_MILLI * 2 + 1])
def test_mean_and_variance_within_six_standard_errors(variance_milli):
    num = 100_000
    values = sample(variance_milli, num, random_bytes("moments"))
    variance = variance_milli / 1000
    assert abs(values.mean()) < 6 * math.sqrt(variance / num)
    assert values.var() == pytest.approx(variance, abs=6 * variance * math.sqrt((2 + 1 / variance) / num))


def test_extreme_uniforms_give_the_extremes_and_the_sign_is_the_last_bit():
    def zeros_then(sign):
        parts = iter([b"\0" * 16, bytes([sign])])
        return lambda num_bytes: next(parts)

    largest = sample(4_000, 2, zeros_then(0b01000000)).tolist()
    assert largest[0] == -largest[1] > 9 * 2
    ones = iter([b"\xff" * 16, b"\xff"])
    assert sample(4_000, 2, lambda num_bytes: next(ones)).tolist() == [0, 0]


def test_no_variance_no_noise():
    assert sample(0, 3, random_bytes("none")).tolist() == [0, 0, 0]


# --- what it hides ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [0.5, 3.0, 50.0, 2_000.0])
def test_the_divergence_of_a_shift_lies_under_the_published_bound(variance):
    """Agarwal et al. 2021, corollary 3.6, at its integer orders; and it is no less than a Gaussian's by much."""
    orders = np.asarray([2.0, 3.0, 8.0, 32.0])
    ours = shift_divergences(variance, orders)
    bound = orders / (2 * variance) + np.minimum((2 * orders - 1 + 6) / (4 * variance**2), 3 / (2 * variance))
    assert (ours <= bound * (1 + 1e-9)).all()
    if variance >= 50:
        assert ours == pytest.approx(orders / (2 * variance), rel=0.25)


@pytest.mark.parametrize("variance", [1.0, 20.0])
def test_divergences_are_what_a_plain_sum_over_the_distribution_gives(variance):
    k = range(-110, 111)
    p = np.asarray([_skellam_pmf(i, variance) for i in k])
    shifted = np.asarray([_skellam_pmf(i - 1, variance) for i in k])
    coin = (p + shifted) / 2
    for order, by_shift, by_coin in zip(
        ORDERS[:4], shift_divergences(variance, ORDERS), coin_divergences(variance, ORDERS), strict=False
    ):
        assert by_shift == pytest.approx(_renyi(p, shifted, order), rel=1e-6)
        assert by_coin == pytest.approx(max(_renyi(p, coin, order), _renyi(coin, p, order)), rel=1e-6)


def _renyi(p, q, order):
    real = (p > 0) & (q > 0)
    return math.log(float((p[real] * (p[real] / q[real]) ** (order - 1)).sum())) / (order - 1)


def test_leaving_out_most_of_a_wide_bell_changes_nothing():
    """Above a deviation of 16 only every stride-th value is summed; at 400 that is 1 in 50."""
    wide = shift_divergences(160_000.0, ORDERS), coin_divergences(160_000.0, ORDERS)
    assert wide[0] == pytest.approx(ORDERS / 320_000, rel=1e-3)
    assert wide[1] == pytest.approx(ORDERS / 1_280_000 * (1 + ORDERS / 640_000), rel=1e-5)


def test_a_coin_is_as_far_as_half_a_step_and_never_further_than_a_whole_one():
    for variance in (1.0, 30.0, 1_000.0):
        by_coin, by_shift = coin_divergences(variance, ORDERS), shift_divergences(variance, ORDERS)
        assert (by_coin < by_shift).all()
    assert by_coin == pytest.approx(by_shift / 4, rel=0.03)
