"""Switching channels off without touching weights: the gates that saliency differentiates and that masks close.

A gate is a tensor of factors, one per unit of a group, that multiplies the outputs of the layers tied to the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from prunefleet_edge.tracing import Member, Trace, TracedGroup, channel_axis
from prunefleet_shared.masks import BoolArray

Gates = dict[tuple[int, str], Tensor]
"""By (index of the group, name of the layer): float32, samples by units, leaves that take a gradient."""


def gate_members(group: TracedGroup) -> list[Member]:
    """The layers of a group after which a channel is switched off, in module order."""
    return [member for member in group.producers if member.module_name in group.gates]


@contextmanager
def sample_gates(model: nn.Module, traced: Trace, num_samples: int) -> Iterator[Gates]:
    """Multiply every gate point by a tensor of ones while the context lasts.

    The gates have a row per sample, so that one backward pass gives every sample its own gradient.

    Args:
        model: Gets forward hooks; its weights stay.
        traced: Its groups.
        num_samples: In every batch that runs inside the context.
    """
    gates: Gates = {}
    handles = []
    try:
        for index, group in enumerate(traced.groups):
            for member in gate_members(group):
                gate = torch.ones(num_samples, group.num_units, requires_grad=True)
                gates[index, member.module_name] = gate
                module = model.get_submodule(member.module_name)
                handles.append(module.register_forward_hook(_multiplier(gate, member)))
        yield gates
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def masked(model: nn.Module, traced: Trace, keep_masks: Sequence[BoolArray]) -> Iterator[nn.Module]:
    """The model with the channels of ``keep_masks`` that are False switched off, weights untouched.

    Args:
        model: The dense model.
        traced: Its groups.
        keep_masks: One boolean array per group, True = kept.
    """
    handles = []
    try:
        for group, mask_U in zip(traced.groups, keep_masks, strict=True):
            gate_1U = torch.from_numpy(mask_U.astype(np.float32))[None, :]
            for member in group.producers:
                module = model.get_submodule(member.module_name)
                handles.append(module.register_forward_hook(_multiplier(gate_1U, member)))
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _multiplier(gate_NU: Tensor, member: Member) -> Callable[[nn.Module, object, Tensor], Tensor]:
    channels, units = torch.tensor(member.channels), torch.tensor(member.units)

    def hook(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        # A norm after a concatenation carries channels of other groups too: those are multiplied by one.
        axis = channel_axis(module)
        gate_NC = torch.ones(len(gate_NU), output.shape[axis]).index_copy(1, channels, gate_NU[:, units])
        between = [1] * (output.dim() - 2)
        is_last = axis == -1
        return output * gate_NC.reshape(len(gate_NC), *(between if is_last else []), -1, *([] if is_last else between))

    return hook
