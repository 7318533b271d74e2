"""Noise of sum+dp: how far a device can move a sum, how much each lane gets, and that it is drawn as promised."""

import hashlib
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.lanes import LaneBlock, LaneRule, LaneTable, grade_lane, width_lane
from prunefleet_shared.masks import half_of, keep_counts
from prunefleet_shared.metrics import OUTCOME_LANES
from prunefleet_shared.noise import (
    NOISE_SIGMAS,
    block_part,
    device_noise,
    honest_devices,
    lane_variances_milli,
    noise_margin,
    noise_parts,
    noisy_ranges,
    part_variance_milli,
    range_bits,
    sensitivity,
    std_per_lane,
    sum_range,
    unwrapped,
    variances_milli,
)
from prunefleet_shared.secure_sum.context import most_colluders, threshold


def random_bytes(seed):
    """Bytes of SHAKE-256, the same each time."""
    position = 0

    def take(num_bytes):
        nonlocal position
        position += 1
        return hashlib.shake_256(f"{seed}/{position}".encode()).digest(num_bytes)

    return take


def mask_block(num_channels, name="a"):
    return LaneBlock(grade_lane(name), num_channels, 1, LaneRule.HALF)


def vote_table(sizes=(8, 5, 1), num_levels=2):
    masks = [mask_block(size, f"g{i}") for i, size in enumerate(sizes)]
    widths = [
        LaneBlock(width_lane(n, f"g{i}"), 8, 1, LaneRule.ONE_HOT) for n in range(num_levels) for i in range(len(sizes))
    ]
    return LaneTable((*masks, *widths))


# --- sensitivity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_channels", range(1, 9))
def test_every_mask_is_as_far_from_half_votes_as_the_sensitivity_says_and_no_constant_is_nearer(num_channels):
    weight = half_of(num_channels)
    assert weight == keep_counts(num_channels)[3]
    masks = [np.isin(range(num_channels), kept) for kept in itertools.combinations(range(num_channels), weight)]
    distances = [math.dist(mask, [0.5] * num_channels) for mask in masks]
    assert distances == pytest.approx([block_part(mask_block(num_channels)).sensitivity] * len(masks))
    if num_channels % 2 == 0:
        nearest = min(max(math.dist(mask, [c / 100] * num_channels) for mask in masks) for c in range(101))
        assert nearest == pytest.approx(min(distances))


@pytest.mark.parametrize("num_channels", range(1, 8))
def test_two_masks_differ_in_no_more_lanes_than_swaps_are_counted(num_channels):
    ones = itertools.combinations(range(num_channels), half_of(num_channels))
    masks = [np.isin(range(num_channels), kept) for kept in ones]
    most = max(int((one != other).sum()) for one in masks for other in masks)
    assert block_part(mask_block(num_channels)).swap_lanes == most


@pytest.mark.parametrize(
    ("block", "by_zero", "by_swap"),
    [
        (LaneBlock("width/0/a", 8, 1, LaneRule.ONE_HOT), 1.0, 2),
        (LaneBlock("gain", 16, 1, LaneRule.AT_MOST_ONE), 1.0, 2),
        (LaneBlock("tried", 1, 1, LaneRule.FLAG), 1.0, 1),
    ],
)
def test_one_hot_blocks_and_flags_move_the_sum_by_one(block, by_zero, by_swap):
    assert block_part(block).sensitivity == by_zero
    assert block_part(block).swap_lanes == by_swap


def test_graded_masks_are_not_for_this_mode():
    with pytest.raises(LocalProtocolError, match=r"grade/a holds 0\.\.7"):
        noise_parts(LaneTable((LaneBlock("grade/a", 8, 7, LaneRule.GRADES),)))


def test_a_vote_has_a_part_for_all_masks_and_one_for_each_level():
    parts = noise_parts(vote_table())
    assert [part.name for part in parts] == ["grade", "width/0", "width/1"]
    assert [part.num_lanes for part in parts] == [14, 24, 24]
    assert [part.sensitivity for part in parts] == [math.sqrt(14) / 2, math.sqrt(3), math.sqrt(3)]
    assert sensitivity(vote_table()) == pytest.approx(math.sqrt(14 / 4 + 6))


# --- how much --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [vote_table(), vote_table((32, 64), 4), OUTCOME_LANES])
def test_a_sum_with_all_its_noise_is_one_mechanism_with_the_campaigns_multiplier(table):
    parts, variances = noise_parts(table), variances_milli(table, 2_500, 1)
    loss = sum(Fraction(part.four_squares, 4) * 1000 / variances[part.name] for part in parts)
    assert float(1 / loss) == pytest.approx(2.5**2, rel=1e-3)
    assert loss <= Fraction(4, 25)  # rounding is towards more noise


@pytest.mark.parametrize("num_shares", [1, 3, 7, 34])
def test_the_honest_shares_together_are_never_less_than_a_sum_needs(num_shares):
    whole, share = variances_milli(vote_table(), 653, 1), variances_milli(vote_table(), 653, num_shares)
    for name in whole:
        assert whole[name] <= num_shares * share[name] + num_shares
        assert share[name] * num_shares >= 0.653**2 * 1000 * _exact_part(name)


def _exact_part(name):
    part = next(part for part in noise_parts(vote_table()) if part.name == name)
    return part.four_squares / 4 * 3


def test_variances_are_in_thousandths_rounded_up():
    part = noise_parts(vote_table((8,), 1))[0]  # sensitivity² 2
    assert part_variance_milli(part, 2, 1_000, 1) == 4_000
    assert part_variance_milli(part, 2, 1_000, 3) == 1_334


def test_every_lane_has_the_noise_of_its_part():
    lanes = lane_variances_milli(vote_table(), 1_000, 1)
    by_part = variances_milli(vote_table(), 1_000, 1)
    assert lanes.tolist() == [by_part["grade"]] * 14 + [by_part["width/0"]] * 24 + [by_part["width/1"]] * 24
    assert std_per_lane(vote_table(), 1_000, 1)[0] == pytest.approx(math.sqrt(by_part["grade"] / 1000))


@pytest.mark.parametrize(("fewest", "most"), [(1, 1), (3, 3), (8, 8), (8, 100), (32, 40), (100, 130)])
def test_honest_shares_are_counted_as_the_private_sum_counts_colluders(fewest, most):
    rosters = range(fewest, most + 1)
    honest = [max(threshold(n), fewest) - most_colluders(n) for n in rosters]
    assert honest_devices(fewest, most) == min(honest) >= max(1, fewest / 2 - 1)


def test_a_lane_leaves_room_for_eight_deviations_and_all_votes():
    block = mask_block(8)
    assert noise_margin(25_000) >= NOISE_SIGMAS * 5
    assert sum_range(block, 100, 25_000) == (-noise_margin(25_000), 100 + noise_margin(25_000))
    assert range_bits(-49, 149) == 8
    assert range_bits(0, 255) == 8
    assert range_bits(-1, 255) == 9


def test_sums_are_read_back_from_their_residues_over_the_whole_range():
    lowest, bits = noisy_ranges(vote_table(), 2_000, 5, 20)
    tops = lowest + (np.int64(1) << bits) - 1
    for lanes in (lowest, np.zeros_like(lowest), np.full_like(lowest, 20), tops):
        assert (unwrapped(lanes & ((np.int64(1) << bits) - 1), lowest, bits) == lanes).all()
    assert (tops >= 20 - lowest).all()


@pytest.mark.parametrize("variance", [0.25, 1.0, 10.0, 400.0])
def test_noise_outgrows_its_margin_less_than_once_in_a_million_million_lanes(variance):
    margin = noise_margin(int(variance * 1000))
    # Chernoff's bound for a Skellam variable: E exp(t X) = exp(v (cosh t - 1)), t = asinh(margin / v).
    exponent = margin * math.asinh(margin / variance) - math.hypot(margin, variance) + variance
    assert 2 * math.exp(-exponent) < 1e-12


# --- drawing it ------------------------------------------------------------------------------------------------------


def test_a_devices_noise_is_lane_by_lane_what_its_part_asks_for():
    table = vote_table((64, 64), 2)
    drawn = np.asarray([device_noise(table, 3_000, 4, random_bytes(i)) for i in range(400)])
    variances = lane_variances_milli(table, 3_000, 4) / 1000
    assert drawn.shape == (400, table.num_lanes)
    for lanes in np.split(np.arange(table.num_lanes), [128, 144]):
        assert drawn[:, lanes].var() == pytest.approx(variances[lanes[0]], rel=0.06)
    correlation = np.corrcoef(drawn[:, :128].T) - np.eye(128)
    assert abs(correlation).max() < 0.3  # no lane repeats another


def test_bytes_are_never_taken_twice():
    asked = []

    def remember(num_bytes):
        asked.append(num_bytes)
        return hashlib.shake_256(str(len(asked)).encode()).digest(num_bytes)

    device_noise(vote_table(), 3_000, 4, remember)
    assert sum(num_bytes for num_bytes in asked if num_bytes > 8) >= 8 * vote_table().num_lanes
