"""A measured latency as a cost table: sums of products of widths, which a signed campaign can carry. No torch.

A :class:`~prunefleet_edge.latency_table.LatencyTable` interpolates in measured grids with floats; a decision is made
from integers, on any machine. So each layer's times are fitted by ``a + b in + c out + d in out`` with no negative
coefficient (a layer never costs less for being wider), by least squares of the *relative* error, and written in
picoseconds. What that loses (fast paths for multiples of 8, steps) is measured, not assumed: see :func:`fit_error`.
"""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np

from prunefleet_edge.latency_table import LatencyTable, LayerLatency
from prunefleet_shared.layout import CostTable, CostTerm, Layout
from prunefleet_shared.limits import NO_LIMITS, Limits, allowed_widths
from prunefleet_shared.masks import FloatArray

PS_PER_NS = 1000
UNIT = "ps"
"""Picoseconds per sample: one product of two widths can take less than a nanosecond."""
_NUM_CHECKED = 64


def latency_terms(table: LatencyTable, limits: Limits = NO_LIMITS) -> CostTable:
    """The nearest cost table, in picoseconds per sample.

    Args:
        table: What was measured on a device.
        limits: Where widths are multiples of ``round_to``, only such input widths are fitted (and the widest).
    """
    scale = PS_PER_NS * table.calibration.layers
    summed: dict[tuple[int, ...], float] = {(): PS_PER_NS * table.calibration.constant_ns}
    for layer in table.layers:
        for groups, nanoseconds in _layer_terms(layer, limits.round_to):
            summed[groups] = summed.get(groups, 0.0) + scale * nanoseconds
    terms = (CostTerm(max(0, round(ps)), groups) for groups, ps in sorted(summed.items()))
    return CostTable(UNIT, tuple(term for term in terms if term.coefficient))


def fit_error(
    table: LatencyTable, fitted: CostTable, layout: Layout, limits: Limits = NO_LIMITS
) -> tuple[float, float]:
    """How far the fit is from the table on random widths within the limits: median and largest relative error."""
    rng, allowed = np.random.default_rng(0), allowed_widths(layout, limits)
    errors = []
    for _ in range(_NUM_CHECKED):
        widths = [int(rng.choice(options)) for options in allowed]
        errors.append(abs(fitted.cost(widths) / (PS_PER_NS * table.cost(widths)) - 1))
    return float(np.median(errors)), float(np.max(errors))


def _layer_terms(layer: LayerLatency, round_to: int) -> list[tuple[tuple[int, ...], float]]:
    """Nanoseconds of one layer alone, as terms in group widths."""
    rows = [i for i, width in enumerate(layer.in_grid) if width % round_to == 0 or width == layer.in_grid[-1]]
    rows = rows if len(rows) > 1 else list(range(len(layer.in_grid)))
    width_in, width_out = np.meshgrid([layer.in_grid[row] for row in rows], layer.out_grid, indexing="ij")
    nanoseconds = np.array([layer.ns[row] for row in rows], dtype=np.float64).ravel()
    features = [np.ones_like(nanoseconds), width_in.ravel()]
    if layer.outs:
        features += [width_out.ravel(), (width_in * width_out).ravel()]
    weights = [*_non_negative(np.stack(features, axis=1) / nanoseconds[:, None]), 0.0, 0.0][:4]
    one = (CostTerm(1),)
    factors = ((one, one), (layer.ins, one), (one, layer.outs), (layer.ins, layer.outs))
    return [
        (tuple(sorted((*left.groups, *right.groups))), weight * left.coefficient * right.coefficient)
        for weight, (lefts, rights) in zip(weights, factors, strict=True)
        for left in lefts
        for right in rights
    ]


def _non_negative(features_NF: FloatArray) -> list[float]:
    """The non-negative weights that bring every row nearest to 1, by trying each subset of the few features."""
    num = features_NF.shape[1]
    best: tuple[float, list[float]] = (float("inf"), [0.0] * num)
    for chosen in chain.from_iterable(combinations(range(num), size) for size in range(1, num + 1)):
        weights, *_ = np.linalg.lstsq(features_NF[:, chosen], np.ones(len(features_NF)), rcond=None)
        if (weights >= 0).all():
            error = float(((features_NF[:, chosen] @ weights - 1) ** 2).sum())
            found = dict(zip(chosen, weights.tolist(), strict=True))
            best = min(best, (error, [found.get(feature, 0.0) for feature in range(num)]))
    return best[1]
