"""What the tests of tracing share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from wired_nets import (
    EXAMPLE,
    NETS,
)

from prunefleet_edge.tracing import trace

torch.set_num_threads(1)
all_nets = pytest.mark.parametrize("make", NETS)


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
