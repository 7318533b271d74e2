"""What benchmarks/attacks.py measures by: against hand counts, tables, and mechanisms whose epsilon is known."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "attack_statistics.py"
SPEC = importlib.util.spec_from_file_location("attack_statistics", PATH)
measures = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(measures)

NUM_TRIALS = 200_000


def normal_scores(shift, seed=1, num_trials=NUM_TRIALS):
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, num_trials), rng.normal(0, 1, num_trials)


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [([2, 3], [0, 1], 1.0), ([0, 1], [2, 3], 0.0), ([1, 1], [1, 1], 0.5), ([2, 3], [1, 2], 0.875), ([5], [1, 9], 0.5)],
)
def test_auc_counts_pairs_and_half_of_ties(inside, outside, expected):
    assert measures.auc(inside, outside) == expected


def test_auc_of_two_normals_is_what_theory_says():
    found = measures.auc(*normal_scores(1.0))
    assert found == pytest.approx(0.5 * math.erfc(-0.5), abs=0.005)  # Phi(1 / sqrt(2))


def test_no_more_false_positives_than_allowed_are_bought():
    inside, outside = np.array([2, 3, 4, 5]), np.array([1, 2, 3, 4])
    found = [measures.tpr_at_fpr(inside, outside, fpr) for fpr in (0.0, 0.25, 0.5, 0.74)]
    assert found == [0.25, 0.5, 0.75, 0.75]


def test_tpr_of_two_normals_is_what_theory_says():
    found = measures.tpr_at_fpr(*normal_scores(1.0), 0.01)
    assert found == pytest.approx(0.5 * math.erfc((2.3263 - 1) / math.sqrt(2)), abs=0.005)


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    # 10 of 20: a standard table of exact limits. None and all of 10: closed form, 1 - 0.025 ** (1 / 10).
    [(10, 20, 0.2720, 0.7280), (0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0)],
)
def test_exact_limits_of_a_probability(hits, trials, low, high):
    assert measures.clopper_pearson(hits, trials) == pytest.approx((low, high), abs=1e-4)


def test_randomised_response_is_bounded_by_its_epsilon_and_nearly_reached():
    # Says the truth with probability e / (1 + e): exactly 1-DP.
    rng = np.random.default_rng(1)
    truth = math.e / (1 + math.e)
    inside, outside = rng.random(NUM_TRIALS) < truth, rng.random(NUM_TRIALS) < 1 - truth
    found = measures.epsilon_lower_bound(inside, outside, delta=0.0)
    assert 0.95 < found <= 1.0


def test_delta_counts_in_favour_of_the_mechanism():
    # One output in a hundred gives the secret away for certain: pure DP is impossible, (0, 0.01)-DP is true.
    rng = np.random.default_rng(2)
    inside, outside = (rng.random(NUM_TRIALS) < 0.01).astype(float), np.zeros(NUM_TRIALS)
    assert measures.epsilon_lower_bound(inside, outside, delta=0.0) > 4
    assert measures.epsilon_lower_bound(inside, outside, delta=0.011) == 0.0


def test_the_same_scores_refute_nothing():
    assert measures.epsilon_lower_bound(*normal_scores(0.0), delta=1e-6) < 0.05


def test_what_only_absence_gives_away_counts_too():
    rng = np.random.default_rng(4)
    inside, outside = np.zeros(NUM_TRIALS), -(rng.random(NUM_TRIALS) < 0.01).astype(float)
    assert measures.epsilon_lower_bound(inside, outside, delta=0.0) > 4


@pytest.mark.parametrize(("epsilon", "multiplier"), [(8.0, 0.653), (4.0, 1.194), (1.0, 4.225)])
def test_gaussian_noise_keeps_its_claim_and_half_of_it_is_caught(epsilon, multiplier):
    kept = measures.epsilon_lower_bound(*normal_scores(1 / multiplier, num_trials=10**6), delta=1e-6)
    caught = measures.epsilon_lower_bound(*normal_scores(2 / multiplier, num_trials=10**6), delta=1e-6)
    assert kept < epsilon < caught


def test_choosing_the_threshold_costs_no_confidence():
    # Scores that tell nothing: a bound above 0 is a lie. Two exact limits at once make it rarer than one in twenty;
    # judged on the half that chose the threshold, it would be 8 of these 200.
    rng = np.random.default_rng(3)
    found = [measures.epsilon_lower_bound(rng.normal(size=200), rng.normal(size=200), delta=0.0) for _ in range(200)]
    assert sum(epsilon > 0.0 for epsilon in found) <= 2
