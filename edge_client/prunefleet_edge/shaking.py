"""A copy of a network with nothing left of its initialisation or training: to try wirings on, not to use."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from prunefleet_edge.kept_whole import CONV_OR_LINEAR, NORM
from prunefleet_edge.tracing import channel_axis

_SEED = 20
_SMALLEST_SIGNAL = 1e-6


def shaken(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy in eval mode with scales, biases and norm statistics drawn at random, and signals of unit size throughout.

    Fresh norms, layer scales of 1e-6 and classifiers that start at zero would let any mistake pass, and so would a
    signal that dies away on its way to the logits. Biases are not negative: a dead ReLU hides what is before it.

    Args:
        model: Left as it is.
        example: What the signals are measured on.
    """
    copied = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if name.rpartition(".")[2] == "bias":
                parameter.uniform_(0.0, 0.5, generator=generator)
            elif parameter.squeeze().dim() <= 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif not parameter.any():
                parameter.normal_(0.0, float(parameter[0].numel()) ** -0.5, generator=generator)
        _set_to_unit_size(copied, example)
        for module in copied.modules():
            if isinstance(module, NORM) and module.running_mean is not None and module.running_var is not None:
                module.running_mean += module.running_var.sqrt() * _drawn(module.running_mean, -0.5, 0.5, generator)
                module.running_var *= _drawn(module.running_var, 0.5, 2.0, generator)
    return copied


def _drawn(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.empty_like(like).uniform_(low, high, generator=generator)


def _set_to_unit_size(model: nn.Module, example: Tensor) -> None:
    """Scale every layer's weight so that its outputs are of unit size, and give norms the statistics of what they see.

    After Mishkin & Matas, "All you need is a good init" (ICLR 2016), in one pass; root mean square, without the bias.
    """

    def scale(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        bias = layer.bias if isinstance(layer.bias, Tensor) else torch.zeros(())
        own = output.movedim(channel_axis(layer), -1) - bias
        layer.get_parameter("weight").div_(own.square().mean().sqrt().clamp_min(_SMALLEST_SIGNAL))
        return layer.forward(*inputs)  # type: ignore[no-any-return]  # nn.Module is untyped here

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        channels = inputs[0].movedim(1, 0).flatten(1)
        if isinstance(norm, NORM) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(channels.mean(dim=1))
            norm.running_var.copy_(channels.var(dim=1).clamp_min(_SMALLEST_SIGNAL))

    handles = []
    try:
        for module in model.modules():
            if isinstance(module, CONV_OR_LINEAR):
                handles.append(module.register_forward_hook(scale))
            elif isinstance(module, NORM):
                handles.append(module.register_forward_pre_hook(measure))
        model(example)
    finally:
        for handle in handles:
            handle.remove()


def widened(model: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """Network and example in float64; as they were if the network does not run so."""
    try:
        wide = copy.deepcopy(model).double()
        with torch.no_grad():
            wide(example.double())
    except Exception:  # noqa: BLE001 - a network may make float32 tensors on its way and raise anything over them
        return model, example
    return wide, example.double()
