"""Training memory, known beforehand: against what autograd really keeps, for any widths, and within a limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from prunefleet_edge.memory import COPIES_OF_WEIGHTS, FIRST_STEP_BYTES, memory_table, micro_batch_for, training_bytes
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.pruning import slim
from prunefleet_edge.tracing import trace
from prunefleet_shared.errors import InputError

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
