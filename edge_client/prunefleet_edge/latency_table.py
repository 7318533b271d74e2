"""What a network of any widths takes on one device, predicted from layers that were measured there. No torch.

Each layer was timed alone over a grid of input and output widths; a prediction interpolates in that grid, layer by
layer, and a calibration on whole networks turns the sum into a network's latency. Measured time is not monotone in the
width: runtimes have fast paths for multiples of 4, 8 or 16 channels, and a layer with 31 input channels can take twice
what one with 32 takes. The grid therefore holds aligned and odd widths, and interpolation never mixes them.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from prunefleet_shared.layout import CostTable, CostTerm

ALIGNMENTS = (8, 4, 1)
"""Widths are alike that share the first of these which divides them."""
_BLOCK = 16
"""Channels that runtimes compute at a time, at most: output widths step up behind its multiples."""


def alignment(width: int) -> int:
    """The first of :data:`ALIGNMENTS` that divides ``width``.

    >>> [alignment(width) for width in (32, 20, 18, 7)]
    [8, 4, 1, 1]
    """
    return next(step for step in ALIGNMENTS if width % step == 0)


def input_grid(num_channels: int, num_points: int, step: int = 1) -> tuple[int, ...]:
    """Input widths to measure: about ``num_points``, the ends of every alignment among them, ascending.

    Args:
        num_channels: Of the dense layer.
        num_points: 2 or more.
        step: Widths are multiples of this (the groups of a grouped convolution).
    """
    widths = range(step, num_channels + 1, step)
    chosen: set[int] = set()
    for kind, points in ((8, num_points // 2 + 1), (4, num_points // 4 + 1), (1, num_points // 2 + 1)):
        alike = [width for width in widths if alignment(width) == kind]
        chosen.update(_spread(alike, max(2, points)))
        if kind == 1:  # behind the first block, many runtimes take another path
            chosen.update(w for w in alike if abs(w - _BLOCK) == 1)
    return tuple(sorted(chosen))


def output_grid(num_channels: int, num_points: int, step: int = 1) -> tuple[int, ...]:
    """Output widths to measure: the last of some blocks and the first after each, and both ends, ascending."""
    widths = range(step, num_channels + 1, step)
    ends = _spread([w for w in widths if w % _BLOCK == 0], max(2, num_points // 2))
    after = [end + step for end in ends if end + step <= num_channels]
    half_block = [w for w in widths if w == _BLOCK // 2]
    return tuple(sorted({widths[0], widths[-1], *ends, *after, *half_block}))


def _spread(values: Sequence[int], num_points: int) -> list[int]:
    """At most ``num_points`` of ``values``, evenly, both ends included."""
    if len(values) <= num_points:
        return list(values)
    last = len(values) - 1
    return [values[round(index * last / (num_points - 1))] for index in range(num_points)]


@dataclass(frozen=True, slots=True)
class LayerLatency:
    """One layer as it was measured, alone, with its norm and its activation.

    Attributes:
        name: The layer.
        ins: Its input channels as a sum over group widths; for a depthwise layer, those of its output.
        outs: Its output channels; empty where they follow from the input (depthwise).
        in_positions: Pixels per input channel.
        in_grid: Input widths that were measured, ascending.
        out_grid: Output widths, ascending; one entry where there is no choice.
        ns: Nanoseconds, [input width][output width].
    """

    name: str
    ins: tuple[CostTerm, ...]
    outs: tuple[CostTerm, ...]
    in_positions: int
    in_grid: tuple[int, ...]
    out_grid: tuple[int, ...]
    ns: tuple[tuple[int, ...], ...]

    def channels_in(self, widths: Sequence[int]) -> int:
        """Input channels at the groups' ``widths``."""
        return CostTable("channels", self.ins).cost(widths)

    def ns_at(self, widths: Sequence[int]) -> float:
        """Nanoseconds at the groups' ``widths``: bilinear between the nearest widths alike that were measured."""
        low, high, in_share = _between(self.in_grid, self.channels_in(widths), is_alike=True)
        left, right, out_share = (0, 0, 0.0)
        if len(self.out_grid) > 1:
            channels_out = CostTable("channels", self.outs).cost(widths)
            left, right, out_share = _between(self.out_grid, channels_out, is_alike=False)
        lower = self.ns[low][left] * (1 - out_share) + self.ns[low][right] * out_share
        upper = self.ns[high][left] * (1 - out_share) + self.ns[high][right] * out_share
        return lower * (1 - in_share) + upper * in_share


@lru_cache(maxsize=65536)
def _between(grid: tuple[int, ...], width: int, *, is_alike: bool) -> tuple[int, int, float]:
    """Two places in ``grid`` and how far from the first to the second ``width`` is; its end where it lies outside."""
    alike = [i for i, w in enumerate(grid) if alignment(w) == alignment(width)] if is_alike else []
    places = alike or list(range(len(grid)))
    after = bisect.bisect_left([grid[place] for place in places], width)
    low, high = places[max(0, after - 1)], places[min(after, len(places) - 1)]
    if grid[high] <= width or low == high:
        return high, high, 0.0
    if width <= grid[low]:
        return low, low, 0.0
    return low, high, (width - grid[low]) / (grid[high] - grid[low])


@dataclass(frozen=True, slots=True)
class Calibration:
    """From measured layers to a whole network, fitted on whole networks.

    Attributes:
        layers: Factor on the sum of the layers alone.
        ns_per_odd_input: Nanoseconds per input value of those layers whose input width is no multiple of 4: runtimes
            bring their inputs into another order, and the results back.
        constant_ns: What does not depend on widths.
    """

    layers: float = 1.0
    ns_per_odd_input: float = 0.0
    constant_ns: float = 0.0


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Latency of one sample at any widths: a :class:`~prunefleet_shared.layout.WidthCost`, predicted.

    Attributes:
        layers: What was measured.
        calibration: What makes a network of them.
        unit: ``"ns"``.
    """

    layers: tuple[LayerLatency, ...]
    calibration: Calibration = Calibration()
    unit: str = "ns"

    def features(self, widths: Sequence[int]) -> tuple[float, float, float]:
        """What :class:`Calibration` weighs, in its order."""
        inputs = [(layer.channels_in(widths), layer.in_positions) for layer in self.layers]
        odd_values = sum(channels * positions for channels, positions in inputs if alignment(channels) == 1)
        return sum(layer.ns_at(widths) for layer in self.layers), odd_values, 1.0

    def cost(self, widths: Sequence[int]) -> int:
        """Nanoseconds per sample of a network whose group ``i`` has ``widths[i]`` channels, at least 1."""
        weights = self.calibration
        factors = (weights.layers, weights.ns_per_odd_input, weights.constant_ns)
        parts = zip(factors, self.features(widths), strict=True)
        return max(1, round(sum(factor * feature for factor, feature in parts)))
