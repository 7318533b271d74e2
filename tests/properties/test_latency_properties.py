"""Whatever was measured: predictions never leave what was measured of widths alike, and meet it where it was."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from prunefleet_edge.latency_table import LatencyTable, LayerLatency, alignment, input_grid, output_grid
from prunefleet_shared.layout import CostTerm

LARGEST = 48


@st.composite
def layers(draw: st.DrawFn) -> LayerLatency:
    sizes, points = st.integers(1, LARGEST), st.integers(2, 8)
    in_grid, out_grid = input_grid(draw(sizes), draw(points)), output_grid(draw(sizes), draw(points))
    times = st.lists(st.integers(1, 10**7), min_size=len(out_grid), max_size=len(out_grid))
    ns = draw(st.lists(times, min_size=len(in_grid), max_size=len(in_grid)))
    rows = tuple(tuple(row) for row in ns)
    return LayerLatency("a", (CostTerm(1, (0,)),), (CostTerm(1, (1,)),), 1, in_grid, out_grid, rows)


@given(layers(), st.integers(1, LARGEST), st.integers(1, LARGEST))
def test_a_prediction_lies_between_measurements_of_widths_alike(layer: LayerLatency, ins: int, outs: int) -> None:
    pairs = zip(layer.in_grid, layer.ns, strict=True)
    alike = [row for width, row in pairs if alignment(width) == alignment(ins)] or list(layer.ns)
    measured = list(itertools.chain(*alike))
    assert min(measured) - 1e-6 <= layer.ns_at((ins, outs)) <= max(measured) + 1e-6


@given(layers())
def test_where_it_was_measured_the_measurement_is_said(layer: LayerLatency) -> None:
    table = LatencyTable((layer,))
    for (row, ins), (column, outs) in itertools.product(enumerate(layer.in_grid), enumerate(layer.out_grid)):
        assert layer.ns_at((ins, outs)) == layer.ns[row][column]
        assert table.cost((ins, outs)) == layer.ns[row][column]
