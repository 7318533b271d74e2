"""A profile from end to end on a clock of its own, and the fit against networks whose times are known."""

from __future__ import annotations

import functools
import itertools
import platform

import numpy as np
import pytest
import torch
from torch import nn

from prunefleet_edge import profile_measurement
from prunefleet_edge.latency_table import Calibration, LatencyTable, LayerLatency
from prunefleet_edge.memory import training_bytes
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.onboarding import onboard
from prunefleet_edge.profile_measurement import Effort, Measurement, fit, machine_facts, network_run, random_widths
from prunefleet_edge.tracing import Trace
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.layout import CostTerm

torch.set_num_threads(1)
SPEC = parse_spec("resnet8/1x8x8/4")
EFFORT = Effort(grid=2, num_networks=2, layer_turns=1, network_turns=1)


@functools.cache
def network() -> tuple[nn.Module, Trace]:
    torch.manual_seed(0)
    model = build(SPEC).eval()
    return model, onboard(model, example_input(SPEC))


def measurement(runtime: str = "torch-eager") -> Measurement:
    """Every look at the clock is 100 ns after the last: each run takes 100 ns."""
    model, traced = network()
    ticks = itertools.count(0, 100)
    return Measurement(model, example_input(SPEC), traced, runtime, lambda: next(ticks))  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["torch-eager", "onnxruntime"])
def test_a_profile_holds_every_layer_and_the_networks_it_was_checked_on(runtime: str) -> None:
    steps: list[tuple[str, int, int]] = []

    def phase(words: str) -> object:
        return lambda done, total: steps.append((words, done, total))

    profile = measurement(runtime).profile(str(SPEC), EFFORT, 3, phase)  # type: ignore[arg-type]
    names = [name for name, layer in build(SPEC).named_modules() if hasattr(layer, "weight") and layer.weight.dim() > 1]
    assert sorted(layer.name for layer in profile.layers) == sorted(names)
    assert (profile.model, profile.runtime, profile.dense_ns, len(profile.checked)) == (str(SPEC), runtime, 100, 2)
    assert profile.error_ratios == (0.0, 0.0), "all networks take the same, and so does every prediction"
    assert profile.training_bytes[32] == training_bytes(build(SPEC), example_input(SPEC), 32)
    layers = [step for step in steps if step[0] == "layers"]
    assert [done for _, done, _ in layers] == list(range(1, layers[0][2] + 1))
    assert steps[-1] == ("whole networks", 5, 5)


def test_the_networks_it_is_checked_on_have_not_been_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def spy(_table: LatencyTable, choices: list[tuple[int, ...]], _ns: list[int]) -> Calibration:
        seen.extend(choices)
        return Calibration(constant_ns=1.0)

    monkeypatch.setattr(profile_measurement, "fit", spy)
    profile = measurement().profile(str(SPEC), EFFORT)
    assert len(seen) == 3, "the dense one and two more"
    assert not set(seen) & {one.widths for one in profile.checked}
    assert all(one.predicted_ns == profile.table.cost(one.widths) for one in profile.checked)


def test_each_network_is_held_against_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def networks(_self: Measurement, choices: list[tuple[int, ...]], *_: object) -> list[int]:
        asked.extend(choices)
        return [1000 * sum(widths) for widths in choices]

    monkeypatch.setattr(Measurement, "networks", networks)
    profile = measurement().profile(str(SPEC), EFFORT)
    assert asked[0] == network()[1].layout.dense_widths
    assert profile.dense_ns == 1000 * sum(asked[0])
    assert [one.widths for one in profile.checked] == asked[3:]
    assert all(one.measured_ns == 1000 * sum(one.widths) for one in profile.checked)


def test_layers_of_one_shape_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[object] = []
    inner = profile_measurement.time_layer

    def spy(shape: object, *more: object) -> object:
        timed.append(shape)
        return inner(shape, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(profile_measurement, "time_layer", spy)
    layers = measurement().layers(EFFORT, lambda _done, _total: None)
    assert len(timed) == len(set(timed)) < len(layers)


def test_no_networks_leaves_predictions_as_the_layers_add_up() -> None:
    profile = measurement().profile(str(SPEC), Effort(grid=2, num_networks=0, layer_turns=1, network_turns=1))
    assert profile.calibration == Calibration()
    assert profile.checked == ()
    assert profile.error_ratios == (0.0, 0.0)


@pytest.mark.parametrize("options", [{"grid": 1}, {"num_networks": -1}, {"layer_turns": 0}, {"network_turns": 0}])
def test_an_effort_out_of_range_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="profile: expected grid >= 2, networks >= 0 and turns >= 1"):
        Effort(**options)


def a_table() -> LatencyTable:
    ins, outs = (CostTerm(1, (0,)),), (CostTerm(1, (1,)),)
    grid = (1, 4, 8, 15, 16)
    ns = tuple(tuple(50 * a * b for b in (1, 16)) for a in grid)
    return LatencyTable((LayerLatency("a", ins, outs, 64, grid, (1, 16), ns),))


CHOICES = [(a, b) for a in (3, 5, 8, 12, 16) for b in (2, 7, 16)]


@pytest.mark.parametrize(
    "truth", [Calibration(1.5, 2.0, 4000.0), Calibration(0.7, 0.0, 900.0), Calibration(1.2, 3.0, 0.0)]
)
def test_a_fit_finds_what_made_the_times(truth: Calibration) -> None:
    measured = [LatencyTable(a_table().layers, truth).cost(widths) for widths in CHOICES]
    found = fit(a_table(), CHOICES, measured)
    assert found.layers == pytest.approx(truth.layers, rel=1e-2)
    assert found.ns_per_odd_input == pytest.approx(truth.ns_per_odd_input, abs=2e-2)
    assert found.constant_ns == pytest.approx(truth.constant_ns, abs=20)


def test_no_term_of_a_fit_is_negative() -> None:
    truth = Calibration(1.0, 2.0, -200.0)
    measured = [max(50, LatencyTable(a_table().layers, truth).cost(widths)) for widths in CHOICES]
    found = fit(a_table(), CHOICES, measured)
    assert min(found.layers, found.ns_per_odd_input, found.constant_ns) >= 0
    assert found.layers > 0


def test_few_networks_settle_the_factor_only() -> None:
    assert fit(a_table(), CHOICES[:1], [5]) == Calibration()
    measured = [2 * a_table().cost(widths) for widths in CHOICES[:4]]
    assert fit(a_table(), CHOICES[:4], measured) == Calibration(layers=pytest.approx(2.0))


def test_random_widths_fit_the_groups_and_every_second_choice_is_rounded() -> None:
    dense = (4, 16, 100, 640)
    choices = random_widths(dense, 40, seed=1)
    assert choices == random_widths(dense, 40, seed=1)
    assert choices != random_widths(dense, 40, seed=2)
    for index, widths in enumerate(choices):
        assert all(1 <= width <= n for width, n in zip(widths, dense, strict=True))
        if index % 2:
            assert all(width % 8 == 0 or width == n for width, n in zip(widths, dense, strict=True))
    assert any(width % 8 for widths in choices[::2] for width in widths)
    assert {len(set(column)) > 5 for column in list(zip(*choices, strict=True))[1:]} == {True}


@pytest.mark.parametrize("runtime", ["torch-eager", "onnxruntime"])
def test_the_slim_network_that_runs_has_the_widths_asked_for(runtime: str) -> None:
    one = measurement(runtime)
    widths = (3, 5, 9, 2, 7, 1)
    small = one.slim(widths)
    assert onboard(small, example_input(SPEC)).layout.dense_widths[:3] == widths[:3]
    with torch.no_grad():
        expected = small(example_input(SPEC)[:1]).numpy()
    found = network_run(small, example_input(SPEC)[:1], runtime)()
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)


def test_the_machine_is_described_but_not_named() -> None:
    facts = machine_facts()
    assert {"cpu", "cores", "os", "torch", "onnxruntime", "python"} <= facts.keys()
    assert platform.node() not in " ".join(facts.values()) or not platform.node()


def test_a_package_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_measurement, "_PACKAGES", ("no-such-package",))
    assert machine_facts()["no-such-package"] == "not installed"


def test_without_onnxruntime_eager_torch_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert profile_measurement.default_runtime() == "onnxruntime"
    monkeypatch.setattr(profile_measurement, "find_spec", lambda name: None if name == "onnxruntime" else object())
    assert profile_measurement.default_runtime() == "torch-eager"
