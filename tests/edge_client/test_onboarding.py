"""Every kind of wiring is pruned right, or never pruned: what is pruned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from onboarding_parts import names, worst_difference
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses
from wired_nets import (
    EXAMPLE,
    NETS,
    Net,
    conv,
    conv_norm,
    made,
    transformer,
)

from prunefleet_edge.models import ARCHITECTURES, build, example_input, parse_spec
from prunefleet_edge.onboarding import onboard
from prunefleet_edge.tracing import trace


@pytest.mark.parametrize("make", NETS)
def test_all_that_tracing_finds_in_well_wired_nets_is_accepted(make: Callable[[], nn.Module]) -> None:
    model = made(make)
    safe, traced = onboard(model, EXAMPLE), trace(model, EXAMPLE)
    assert names(safe) == names(traced)
    assert safe.frozen == traced.frozen
    assert worst_difference(model, EXAMPLE, safe) <= 1e-9


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_groups_of_the_built_in_networks_are_accepted(architecture: str) -> None:
    spec = parse_spec(f"{architecture}/3x32x32/10")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build(spec)
    assert onboard(model, example_input(spec)) == trace(model, example_input(spec))


def inverted_residual() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = F.hardswish(n.stem(x))
        y = F.hardswish(n.depth(F.hardswish(n.expand(x))))
        y = y * F.hardsigmoid(n.up(F.relu(n.down(y.mean(dim=(2, 3), keepdim=True)))))
        return x + n.project(y)

    layers = {"stem": conv_norm(3, 6, 3), "expand": conv_norm(6, 12), "depth": conv_norm(12, 12, 3, groups=12)}
    layers |= {"down": conv(12, 4), "up": conv(4, 12), "project": conv_norm(12, 6)}
    return Net(wiring, **layers, fc=nn.Linear(6, 4))


def preactivated() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = n.stem(x)
        x = x + n.b(F.relu(n.norm_b(n.a(F.relu(n.norm_a(x))))))
        return n.norm_out(x)

    layers = {"stem": conv(3, 6, 3), "norm_a": nn.BatchNorm2d(6), "a": conv(6, 5), "norm_b": nn.BatchNorm2d(5)}
    return Net(wiring, **layers, b=conv(5, 6, 3), norm_out=nn.BatchNorm2d(6), fc=nn.Linear(6, 4))


def in_place() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = n.act(n.a(x))
        y = n.b(x)
        y += x
        return n.c(F.relu_(y))

    layers = {"a": conv_norm(3, 6), "act": nn.ReLU(inplace=True), "b": conv_norm(6, 6, 3), "c": conv(6, 5)}
    return Net(wiring, **layers, fc=nn.Linear(5, 4))


def shared() -> nn.Module:
    return Net(lambda n, x: n.b(F.relu(n.b(F.relu(n.a(x))))), a=conv(3, 6), b=conv(6, 6, 3), fc=nn.Linear(6, 4))


def many_stages() -> nn.Module:
    """DenseNet's transition: norms over concatenations, a 1×1 convolution, a pool, and again."""

    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = n.stem(x)
        x = torch.cat([x, n.a(F.relu(n.norm_a(x)))], dim=1)
        x = F.avg_pool2d(n.transition(F.relu(n.norm_t(x))), 2)
        x = torch.cat([x, n.b(F.relu(n.norm_b(x)))], dim=1)
        return n.norm_out(x)

    norms = {"norm_a": nn.BatchNorm2d(4), "norm_t": nn.BatchNorm2d(7), "norm_b": nn.BatchNorm2d(5)}
    convs = {"stem": conv(3, 4), "a": conv(4, 3, 3), "transition": conv(7, 5), "b": conv(5, 3, 3)}
    return Net(wiring, **convs, **norms, norm_out=nn.BatchNorm2d(8), fc=nn.Linear(8, 4))


@pytest.mark.parametrize(
    ("make", "groups"),
    [
        (inverted_residual, ["stem.0", "expand.0", "down"]),
        (preactivated, ["stem", "a"]),
        (in_place, ["a.0", "c"]),
        (shared, ["a"]),
        (many_stages, ["stem", "a", "transition", "b"]),
    ],
)
def test_wirings_of_published_networks(make: Callable[[], nn.Module], groups: list[str]) -> None:
    model = made(make)
    safe = onboard(model, EXAMPLE)
    assert names(safe) == groups
    assert list(safe.frozen) == ["fc"]
    assert worst_difference(model, EXAMPLE, safe) <= 1e-9


@pytest.mark.parametrize("dimensions", [1, 3])
def test_other_numbers_of_dimensions(dimensions: int) -> None:
    layer, norm = ((nn.Conv1d, nn.BatchNorm1d), None, (nn.Conv3d, nn.BatchNorm3d))[dimensions - 1]
    layers = [layer(2, 6, 3), norm(6), nn.ReLU(), layer(6, 5, 3), nn.PReLU(5), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(5 * 2**dimensions, 4))
    example = torch.rand(2, 2, *[6] * dimensions, generator=torch.Generator().manual_seed(2))
    safe = onboard(model, example)
    assert names(safe) == ["0", "3"]
    assert worst_difference(model, example, safe) <= 1e-9


def test_of_a_transformer_only_the_hidden_layer_of_the_mlp_is_pruned() -> None:
    model = made(transformer)
    safe = onboard(model, EXAMPLE)
    assert "grow" in names(safe)
    assert not {"embed", "out", "shrink"} & set(names(safe))
    assert "LayerNorm" in safe.frozen["embed"]
    assert worst_difference(model, EXAMPLE, safe) <= 1e-9
