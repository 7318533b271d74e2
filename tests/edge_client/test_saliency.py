"""Saliency against slow and obvious computations of the same thing."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.models import build, parse_spec
from prunefleet_edge.saliency import l1_saliency, masked, taylor_saliency
from prunefleet_edge.tracing import Trace, TracedGroup, trace

torch.set_num_threads(1)
STEP = 1e-6
"""Of central differences, in float64."""


class Tied(nn.Module):
    """Ties of every kind in few channels: a residual stream, a depthwise convolution and a grouped one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.expand, self.expand_norm = nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.project, self.project_norm = nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        x = x + self.project_norm(self.project(F.relu(self.depth(F.relu(self.expand_norm(self.expand(x)))))))
        return self.fc(F.relu(self.grouped(F.relu(x))).mean(dim=(2, 3)))


class Concatenated(nn.Module):
    """A norm over two groups, one of which also feeds the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = torch.cat([x, self.b(F.relu(x))], dim=1)
        return self.fc(F.relu(self.norm(x)).mean(dim=(2, 3)))


def small_resnet() -> nn.Module:
    return build(parse_spec("resnet8/1x6x6/3"))


NETS = [Tied, Concatenated, small_resnet]
all_nets = pytest.mark.parametrize("make", NETS)


def made(make: Callable[[], nn.Module]) -> nn.Module:
    """A net whose norms have seen data, so that nothing is trivially zero or one; in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = make()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    for tensor in (module.weight, module.bias, module.running_mean):
                        tensor.uniform_(-1, 1)
                    module.running_var.uniform_(0.5, 2)
        return model.eval()


def data(num: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(num, 1, 6, 6, generator=generator), torch.randint(0, 3, (num,), generator=generator)


def traced(model: nn.Module) -> Trace:
    return trace(model, torch.zeros(2, 1, 6, 6))


def channels_of_unit(group: TracedGroup, layer: str, unit: int) -> list[int]:
    member = next(member for member in group.producers if member.module_name == layer)
    return [channel for channel, its_unit in zip(member.channels, member.units, strict=True) if its_unit == unit]


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


# --- masking ---------------------------------------------------------------------------------------------------------


def test_masking_switches_off_every_layer_tied_to_a_channel() -> None:
    model = made(Concatenated)
    found = traced(model)
    masks = [np.array([True, False, True, True]), np.array([False, True, True])]
    seen: dict[str, Tensor] = {}
    handles = []
    with masked(model, found, masks), torch.no_grad():
        for name in ("a", "b", "norm"):
            handles.append(
                model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
            )
        model(data()[0])
    for handle in handles:
        handle.remove()
    silent = {name: [c for c in range(out.shape[1]) if not out[:, c].any()] for name, out in seen.items()}
    assert silent == {"a": [1], "b": [0], "norm": [1, 4]}


def test_masking_ends_with_its_context_even_by_an_error() -> None:
    model = made(Tied)
    found = traced(model)
    before = model(data()[0])
    everything_off = [np.zeros(group.num_units, dtype=np.bool_) for group in found.groups]
    with pytest.raises(RuntimeError), masked(model, found, everything_off):
        model(torch.zeros(1, 2, 6, 6))  # two input channels where the network has one
    with pytest.raises(ValueError, match="zip"), masked(model, found, everything_off[:1]):
        pass
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(data()[0]), before)
