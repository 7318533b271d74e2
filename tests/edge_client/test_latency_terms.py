"""A measured latency as a cost table: exact where layers are products of widths, and honest about what is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prunefleet_edge.latency_table import Calibration, LatencyTable, LayerLatency, input_grid
from prunefleet_edge.latency_terms import PS_PER_NS, fit_error, latency_terms
from prunefleet_shared.layout import ChannelGroup, CostTerm, Layout
from prunefleet_shared.limits import Limits

LAYOUT = Layout((ChannelGroup("a", 32), ChannelGroup("b", 48)))
GRID = input_grid(32, 8)


def layer(ns_at: Callable[[int, int], float], *, outs: bool = True) -> LayerLatency:
    out_grid = (1, 16, 17, 48) if outs else (1,)
    ns = tuple(tuple(round(ns_at(i, o)) for o in out_grid) for i in GRID)
    ins, out_terms = (CostTerm(1, (0,)),), (CostTerm(1, (1,)),) if outs else ()
    return LayerLatency("layer", ins, out_terms, 4, GRID, out_grid, ns)


def test_products_of_widths_come_out_exactly_with_their_calibration() -> None:
    table = LatencyTable((layer(lambda i, o: 10_000 + 300 * i + 40 * o + 5 * i * o),), Calibration(2.0, 0.0, 700.0))
    fitted = latency_terms(table)
    assert fitted.unit == "ps"
    for widths in ((1, 1), (8, 17), (32, 48)):
        assert fitted.cost(widths) == pytest.approx(PS_PER_NS * table.cost(widths), rel=1e-6)
    median, largest = fit_error(table, fitted, LAYOUT)
    assert median <= largest < 1e-4


def test_a_layer_without_outputs_of_its_own_and_a_fixed_input_are_no_trouble() -> None:
    depthwise = layer(lambda i, _o: 5_000 + 200 * i, outs=False)
    stem = LayerLatency("stem", (CostTerm(3),), (CostTerm(2, (1,)),), 4, (3,), (2, 96), ((2_000, 96_000),))
    table = LatencyTable((depthwise, stem))
    fitted = latency_terms(table)
    for widths in ((1, 1), (16, 30), (32, 48)):
        assert fitted.cost(widths) == pytest.approx(PS_PER_NS * table.cost(widths), rel=0.01)


def test_no_coefficient_is_negative_even_where_wider_was_faster() -> None:
    table = LatencyTable((layer(lambda i, o: 50_000 - 1_000 * i + 10 * o),))
    assert all(term.coefficient >= 0 for term in latency_terms(table).terms)


def test_rounded_widths_are_fitted_without_the_slow_odd_ones() -> None:
    """Odd inputs take twice as long here, as in runtimes that bring them into another order."""
    table = LatencyTable((layer(lambda i, o: (5 * i * o + 1_000) * (1 if i % 8 == 0 else 2)),))
    limits = Limits(round_to=8)
    fitted, blind = latency_terms(table, limits), latency_terms(table)
    assert fit_error(table, fitted, LAYOUT, limits)[1] < 0.01
    assert fit_error(table, blind, LAYOUT, limits)[1] > 0.1
