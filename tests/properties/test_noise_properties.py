"""What holds for every lane table, noise multiplier and noisy sum."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prunefleet_coordinator.fusion import fused_order, fused_width_votes, why_noisy_sum_impossible
from prunefleet_shared.lanes import LaneBlock, LaneRule, LaneTable
from prunefleet_shared.layout import ChannelGroup, Layout
from prunefleet_shared.masks import half_of
from prunefleet_shared.noise import (
    honest_devices,
    lane_variances_milli,
    noise_parts,
    noisy_ranges,
    unwrapped,
    variances_milli,
)
from prunefleet_shared.secure_sum.context import most_colluders, threshold

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=5)
TALLY = st.integers(-500, 500)


def table_of(sizes, num_levels):
    masks = [LaneBlock(f"grade/g{i}", size, 1, LaneRule.HALF) for i, size in enumerate(sizes)]
    widths = [
        LaneBlock(f"width/{level}/g{i}", 8, 1, LaneRule.ONE_HOT)
        for level in range(num_levels)
        for i in range(len(sizes))
    ]
    return LaneTable((*masks, *widths))


@given(SIZES, st.integers(0, 8), st.integers(1, 100_000), st.integers(1, 64))
def test_the_honest_shares_of_all_parts_add_up_to_the_campaigns_multiplier(sizes, num_levels, multiplier_milli, shares):
    table = table_of(sizes, num_levels)
    by_part = variances_milli(table, multiplier_milli, shares)
    loss = sum(Fraction(part.four_squares * 1000, 4 * shares * by_part[part.name]) for part in noise_parts(table))
    assert loss <= Fraction(1_000_000, multiplier_milli**2)


@given(st.integers(1, 60), st.integers(0, 90))
def test_no_roster_that_a_device_accepts_has_fewer_honest_survivors_than_counted_on(fewest, more):
    counted = honest_devices(fewest, fewest + more)
    assert 1 <= counted <= fewest
    for num_devices in range(fewest, fewest + more + 1):
        assert counted <= max(threshold(num_devices), fewest) - most_colluders(num_devices)


@given(SIZES, st.integers(1, 3), st.integers(100, 20_000), st.integers(1, 100), st.data())
def test_a_noisy_sum_is_read_back_from_its_residues(sizes, num_levels, multiplier_milli, num_devices, data):
    table = table_of(sizes, num_levels)
    lowest, bits = noisy_ranges(table, multiplier_milli, 4, num_devices)
    highest = num_devices - lowest
    share = data.draw(st.lists(st.floats(0, 1), min_size=table.num_lanes, max_size=table.num_lanes))
    lanes = lowest + ((highest - lowest) * np.asarray(share)).astype(np.int64)
    assert (unwrapped(lanes & ((1 << bits) - 1), lowest, bits) == lanes).all()


@given(st.data(), st.integers(1, 300), st.integers(0, 10_000_000))
def test_fused_orders_are_permutations_that_only_depend_on_votes_by_group(data, num_devices, variance_milli):
    sizes = data.draw(SIZES)
    layout = Layout(tuple(ChannelGroup(f"g{i}", size) for i, size in enumerate(sizes)))
    tally = data.draw(st.lists(TALLY, min_size=sum(sizes), max_size=sum(sizes)))
    public = [tuple(data.draw(st.permutations(range(size)))) for size in sizes]
    orders = fused_order(layout, tally, num_devices, variance_milli, public)
    assert [Counter(order) for order in orders] == [Counter(range(size)) for size in sizes]
    moved = [votes + 77 for votes in tally]  # as many more for every channel say nothing about which
    assert fused_order(layout, moved, num_devices, variance_milli, public) == orders


@given(
    st.lists(st.lists(TALLY, min_size=8, max_size=8), min_size=1, max_size=12),
    st.integers(1, 300),
    st.integers(0, 1_000_000),
)
def test_fused_width_votes_are_votes(tally, num_devices, variance_milli):
    fused = fused_width_votes(tally, num_devices, variance_milli)
    assert [len(row) for row in fused] == [8] * len(tally)
    assert all(min(row) >= 0 and sum(row) == 1000 * num_devices for row in fused)


@given(SIZES, st.integers(1, 2), st.integers(1, 30), st.integers(100, 5_000), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_honest_devices_with_honest_noise_are_never_suspected(sizes, num_levels, num_devices, multiplier_milli, seed):
    rng = np.random.default_rng(seed)
    table = table_of(sizes, num_levels)
    variances = lane_variances_milli(table, multiplier_milli, 3) * num_devices
    total = rng.poisson(variances / 2000) - rng.poisson(variances / 2000)
    for _ in range(num_devices):
        masks = [rng.permutation(size) < half_of(size) for size in sizes]
        widths = [np.eye(8, dtype=np.int64)[rng.integers(8)] for _ in range(num_levels * len(sizes))]
        total += np.concatenate([*masks, *widths])
    assert why_noisy_sum_impossible(table, total.tolist(), num_devices, variances.tolist()) is None
    total[0] += 30 * num_devices + 20 * math.isqrt(int(variances[0]) // 1000 + 1)
    assert "grade/g0" in (why_noisy_sum_impossible(table, total.tolist(), num_devices, variances.tolist()) or "")
