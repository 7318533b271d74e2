"""The gate keeps the fleet's network unless the device's own wins by more than the margin."""

from __future__ import annotations

import numpy as np
import pytest

from prunefleet_edge.gate import DEFAULT_MARGIN, compare

YES, NO = [True] * 4, [False] * 4


@pytest.mark.parametrize(
    ("fleet_loss", "is_accepted"),
    [(0.50, True), (0.99, True), (1.00, True), (1.25, True), (1.2501, False), (2.00, False)],
)
def test_the_fleet_may_be_worse_by_the_margin_and_not_by_more(fleet_loss: float, is_accepted: bool) -> None:
    verdict = compare([fleet_loss] * 4, [1.0] * 4, YES, YES, margin=0.25)
    assert verdict.accepted is is_accepted
    assert verdict.loss_gain == pytest.approx(1.0 - fleet_loss)


def test_a_tie_goes_to_the_fleet_even_without_a_margin() -> None:
    assert compare([0.5, 0.7], [0.5, 0.7], [1, 0], [1, 0], margin=0.0).accepted
    assert not compare([0.5, 0.7001], [0.5, 0.7], [1, 0], [1, 0], margin=0.0).accepted


def test_the_default_margin_is_the_stated_one() -> None:
    just, over = 1 + 0.99 * DEFAULT_MARGIN, 1 + 1.01 * DEFAULT_MARGIN
    assert compare([just], [1.0], [True], [True]).accepted
    assert not compare([over], [1.0], [True], [True]).accepted


def test_gains_are_means_over_the_images_and_positive_where_the_fleet_is_better() -> None:
    verdict = compare([0.1, 0.2, 0.3, 0.4], [1.1, 0.2, 0.3, 2.4], [1, 1, 0, 0], [0, 0, 1, 0])
    assert verdict.loss_gain == pytest.approx(3 / 4)
    assert verdict.accuracy_gain == pytest.approx(1 / 4)
    worse = compare([1.1, 0.2, 0.3, 2.4], [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 0], [1, 1, 0, 0])
    assert (worse.loss_gain, worse.accuracy_gain) == (pytest.approx(-3 / 4), pytest.approx(-1 / 4))


def test_losses_decide_and_accuracy_does_not() -> None:
    assert compare([0.1] * 4, [0.9] * 4, NO, YES).accepted
    assert not compare([0.9] * 4, [0.1] * 4, YES, NO).accepted


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_loss_that_is_no_number_counts_against_its_network(broken: float) -> None:
    fine, bad = [5.0, 5.0, 5.0, 5.0], [0.1, 0.1, broken, 0.1]
    assert not compare(bad, fine, YES, YES).accepted
    assert compare(fine, bad, YES, YES).accepted
    both = compare(bad, bad, YES, YES)
    assert both.accepted
    assert both.loss_gain == 0


def test_the_verdict_is_in_plain_numbers() -> None:
    arrays = [np.asarray(values, dtype=np.float32) for values in ([0.5], [0.75], [1], [0])]
    verdict = compare(*arrays)
    assert (type(verdict.accepted), type(verdict.loss_gain), type(verdict.accuracy_gain)) == (bool, float, float)


def test_the_order_of_the_images_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    columns = np.stack([rng.exponential(size=50), rng.exponential(size=50), rng.random(50) < 0.5, rng.random(50) < 0.5])
    one, other = compare(*columns), compare(*columns[:, rng.permutation(50)])
    assert one.accepted is other.accepted
    assert one.loss_gain == pytest.approx(other.loss_gain)
    assert one.accuracy_gain == pytest.approx(other.accuracy_gain)


def test_a_lead_within_one_standard_error_is_luck() -> None:
    lead = np.array([0.5, -0.3, 0.4, -0.2])  # own is better by 0.1 on average, give or take 0.2
    assert compare(1 + lead, np.ones(4), YES, YES).accepted
    steady = np.array([0.12, 0.08, 0.11, 0.09])  # the same 0.1, every time
    assert not compare(1 + steady, np.ones(4), YES, YES).accepted
