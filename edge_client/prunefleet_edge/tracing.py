"""From a torch module to its channel groups, through torch-pruning's dependency graph (Fang et al., CVPR 2023).

This module is the only one that talks to torch-pruning. It turns each dependency group into a :class:`TracedGroup`
in *units* (channels that can only go together, as in a grouped convolution), in module order, and derives the exact
cost of any choice of widths. Known traps of torch-pruning 1.6.1 that are handled here: group order is traversal order
from the output; building the graph switches the model to eval mode; a bare tensor as example input is unpacked.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from prunefleet_shared.errors import LayoutError
from prunefleet_shared.layout import ChannelGroup, CostTable, CostTerm, Layout

_CONV_OR_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ZERO_SAFE = (*_CONV_OR_LINEAR, *_NORM, nn.PReLU)


@dataclass(frozen=True, slots=True)
class Member:
    """A layer's part in a group.

    Attributes:
        module_name: The layer.
        channels: Its channel indices that belong to the group.
        units: For each of those, the unit it goes with.
    """

    module_name: str
    channels: tuple[int, ...]
    units: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TracedGroup:
    """One channel group as found in a model.

    Attributes:
        name: First producing layer in module order.
        num_units: Channels of the group in the layout's sense.
        root: Layer from which torch-pruning enters the group.
        root_units: The unit of each of the root's output channels.
        producers: Layers whose outputs carry the group's channels (convolutions, linear layers, norms).
        gates: Names of those producers after which a channel can be switched off (the norm rather than the
            convolution before it).
        consumers: Layers that take the group's channels in.
    """

    name: str
    num_units: int
    root: str
    root_units: tuple[int, ...]
    producers: tuple[Member, ...]
    gates: frozenset[str]
    consumers: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """A model's prunable groups in module order, and why the others are left alone.

    Attributes:
        groups: What can be pruned.
        frozen: Name of each group that is kept whole, and the reason.
    """

    groups: tuple[TracedGroup, ...]
    frozen: dict[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """The groups as both sides of the wire know them."""
        return Layout(tuple(ChannelGroup(group.name, group.num_units) for group in self.groups))


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Find the channel groups of ``model``.

    Args:
        model: Any module that maps N×… to N×classes; it is left in the mode it came in.
        example: One or two samples it accepts.

    Raises:
        LayoutError: The model does not run on ``example``, cannot be traced, or has nothing to prune.
    """
    return read_groups(dependency_graph(model, example), model)


def read_groups(graph: Any, model: nn.Module) -> Trace:
    """The groups of a model whose graph has been built; errors as :func:`trace`."""
    names = {module: name for name, module in model.named_modules()}
    order = {name: index for index, name in enumerate(names.values())}
    found, frozen = [], {}
    for items in graph.get_all_groups(root_module_types=[tp.ops.TORCH_CONV, tp.ops.TORCH_LINEAR]):
        group = _read_group(graph, items, names, order)
        why = _why_frozen(group, items, names)
        if why:
            frozen[group.name] = why
        else:
            found.append(group)
    if not found:
        msg = f"{type(model).__name__} has no channel group that can be pruned; frozen: {frozen or 'none'}"
        raise LayoutError(msg)
    return Trace(tuple(sorted(found, key=lambda group: order[group.name])), frozen)


def dependency_graph(model: nn.Module, example: Tensor) -> Any:
    """torch-pruning's graph of ``model``, whose training mode is restored.

    Raises:
        LayoutError: The model does not run on ``example`` or torch-pruning cannot follow it.
    """
    was_training = model.training
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch-pruning warns about parameters it leaves alone; we freeze those
            model.eval()
            model(example)
            return tp.DependencyGraph().build_dependency(model, (example,), verbose=False)
    except Exception as error:  # torch and torch-pruning raise anything; the user needs one kind with a next step
        what = f"{type(model).__name__} cannot be traced with input {tuple(example.shape)}"
        msg = (
            f"{what}: {type(error).__name__}: {error}. "
            "Check the input shape; data-dependent control flow and custom autograd functions are not supported"
        )
        raise LayoutError(msg) from error
    finally:
        model.train(was_training)


def _read_group(graph: Any, items: Any, names: dict[nn.Module, str], order: dict[str, int]) -> TracedGroup:
    root = items[0].dep.target.module
    unit_of = _units(items, len(items[0].idxs))
    producers, consumers, gates = [], [], set()
    for item in items:
        module = item.dep.target.module
        if module not in names:
            continue
        units = tuple(unit_of[root_index] for root_index in item.root_idxs)
        member = Member(names[module], tuple(item.idxs), units)
        if graph.is_out_channel_pruning_fn(item.dep.handler):
            producers.append(member)
            if not _is_followed_by_norm(graph, module):
                gates.add(member.module_name)
        else:
            consumers.append(member)
    producers.sort(key=lambda member: order[member.module_name])
    root_units = tuple(unit_of[index] for index in range(len(unit_of)))
    return TracedGroup(
        producers[0].module_name,
        max(unit_of) + 1,
        names[root],
        root_units,
        tuple(producers),
        frozenset(gates),
        tuple(consumers),
    )


def _units(items: Any, num_root_channels: int) -> list[int]:
    """The unit of each root channel: channels at the same place in every group of a grouped convolution go together."""
    parent = list(range(num_root_channels))

    def find(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    for item in items:
        period = _period(item)
        first: dict[int, int] = {}
        for channel, root_index in zip(item.idxs, item.root_idxs, strict=True) if period else ():
            ours, theirs = find(root_index), find(first.setdefault(channel % period, root_index))
            parent[max(ours, theirs)] = min(ours, theirs)
    unit_by_parent: dict[int, int] = {}
    return [unit_by_parent.setdefault(find(index), len(unit_by_parent)) for index in range(num_root_channels)]


def _period(item: Any) -> int:
    """Channels per group of a grouped (not depthwise) convolution; 0 for every other layer."""
    module = item.dep.target.module
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) or module.groups == 1:
        return 0
    if module.groups == module.out_channels == module.in_channels:
        return 0
    is_output = "out" in item.dep.handler.__name__
    return (module.out_channels if is_output else module.in_channels) // module.groups


def _is_followed_by_norm(graph: Any, module: nn.Module) -> bool:
    if isinstance(module, _NORM):
        return False
    return any(isinstance(node.module, _NORM) for node in graph.module2node[module].outputs)


def _why_frozen(group: TracedGroup, items: Any, names: dict[nn.Module, str]) -> str | None:
    if not group.consumers:
        return "it is an output of the network"
    for item in items:
        module = item.dep.target.module
        if isinstance(module, nn.Parameter):
            return "a bare parameter is tied to it"
        if module in names and not isinstance(module, _ZERO_SAFE):
            return f"{names[module]} ({type(module).__name__}) does not map zero to zero channel by channel"
    if any(len(set(member.units)) != group.num_units for member in (*group.producers, *group.consumers)):
        return "a layer carries only part of it, so its cost is not a function of its width"
    if any(_is_part_of_grouped(item) for item in items):
        return "a grouped convolution mixes it with channels of other groups"
    return None


def _is_part_of_grouped(item: Any) -> bool:
    """True when a grouped (not depthwise) convolution has more channels on this side than the item's."""
    if not _period(item):
        return False
    module = item.dep.target.module
    return len(item.idxs) != int(module.out_channels if "out" in item.dep.handler.__name__ else module.in_channels)


def cost_table(model: nn.Module, example: Tensor, traced: Trace, unit: str = "macs") -> CostTable:
    """Exact cost of any widths of ``traced``, per sample.

    Args:
        model: The dense model.
        example: Input; its first dimension is the batch.
        traced: The model's groups.
        unit: ``"macs"`` or ``"parameters"`` (norms and biases included).

    Raises:
        LayoutError: ``unit`` is neither, or the table disagrees with the dense model.
    """
    if unit not in ("macs", "parameters"):
        msg = f"cost unit {unit!r} is unknown; expected macs or parameters"
        raise LayoutError(msg)
    positions = output_positions(model, example) if unit == "macs" else {}
    terms: dict[tuple[int, ...], int] = {}
    for name, module in model.named_modules():
        for coefficient, groups in _layer_terms(name, module, traced, positions.get(name, 0), unit):
            terms[groups] = terms.get(groups, 0) + coefficient
    table = CostTable(unit, tuple(CostTerm(c, g) for g, c in sorted(terms.items()) if c))
    dense = _macs(model, positions) if unit == "macs" else sum(p.numel() for p in model.parameters())
    if table.cost(traced.layout.dense_widths) != dense:
        msg = f"the dense network costs {dense} {unit}, its cost table says {table.cost(traced.layout.dense_widths)}"
        raise LayoutError(msg)
    return table


def output_positions(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Output positions per sample of every convolution and linear layer (height × width; 1 for a flat linear)."""
    positions: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _CONV_OR_LINEAR):

            def count(layer: nn.Module, _: Any, output: Tensor, name: str = name) -> None:
                channels = layer.out_features if isinstance(layer, nn.Linear) else output.shape[1]
                positions[name] = positions.get(name, 0) + output.numel() // (output.shape[0] * int(channels))

            handles.append(module.register_forward_hook(count))
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return positions


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates per sample of all convolutions and linear layers, counted on the network as it is."""
    return _macs(model, output_positions(model, example))


def _macs(model: nn.Module, positions: dict[str, int]) -> int:
    weights = ((count, model.get_submodule(name).get_parameter("weight")) for name, count in positions.items())
    return sum(count * weight.numel() for count, weight in weights)


def _layer_terms(
    name: str, module: nn.Module, traced: Trace, positions: int, unit: str
) -> Iterator[tuple[int, tuple[int, ...]]]:
    if not isinstance(module, _CONV_OR_LINEAR):
        if unit == "parameters":
            yield from _plain_parameter_terms(name, module, traced)
        return
    weight = module.get_parameter("weight")
    is_linear = isinstance(module, nn.Linear)
    kernel = 1 if is_linear else weight[0, 0].numel()
    conv_groups = 1 if is_linear else int(module.groups)  # type: ignore[arg-type]  # untyped attribute of a conv
    per_weight = kernel * (positions if unit == "macs" else 1)
    outs = _parts(name, traced, weight.shape[0], consumes=False)
    if unit == "parameters" and module.bias is not None:
        yield from outs
    if conv_groups == weight.shape[0] and weight.shape[1] == 1 and conv_groups > 1:  # depthwise: one input per output
        yield from ((per_weight * count, group) for count, group in outs)
        return
    for in_count, in_group in _parts(name, traced, weight.shape[1] * conv_groups, consumes=True):
        for out_count, out_group in outs:
            yield per_weight * in_count * out_count // conv_groups, tuple(sorted((*in_group, *out_group)))


def _plain_parameter_terms(name: str, module: nn.Module, traced: Trace) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Own parameters of anything but a convolution or linear layer; only norms and PReLU have them per channel."""
    for parameter in module.parameters(recurse=False):
        if isinstance(module, (*_NORM, nn.PReLU)) and parameter.numel() > 1:
            yield from _parts(name, traced, parameter.numel(), consumes=False)
        else:
            yield parameter.numel(), ()


def _parts(name: str, traced: Trace, total: int, *, consumes: bool) -> list[tuple[int, tuple[int, ...]]]:
    """Channels of a layer by group: (channels per unit, (group index,)), and what belongs to none as (channels, ())."""
    parts: list[tuple[int, tuple[int, ...]]] = []
    for index, group in enumerate(traced.groups):
        for member in group.consumers if consumes else group.producers:
            if member.module_name == name:
                parts.append((len(member.channels) // group.num_units, (index,)))
                total -= len(member.channels)
    return [*parts, (total, ())] if total else parts
