"""Layers found with the channels they really have, rebuilt with the shapes they really have, timed fairly."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import numpy as np
import pytest
import torch
import wired_nets
from torch import nn

from prunefleet_edge import layer_timing
from prunefleet_edge.layer_timing import LayerShape, find_layers, time_in_turns, time_layer
from prunefleet_edge.onboarding import onboard
from prunefleet_edge.pruning import slim
from prunefleet_shared.layout import CostTable

torch.set_num_threads(1)
MAKERS = (wired_nets.residual, wired_nets.mobile, wired_nets.grouped, wired_nets.fire, wired_nets.flat)


class Bench:
    """A clock that only the runs turn."""

    def __init__(self) -> None:
        self.now, self.calls = 0, list[str]()

    def clock(self) -> int:
        return self.now

    def run(self, name: str, times: list[int]) -> Callable[[], object]:
        script = cycle(times)

        def run() -> None:
            self.calls.append(name)
            self.now += next(script)

        return run


def test_in_its_turn_each_runs_once_untimed_and_three_times_timed() -> None:
    bench = Bench()
    runs = [bench.run("a", [900, 1, 2, 30]), bench.run("b", [900, 10, 300, 20])]
    assert time_in_turns(runs, 2, bench.clock) == [2, 20]
    assert bench.calls == (["a"] * 4 + ["b"] * 4) * 2


def test_cold_runs_take_single_turns() -> None:
    bench = Bench()
    runs = [bench.run("a", [1, 50, 3]), bench.run("b", [7])]
    assert time_in_turns(runs, 3, bench.clock, is_warm=False) == [3, 7]
    assert bench.calls == ["a", "b"] * 3


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_channels_are_those_of_the_slim_network_s_layers(make: Callable[[], nn.Module]) -> None:
    """At random widths, against the modules of a network that has really been slimmed."""
    torch.manual_seed(0)
    model, example = make().eval(), wired_nets.EXAMPLE
    traced = onboard(model, example)
    rng = np.random.default_rng(2)
    found = find_layers(model, example, traced)
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert sorted(layer.name for layer in found) == sorted(names)
    for _ in range(3):
        widths = [int(rng.integers(1, n + 1)) for n in traced.layout.dense_widths]
        masks = [np.arange(n) < width for n, width in zip(traced.layout.dense_widths, widths, strict=True)]
        small = slim(model, example, masks, traced)
        for layer in found:
            real = small.get_submodule(layer.name)
            ins, outs = (CostTable("channels", terms).cost(widths) for terms in (layer.ins, layer.outs))
            if isinstance(real, nn.Linear):
                assert (ins, outs) == (real.in_features, real.out_features)
            else:
                assert (ins, outs) == (real.in_channels, real.out_channels)


def test_a_layer_s_shape_says_all_that_its_time_depends_on() -> None:
    torch.manual_seed(0)
    model = wired_nets.mobile().eval()
    found = {layer.name: layer for layer in find_layers(model, wired_nets.EXAMPLE, onboard(model, wired_nets.EXAMPLE))}
    stem, depth = found["stem.0"].shape, found["depth.0"]
    assert stem == LayerShape(3, 8, (8, 8), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1)
    assert depth.shape.is_depthwise
    assert depth.shape.in_shape == (4, 4)
    assert depth.ins == depth.outs
    assert found["fc"].shape == LayerShape(8, 4, ())


SHAPES = {
    "plain": nn.Conv2d(6, 5, 3, padding=1),
    "strided": nn.Conv2d(6, 5, (3, 1), (2, 1), (1, 0)),
    "dilated": nn.Conv2d(6, 5, 3, padding=2, dilation=2),
    "same": nn.Conv2d(6, 5, 4, padding="same"),
    "valid": nn.Conv2d(6, 5, 3, padding="valid"),
    "grouped": nn.Conv2d(6, 9, 3, groups=3),
    "depthwise": nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "one_dimension": nn.Conv1d(6, 5, 3, padding=1),
    "linear": nn.Linear(6, 5),
    "linear_in_place": nn.Linear(6, 5),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("runtime", layer_timing.RUNTIMES)
def test_what_is_timed_gives_outputs_of_the_layer_s_shape(name: str, runtime: str) -> None:
    layer = SHAPES[name]
    dims = {"one_dimension": (6, 9), "linear": (6,), "linear_in_place": (7, 6)}.get(name, (6, 9, 8))
    expected = layer(torch.rand(1, *dims)).shape
    shape = layer_timing._found(name, layer, tuple(dims), _NOTHING_PRUNED).shape
    build = layer_timing._in_onnxruntime if runtime == "onnxruntime" else layer_timing._in_torch
    outputs = build(shape, shape.in_channels, shape.out_channels)()
    answer = outputs[0] if isinstance(outputs, list) else outputs
    assert tuple(answer.shape) == tuple(expected)
    assert (answer >= 0).all(), "the activation is part of it"


class _NothingPruned:
    groups = ()


_NOTHING_PRUNED = _NothingPruned()


def test_layers_are_timed_at_each_point_without_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run takes its output channels in microseconds, the empty call 3 of them; more than fit in one turn."""
    bench = Bench()
    monkeypatch.setattr(layer_timing, "_in_torch", lambda _shape, _ins, outs: bench.run(str(outs), [1000 * outs]))
    monkeypatch.setattr(layer_timing, "_empty_call", lambda _runtime: bench.run("empty", [3000]))
    shape, points = LayerShape(64, 64, (8, 8), (3, 3)), [(8, outs) for outs in range(1, 41)]
    found = list(time_layer(shape, points, "torch-eager", 2, bench.clock))
    assert found == [max(100 * outs, 1000 * (outs - 3)) for outs in range(1, 41)]
    assert bench.calls[: 2 * 25].count("empty") == 2
    assert bench.calls.count("40") == 2


@pytest.mark.parametrize("runtime", layer_timing.RUNTIMES)
def test_the_machine_s_own_clock_gives_positive_times(runtime: str) -> None:
    shape = LayerShape(16, 16, (8, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    times = list(time_layer(shape, [(3, 5), (16, 16)], runtime, 2))
    assert len(times) == 2
    assert min(times) >= 1
