"""What widths cost, what tracing leaves behind, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses
from torch.nn.utils.parametrizations import weight_norm
from tracing_parts import counting
from wired_nets import (
    EXAMPLE,
    NETS,
    SPEC,
    Net,
    conv,
    made,
    normed,
    plain,
    residual,
)

from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.pruning import slim
from prunefleet_edge.tracing import Trace, cost_table, count_macs, output_positions, trace
from prunefleet_shared.errors import LayoutError
from prunefleet_shared.masks import keep_mask

# --- nothing is left behind ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_training", [True, False])
def test_looking_at_a_model_leaves_it_as_it_was(is_training: bool) -> None:
    model = made(residual).train(is_training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    traced = trace(model, EXAMPLE)
    cost_table(model, EXAMPLE, traced)
    count_macs(model, EXAMPLE)
    assert all(module.training is is_training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_tracing_works_inside_no_grad() -> None:
    with torch.no_grad():
        assert trace(residual(), EXAMPLE).layout == trace(residual(), EXAMPLE).layout


# --- cost ------------------------------------------------------------------------------------------------------------


def test_costs_by_hand() -> None:
    model = plain()
    traced = trace(model, EXAMPLE)
    macs, parameters = (cost_table(model, EXAMPLE, traced, unit) for unit in ("macs", "parameters"))
    for a, b in ((6, 5), (2, 3), (1, 1)):
        assert macs.cost((a, b)) == 64 * 9 * 3 * a + 64 * a * b + 4 * b
        assert parameters.cost((a, b)) == (27 * a + a) + (a * b + b) + (4 * b + 4)


def with_other_parameters() -> nn.Module:
    return normed(nn.GroupNorm(2, 8))


@pytest.mark.parametrize("make", [*NETS, with_other_parameters])
def test_costs_equal_a_count_on_the_slim_network(make: Callable[[], nn.Module]) -> None:
    model = made(make).eval()
    traced = trace(model, EXAMPLE)
    macs, parameters = (cost_table(model, EXAMPLE, traced, unit) for unit in ("macs", "parameters"))
    rng = np.random.default_rng(9)
    for _ in range(5):
        widths = [int(rng.integers(1, group.num_units + 1)) for group in traced.groups]
        choices = zip(traced.groups, widths, strict=True)
        small = slim(model, EXAMPLE, [keep_mask(rng.permutation(group.num_units), width) for group, width in choices])
        counts: list[int] = []
        with counting(small, counts), torch.no_grad():
            small(EXAMPLE[:1])
        assert macs.cost(widths) == sum(counts) == count_macs(small, EXAMPLE)
        assert parameters.cost(widths) == sum(parameter.numel() for parameter in small.parameters())


def test_a_layer_used_twice_costs_twice() -> None:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        return n.b(F.relu(n.b(F.relu(n.a(x)))))

    model = Net(wiring, a=conv(3, 6), b=conv(6, 6, 3), fc=nn.Linear(6, 4))
    assert output_positions(model, EXAMPLE) == {"a": 64, "b": 128, "fc": 1}
    traced = trace(model, EXAMPLE)
    assert [group.num_units for group in traced.groups] == [6]
    assert cost_table(model, EXAMPLE, traced).cost([5]) == 64 * 15 + 128 * 9 * 25 + 20


def test_cost_is_per_sample() -> None:
    model = plain()
    one, many = EXAMPLE[:1], EXAMPLE.repeat(3, 1, 1, 1)
    traced = trace(model, one)
    assert cost_table(model, one, traced) == cost_table(model, many, traced)


def test_an_unknown_unit_is_refused() -> None:
    model = plain()
    with pytest.raises(LayoutError, match=r"'flops'.*macs or parameters"):
        cost_table(model, EXAMPLE, trace(model, EXAMPLE), "flops")


def test_a_table_that_disagrees_with_the_network_is_refused() -> None:
    model = plain()
    model.fc2 = model.fc  # one set of parameters under two names is counted once by torch and once here
    assert cost_table(model, EXAMPLE, trace(model, EXAMPLE), "parameters").cost((6, 5)) == 168 + 35 + 24
    groups = trace(model, EXAMPLE).groups
    wrong = Trace((replace(groups[0], num_units=4), groups[1]))
    with pytest.raises(LayoutError, match=r"costs 227 parameters, its cost table says \d+.*replace them"):
        cost_table(model, EXAMPLE, wrong, "parameters")


def test_layers_with_weights_in_common_are_kept_whole_and_counted_once() -> None:
    model = plain()
    model.twin = conv(3, 6, 3)
    model.twin.weight = model.a.weight
    traced = trace(model, EXAMPLE)
    assert [group.name for group in traced.groups] == ["b"]
    assert traced.frozen["a"] == "a has its weights in common with twin"
    assert cost_table(model, EXAMPLE, traced, "parameters").cost([3]) == 168 + (6 * 3 + 3) + (4 * 3 + 4) + 6


# --- errors and the fingerprint --------------------------------------------------------------------------------------


def test_a_wrong_input_shape_says_so_and_restores_the_model() -> None:
    model = residual().train()
    with pytest.raises(LayoutError, match=r"Normalised.*\(2, 5, 8, 8\).*Check the input shape"):
        trace(model, EXAMPLE[:, [0, 1, 2, 0, 1]])
    assert model.training


def test_a_network_that_decides_by_its_data_and_fails_says_what_is_not_supported() -> None:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        if x.mean() < 1:
            msg = "too dark"
            raise ValueError(msg)
        return n.a(x)

    model = Net(wiring, a=conv(3, 6), fc=nn.Linear(6, 4)).train()
    with pytest.raises(LayoutError, match=r"ValueError: too dark.*data-dependent control flow"):
        trace(model, EXAMPLE)
    assert model.training


class Twice(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.net, self.wrap = plain(), wrap

    def forward(self, x: Tensor) -> object:
        return self.wrap(self.net(x))


@pytest.mark.parametrize(
    ("wrap", "got"),
    [
        (lambda y: (y, y), "a tuple"),
        (lambda y: {"out": y}, "a dict"),
        (lambda y: y[:, :, None, None], "2x4x1x1"),
        (lambda y: y.sum(), "got ;"),
        (lambda y: y[:1], "1x4"),
    ],
)
def test_anything_but_logits_is_refused_with_what_to_do(wrap: Callable[[Tensor], object], got: str) -> None:
    model = Twice(wrap).train()
    with pytest.raises(LayoutError, match=r"Twice: expected logits 2xclasses for 2 samples, got .*wrap it") as caught:
        trace(model, EXAMPLE)
    assert got in str(caught.value)
    assert model.training


def test_a_computed_weight_is_refused_with_what_to_do() -> None:
    model = plain()
    weight_norm(model.b)
    with pytest.raises(LayoutError, match=r"b \(.*Conv2d\): its weight is computed.*remove_parametrizations"):
        trace(model, EXAMPLE)


def test_what_torch_pruning_cannot_follow_is_an_error_with_a_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(*_: object, **__: object) -> None:
        msg = "integer division or modulo by zero"
        raise ZeroDivisionError(msg)

    monkeypatch.setattr("torch_pruning.DependencyGraph.get_all_groups", lost)
    with pytest.raises(LayoutError, match=r"Net cannot be traced: ZeroDivisionError.*channel shuffle.*another network"):
        trace(plain(), EXAMPLE)


def test_nothing_to_prune_names_what_is_frozen() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(LayoutError, match=r"Sequential has no channel group.*'1': 'it is an output"):
        trace(model, EXAMPLE)


def test_the_fingerprint_does_not_depend_on_weights_or_process() -> None:
    lines = [
        "from prunefleet_edge.models import build, example_input, parse_spec",
        "from prunefleet_edge.tracing import trace",
        f"spec = parse_spec({SPEC!r})",
        "print(trace(build(spec), example_input(spec)).layout.fingerprint())",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)  # noqa: S603 - ours
    spec = parse_spec(SPEC)
    assert other.stdout.strip() == trace(build(spec), example_input(spec)).layout.fingerprint()


def test_the_fingerprint_tells_networks_apart() -> None:
    prints = {trace(made(make), EXAMPLE).layout.fingerprint() for make in NETS}
    assert len(prints) == len(NETS)
