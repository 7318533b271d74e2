"""Epsilon from noise and noise for an epsilon, held against Google's dp-accounting and against the definition."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant, compute_epsilon

from prunefleet_shared.errors import ConfigError
from prunefleet_shared.lanes import LaneBlock, LaneRule, LaneTable
from prunefleet_shared.metrics import OUTCOME_LANES
from prunefleet_shared.noise import variances_milli
from prunefleet_shared.privacy_budget import (
    ORDERS,
    claimed_epsilon,
    epsilon,
    epsilon_of,
    gaussian_delta,
    multiplier_for,
    multiplier_milli_for,
    vector_divergences,
    why_overspent,
)

DELTA = 1e-6
VOTE = LaneTable(
    (
        LaneBlock("grade/a", 300, 1, LaneRule.HALF),
        LaneBlock("grade/b", 100, 1, LaneRule.HALF),
        LaneBlock("width/0/a", 8, 1, LaneRule.ONE_HOT),
        LaneBlock("width/0/b", 8, 1, LaneRule.ONE_HOT),
    )
)

MASKS = LaneTable(VOTE.blocks[:2])


# --- the closed form -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "num_sums", "multiplier"), [(1, 1, 4.225), (4, 1, 1.194), (8, 1, 0.653)])
def test_published_multipliers(target, num_sums, multiplier):
    """research/privacy: the analytic Gaussian mechanism at delta 1e-6."""
    assert multiplier_for(target, num_sums, DELTA) == pytest.approx(multiplier, abs=6e-4)


@pytest.mark.parametrize(("multiplier", "num_sums"), [(4.225, 1), (1.2, 1), (3.774, 10), (2.0, 5)])
def test_the_closed_form_agrees_with_dp_accounting(multiplier, num_sums):
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(multiplier), num_sums)
    library = PLDAccountant().compose(event).get_epsilon(DELTA)
    assert epsilon(multiplier, num_sums, DELTA) == pytest.approx(library, rel=0.01)


def test_delta_is_the_definitions():
    """The largest of P(S) - exp(epsilon) Q(S), S where the density ratio is above exp(epsilon); integrated plainly."""
    mu, epsilon_at = 0.8, 1.3
    x = np.linspace(-12, 14, 400_001)
    p, q = (np.exp(-((x - shift) ** 2) / 2) / math.sqrt(2 * math.pi) for shift in (mu, 0.0))
    excess = np.maximum(p - math.exp(epsilon_at) * q, 0.0)
    assert gaussian_delta(epsilon_at, mu) == pytest.approx(float(excess.sum() * (x[1] - x[0])), rel=1e-6)


@pytest.mark.parametrize(
    ("target", "num_sums", "delta"), [(0.1, 1, 1e-3), (1, 9, 1e-6), (20, 3, 1e-12), (100, 1, 1e-5)]
)
def test_a_multiplier_costs_what_it_was_made_for(target, num_sums, delta):
    assert epsilon(multiplier_for(target, num_sums, delta), num_sums, delta) == pytest.approx(target, rel=1e-6)


@pytest.mark.parametrize("target", [0.0, -1.0, 100.5])
def test_an_epsilon_out_of_range_is_refused(target):
    with pytest.raises(ConfigError, match="at most 100"):
        multiplier_for(target, 1, DELTA)


def test_what_cannot_be_reached_or_said_is_refused():
    with pytest.raises(ConfigError, match="multiplier above 1000"):
        multiplier_for(1e-5, 100, 1e-12)
    with pytest.raises(ConfigError, match="above 100"):
        epsilon(0.01, 1, DELTA)
    assert epsilon(1e9, 1, DELTA) == 0.0


# --- the claim -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("multiplier", "num_sums"), [(4.225, 1), (3.774, 10), (1.0, 4)])
def test_orders_and_conversion_agree_with_dp_accountings_rdp(multiplier, num_sums):
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(multiplier), num_sums)
    library = RdpAccountant().compose(event).get_epsilon(DELTA)
    gaussian = num_sums * ORDERS / (2 * multiplier**2)
    assert epsilon_of(gaussian, DELTA) == pytest.approx(library, rel=0.01)
    assert epsilon_of(gaussian, DELTA) == pytest.approx(compute_epsilon(ORDERS, gaussian, DELTA)[0], rel=1e-9)


@pytest.mark.parametrize(("table", "least", "most"), [(MASKS, 1.0, 1.02), (VOTE, 0.9, 1.0), (OUTCOME_LANES, 0.8, 1.0)])
@pytest.mark.parametrize("multiplier", [0.7, 1.2, 4.2, 13.4])
def test_the_noise_really_drawn_costs_what_gaussian_noise_costs(table, least, most, multiplier):
    """Where a few lanes move by whole steps of little noise, a little less: a Skellam variable has fatter tails."""
    claimed = epsilon_of(vector_divergences(table, round(1000 * multiplier)), DELTA)
    gaussian = epsilon_of(ORDERS / (2 * multiplier**2), DELTA)
    assert gaussian * least < claimed < gaussian * most
    if table is MASKS:
        assert epsilon(multiplier, 1, DELTA) < claimed


def test_the_claim_holds_for_every_set_of_outputs_of_a_small_vote():
    """The definition itself: masks of 2 of 3 channels against coins, every output of the noisy sum, both directions."""
    table = LaneTable((LaneBlock("grade/a", 3, 1, LaneRule.HALF),))
    noise = _skellam(variances_milli(table, 1_500, 1)["grade"] / 1000, reach=14)
    coin = np.convolve(noise, [0.5, 0.5])
    still, moved = np.append(noise, 0.0), np.append(0.0, noise)
    for mask in itertools.product([0, 1], repeat=3):
        if sum(mask) != 2:
            continue
        with_data = _joint([moved if kept else still for kept in mask])
        with_coins = _joint([coin] * 3)
        for delta in (1e-2, 1e-4):
            odds = math.exp(claimed_epsilon([table], 1_500, delta))
            assert np.maximum(with_data - odds * with_coins, 0).sum() <= delta
            assert np.maximum(with_coins - odds * with_data, 0).sum() <= delta


def test_the_replace_one_claim_holds_for_two_one_hot_blocks():
    """Two width votes that both change: four lanes move by a step."""
    blocks = tuple(LaneBlock(f"width/0/{name}", 2, 1, LaneRule.ONE_HOT) for name in "ab")
    table = LaneTable(blocks)
    noise = _skellam(variances_milli(table, 2_000, 1)["width/0"] / 1000, reach=12)
    still, moved = np.append(noise, 0.0), np.append(0.0, noise)
    one, other = _joint([moved, still, moved, still]), _joint([still, moved, still, moved])
    odds = math.exp(claimed_epsilon([table], 2_000, 1e-3, swapped=True))
    assert np.maximum(one - odds * other, 0).sum() <= 1e-3
    zero = math.exp(claimed_epsilon([table], 2_000, 1e-3))
    assert np.maximum(one - zero * other, 0).sum() > 1e-3  # fill-in alone would promise too much here


def _skellam(variance, reach):
    """Distribution of a Skellam variable over -reach … reach: two Poissons, one minus the other, by convolution."""
    poisson = [math.exp(-variance / 2 + k * math.log(variance / 2) - math.lgamma(k + 1)) for k in range(8 * reach)]
    both = np.convolve(poisson, poisson[::-1])
    middle = len(poisson) - 1
    return both[middle - reach : middle + reach + 1]


def _joint(lanes):
    joint = lanes[0]
    for lane in lanes[1:]:
        joint = np.multiply.outer(joint, lane)
    return joint


def test_sums_and_parts_compose():
    vote, outcome = (vector_divergences(table, 3_000) for table in (VOTE, OUTCOME_LANES))
    assert claimed_epsilon([VOTE, OUTCOME_LANES, OUTCOME_LANES], 3_000, DELTA) == epsilon_of(vote + 2 * outcome, DELTA)
    assert claimed_epsilon([], 3_000, DELTA) == 0.0


def test_replace_one_costs_more_than_fill_in_and_at_most_four_times_its_divergence():
    fill_in, swapped = (vector_divergences(VOTE, 5_000, swapped=swapped) for swapped in (False, True))
    assert (swapped > fill_in).all()
    assert (swapped < 4.05 * fill_in).all()


@pytest.mark.parametrize("target", [0.5, 4.0, 20.0])
def test_the_multiplier_found_keeps_the_promise_and_the_next_smaller_does_not(target):
    tables = [VOTE, OUTCOME_LANES, OUTCOME_LANES]
    multiplier = multiplier_milli_for(tables, target, DELTA)
    assert why_overspent(tables, multiplier, target, DELTA) is None
    why = why_overspent(tables, multiplier - 1, target, DELTA)
    assert why is not None
    assert f"promised is {target:g}" in why
