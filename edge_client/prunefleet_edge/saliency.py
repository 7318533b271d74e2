"""How much each channel matters, one function per criterion; scores are float64, higher = keep, one per channel.

Scores never leave the device: ``masks`` turns them into grades, ``pruning`` into widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.tracing import Member, Trace
from prunefleet_shared.masks import BoolArray, FloatArray


def l1_saliency(model: nn.Module, traced: Trace) -> FloatArray:
    """Mean |w| of the filters that produce a channel, averaged over the layers tied to it.

    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017; divided by the filter's size, as in Rajagopal &
    Bouganis 2020 (ADaPT), so that layers can be ranked against each other. Needs no data.
    """
    scores = []
    for group in traced.groups:
        weighted = [m for m in group.producers if model.get_submodule(m.module_name).weight.dim() > 1]  # type: ignore[operator]
        per_layer = [_per_unit(m, _filter_l1(model, m), group.num_units) for m in weighted]
        scores.append(torch.stack(per_layer).mean(dim=0))
    return torch.cat(scores).double().numpy()


def _filter_l1(model: nn.Module, member: Member) -> Tensor:
    weight = model.get_submodule(member.module_name).get_parameter("weight").detach()
    return weight.abs().flatten(1).mean(dim=1)[list(member.channels)]


def _per_unit(member: Member, values: Tensor, num_units: int) -> Tensor:
    """Mean of a layer's channel values over the channels of each unit."""
    units = torch.tensor(member.units)
    total = torch.zeros(num_units, dtype=values.dtype).index_add_(0, units, values)
    return total / torch.bincount(units, minlength=num_units)


def taylor_saliency(
    model: nn.Module, traced: Trace, images: Tensor, labels: Tensor, batch_size: int = 64
) -> FloatArray:
    """First-order Taylor saliency, per sample, on gates after the norms.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, eq. (8) with a gate per channel:
    the mean over samples of (dL/dgate)², where one gate switches a channel off in all layers tied to it. Returned is
    its square root, which estimates a change of loss (nats) and can therefore be set against what a channel costs.
    The gate is a tensor of ones N×C per layer, so a single backward pass gives every sample its own gradient.

    Args:
        model: Scored in eval mode; left in the mode it came in.
        traced: Its groups.
        images: N×C×H×W, float32 in [0, 1].
        labels: N class indices, int64.
        batch_size: Samples per backward pass; changes memory, not the result.
    """
    total = np.zeros(sum(group.num_units for group in traced.groups))
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            with _gates(model, traced, len(images[part])) as gates:
                F.cross_entropy(model(images[part]), labels[part], reduction="sum").backward()  # type: ignore[no-untyped-call]
                total += _squared_gate_gradients(traced, gates)
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)
    return np.sqrt(total / max(1, len(images)))


def _squared_gate_gradients(traced: Trace, gates: dict[tuple[int, str], Tensor]) -> FloatArray:
    scores = []
    for index, group in enumerate(traced.groups):
        members = [gates[index, name].grad for name in sorted(group.gates)]
        gradient_NU = torch.stack([grad for grad in members if grad is not None]).sum(dim=0)
        scores.append(gradient_NU.square().sum(dim=0))
    return torch.cat(scores).double().numpy()


@contextmanager
def _gates(model: nn.Module, traced: Trace, num_samples: int) -> Iterator[dict[tuple[int, str], Tensor]]:
    """Multiply every gate point by a tensor of ones (samples × units) while the context lasts."""
    gates: dict[tuple[int, str], Tensor] = {}
    handles = []
    try:
        for index, group in enumerate(traced.groups):
            for member in group.producers:
                if member.module_name not in group.gates:
                    continue
                gate = torch.ones(num_samples, group.num_units, requires_grad=True)
                gates[index, member.module_name] = gate
                module = model.get_submodule(member.module_name)
                handles.append(module.register_forward_hook(_multiplier(gate, member)))
        yield gates
    finally:
        for handle in handles:
            handle.remove()


def _multiplier(gate_NU: Tensor, member: Member) -> Callable[[nn.Module, object, Tensor], Tensor]:
    channels, units = torch.tensor(member.channels), torch.tensor(member.units)

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        # A norm after a concatenation carries channels of other groups too: those are multiplied by one.
        gate_NC = torch.ones(len(gate_NU), output.shape[1]).index_copy(1, channels, gate_NU[:, units])
        return output * gate_NC.reshape(*gate_NC.shape, *([1] * (output.dim() - 2)))

    return hook


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
