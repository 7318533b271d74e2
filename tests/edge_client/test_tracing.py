"""Groups of channels as they are traced: which there are, and which are left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses
from tracing_parts import all_nets, sizes
from wired_nets import (
    EXAMPLE,
    NETS,
    Net,
    concat_into_groups,
    concat_plus_add,
    conv,
    dense,
    excited,
    fire,
    flat,
    grouped,
    made,
    mobile,
    normed,
    plain,
    residual,
    transformer,
)

from prunefleet_edge.gating import masked
from prunefleet_edge.onboarding import check_slimming
from prunefleet_edge.tracing import Trace, cost_table, count_macs, output_positions, trace
from prunefleet_shared.errors import LayoutError
from prunefleet_shared.layout import ChannelGroup, Layout
from prunefleet_shared.masks import keep_mask

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


def test_a_transposed_convolution_freezes_what_goes_in_and_out_and_is_counted() -> None:
    up = nn.ConvTranspose2d(6, 5, 2, stride=2)
    model = Net(
        lambda n, x: n.b(F.relu(n.up(F.relu(n.a(x))))), a=conv(3, 6, 3), up=up, b=conv(5, 7), fc=nn.Linear(7, 4)
    )
    traced = trace(model, EXAMPLE)
    assert [group.name for group in traced.groups] == ["b"]
    assert traced.frozen["a"] == "up (ConvTranspose2d) is a kind of layer whose channels cannot be removed here"
    assert cost_table(model, EXAMPLE, traced).cost([3]) == 64 * 162 + 64 * 6 * 5 * 4 + 256 * 5 * 3 + 12


def test_a_layer_that_is_not_used_is_not_a_group_but_counts_as_parameters() -> None:
    model = plain()
    model.unused = conv(6, 9)
    traced = trace(model, EXAMPLE)
    assert [group.name for group in traced.groups] == ["a", "b"]
    assert "unused" not in traced.frozen
    assert cost_table(model, EXAMPLE, traced, "parameters").cost((6, 5)) == 168 + 35 + 24 + 63
    assert cost_table(model, EXAMPLE, traced).cost((6, 5)) == count_macs(plain(), EXAMPLE)


def test_a_group_is_named_after_a_convolution_even_where_a_norm_comes_first() -> None:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        return n.after(F.relu(n.norm(torch.cat([n.a(x), n.b(x)], dim=1))))

    layers = {"norm": nn.BatchNorm2d(9), "a": conv(3, 4), "b": conv(3, 5), "after": conv(9, 6)}
    model = Net(wiring, **layers, fc=nn.Linear(6, 4))
    assert sizes(model) == {"a": 4, "b": 5, "after": 6}, "a norm over both would have given both the same name"


def test_a_linear_layer_over_tokens_costs_once_for_each_token() -> None:
    model = transformer()
    traced = trace(model, EXAMPLE)
    assert output_positions(model, EXAMPLE)["grow"] == 4
    assert "grow" in {group.name for group in traced.groups}
    assert "LayerNorm" in traced.frozen["embed"]


# --- a trace with fewer groups ---------------------------------------------------------------------------------------


def test_only_some_groups_leaves_the_others_whole_with_a_reason() -> None:
    traced = trace(fire(), EXAMPLE)
    some = traced.only(["right", "squeeze", "nobody"], "too small")
    assert [group.name for group in some.groups] == ["squeeze", "right"]
    assert some.frozen == traced.frozen | {"left": "too small", "after": "too small"}
    assert traced.only([]).groups == ()
    assert sizes(fire()) == {"squeeze": 4, "left": 6, "right": 7, "after": 5}


def test_a_layout_with_fewer_groups_is_found_again_and_another_one_is_not() -> None:
    traced = trace(fire(), EXAMPLE)
    layout = traced.only(["left", "after"]).layout
    assert traced.as_in(layout).layout == layout
    for other in (trace(plain(), EXAMPLE).layout, Layout((ChannelGroup("left", 5),)), Layout(layout.groups[::-1])):
        with pytest.raises(LayoutError, match="another layout than the campaign's"):
            traced.as_in(other)


# --- gates -----------------------------------------------------------------------------------------------------------


def gates_of(model: nn.Module) -> dict[str, frozenset[str]]:
    return {group.name: group.gates for group in trace(model, EXAMPLE).groups}


def test_a_convolution_before_a_concatenation_is_gated_after_the_norms_only() -> None:
    assert gates_of(dense()) == {"a": {"norm_1", "norm_2", "norm_3"}, "b": {"norm_2", "norm_3"}, "c": {"norm_3"}}


def test_a_channel_is_gated_behind_its_depthwise_convolution_and_not_before_it_too() -> None:
    assert gates_of(mobile()) == {"stem.0": {"stem.1", "project.1"}, "expand.0": {"depth.1"}}


def test_a_prelu_after_a_convolution_is_the_gate() -> None:
    assert gates_of(flat())["0"] == {"1"}


def test_every_group_of_every_net_has_a_gate_that_is_a_producer() -> None:
    for make in NETS:
        for group in trace(made(make), EXAMPLE).groups:
            assert group.gates
            assert group.gates <= {member.module_name for member in group.producers}


@all_nets
def test_closing_the_gates_closes_the_channel(make: Callable[[], nn.Module]) -> None:
    """What a consumer sees does not depend on whether the layers before the gates are closed as well."""
    model = made(make).eval()
    traced = trace(model, EXAMPLE)
    keep = [keep_mask(np.random.default_rng(3).permutation(g.num_units), (g.num_units + 1) // 2) for g in traced.groups]
    at_gates = Trace(
        tuple(replace(g, producers=tuple(m for m in g.producers if m.module_name in g.gates)) for g in traced.groups)
    )
    with torch.no_grad(), masked(model, traced, keep):
        expected = model(EXAMPLE)
    with torch.no_grad(), masked(model, at_gates, keep):
        torch.testing.assert_close(model(EXAMPLE), expected, atol=1e-6, rtol=1e-5)
