"""Training memory, known beforehand: against what autograd really keeps, for any widths, and within a limit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import wired_nets
from torch import nn

from prunefleet_edge.batches import batch_sizes
from prunefleet_edge.memory import (
    COPIES_OF_WEIGHTS,
    FIRST_STEP_BYTES,
    HEAP_PERCENT,
    load_training_code,
    memory_table,
    micro_batch_for,
    training_bytes,
)
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.onboarding import onboard
from prunefleet_edge.pruning import slim
from prunefleet_edge.ranking import keep_masks, rank_widths
from prunefleet_edge.tracing import trace
from prunefleet_shared.errors import InputError
from prunefleet_shared.limits import narrowest_widths

torch.set_num_threads(1)
SPECS = [parse_spec(text) for text in ("resnet8/3x16x16/10", "alexnet/3x32x32/10", "mobilenetv2/3x8x8/10")]
SPEC = SPECS[0]


def linear_by_hand() -> tuple[nn.Module, torch.Tensor]:
    """One linear layer 6 to 3: autograd keeps its input (the image) and the softmax."""
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), torch.zeros(1, 1, 2, 3)


def test_weights_count_once_for_each_copy() -> None:
    model, image = linear_by_hand()
    assert training_bytes(model, image, 0) == FIRST_STEP_BYTES + COPIES_OF_WEIGHTS * 4 * (6 * 3 + 3)


def test_memory_grows_by_the_same_with_every_image() -> None:
    for spec in SPECS:
        model, example = build(spec), example_input(spec)
        at = [training_bytes(model, example, num) for num in (4, 8, 12, 16)]
        steps = np.diff(at)
        assert steps.min() > 0
        assert steps.max() - steps.min() <= 2


def test_the_model_is_left_as_it_was() -> None:
    model = build(SPEC).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training_bytes(model, example_input(SPEC), 8)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("share", [0.25, 0.6])
def test_the_table_says_of_any_widths_what_the_slim_network_takes(spec: object, share: float) -> None:
    model, example = build(spec), example_input(spec)
    traced = trace(model, example)
    table = memory_table(model, example, traced, 32)
    widths = [max(1, int(width * share)) for width in traced.layout.dense_widths]
    masks = [np.arange(n) < w for n, w in zip(traced.layout.dense_widths, widths, strict=True)]
    expected = training_bytes(slim(model, example, masks), example, 32)
    dense = training_bytes(model, example, 32)
    assert table.cost(traced.layout.dense_widths) == dense
    assert abs(table.cost(widths) - expected) <= 0.02 * (dense - FIRST_STEP_BYTES)
    assert expected < dense


def test_a_limit_picks_the_largest_halving_of_the_batch_that_fits() -> None:
    model, image = build(SPEC), example_input(SPEC)[:1]
    assert micro_batch_for(model, image, 32, 10**12) == 0
    for size in (16, 8, 4):
        limit_bytes = training_bytes(model, image, size) + 64
        assert micro_batch_for(model, image, 32, limit_bytes) == size
        assert training_bytes(model, image, 2 * size) > limit_bytes


def test_what_cannot_fit_is_refused_with_what_it_needs() -> None:
    with pytest.raises(InputError, match=r"takes .* MB even with 2 images at a time, the limit is 1.0 MB"):
        micro_batch_for(build(SPEC), example_input(SPEC)[:1], 32, 10**6)


def test_what_autograd_keeps_is_what_a_person_counts() -> None:
    """Per image: the image twice (as a batch, and for the convolution), what the norm and what the activation give
    away, the softmax and its gradient. Besides: mean and deviation of 4 channels. The flattened view costs nothing."""
    layers = (nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    model = nn.Sequential(*layers)
    weights = 4 * 3 * 9 + 2 * 4 + 256 * 5 + 5
    for num in (1, 8, 33):
        kept = 4 * num * (3 * 64 + 256 + 256 + 2 * 5) + 4 * 2 * 4
        batch = 4 * num * 3 * 64
        expected = FIRST_STEP_BYTES + COPIES_OF_WEIGHTS * 4 * weights + (kept + batch) * HEAP_PERCENT // 100
        assert training_bytes(model, torch.rand(1, 3, 8, 8), num) == expected


def test_only_the_first_image_counts() -> None:
    model, example = build(SPEC), example_input(SPEC)
    assert training_bytes(model, example, 8) == training_bytes(model, example[:1], 8)


class Random(nn.Module):
    """A network that draws in its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drawn = nn.functional.dropout(self.a(x).relu(), 0.5, self.training)
        return self.fc(self.b(drawn).relu().mean(dim=(2, 3)))


def test_training_does_not_notice_the_rehearsal() -> None:
    """Neither in what it draws, nor in gradients that are switched off around it."""
    model, example = Random(), torch.rand(2, 1, 8, 8)
    torch.manual_seed(5)
    expected = torch.rand(3)
    load_training_code.cache_clear()
    torch.manual_seed(5)
    with torch.no_grad():
        inside = training_bytes(model, example, 8)
        memory_table(model, example, trace(model, example), 8)
    assert torch.equal(torch.rand(3), expected)
    assert inside == training_bytes(model, example, 8)


@pytest.mark.parametrize("make", [wired_nets.mobile, wired_nets.grouped, wired_nets.fire, wired_nets.dense])
def test_the_table_is_exact_for_every_wiring(make: Callable[[], nn.Module]) -> None:
    """Up to a byte a term, against networks that have really been slimmed, at random widths."""
    torch.manual_seed(0)
    model, example = make(), wired_nets.EXAMPLE
    traced = onboard(model, example)
    table, rng = memory_table(model, example, traced, 16), np.random.default_rng(3)
    assert table.unit == "training_bytes"
    for _ in range(4):
        widths = [int(rng.integers(1, n + 1)) for n in traced.layout.dense_widths]
        masks = [np.arange(n) < w for n, w in zip(traced.layout.dense_widths, widths, strict=True)]
        expected = training_bytes(slim(model, example, masks, traced), example, 16)
        assert abs(table.cost(widths) - expected) <= sum(widths) + len(table.terms)


def test_the_table_serves_as_a_budget() -> None:
    model, example = build(SPEC), example_input(SPEC)
    traced = trace(model, example)
    table = memory_table(model, example, traced, 32)
    layout = traced.layout
    smallest, dense = table.cost(narrowest_widths(layout)), table.cost(layout.dense_widths)
    budget = (smallest + dense) // 2
    scores = np.random.default_rng(0).random(layout.num_channels)
    widths = rank_widths(layout, table, scores, budget)
    masks = keep_masks(layout, scores, widths)
    assert training_bytes(slim(model, example, masks), example, 32) <= budget


@pytest.mark.parametrize("batch_size", [1, 2, 5, 20, 32])
def test_the_micro_batch_fits_and_its_double_would_not(batch_size: int) -> None:
    """Over many limits, against trying every halving in turn."""
    model, image = build(SPEC), example_input(SPEC)[:1]
    halvings = [batch_size]
    while halvings[-1] // 2 >= min(2, batch_size):
        halvings.append(halvings[-1] // 2)
    longest = max(sum(batch_sizes(num, batch_size)[-1:]) for num in range(batch_size, 6 * batch_size))
    need = {size: training_bytes(model, image, size) for size in {*halvings, longest}}
    for limit_bytes in sorted({value + change for value in need.values() for change in (-64, 0, 64)}):
        fitting = [size for size in halvings if need[size] <= limit_bytes]
        if need[longest] <= limit_bytes:
            assert micro_batch_for(model, image, batch_size, limit_bytes) == 0
        elif fitting:
            assert micro_batch_for(model, image, batch_size, limit_bytes) == fitting[0]
        else:
            with pytest.raises(InputError, match="allow more"):
                micro_batch_for(model, image, batch_size, limit_bytes)
