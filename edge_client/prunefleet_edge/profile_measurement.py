"""Measures what a network of any widths takes on this device: layers alone, then whole networks to calibrate on.

Layers are timed over a grid of widths. A few whole networks with random widths calibrate their sum, and others that
the calibration has not seen say how far predictions are off.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from prunefleet_edge.export import onnx_bytes, open_onnx, run_onnx
from prunefleet_edge.latency_table import Calibration, LatencyTable, LayerLatency, input_grid, output_grid
from prunefleet_edge.layer_timing import Clock, FoundLayer, LayerShape, find_layers, time_in_turns, time_layer
from prunefleet_edge.memory import training_bytes
from prunefleet_edge.profile import CheckedNetwork, DeviceProfile, Runtime
from prunefleet_edge.pruning import slim
from prunefleet_edge.tracing import Trace
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.layout import CostTerm

BATCH_SIZES = (1, 8, 32, 128)
"""For which the peak of training memory is written down."""
Phase = Callable[[str], Callable[[int, int], None]]
"""Begins a phase of that name; what it returns is told the steps done and the steps there are."""
_PACKAGES = ("torch", "onnx", "onnxruntime")
_Widths = tuple[int, ...]


def default_runtime() -> Runtime:
    """onnxruntime where it is installed, else eager torch."""
    has_both = find_spec("onnxruntime") is not None and find_spec("onnx") is not None
    return "onnxruntime" if has_both else "torch-eager"


@dataclass(frozen=True, slots=True)
class Effort:
    """How thoroughly to measure.

    Attributes:
        grid: Widths per side of each layer, 2 or more; time grows with its square.
        num_networks: Random networks to calibrate on, and as many again to check with; 0 leaves predictions as the
            layers add up.
        layer_turns: Turns of each layer at each point; see :func:`~prunefleet_edge.layer_timing.time_in_turns`.
        network_turns: Turns of each whole network.

    Raises:
        ConfigError: A number is out of range (the user's to mend).
    """

    grid: int = 8
    num_networks: int = 12
    layer_turns: int = 9
    network_turns: int = 9

    def __post_init__(self) -> None:
        if self.grid < 2 or self.num_networks < 0 or min(self.layer_turns, self.network_turns) < 1:
            msg = (
                f"profile: expected grid >= 2, networks >= 0 and turns >= 1, got {self.grid}, {self.num_networks} "
                f"and {self.layer_turns}, {self.network_turns}"
            )
            raise ConfigError(msg)


class Measurement:
    """One network on this device; torch must be told to use one thread.

    Args:
        model: The dense network; its weights do not matter.
        example: Two samples it accepts.
        traced: Its groups.
        runtime: To measure in.
        clock: Nanoseconds; see :data:`~prunefleet_edge.layer_timing.Clock`.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        traced: Trace,
        runtime: Runtime | None = None,
        clock: Clock = time.thread_time_ns,
    ) -> None:
        self._model, self._example, self._traced = model, example, traced
        self._runtime, self._clock = runtime or default_runtime(), clock

    def profile(
        self, model_name: str, effort: Effort | None = None, seed: int = 0, phase: Phase | None = None
    ) -> DeviceProfile:
        """Measure layers, calibrate on half of some random networks, and check on the other half.

        Args:
            model_name: The network's specification, for the file.
            effort: How thoroughly.
            seed: Of the random networks' widths.
            phase: Told how far the work is.

        Raises:
            ConfigError: The runtime is not installed (the user's to mend).
            InputError: The network cannot be exported for it (the user's to mend).
        """
        effort, begin = effort or Effort(), phase or _no_phase
        dense, num_seen = self._traced.layout.dense_widths, effort.num_networks + 1
        layers = self.layers(effort, begin("layers"))
        choices = [dense, *random_widths(dense, 2 * effort.num_networks, seed)]
        measured = self.networks(choices, effort.network_turns, begin("whole networks"))
        table = LatencyTable(layers, fit(LatencyTable(layers), choices[:num_seen], measured[:num_seen]))
        unseen = zip(choices[num_seen:], measured[num_seen:], strict=True)
        return DeviceProfile(
            model=model_name,
            layout=self._traced.layout.fingerprint(),
            runtime=self._runtime,
            machine=machine_facts(),
            grid=effort.grid,
            layers=layers,
            calibration=table.calibration,
            checked=tuple(CheckedNetwork(widths=w, predicted_ns=table.cost(w), measured_ns=ns) for w, ns in unseen),
            dense_ns=measured[0],
            training_bytes={size: training_bytes(self._model, self._example, size) for size in BATCH_SIZES},
        )

    def layers(self, effort: Effort, on_step: Callable[[int, int], None]) -> tuple[LayerLatency, ...]:
        """Every layer over its grid of widths; those of the same shape and grid are timed once."""
        found = find_layers(self._model, self._example, self._traced)
        keys = [(layer.shape, *_grids(layer, effort.grid)) for layer in found]
        points = {key: _points(*key) for key in keys}
        times: dict[object, list[int]] = {key: [] for key in points}
        done, total = 0, sum(len(chosen) for chosen in points.values())
        for key, chosen in points.items():
            for ns in time_layer(key[0], chosen, self._runtime, effort.layer_turns, self._clock):
                times[key].append(ns)
                done += 1
                on_step(done, total)
        return tuple(_latency(layer, key[1], key[2], times[key]) for layer, key in zip(found, keys, strict=True))

    def networks(
        self, choices: Sequence[Sequence[int]], num_turns: int, on_step: Callable[[int, int], None]
    ) -> list[int]:
        """Median nanoseconds of the slim networks of these widths, one sample, in turns."""
        runs = []
        for index, widths in enumerate(choices):
            runs.append(network_run(self.slim(widths), self._example[:1], self._runtime))
            on_step(index + 1, len(choices))
        return time_in_turns(runs, num_turns, self._clock)

    def slim(self, widths: Sequence[int]) -> nn.Module:
        """The slim network of the first ``widths[g]`` channels of every group, in eval mode."""
        dense = self._traced.layout.dense_widths
        masks = [np.arange(n) < width for n, width in zip(dense, widths, strict=True)]
        return slim(self._model, self._example, masks, self._traced).eval()


def _no_phase(_: str) -> Callable[[int, int], None]:
    return lambda _done, _total: None


def _grids(layer: FoundLayer, grid: int) -> tuple[_Widths, _Widths]:
    """Input and output widths to measure; one entry where nothing prunes them, or where they follow from the input."""
    shape, step = layer.shape, max(1, layer.shape.groups)
    ins = input_grid(shape.in_channels, grid, step) if _is_pruned(layer.ins) else (shape.in_channels,)
    if shape.is_depthwise:
        return ins, (0,)
    return ins, output_grid(shape.out_channels, grid, step) if _is_pruned(layer.outs) else (shape.out_channels,)


def _is_pruned(terms: Sequence[CostTerm]) -> bool:
    return any(term.groups for term in terms)


def _points(shape: LayerShape, ins: _Widths, outs: _Widths) -> list[tuple[int, int]]:
    if shape.is_depthwise:
        return [(width, width) for width in ins]
    return [(channels_in, channels_out) for channels_in in ins for channels_out in outs]


def _latency(layer: FoundLayer, ins: _Widths, outs: _Widths, times: Sequence[int]) -> LayerLatency:
    rows = tuple(tuple(times[start : start + len(outs)]) for start in range(0, len(times), len(outs)))
    own_outs = () if layer.shape.is_depthwise else layer.outs
    positions = int(np.prod(layer.shape.in_shape, dtype=np.int64))
    return LayerLatency(layer.name, layer.ins, own_outs, positions, ins, outs, rows)


def random_widths(dense: Sequence[int], num_choices: int, seed: int) -> list[_Widths]:
    """Widths as pruning leaves them: around a common share, every second choice in multiples of 8."""
    rng = np.random.default_rng(seed)
    choices = []
    for index in range(num_choices):
        share = rng.uniform(0.15, 1.0)
        ratios = np.clip(rng.normal(share, 0.2, len(dense)), 0.1, 1.0)
        widths = np.maximum(1, np.round(ratios * np.asarray(dense)).astype(np.int64))
        if index % 2:
            widths = np.minimum(np.maximum(8, (widths + 4) // 8 * 8), dense)
        choices.append(tuple(int(width) for width in widths))
    return choices


def network_run(model: nn.Module, example_1: Tensor, runtime: str) -> Callable[[], object]:
    """A function that runs ``model`` once on ``example_1`` in a runtime, one thread.

    Args:
        model: In eval mode.
        example_1: 1×C×H×W.
        runtime: One of :data:`~prunefleet_edge.layer_timing.RUNTIMES`.

    Raises:
        ConfigError: The runtime is not installed (the user's to mend).
        InputError: The network cannot be exported (the user's to mend).
    """
    if runtime == "onnxruntime":
        session, images = open_onnx(onnx_bytes(model, example_1)), example_1.numpy()
        return lambda: run_onnx(session, images)

    def run() -> object:
        with torch.no_grad():
            return model(example_1)

    return run


def fit(table: LatencyTable, choices: Sequence[Sequence[int]], measured_ns: Sequence[int]) -> Calibration:
    """The calibration with the least squared relative error on measured networks; no term of it is negative.

    With fewer than 6 networks only the factor on layers is fitted; with the dense one alone, nothing.
    """
    if len(choices) < 2:
        return Calibration()
    relative = np.array([table.features(widths) for widths in choices]) / np.asarray(measured_ns)[:, None]
    terms = list(range(relative.shape[1])) if len(choices) >= 2 * relative.shape[1] else [0]
    found = _least_squares(relative, terms)
    while min(found) < 0:  # a term that would only serve to make up for another goes
        terms.remove(int(np.argmin([found[term] * relative[:, term].mean() for term in range(len(found))])))
        found = _least_squares(relative, terms)
    return Calibration(*found)


def _least_squares(relative: npt.NDArray[np.float64], terms: list[int]) -> list[float]:
    weights = np.zeros(relative.shape[1])
    weights[terms] = np.linalg.lstsq(relative[:, terms], np.ones(len(relative)), rcond=None)[0]
    return [float(weight) for weight in weights]


def machine_facts() -> dict[str, str]:
    """Processor, cores, system and versions; nothing that names this very machine."""
    facts = {"cpu": _cpu_name(), "cores": str(os.cpu_count()), "os": f"{platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts | {"python": platform.python_version()}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
