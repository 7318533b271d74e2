"""Why a channel group is kept whole, as far as the wiring alone can say; ``onboarding`` finds the rest by trying.

The items are torch-pruning's: a layer, which of its channels, and whether its inputs or its outputs are meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from prunefleet_edge.tracing import TracedGroup

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONV_OR_LINEAR = (*CONV, nn.Linear)
NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_PRUNABLE = (*CONV_OR_LINEAR, *NORM, nn.PReLU)
_MIXING_NORM = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def why_frozen(group: TracedGroup, items: Any, names: dict[nn.Module, str], tied: dict[str, str]) -> str | None:
    """The reason in words; None if nothing speaks against pruning the group.

    Args:
        group: As read from ``items``.
        items: torch-pruning's, of the whole group.
        names: Name of every layer of the model.
        tied: See :func:`tied_layers`.
    """
    if not group.consumers:
        return "it is an output of the network"
    for item in items:
        why = _why_not_layer(item.dep.target.module, names)
        if why:
            return why
    members = (*group.producers, *group.consumers)
    shared = [member.module_name for member in members if member.module_name in tied]
    if shared:
        return f"{shared[0]} has its weights in common with {tied[shared[0]]}"
    if any(len(set(member.units)) != group.num_units for member in members):
        return "a layer carries only part of it, so its cost is not a function of its width"
    if any(_is_part_of_grouped(item) for item in items):
        return "a grouped convolution mixes it with channels of other groups"
    return None


def tied_layers(model: nn.Module) -> dict[str, str]:
    """Layers that have a parameter in common with another one, and which."""
    owner: dict[nn.Parameter, str] = {}
    tied: dict[str, str] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            first = owner.setdefault(parameter, name)
            if first != name:
                tied[name], tied[first] = first, name
    return tied


def channels_per_conv_group(item: Any) -> int:
    """Channels in each group of a grouped (not depthwise) convolution, on the item's side; 0 for other layers."""
    module = item.dep.target.module
    if not isinstance(module, CONV) or module.groups == 1:
        return 0
    if module.groups == module.out_channels == module.in_channels:
        return 0
    return (module.out_channels if _is_output(item) else module.in_channels) // module.groups


def _why_not_layer(module: Any, names: dict[nn.Module, str]) -> str | None:
    if isinstance(module, nn.Parameter):
        return "a bare parameter is tied to it"
    if module not in names or isinstance(module, _PRUNABLE):
        return None
    layer = f"{names[module]} ({type(module).__name__})"
    if isinstance(module, _MIXING_NORM):
        return f"{layer} does not map zero to zero channel by channel"
    return f"{layer} is a kind of layer whose channels cannot be removed here"


def _is_part_of_grouped(item: Any) -> bool:
    """True when a grouped (not depthwise) convolution has more channels on this side than the item's."""
    if not channels_per_conv_group(item):
        return False
    module = item.dep.target.module
    return len(item.idxs) != int(module.out_channels if _is_output(item) else module.in_channels)


def _is_output(item: Any) -> bool:
    return "out" in item.dep.handler.__name__
