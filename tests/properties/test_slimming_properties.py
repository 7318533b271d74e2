"""What holds for every network that is accepted, whatever its wiring, weights and masks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.gating import masked
from prunefleet_edge.onboarding import MAX_DIFFERENCE, check_slimming, onboard
from prunefleet_edge.pruning import slim
from prunefleet_edge.tracing import Trace, cost_table, count_macs, trace
from prunefleet_shared.errors import LayoutError
from prunefleet_shared.masks import keep_mask

torch.set_num_threads(1)
STAGES = ("plain", "residual", "depthwise", "grouped", "concat", "dense", "squeeze")
ACTIVATIONS = (F.relu, F.silu, F.hardswish, F.gelu, torch.tanh, F.elu)
EXAMPLES = 40


class Stage(nn.Module):
    """One stage of a random network: ``width`` channels in, ``self.width`` channels out."""

    def __init__(self, kind: str, width: int, growth: int, has_norm: bool, activation: int) -> None:
        super().__init__()
        self.kind, self.act = kind, ACTIVATIONS[activation]
        self.width = width
        convs: list[tuple[int, int, int]] = []  # inputs, outputs, groups
        match kind:
            case "plain":
                convs, self.width = [(width, growth, 1)], growth
            case "residual":
                convs = [(width, growth, 1), (growth, width, 1)]
            case "depthwise":
                convs, self.width = [(width, width, width), (width, growth, 1)], growth
            case "grouped":
                convs, self.width = [(width, 4, 1), (4, 6, 2), (6, growth, 1)], growth
            case "concat" | "dense":
                kept = width if kind == "dense" else growth
                convs = [(width, growth, 1)] if kind == "dense" else [(width, growth, 1), (width, 3, 1)]
                self.width = kept + (growth if kind == "dense" else 3)
            case "squeeze":
                convs = [(width, growth, 1), (growth, width, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, groups=g, bias=not has_norm) for i, o, g in convs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) if has_norm else nn.Identity() for _, o, _ in convs)
        self.outer = nn.BatchNorm2d(self.width) if has_norm and kind in ("concat", "dense") else nn.Identity()

    def step(self, index: int, x: Tensor) -> Tensor:
        return self.act(self.norms[index](self.convs[index](x)))

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "residual":
                return self.act(x + self.norms[1](self.convs[1](self.step(0, x))))
            case "concat":
                return self.act(self.outer(torch.cat([self.step(0, x), self.step(1, x)], dim=1)))
            case "dense":
                return self.act(self.outer(torch.cat([x, self.step(0, x)], dim=1)))
            case "squeeze":
                pooled = x.mean(dim=(2, 3), keepdim=True)
                return x * torch.sigmoid(self.norms[1](self.convs[1](self.step(0, pooled))))
        for index in range(len(self.convs)):
            x = self.step(index, x)
        return x


class RandomNet(nn.Module):
    """A stem, stages of any kind, and a classifier over an average pool or over flattened pixels."""

    def __init__(self, stem: int, stages: list[tuple[str, int]], has_norm: bool, activation: int, flatten: bool):
        super().__init__()
        built: list[nn.Module] = [nn.Conv2d(2, stem, 3, padding=1), nn.ReLU()]
        width = stem
        for kind, growth in stages:
            built.append(Stage(kind, width, growth, has_norm, activation))
            width = built[-1].width
        self.features = nn.Sequential(*built)
        self.flatten = flatten
        self.head = nn.Linear(width * 36 if flatten else width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.head(y.flatten(1) if self.flatten else y.mean(dim=(2, 3)))


@st.composite
def problems(draw: st.DrawFn) -> tuple[nn.Module, Tensor, np.random.Generator]:
    """A network with random weights and norm statistics, an input, and randomness for masks."""
    stage = st.tuples(st.sampled_from(STAGES), st.integers(1, 6))
    stages = draw(st.lists(stage, min_size=1, max_size=3))
    seed = draw(st.integers(0, 2**31))
    has_norm, activation = draw(st.booleans()), draw(st.integers(0, len(ACTIVATIONS) - 1))
    # torch-pruning 1.6.1 loses its way in a flattened concatenation; ``check_slimming`` refuses those, see below.
    flatten = stages[-1][0] in ("plain", "depthwise", "grouped") and draw(st.booleans())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = RandomNet(draw(st.integers(2, 6)), stages, has_norm, activation, flatten)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    for tensor in (module.weight, module.bias, module.running_mean):
                        tensor.normal_()
                    module.running_var.uniform_(0.5, 2)
        return model.eval(), torch.rand(2, 2, 6, 6), np.random.default_rng(seed)


@given(problems())
@settings(max_examples=EXAMPLES, deadline=None)
def test_masking_and_removing_are_the_same_and_cost_what_the_table_says(problem):
    model, example, rng = problem
    traced = trace(model, example)
    widths = [int(rng.integers(1, group.num_units + 1)) for group in traced.groups]
    choices = zip(traced.groups, widths, strict=True)
    masks = [keep_mask(rng.permutation(group.num_units), width) for group, width in choices]
    small = slim(model, example, masks)
    with torch.no_grad():
        with masked(model, traced, masks):
            expected = model(example)
        # Relative to the logits where they are large: float32 adds up in another order in a smaller network.
        torch.testing.assert_close(small(example), expected, atol=MAX_DIFFERENCE, rtol=MAX_DIFFERENCE)
    assert cost_table(model, example, traced, "parameters").cost(widths) == sum(p.numel() for p in small.parameters())
    assert cost_table(model, example, traced).cost(widths) == count_macs(small, example)


def accepted(model: nn.Module, example: Tensor) -> Trace | None:
    """What onboarding accepts; None if it refuses the network."""
    try:
        return onboard(model, example)
    except LayoutError:
        return None


def agree(model: nn.Module, example: Tensor, traced: Trace, rng: np.random.Generator) -> None:
    """Masked and slim compute the same, in float64, over a few random choices of channels."""
    wide, x = copy.deepcopy(model).double().eval(), example.double()
    for _ in range(3):
        widths = [int(rng.integers(1, group.num_units + 1)) for group in traced.groups]
        pairs = zip(traced.groups, widths, strict=True)
        masks = [keep_mask(rng.permutation(group.num_units), width) for group, width in pairs]
        with torch.no_grad():
            with masked(wide, traced, masks):
                expected = wide(x)
            torch.testing.assert_close(slim(wide, x, masks, traced)(x), expected, atol=1e-9, rtol=1e-9)


@given(problems())
@settings(max_examples=EXAMPLES, deadline=None)
def test_onboarding_accepts_only_what_is_safe_and_all_that_tracing_finds_here(problem):
    model, example, rng = problem
    safe = accepted(model, example)
    if safe is None:
        return
    assert len(safe.groups) + len(safe.frozen) == len(trace(model, example).groups) + len(trace(model, example).frozen)
    reasons = set(safe.frozen.values()) - set(trace(model, example).frozen.values())
    assert all("does not depend on it" in reason for reason in reasons), "nothing else is wrong with these networks"
    agree(model, example, safe, rng)


BETWEEN = (torch.sigmoid, F.softplus, torch.cos, lambda x: x.flip(1), lambda x: x - x.mean(dim=1, keepdim=True))


class Spoilt(nn.Module):
    """A random network with something after one of its stages that may not be pruned across."""

    def __init__(self, net: nn.Module, place: int, function: int) -> None:
        super().__init__()
        self.net, self.place, self.function = net, place, BETWEEN[function]

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.net.features):
            x = layer(x)
            if index == self.place:
                x = self.function(x)
        return self.net.head(x.flatten(1) if self.net.flatten else x.mean(dim=(2, 3)))


@given(problems(), st.integers(0, 4), st.integers(0, len(BETWEEN) - 1))
@settings(max_examples=EXAMPLES, deadline=None)
def test_whatever_is_in_a_network_no_group_is_accepted_that_is_not_safe(problem, place, function):
    net, example, rng = problem
    model = Spoilt(net, place, function)
    safe = accepted(model, example)
    if safe is not None:
        agree(model, example, safe, rng)


@given(problems())
@settings(max_examples=EXAMPLES // 4, deadline=None)
def test_keeping_everything_changes_nothing(problem):
    model, example, _ = problem
    traced = trace(model, example)
    everything = [np.ones(group.num_units, dtype=np.bool_) for group in traced.groups]
    with torch.no_grad():
        before = model(example)
        assert torch.equal(slim(model, example, everything)(example), before)
        with masked(model, traced, everything):
            assert torch.equal(model(example), before)
        assert torch.equal(model(example), before)


@given(st.sampled_from([nn.Sigmoid(), nn.Softplus(), nn.Hardsigmoid()]), st.integers(2, 8), st.integers(0, 2**31))
@settings(max_examples=EXAMPLES // 4, deadline=None)
def test_an_activation_that_does_not_map_zero_to_zero_is_refused(activation, width, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(2, width, 3), activation, nn.Conv2d(width, 3, 1), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Linear(48, 3))
        nn.init.constant_(model[2].weight, 0.5)  # so that a channel left at f(0) can always be seen
        nn.init.constant_(model[2].bias, 0.5)
        example = torch.rand(2, 2, 6, 6)
    traced = trace(model, example)
    with pytest.raises(LayoutError, match="does not map zero to zero"):
        check_slimming(model, example, traced)


class FlattenedConcat(nn.Module):
    """What torch-pruning cannot follow: channels of two layers, concatenated and then flattened."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, left, 3, padding=1), nn.Conv2d(2, right, 3, padding=1)
        self.head = nn.Linear((left + right) * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], dim=1).flatten(1))


@given(st.integers(2, 7), st.integers(2, 7))
@settings(max_examples=EXAMPLES // 4, deadline=None)
def test_what_cannot_be_followed_is_refused_rather_than_pruned_wrongly(left, right):
    model, example = FlattenedConcat(left, right), torch.rand(2, 2, 6, 6)
    with pytest.raises(LayoutError):
        onboard(model, example)
