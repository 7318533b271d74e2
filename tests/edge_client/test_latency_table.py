"""Which widths are measured, and what is said of those between: against a slow interpolation by hand."""

from __future__ import annotations

import itertools

import pytest

from prunefleet_edge.latency_table import (
    ALIGNMENTS,
    Calibration,
    LatencyTable,
    LayerLatency,
    alignment,
    input_grid,
    output_grid,
)
from prunefleet_edge.ranking import rank_widths
from prunefleet_shared.layout import ChannelGroup, CostTerm, Layout

SIZES = (1, 2, 3, 5, 8, 12, 16, 17, 24, 32, 48, 64, 96, 100, 160, 384, 1280)


def layer(in_grid: tuple[int, ...], out_grid: tuple[int, ...], ns: tuple[tuple[int, ...], ...]) -> LayerLatency:
    return LayerLatency("a", (CostTerm(1, (0,)),), (CostTerm(1, (1,)),), 4, in_grid, out_grid, ns)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_points", [2, 4, 8, 16])
def test_grids_are_ascending_and_reach_both_ends(size: int, num_points: int) -> None:
    for grid in (input_grid(size, num_points), output_grid(size, num_points)):
        assert list(grid) == sorted(set(grid))
        assert (grid[0], grid[-1]) == (1, size)


@pytest.mark.parametrize("size", SIZES)
def test_every_alignment_is_measured_from_its_narrowest_to_its_widest(size: int) -> None:
    """So that no width lies outside what was measured of its kind."""
    grid = input_grid(size, 4)
    for kind in ALIGNMENTS:
        alike = [width for width in range(1, size + 1) if alignment(width) == kind]
        measured = [width for width in grid if alignment(width) == kind]
        assert (measured[:1], measured[-1:]) == (alike[:1], alike[-1:])


def test_grids_grow_with_what_was_asked_for_only() -> None:
    assert len(input_grid(1280, 8)) <= 15
    assert len(output_grid(1280, 8)) <= 12
    assert len(input_grid(1280, 16)) > len(input_grid(1280, 8)) > len(input_grid(1280, 4))


def test_output_steps_behind_a_block_are_measured_on_both_sides() -> None:
    grid = output_grid(64, 8)
    assert {16, 17, 32, 33, 48, 49, 64} <= set(grid)


def test_a_grouped_convolution_is_measured_in_whole_groups() -> None:
    for grid in (input_grid(64, 8, 4), output_grid(64, 8, 4)):
        assert all(width % 4 == 0 for width in grid)
        assert grid[-1] == 64


def test_widths_between_are_interpolated_on_both_sides() -> None:
    one = layer((8, 16, 32), (4, 8), ((100, 200), (300, 600), (500, 1000)))
    assert one.ns_at((8, 4)) == 100
    assert one.ns_at((16, 8)) == 600
    assert one.ns_at((24, 4)) == 400
    assert one.ns_at((8, 6)) == 150
    assert one.ns_at((24, 6)) == pytest.approx((300 + 600 + 500 + 1000) / 4)


def test_a_slow_odd_width_says_nothing_about_its_aligned_neighbours() -> None:
    """31 inputs take the slow path, 32 do not: neither 24 nor 29 is a mixture of the two."""
    one = layer((8, 15, 31, 32), (1,), ((80,), (600,), (1240,), (320,)))
    assert one.ns_at((24, 1)) == pytest.approx(80 + (320 - 80) * 16 / 24)
    assert one.ns_at((23, 1)) == pytest.approx((600 + 1240) / 2)
    assert one.ns_at((32, 1)) < one.ns_at((31, 1)), "kept as measured: time need not grow with the width"


def test_outside_the_grid_its_end_counts() -> None:
    one = layer((8, 16), (8, 16), ((10, 20), (30, 40)))
    assert one.ns_at((24, 24)) == 40
    assert one.ns_at((8, 1)) == 10
    assert one.ns_at((3, 8)) == pytest.approx(10), "no odd width was measured: the nearest of any kind"


def test_a_depthwise_layer_has_one_axis() -> None:
    one = LayerLatency("d", (CostTerm(1, (0,)),), (), 4, (8, 16), (0,), ((10,), (30,)))
    assert [one.ns_at((width,)) for width in (8, 16)] == [10, 30]


def test_channels_come_from_several_groups_and_from_none() -> None:
    """A concatenation of two groups, the first with two channels a unit, and 3 channels that nothing prunes."""
    ins = (CostTerm(2, (0,)), CostTerm(1, (2,)), CostTerm(3))
    assert LayerLatency("c", ins, (), 1, (1,), (0,), ((1,),)).channels_in((5, 100, 7)) == 2 * 5 + 7 + 3


def test_a_network_is_the_weighted_sum_of_its_features() -> None:
    layers = (layer((8, 16), (8, 16), ((10, 20), (30, 40))), layer((5, 7), (8,), ((1,), (2,))))
    table = LatencyTable(layers, Calibration(layers=3.0, ns_per_odd_input=0.5, constant_ns=1000.0))
    assert table.features((8, 16)) == (pytest.approx(20 + 2), 0, 1.0)
    assert table.features((7, 8))[1] == 2 * 7 * 4, "7 is odd for both layers, 4 pixels each"
    assert table.features((12, 8))[1] == 0, "a multiple of 4 is not odd"
    for widths in itertools.product((7, 8, 12, 16), (8, 16)):
        ns, odd_values, _ = table.features(widths)
        assert table.cost(widths) == round(3 * ns + 0.5 * odd_values + 1000)
    assert table.unit == "ns"


def test_a_network_never_takes_nothing() -> None:
    assert LatencyTable((), Calibration(constant_ns=-5.0)).cost(()) == 1


def test_it_serves_as_a_budget() -> None:
    layout = Layout((ChannelGroup("a", 16), ChannelGroup("b", 16)))
    ns = tuple(tuple(10 * a * b for b in (8, 16)) for a in (8, 16))
    table = LatencyTable((layer((8, 16), (8, 16), ns),))
    budget = table.cost((16, 16)) // 2
    widths = rank_widths(layout, table, list(range(32)), budget)
    assert table.cost(widths) <= budget
    assert widths[0] < widths[1], "the first group's channels score lower"
