"""Saliency against slow and obvious computations of the same thing."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tied_nets import NETS, Concatenated, Tied, channels_of_unit, data, made, small_resnet, traced
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.saliency import (
    activation_saliency,
    fpgm_saliency,
    l1_saliency,
    l2_saliency,
    norm_scale_saliency,
    random_saliency,
    taylor_saliency,
)
from prunefleet_edge.tracing import TracedGroup
from prunefleet_shared.errors import ConfigError

torch.set_num_threads(1)
STEP = 1e-6
"""Of central differences, in float64."""


all_nets = pytest.mark.parametrize("make", NETS)


# --- L1 --------------------------------------------------------------------------------------------------------------


@all_nets
def test_l1_is_the_mean_absolute_weight_over_all_filters_of_a_channel(make: Callable[[], nn.Module]) -> None:
    model = made(make)
    found = traced(model)
    expected = []
    for group in found.groups:
        for unit in range(group.num_units):
            per_layer = []
            for member in group.producers:
                layer = model.get_submodule(member.module_name)
                if not isinstance(layer, nn.Conv2d):
                    continue
                filters = [
                    layer.weight.detach()[channel] for channel in channels_of_unit(group, member.module_name, unit)
                ]
                per_layer.append(np.mean([np.mean([abs(w) for w in f.flatten().tolist()]) for f in filters]))
            expected.append(np.mean(per_layer))
    scores = l1_saliency(model, found)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_l1_needs_no_data_and_changes_nothing() -> None:
    model = made(Tied).train()
    before = copy.deepcopy(model.state_dict())
    l1_saliency(model, traced(model))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# --- Taylor ----------------------------------------------------------------------------------------------------------


def scaled_losses(model: nn.Module, group: TracedGroup, unit: int, factor: float) -> Tensor:
    """Per-sample losses when everything that makes a channel, at every gate point, is ``factor`` times as large."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name in group.gates:
            layer, channels = other.get_submodule(name), channels_of_unit(group, name, unit)
            layer.weight[channels] *= factor
            if layer.bias is not None:
                layer.bias[channels] *= factor
        images, labels = data()
        return F.cross_entropy(other(images.double()), labels, reduction="none")


@all_nets
def test_taylor_is_how_each_sample_s_loss_changes_with_a_channel(make: Callable[[], nn.Module]) -> None:
    """Central differences, one channel at a time: tied layers move together, samples are squared one by one."""
    model = made(make)
    found = traced(model)
    precise = copy.deepcopy(model).double()
    expected = []
    for group in found.groups:
        for unit in range(group.num_units):
            up, down = (scaled_losses(precise, group, unit, 1 + sign * STEP) for sign in (1, -1))
            slope_N = (up - down) / (2 * STEP)
            expected.append(float(slope_N.square().mean().sqrt()))
    scores = taylor_saliency(model, found, *data())
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, rtol=2e-3, atol=1e-6)


@all_nets
def test_the_batch_size_does_not_change_the_result(make: Callable[[], nn.Module]) -> None:
    model = made(make)
    found = traced(model)
    whole = taylor_saliency(model, found, *data(), batch_size=64)
    for batch_size in (1, 3):
        np.testing.assert_allclose(taylor_saliency(model, found, *data(), batch_size), whole, rtol=1e-4, atol=1e-7)


def test_order_and_repetition_of_the_samples_do_not_matter() -> None:
    model = made(Tied)
    found, (images, labels) = traced(model), data()
    scores = taylor_saliency(model, found, images, labels)
    np.testing.assert_allclose(taylor_saliency(model, found, images.flip(0), labels.flip(0)), scores, rtol=1e-5)
    twice = taylor_saliency(model, found, images.repeat(2, 1, 1, 1), labels.repeat(2))
    np.testing.assert_allclose(twice, scores, rtol=1e-5)


def test_the_labels_matter() -> None:
    model = made(Tied)
    found, (images, labels) = traced(model), data()
    other = taylor_saliency(model, found, images, (labels + 1) % 3)
    assert not np.allclose(other, taylor_saliency(model, found, images, labels), rtol=1e-2)


def test_a_dead_channel_scores_zero() -> None:
    model = made(small_resnet)
    found = traced(model)
    stream = found.groups[0]
    before = taylor_saliency(model, found, *data())[: stream.num_units]
    best = int(before.argmax())
    for name in sorted(stream.gates):
        assert taylor_saliency(model, found, *data())[best] > 0, "it lives as long as one of its layers does"
        norm = model.get_submodule(name)
        with torch.no_grad():
            norm.weight[best] = norm.bias[best] = 0
    after = taylor_saliency(model, found, *data())[: stream.num_units]
    assert after[best] == 0
    assert after.max() > 0


@pytest.mark.parametrize("is_training", [True, False])
def test_scoring_leaves_the_model_as_it_was(is_training: bool) -> None:
    model = made(small_resnet).train(is_training)
    found = traced(model)
    before = copy.deepcopy(model.state_dict())
    taylor_saliency(model, found, *data(), batch_size=3)
    assert all(module.training is is_training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_training_mode_model_is_scored_as_in_eval_mode() -> None:
    model = made(small_resnet)
    found = traced(model)
    scores = taylor_saliency(model, found, *data())
    assert (taylor_saliency(model.train(), found, *data()) == scores).all()


def test_scoring_that_fails_leaves_no_gates_behind() -> None:
    model = made(Tied).train()
    images, labels = data()
    with pytest.raises(IndexError):
        taylor_saliency(model, traced(model), images, labels + 100)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_scoring_keeps_what_moves_and_what_does_not() -> None:
    model = made(Tied)
    model.stem.weight.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    taylor_saliency(model, traced(model), *data())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before


# --- the criteria that look at weights -------------------------------------------------------------------------------


def expected_of_weights(model: nn.Module, value: Callable[[nn.Module, int], float | None]) -> list[float]:
    """``value`` of each layer and channel, averaged over the channels of a unit, then over layers; None is left out."""
    scores = []
    for group in traced(model).groups:
        for unit in range(group.num_units):
            per_layer = []
            for member in group.producers:
                layer = model.get_submodule(member.module_name)
                values = [value(layer, channel) for channel in channels_of_unit(group, member.module_name, unit)]
                if None not in values:
                    per_layer.append(sum(values) / len(values))
            scores.append(sum(per_layer) / len(per_layer))
    return scores


@all_nets
def test_l2_is_the_root_mean_square_of_a_filter_s_weights(make: Callable[[], nn.Module]) -> None:
    def rms(layer: nn.Module, channel: int) -> float | None:
        if not isinstance(layer, nn.Conv2d):
            return None
        weights = layer.weight[channel].flatten().tolist()
        return (sum(w * w for w in weights) / len(weights)) ** 0.5

    model = made(make)
    scores = l2_saliency(model, traced(model))
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected_of_weights(model, rms), rtol=1e-9)


@all_nets
def test_fpgm_is_the_mean_distance_to_the_other_filters(make: Callable[[], nn.Module]) -> None:
    def distance(layer: nn.Module, channel: int) -> float | None:
        if not isinstance(layer, nn.Conv2d):
            return None
        filters = [f.flatten().tolist() for f in layer.weight]
        own = filters[channel]
        apart = [sum((a - b) ** 2 for a, b in zip(own, other, strict=True)) ** 0.5 for other in filters]
        return sum(apart) / (len(filters) - 1) / len(own) ** 0.5

    model = made(make)
    scores = fpgm_saliency(model, traced(model))
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected_of_weights(model, distance), rtol=1e-9)


def test_fpgm_drops_the_filter_that_others_can_replace_not_the_small_one() -> None:
    model = made(Concatenated)
    with torch.no_grad():
        model.a.weight[:] = 0
        model.a.weight[:, 0, 0, 0] = torch.tensor([-5.0, 0.1, 4.9, 5.0])
    scores = fpgm_saliency(model, traced(model))[:4]
    assert scores.argmin() == 1
    assert scores.argmax() == 0
    model.a.weight.data[1] = model.a.weight.data[3]
    assert fpgm_saliency(model, traced(model))[:4].argmin() in (1, 3)


def test_fpgm_of_a_layer_with_one_filter_is_zero_not_a_division_by_zero() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    assert fpgm_saliency(model, traced(model)).tolist() == [0.0]


@pytest.mark.parametrize("make", [small_resnet, Concatenated])
def test_norm_scale_is_the_mean_absolute_gamma(make: Callable[[], nn.Module]) -> None:
    def gamma(layer: nn.Module, channel: int) -> float | None:
        return abs(float(layer.weight.detach()[channel])) if isinstance(layer, nn.BatchNorm2d) else None

    model = made(make)
    scores = norm_scale_saliency(model, traced(model))
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected_of_weights(model, gamma), rtol=1e-9)


class Unscaled(nn.Module):
    """A norm without a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 5, 3)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.norm(self.a(x))))).mean(dim=(2, 3)))


def test_norm_scale_names_the_groups_without_a_scaled_norm() -> None:
    model = Unscaled()
    with pytest.raises(ConfigError, match=r"there is none in a, b; take another criterion, such as l1, or skip"):
        norm_scale_saliency(model, traced(model))
    model = made(Tied)  # its last convolution has no norm
    with pytest.raises(ConfigError, match=r"there is none in grouped; take"):
        norm_scale_saliency(model, traced(model))


def test_weights_of_a_norm_without_a_scale_are_no_trouble() -> None:
    model = Unscaled()
    found = traced(model)
    for saliency in (l1_saliency, l2_saliency, fpgm_saliency):
        assert saliency(model, found).shape == (9,)


@pytest.mark.parametrize("saliency", [l1_saliency, l2_saliency, fpgm_saliency])
def test_weights_twice_as_large_matter_twice_as_much(saliency: Callable[..., np.ndarray]) -> None:
    model = made(Concatenated)
    before = saliency(model, traced(model))
    with torch.no_grad():
        model.a.weight *= 2
    after = saliency(model, traced(model))
    np.testing.assert_allclose(after[:4], 2 * before[:4], rtol=1e-6)
    np.testing.assert_array_equal(after[4:], before[4:])


@pytest.mark.parametrize("saliency", [l2_saliency, fpgm_saliency])
def test_larger_filters_do_not_score_higher_for_their_size(saliency: Callable[..., np.ndarray]) -> None:
    scores = []
    for kernel in (1, 3, 5):
        conv = nn.Conv2d(1, 2, kernel, padding=kernel // 2)
        with torch.no_grad():
            conv.weight[0], conv.weight[1] = 1.0, -1.0
        model = nn.Sequential(conv, nn.ReLU(), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(72, 3))
        scores.append(saliency(model, traced(model))[:2].tolist())
    np.testing.assert_allclose(scores, [scores[0]] * 3, rtol=1e-9)


# --- activation ------------------------------------------------------------------------------------------------------


@all_nets
def test_activation_is_the_mean_absolute_output_at_the_gate(make: Callable[[], nn.Module]) -> None:
    model, (images, _) = made(make), data()
    found = traced(model)
    expected = []
    for group in found.groups:
        raw = []
        for unit in range(group.num_units):
            per_layer = []
            for name in group.gates:
                channels = channels_of_unit(group, name, unit)
                values = [v for image in images for v in output_of(model, name, image)[channels].flatten().tolist()]
                per_layer.append(sum(abs(v) for v in values) / len(values))
            raw.append(sum(per_layer) / len(per_layer))
        length = sum(r * r for r in raw) ** 0.5
        expected += [r / length for r in raw]
    scores = activation_saliency(model, found, images)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    for batch_size in (1, 3):
        np.testing.assert_allclose(activation_saliency(model, found, images, batch_size), scores, rtol=1e-5)


def output_of(model: nn.Module, layer: str, image: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: seen.append(out[0]))
    with torch.no_grad():
        model(image[None])
    handle.remove()
    return seen[0]


class Twice(nn.Module):
    """A residual stream that goes through the same layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + F.relu(self.block(x))
        return self.fc((x + F.relu(self.block(x))).mean(dim=(2, 3)))


def test_a_layer_that_runs_twice_counts_as_one_layer() -> None:
    model, images = made(Twice), data()[0]
    found = traced(model)
    assert [sorted(group.gates) for group in found.groups] == [["block", "stem"]]
    with torch.no_grad():
        stem = model.stem(images)
        first = model.block(F.relu(stem))
        second = model.block(F.relu(stem) + F.relu(first))
    block = (first.abs().mean(dim=(0, 2, 3)) + second.abs().mean(dim=(0, 2, 3))) / 2
    mean = (stem.abs().mean(dim=(0, 2, 3)) + block) / 2
    np.testing.assert_allclose(activation_saliency(model, found, images), mean / mean.norm(), rtol=1e-5)


def test_activation_of_a_flat_layer_has_no_positions() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 3))
    images = data()[0]
    with torch.no_grad():
        mean = model[1](images.flatten(1)).abs().mean(dim=0)
    expected = (mean / mean.norm()).numpy()
    np.testing.assert_allclose(activation_saliency(model, traced(model), images), expected, rtol=1e-5)


def test_a_group_that_is_silent_scores_zero() -> None:
    model = made(Concatenated)
    with torch.no_grad():
        model.norm.weight[:4] = model.norm.bias[:4] = 0
        model.a.weight[:] = model.a.bias[:] = 0
    scores = activation_saliency(model, traced(model), data()[0])
    assert np.isfinite(scores).all()
    assert not scores[:4].any()
    assert scores[4:].any()


@pytest.mark.parametrize("is_training", [True, False])
def test_activation_leaves_the_model_as_it_was(is_training: bool) -> None:
    model = made(small_resnet).train(is_training)
    found = traced(model)
    before = copy.deepcopy(model.state_dict())
    activation_saliency(model, found, data()[0])
    with pytest.raises(RuntimeError):
        activation_saliency(model, found, torch.zeros(1, 2, 6, 6))
    assert all(module.training is is_training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


# --- the control -----------------------------------------------------------------------------------------------------


def test_random_scores_depend_on_the_seed_alone() -> None:
    found = traced(made(Tied))
    one, again, other = (random_saliency(found, seed) for seed in (1, 1, 2))
    assert one.dtype == np.float64
    assert one.shape == (found.layout.num_channels,)
    assert (one == again).all()
    assert (one != other).any()
    assert one.min() >= 0
    assert one.max() < 1
