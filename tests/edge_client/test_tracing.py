"""Which channels go together, what is left alone and why, and what every choice of widths costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.pruning import check_slimming, slim
from prunefleet_edge.tracing import cost_table, count_macs, output_positions, trace
from prunefleet_shared.errors import LayoutError
from prunefleet_shared.masks import keep_mask

torch.set_num_threads(1)
SPEC = "resnet8/3x8x8/4"
EXAMPLE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

Wiring = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    """Layers by name, and how they are wired: a classifier named ``fc`` over a global average pool comes last."""

    def __init__(self, wiring: Wiring, **layers: nn.Module) -> None:
        super().__init__()
        self.wiring = wiring
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.wiring(self, x)).mean(dim=(2, 3)))


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


def conv_norm(inputs: int, outputs: int, kernel: int = 1, groups: int = 1, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


def plain() -> nn.Module:
    return Net(lambda n, x: n.b(F.relu(n.a(x))), a=conv(3, 6, 3), b=conv(6, 5), fc=nn.Linear(5, 4))


def residual() -> nn.Module:
    return build(parse_spec(SPEC))


def mobile() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu6(n.stem(x))
        return x + n.project(F.relu6(n.depth(F.relu6(n.expand(x)))))

    layers = {
        "stem": conv_norm(3, 8, 3, stride=2),
        "expand": conv_norm(8, 12),
        "depth": conv_norm(12, 12, 3, groups=12),
    }
    return Net(wiring, **layers, project=conv_norm(12, 8), fc=nn.Linear(8, 4))


def grouped() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        return n.c(F.relu(n.norm(n.b(F.relu(n.a(x))))))

    return Net(wiring, a=conv(3, 8, 3), b=conv(8, 12, 3, 2), norm=nn.BatchNorm2d(12), c=conv(12, 6), fc=nn.Linear(6, 4))


def fire() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.squeeze(x))
        return n.after(torch.cat([F.relu(n.left(x)), F.relu(n.right(x))], dim=1))

    layers = {"squeeze": conv(3, 4), "left": conv(4, 6), "right": conv(4, 7, 3)}
    return Net(wiring, **layers, after=conv(13, 5, 3), fc=nn.Linear(5, 4))


def dense() -> nn.Module:
    """Norms over concatenations, as in DenseNet: a norm carries channels of several groups."""

    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = n.a(x)
        x = torch.cat([x, n.b(F.relu(n.norm_1(x)))], dim=1)
        x = torch.cat([x, n.c(F.relu(n.norm_2(x)))], dim=1)
        return n.norm_3(x)

    convs = {"a": conv(3, 6, 3), "b": conv(6, 4, 3), "c": conv(10, 5, 3)}
    norms = {f"norm_{i}": nn.BatchNorm2d(width) for i, width in ((1, 6), (2, 10), (3, 15))}
    return Net(wiring, **convs, **norms, fc=nn.Linear(15, 4))


def excited() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.norm(n.conv(x)))
        return n.out(x * torch.sigmoid(n.up(F.relu(n.down(x.mean(dim=(2, 3), keepdim=True))))))

    layers = {"conv": conv(3, 8, 3), "norm": nn.BatchNorm2d(8), "down": conv(8, 4), "up": conv(4, 8)}
    return Net(wiring, **layers, out=conv(8, 6, 3), fc=nn.Linear(6, 4))


def flat() -> nn.Module:
    layers = [conv(3, 6, 3), nn.PReLU(6), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10), nn.BatchNorm1d(10)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(10, 4))


def normed(norm: nn.Module) -> nn.Module:
    return Net(lambda n, x: n.b(F.relu(n.norm(n.a(x)))), a=conv(3, 8, 3), norm=norm, b=conv(8, 6), fc=nn.Linear(6, 4))


def concat_plus_add() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        return n.d(torch.cat([n.a(x), n.b(x)], dim=1) + n.c(x))

    return Net(wiring, a=conv(3, 4), b=conv(3, 4), c=conv(3, 8), d=conv(8, 6), fc=nn.Linear(6, 4))


def concat_into_groups() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        return n.after(F.relu(n.both(torch.cat([n.a(x), n.b(x)], dim=1))))

    return Net(wiring, a=conv(3, 4), b=conv(3, 4), both=conv(8, 8, 3, 2), after=conv(8, 6), fc=nn.Linear(6, 4))


NETS = [plain, residual, mobile, grouped, fire, dense, excited, flat, concat_plus_add, concat_into_groups]
all_nets = pytest.mark.parametrize("make", NETS)


def made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make()


def sizes(model: nn.Module) -> dict[str, int]:
    return {group.name: group.num_units for group in trace(model, EXAMPLE).groups}


@contextmanager
def counting(model: nn.Module, counts: list[int]) -> Iterator[None]:
    """Append the multiply-accumulates of every convolution and linear layer as the network runs."""

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            counts.append(layer.in_features * layer.out_features)
            return
        per_output = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        _, channels, height, width = output.shape
        counts.append(per_output * channels * height * width)

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    yield
    for handle in handles:
        handle.remove()


# --- groups ----------------------------------------------------------------------------------------------------------


def test_a_residual_stream_is_one_group() -> None:
    assert sizes(residual()) == {
        "net.conv1": 16,
        "net.blocks.0.conv1": 16,
        "net.blocks.1.conv1": 32,
        "net.blocks.1.conv2": 32,
        "net.blocks.2.conv1": 64,
        "net.blocks.2.conv2": 64,
    }
    stream = trace(residual(), EXAMPLE).groups[0]
    layers = ["net.conv1", "net.bn1", "net.blocks.0.conv2", "net.blocks.0.bn2"]
    assert [member.module_name for member in stream.producers] == layers
    consumers = {"net.blocks.0.conv1", "net.blocks.1.conv1", "net.blocks.1.short.0"}
    assert {member.module_name for member in stream.consumers} == consumers
    assert stream.gates == {"net.bn1", "net.blocks.0.bn2"}, "the norms, not the convolutions before them"


def test_a_depthwise_convolution_goes_with_the_one_before_it() -> None:
    groups = trace(mobile(), EXAMPLE).groups
    assert [(group.name, group.num_units) for group in groups] == [("stem.0", 8), ("expand.0", 12)]
    assert [member.module_name for member in groups[1].producers] == ["expand.0", "expand.1", "depth.0", "depth.1"]
    assert [member.module_name for member in groups[0].producers] == ["stem.0", "stem.1", "project.0", "project.1"]


def test_a_grouped_convolution_has_units_that_repeat_with_its_groups() -> None:
    groups = {group.name: group for group in trace(grouped(), EXAMPLE).groups}
    assert {name: group.num_units for name, group in groups.items()} == {"a": 4, "b": 6, "c": 6}
    assert groups["a"].root_units == (0, 1, 2, 3, 0, 1, 2, 3)
    assert groups["b"].root_units == (0, 1, 2, 3, 4, 5) * 2


def test_concatenated_layers_are_groups_of_their_own() -> None:
    assert sizes(fire()) == {"squeeze": 4, "left": 6, "right": 7, "after": 5}
    groups = {group.name: group for group in trace(fire(), EXAMPLE).groups}
    (after_left,), (after_right,) = groups["left"].consumers, groups["right"].consumers
    assert after_left.channels == tuple(range(6))
    assert after_right.channels == tuple(range(6, 13))


def test_a_norm_after_a_concatenation_carries_several_groups() -> None:
    groups = {group.name: group for group in trace(dense(), EXAMPLE).groups}
    assert sizes(dense()) == {"a": 6, "b": 4, "c": 5}
    channels = [m.channels for name in "abc" for m in groups[name].producers if m.module_name == "norm_3"]
    assert channels == [tuple(range(6)), tuple(range(6, 10)), tuple(range(10, 15))]


def test_squeeze_and_excite_ties_the_gate_to_what_it_gates() -> None:
    groups = {group.name: group for group in trace(excited(), EXAMPLE).groups}
    assert {name: group.num_units for name, group in groups.items()} == {"conv": 8, "down": 4, "out": 6}
    assert {member.module_name for member in groups["conv"].producers} == {"conv", "norm", "up"}


def test_flattened_channels_keep_their_positions_together() -> None:
    groups = {group.name: group for group in trace(flat(), EXAMPLE).groups}
    (consumer,) = groups["0"].consumers
    assert consumer.module_name == "4"
    assert consumer.units == tuple(np.repeat(np.arange(6), 16))


@all_nets
def test_groups_come_in_module_order(make: Callable[[], nn.Module]) -> None:
    model = made(make)
    order = [name for name, _ in model.named_modules()]
    places = [order.index(group.name) for group in trace(model, EXAMPLE).groups]
    assert places == sorted(places)


def test_module_order_counts_rather_than_the_order_of_use() -> None:
    model = Net(lambda n, x: n.b(F.relu(n.a(x))), b=conv(6, 5), a=conv(3, 6), fc=nn.Linear(5, 4))
    assert list(sizes(model)) == ["b", "a"]


@all_nets
def test_masking_and_removing_agree_on_every_net_of_the_zoo(make: Callable[[], nn.Module]) -> None:
    model = made(make)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(5))
                module.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(6))
    assert check_slimming(model, EXAMPLE, trace(model, EXAMPLE)) <= 1e-5


# --- what is left alone ----------------------------------------------------------------------------------------------


@all_nets
def test_the_output_is_never_pruned(make: Callable[[], nn.Module]) -> None:
    model = made(make)
    traced = trace(model, EXAMPLE)
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    assert traced.frozen[last] == "it is an output of the network"


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8), nn.LayerNorm([8, 8, 8]), nn.InstanceNorm2d(8, affine=True)])
def test_norms_over_several_channels_freeze_their_group(norm: nn.Module) -> None:
    traced = trace(normed(norm), EXAMPLE)
    assert [group.name for group in traced.groups] == ["b"]
    assert type(norm).__name__ in traced.frozen["a"]
    assert "zero" in traced.frozen["a"]


def test_a_concatenation_that_is_added_to_is_frozen() -> None:
    traced = trace(concat_plus_add(), EXAMPLE)
    assert [group.name for group in traced.groups] == ["d"]
    assert "only part of it" in traced.frozen["a"]


def test_a_concatenation_into_a_grouped_convolution_is_frozen() -> None:
    traced = trace(concat_into_groups(), EXAMPLE)
    assert [group.name for group in traced.groups] == ["both", "after"]
    assert "grouped convolution" in traced.frozen["a"]
    assert "grouped convolution" in traced.frozen["b"]


def test_a_bare_parameter_freezes_its_group() -> None:
    model = Net(lambda n, x: n.b(F.relu(n.a(x) + n.shift)), a=conv(3, 6), b=conv(6, 5), fc=nn.Linear(5, 4))
    model.shift = nn.Parameter(torch.ones(1, 6, 1, 1))
    traced = trace(model, EXAMPLE)
    assert [group.name for group in traced.groups] == ["b"]
    assert "parameter" in traced.frozen["a"]


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
    model.twin = conv(3, 6, 3)
    model.twin.weight = model.a.weight
    with pytest.raises(LayoutError, match=r"costs 233 parameters, its cost table says 395"):
        cost_table(model, EXAMPLE, trace(model, EXAMPLE), "parameters")


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
