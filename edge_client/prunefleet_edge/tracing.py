"""From a torch module to its channel groups, through torch-pruning's dependency graph (Fang et al., CVPR 2023).

This module is the only one that talks to torch-pruning. It turns each dependency group into a :class:`TracedGroup`
in *units* (channels that can only go together, as in a grouped convolution), in module order, and derives the exact
cost of any choice of widths. Known traps of torch-pruning 1.6.1 that are handled here: group order is traversal order
from the output; building the graph switches the model to eval mode and leaves it there.
What the wiring does not show (an activation with f(0) ≠ 0, a reshape it misreads) is found by ``onboarding``.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from prunefleet_edge.kept_whole import CONV_OR_LINEAR, NORM, channels_per_conv_group, tied_layers, why_frozen
from prunefleet_shared.errors import LayoutError
from prunefleet_shared.layout import ChannelGroup, CostTable, CostTerm, Layout

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


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
        name: First convolution or linear layer in module order that produces its channels; no other group has it.
        num_units: Channels of the group in the layout's sense.
        root: Layer from which torch-pruning enters the group.
        root_units: The unit of each of the root's output channels.
        producers: Layers whose outputs carry the group's channels (convolutions, linear layers, norms).
        gates: Names of the last producers before the consumers (the norm rather than the convolution before it):
            closed there, a channel is gone for all that follows, once on each way.
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

    def only(self, names: Collection[str], why: str = "it was not asked for") -> Trace:
        """The same with the groups of those names; the others are frozen, for the reason ``why``."""
        others = {group.name: why for group in self.groups if group.name not in names}
        return Trace(tuple(group for group in self.groups if group.name in names), self.frozen | others)

    def as_in(self, layout: Layout) -> Trace:
        """Only the groups of a campaign's layout: who made it may have kept others whole.

        Raises:
            LayoutError: This network has not those groups, or of another size.
        """
        same = self.only([group.name for group in layout.groups], "the layout does not have it")
        if same.layout != layout:
            msg = "the network traced here has another layout than the campaign's; compare library versions"
            raise LayoutError(msg)
        return same


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Find the channel groups of ``model`` by its wiring alone; ``onboarding.onboard`` also tries them out.

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
    order, tied = {name: index for index, name in enumerate(names.values())}, tied_layers(model)
    found: dict[str, TracedGroup] = {}
    frozen: dict[str, str] = {}
    try:
        for items in graph.get_all_groups(root_module_types=[tp.ops.TORCH_CONV, tp.ops.TORCH_LINEAR]):
            group = _read_group(graph, items, names, order)
            why = why_frozen(group, items, names, tied)
            if group.name in found:
                why = "torch-pruning finds it twice, with other channels"
                del found[group.name]
            if why or group.name in frozen:
                frozen.setdefault(group.name, why or "")
            else:
                found[group.name] = group
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise LayoutError(_cannot_be_traced(model, error)) from error
    if not found:
        msg = f"{type(model).__name__} has no channel group that can be pruned; frozen: {frozen or 'none'}"
        raise LayoutError(msg)
    return Trace(tuple(sorted(found.values(), key=lambda group: order[group.name])), frozen)


def dependency_graph(model: nn.Module, example: Tensor) -> Any:
    """torch-pruning's graph of ``model``, whose training mode is restored.

    Raises:
        LayoutError: The model does not run on ``example``, gives something else than N×classes, or torch-pruning
            cannot follow it.
    """
    was_training = model.training

    def forward(model: nn.Module, example: Tensor) -> Tensor:
        return check_logits(model(example), example, type(model).__name__)

    try:
        _check_weights(model)
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch-pruning warns about parameters it leaves alone; we freeze those
            return tp.DependencyGraph().build_dependency(model, example, forward_fn=forward, verbose=False)
    except LayoutError:
        raise
    except Exception as error:  # torch and torch-pruning raise anything; the user needs one kind with a next step
        raise LayoutError(_cannot_be_traced(model, error, tuple(example.shape))) from error
    finally:
        model.train(was_training)


def check_logits(output: object, example: Tensor, what: str, num_classes: int | None = None) -> Tensor:
    """``output`` itself, if it is one row of logits for each sample of ``example``.

    Args:
        output: What a network made of ``example``.
        example: N samples.
        what: The network, in the error.
        num_classes: How many columns it must have; None takes any number.

    Raises:
        LayoutError: It is anything else (the fault of who made the network).
    """
    is_logits = isinstance(output, Tensor) and output.dim() == 2 and len(output) == len(example)
    if isinstance(output, Tensor) and is_logits and num_classes in (None, output.shape[1]):
        return output
    got = "x".join(str(size) for size in output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
    msg = (
        f"{what}: expected logits {len(example)}x{num_classes or 'classes'} for {len(example)} samples, got {got}; "
        "wrap it in a module that returns these logits and nothing else"
    )
    raise LayoutError(msg)


def _check_weights(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, CONV_OR_LINEAR) and not isinstance(module.weight, nn.Parameter):
            msg = (
                f"{name} ({type(module).__name__}): its weight is computed (weight norm, spectral norm), so "
                "channels cannot be taken out of it; make it plain first, as with "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
            raise LayoutError(msg)


def _cannot_be_traced(model: nn.Module, error: Exception, shape: tuple[int, ...] | None = None) -> str:
    with_input = f" with input {shape}" if shape else ""
    return (
        f"{type(model).__name__} cannot be traced{with_input}: {type(error).__name__}: {error}. "
        "Check the input shape; data-dependent control flow, custom autograd functions and reshapes that mix channels "
        "(channel shuffle) are not supported: take another network, or leave such a part out"
    )


def _read_group(graph: Any, items: Any, names: dict[nn.Module, str], order: dict[str, int]) -> TracedGroup:
    root = items[0].dep.target.module
    unit_of = _units(items, len(items[0].idxs))
    producers: list[Member] = []
    consumers: list[Member] = []
    for item in items:
        module = item.dep.target.module
        if module in names:
            units = tuple(unit_of[root_index] for root_index in item.root_idxs)
            is_producer = graph.is_out_channel_pruning_fn(item.dep.handler)
            (producers if is_producer else consumers).append(Member(names[module], tuple(item.idxs), units))
    producers.sort(key=lambda member: order[member.module_name])
    layers = {name: module for module, name in names.items()}
    return TracedGroup(
        next((m.module_name for m in producers if not isinstance(layers[m.module_name], NORM)), names[root]),
        max(unit_of) + 1,
        names[root],
        tuple(unit_of),
        tuple(producers),
        _gates(items, names, {m.module_name for m in producers}, {m.module_name for m in consumers}),
        tuple(consumers),
    )


def _gates(items: Any, names: dict[nn.Module, str], producers: set[str], consumers: set[str]) -> frozenset[str]:
    """The last producers on every way to a consumer, walking back from the consumers through whatever has no weights.

    A convolution before a concatenation is found behind the norm that follows it, not on its own: gated in both
    places, a channel would count twice.
    """
    nodes = {item.dep.target for item in items}
    waiting = [before for node in nodes if names.get(node.module) in consumers for before in node.inputs]
    seen, gates = set(), set()
    while waiting:
        node = waiting.pop()
        if node in seen or node not in nodes:
            continue
        seen.add(node)
        if names.get(node.module) in producers:
            gates.add(names[node.module])
        else:
            waiting.extend(node.inputs)
    return frozenset(gates)


def _units(items: Any, num_root_channels: int) -> list[int]:
    """The unit of each root channel: channels at the same place in every group of a grouped convolution go together."""
    parent = list(range(num_root_channels))

    def find(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    for item in items:
        period = channels_per_conv_group(item)
        first: dict[int, int] = {}
        for channel, root_index in zip(item.idxs, item.root_idxs, strict=True) if period else ():
            ours, theirs = find(root_index), find(first.setdefault(channel % period, root_index))
            parent[max(ours, theirs)] = min(ours, theirs)
    unit_by_parent: dict[int, int] = {}
    return [unit_by_parent.setdefault(find(index), len(unit_by_parent)) for index in range(num_root_channels)]


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
    tied, counted = tied_layers(model), set[nn.Parameter]()
    for name, module in model.named_modules():
        parts = _layer_terms(name, module, traced, positions.get(name, 0), unit)
        if unit == "parameters" and name in tied:  # never pruned, and there only once
            parts = iter([(sum(p.numel() for p in module.parameters(recurse=False) if p not in counted), ())])
        counted.update(module.parameters(recurse=False))
        for coefficient, groups in parts:
            terms[groups] = terms.get(groups, 0) + coefficient
    table = CostTable(unit, tuple(CostTerm(c, g) for g, c in sorted(terms.items()) if c))
    dense = _macs(model, positions) if unit == "macs" else sum(p.numel() for p in model.parameters())
    if table.cost(traced.layout.dense_widths) != dense:
        said = table.cost(traced.layout.dense_widths)
        msg = (
            f"{type(model).__name__}: the dense network costs {dense} {unit}, its cost table says {said}; it has "
            "layers that count otherwise than torch's own, and no budget could be kept: replace them"
        )
        raise LayoutError(msg)
    return table


def output_positions(model: nn.Module, example: Tensor) -> dict[str, int]:
    """How often each weight of a layer is used for a sample, for convolutions and linear layers.

    That is their number of output positions (height × width; 1 for a flat linear), of a transposed convolution its
    number of input positions.
    """
    positions: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (*CONV_OR_LINEAR, *_TRANSPOSED)):

            def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor, name: str = name) -> None:
                side = inputs[0] if isinstance(layer, _TRANSPOSED) else output
                count = side.numel() // (len(example) * side.shape[channel_axis(layer)])
                positions[name] = positions.get(name, 0) + count

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


def channel_axis(layer: nn.Module) -> int:
    """Where the channels of a layer's output are: last after a linear layer, else second (N×C×…)."""
    return -1 if isinstance(layer, nn.Linear) else 1


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates per sample of all convolutions (transposed ones too) and linear layers, as they are."""
    return _macs(model, output_positions(model, example))


def _macs(model: nn.Module, positions: dict[str, int]) -> int:
    weights = ((count, model.get_submodule(name).get_parameter("weight")) for name, count in positions.items())
    return sum(count * weight.numel() for count, weight in weights)


def _layer_terms(
    name: str, module: nn.Module, traced: Trace, positions: int, unit: str
) -> Iterator[tuple[int, tuple[int, ...]]]:
    if not isinstance(module, CONV_OR_LINEAR):
        if unit == "parameters":
            yield from _plain_parameter_terms(name, module, traced)
        elif isinstance(module, _TRANSPOSED):  # never pruned
            yield positions * module.weight.numel(), ()
        return
    weight = module.get_parameter("weight")
    is_linear = isinstance(module, nn.Linear)
    kernel = 1 if is_linear else weight[0, 0].numel()
    conv_groups = 1 if is_linear else int(module.groups)  # type: ignore[arg-type]  # untyped attribute of a conv
    per_weight = kernel * (positions if unit == "macs" else 1)
    outs = _parts(name, traced, weight.shape[0], consumes=False)
    if unit == "parameters":
        yield from outs if module.bias is not None else ()
        # A kind of convolution with parameters of its own has them whole; whether it can be pruned is for onboarding.
        yield sum(p.numel() for n, p in module.named_parameters(recurse=False) if n not in ("weight", "bias")), ()
    if conv_groups == weight.shape[0] and weight.shape[1] == 1 and conv_groups > 1:  # depthwise: one input per output
        yield from ((per_weight * count, group) for count, group in outs)
        return
    for in_count, in_group in _parts(name, traced, weight.shape[1] * conv_groups, consumes=True):
        for out_count, out_group in outs:
            yield per_weight * in_count * out_count // conv_groups, tuple(sorted((*in_group, *out_group)))


def _plain_parameter_terms(name: str, module: nn.Module, traced: Trace) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Own parameters of anything but a convolution or linear layer; only norms and PReLU have them per channel."""
    for parameter in module.parameters(recurse=False):
        if isinstance(module, (*NORM, nn.PReLU)) and parameter.numel() > 1:
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
