"""From masks to a smaller network, and back into the dense one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tied_nets import NETS, Tied, data, made, traced
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.gating import masked
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.pruning import dense_positions, narrowed, slim, widened
from prunefleet_edge.ranking import keep_masks
from prunefleet_edge.saliency import (
    activation_saliency,
    fpgm_saliency,
    l1_saliency,
    norm_scale_saliency,
    taylor_saliency,
)
from prunefleet_edge.tracing import Trace, trace
from prunefleet_shared.errors import LayoutError

torch.set_num_threads(1)
SPEC = parse_spec("resnet8/1x8x8/4")


# --- slimming --------------------------------------------------------------------------------------------------------


def a_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = build(SPEC)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_()
                    module.bias.normal_()
        return model


def random_masks(model: nn.Module, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.random(trace(model, example_input(SPEC)).layout.num_channels)
    layout = trace(model, example_input(SPEC)).layout
    return keep_masks(layout, scores, [int(rng.integers(1, n + 1)) for n in layout.dense_widths])


@pytest.mark.parametrize("is_training", [True, False])
def test_slimming_copies_and_leaves_the_model_alone(is_training: bool) -> None:
    model = a_model().train(is_training)
    before = copy.deepcopy(model.state_dict())
    small = slim(model, example_input(SPEC), random_masks(model))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.fill_(7)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training is is_training for module in (*model.modules(), *small.modules()))


def test_a_slim_network_has_the_widths_of_its_masks_and_the_weights_of_what_was_kept() -> None:
    model = a_model()
    masks = random_masks(model, seed=3)
    small = slim(model, example_input(SPEC), masks)
    widths = tuple(int(mask.sum()) for mask in masks)
    assert trace(small, example_input(SPEC)).layout.dense_widths == widths
    stem, first = masks[0], masks[1]
    assert torch.equal(small.net.conv1.weight, model.net.conv1.weight[stem])
    assert torch.equal(small.net.bn1.running_mean, model.net.bn1.running_mean[stem])
    assert torch.equal(small.net.blocks[0].conv1.weight, model.net.blocks[0].conv1.weight[first][:, stem])
    assert torch.equal(small.net.fc.weight, model.net.fc.weight[:, masks[-1]])


def test_a_slim_network_computes_what_the_masked_one_does_and_can_be_trained() -> None:
    model = a_model().eval()
    masks, example = random_masks(model, seed=4), example_input(SPEC)
    small = slim(model, example, masks)
    with torch.no_grad(), masked(model, trace(model, example), masks):
        expected = model(example)
    torch.testing.assert_close(small(example), expected, atol=1e-5, rtol=0)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in small.parameters())
    F.cross_entropy(small.train()(example), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_the_weights_of_a_slim_network_fit_another_one_cut_to_the_same_masks() -> None:
    model = a_model().eval()
    masks, example = random_masks(model), example_input(SPEC)
    small = slim(model, example, masks)
    other = slim(build(SPEC), example, masks)
    other.load_state_dict(small.state_dict())
    assert torch.equal(other.eval()(example), small(example))


def test_masks_that_do_not_fit_are_refused() -> None:
    model, example = a_model(), example_input(SPEC)
    masks = random_masks(model)
    with pytest.raises(LayoutError, match=r"masks of sizes \[16, 16, 32, 32, 64\] do not fit groups of sizes \[16, 16"):
        slim(model, example, masks[:-1])
    with pytest.raises(LayoutError, match=r"\[15, 16, 32, 32, 64, 64\] do not fit"):
        slim(model, example, [masks[0][:15], *masks[1:]])
    with pytest.raises(LayoutError, match=r"nothing would be left of net.conv1, net.blocks.0.conv1"):
        slim(model, example, [np.zeros(16, dtype=bool), np.zeros(16, dtype=bool), *masks[2:]])


def test_groups_that_are_left_out_stay_whole() -> None:
    model, example = a_model().eval(), example_input(SPEC)
    found = trace(model, example)
    some = Trace(found.groups[1:3], found.frozen)
    masks = random_masks(model)[1:3]
    small = slim(model, example, masks, some)
    widths = list(found.layout.dense_widths)
    widths[1:3] = [int(mask.sum()) for mask in masks]
    assert trace(small, example).layout.dense_widths == tuple(widths)
    with torch.no_grad(), masked(model, some, masks):
        expected = model(example)
    torch.testing.assert_close(small(example), expected, atol=1e-5, rtol=0)
    with pytest.raises(LayoutError, match="do not fit"):
        slim(model, example, masks)


# --- and back --------------------------------------------------------------------------------------------------------

SMALL_EXAMPLE = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))
every_net = pytest.mark.parametrize("make", NETS)
every_seed = pytest.mark.parametrize("seed", range(3))


def some_masks(found: Trace, seed: int, within: list[np.ndarray] | None = None) -> list[np.ndarray]:
    """At least one channel of each group, a random choice of those in ``within``."""
    rng = np.random.default_rng(seed)
    masks = []
    for index, group in enumerate(found.groups):
        left = np.flatnonzero(within[index]) if within else np.arange(group.num_units)
        mask = np.zeros(group.num_units, dtype=np.bool_)
        mask[rng.permutation(left)[: int(rng.integers(1, len(left) + 1))]] = True
        masks.append(mask)
    return masks


def moved(model: nn.Module) -> nn.Module:
    """As if trained: every number is another one."""
    with torch.no_grad():
        for number, tensor in enumerate(model.state_dict().values()):
            tensor.add_(number + 1)
    return model


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@every_net
@every_seed
def test_positions_say_where_each_number_was(make, seed: int) -> None:
    model = made(make)
    masks = some_masks(traced(model), seed)
    small = slim(model, SMALL_EXAMPLE, masks)
    positions = dense_positions(model, SMALL_EXAMPLE, masks)
    dense = model.state_dict()
    assert list(positions) == list(small.state_dict())
    for name, tensor in small.state_dict().items():
        assert positions[name].dtype == torch.int64
        assert positions[name].shape == tensor.shape
        assert torch.equal(dense[name].flatten()[positions[name].flatten()].reshape(tensor.shape), tensor)
        assert len(positions[name].unique()) == tensor.numel()


@every_net
@every_seed
def test_a_widened_network_has_what_the_slim_one_learnt_and_the_rest_as_before(make, seed: int) -> None:
    model = made(make)
    masks = some_masks(traced(model), seed)
    before = copy.deepcopy(model.state_dict())
    small = moved(slim(model, SMALL_EXAMPLE, masks))
    wide = widened(model, small, SMALL_EXAMPLE, masks)
    assert same(slim(wide, SMALL_EXAMPLE, masks), small)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for name, tensor in wide.state_dict().items():
        num_moved = int((tensor != before[name]).sum())
        assert num_moved == small.state_dict()[name].numel(), f"{name}: the rest stays"
    assert wide.training is model.training


@every_net
@every_seed
def test_pruning_further_through_the_dense_wiring_is_pruning_the_slim_network(make, seed: int) -> None:
    model = made(make)
    found = traced(model)
    first = some_masks(found, seed)
    second = some_masks(found, seed + 100, first)
    small = moved(slim(model, SMALL_EXAMPLE, first)).eval()
    smaller = slim(widened(model, small, SMALL_EXAMPLE, first), SMALL_EXAMPLE, second)
    relative = [mask[before] for mask, before in zip(second, first, strict=True)]
    with torch.no_grad(), masked(small, narrowed(found, first), relative):
        expected = small(SMALL_EXAMPLE)
    torch.testing.assert_close(smaller.eval()(SMALL_EXAMPLE), expected, atol=1e-4, rtol=1e-4)


@every_net
@every_seed
def test_the_groups_of_a_slim_network_are_those_that_tracing_it_finds(make, seed: int) -> None:
    model = made(make)
    found = traced(model)
    # Two of each at least: a depthwise or grouped convolution with less is taken for another kind, see below.
    masks = [mask | (np.arange(len(mask)) < 2) for mask in some_masks(found, seed)]
    own = narrowed(found, masks)
    expected = traced(slim(model, SMALL_EXAMPLE, masks))
    for ours, theirs in zip(own.groups, expected.groups, strict=True):
        assert (ours.name, ours.num_units, ours.gates) == (theirs.name, theirs.num_units, theirs.gates)
        assert ours.producers == theirs.producers
        assert ours.consumers == theirs.consumers
        assert (ours.root, ours.root_units) == (theirs.root, theirs.root_units)


def test_a_depthwise_convolution_with_one_channel_left_is_still_one() -> None:
    model = made(Tied)
    found = traced(model)
    masks = [np.arange(group.num_units) < (1 if group.name == "expand" else 9) for group in found.groups]
    small = slim(model, SMALL_EXAMPLE, masks)
    assert len(traced(small).groups) != len(found.groups), "tracing it would find other groups"
    own = narrowed(found, masks)
    assert [group.num_units for group in own.groups] == [int(mask.sum()) for mask in masks]
    for saliency in (l1_saliency, fpgm_saliency):
        assert len(saliency(small, own)) == own.layout.num_channels


@every_net
def test_a_slim_network_is_scored_as_the_masked_one(make) -> None:
    model = made(make)
    found = traced(model)
    masks = some_masks(found, 2)
    small, own = slim(model, SMALL_EXAMPLE, masks), narrowed(found, masks)
    images, labels = data()
    with masked(model, found, masks):
        expected = taylor_saliency(model, found, images, labels)
    np.testing.assert_allclose(
        taylor_saliency(small, own, images, labels), expected[np.concatenate(masks)], rtol=1e-3, atol=1e-6
    )
    assert activation_saliency(small, own, images).shape == (own.layout.num_channels,)


def test_the_norm_scales_of_a_slim_network_are_those_of_what_was_kept() -> None:
    model, example = a_model(), example_input(SPEC)
    found, masks = trace(model, example), random_masks(model)
    kept = norm_scale_saliency(model, found)[np.concatenate(masks)]
    np.testing.assert_array_equal(norm_scale_saliency(slim(model, example, masks), narrowed(found, masks)), kept)


def test_keeping_everything_keeps_the_groups() -> None:
    found = traced(made(Tied))
    assert narrowed(found, [np.ones(group.num_units, dtype=np.bool_) for group in found.groups]) == found


def test_positions_and_widening_refuse_masks_that_do_not_fit() -> None:
    model = made(Tied)
    small = copy.deepcopy(model)
    for ask in (
        lambda: dense_positions(model, SMALL_EXAMPLE, []),
        lambda: widened(model, small, SMALL_EXAMPLE, []),
    ):
        with pytest.raises(LayoutError, match="do not fit"):
            ask()
