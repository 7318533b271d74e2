"""From masks to a physically smaller network, and back into the dense one.

``slim`` removes channels for good; ``widened`` puts what a slim network has learnt into a dense one, so that pruning
in steps always starts from the dense network's wiring.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunefleet_edge.tracing import Member, Trace, TracedGroup, dependency_graph, read_groups
from prunefleet_shared.errors import LayoutError
from prunefleet_shared.masks import BoolArray


@dataclass(frozen=True, slots=True)
class Candidate:
    """A slim network, and which channels of the dense one it has.

    Attributes:
        model: The network.
        masks: For each group of the layout, True = kept.
    """

    model: nn.Module
    masks: tuple[BoolArray, ...]


def slim(model: nn.Module, example: Tensor, masks: Sequence[BoolArray], traced: Trace | None = None) -> nn.Module:
    """A copy of ``model`` without the channels that are False in ``masks``.

    Args:
        model: Dense model; untouched.
        example: Input to trace with.
        masks: One boolean array per group, True = kept, at least one True each.
        traced: Whose groups the masks are for, where some of those that ``trace(model, example)`` finds are left out.

    Raises:
        LayoutError: The masks do not fit the model's groups.
    """
    small = copy.deepcopy(model)
    graph = dependency_graph(small, example)
    remove_channels(small, graph, masks, traced or read_groups(graph, small))
    small.zero_grad(set_to_none=True)
    return small


def remove_channels(small: nn.Module, graph: Any, masks: Sequence[BoolArray], traced: Trace) -> None:
    """Remove the channels that are False in ``masks`` from ``small`` itself.

    Args:
        small: Changed in place.
        graph: ``dependency_graph(small, example)``; stays good for another call that removes from other groups.
        masks: One boolean array per group of ``traced``; all True for a group that is left as it is.
        traced: The groups of ``small`` as the graph was built from it.

    Raises:
        LayoutError: The masks do not fit the groups.
    """
    why = _why_masks_do_not_fit(traced, masks)
    if why:
        raise LayoutError(why)
    for group, mask in zip(traced.groups, masks, strict=True):
        removed = [index for index, unit in enumerate(group.root_units) if not mask[unit]]
        if removed:
            root = small.get_submodule(group.root)
            prune_out = graph.get_pruner_of_module(root).prune_out_channels
            graph.get_pruning_group(root, prune_out, removed).prune(record_history=False)


def dense_positions(
    model: nn.Module, example: Tensor, masks: Sequence[BoolArray], traced: Trace | None = None
) -> dict[str, Tensor]:
    """Where the numbers of a slim network lie in the dense one.

    For every entry of ``slim(model, example, masks, traced).state_dict()``, its shape filled with indices into the
    flattened dense entry, int64. Found by slimming a copy whose weights are their own indices.

    Raises:
        LayoutError: The masks do not fit the model's groups.
    """
    numbered = copy.deepcopy(model)
    graph = dependency_graph(numbered, example)
    own = traced or read_groups(graph, numbered)
    for tensor in (*numbered.parameters(), *numbered.buffers()):
        # float64 counts exactly to 2**53; integers cannot be parameters that take a gradient.
        tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
    remove_channels(numbered, graph, masks, own)
    return {name: tensor.detach().long() for name, tensor in numbered.state_dict().items()}


def widened(
    dense: nn.Module, small: nn.Module, example: Tensor, masks: Sequence[BoolArray], traced: Trace | None = None
) -> nn.Module:
    """A copy of ``dense`` with the weights of ``small`` where ``small`` has any; slimming it again gives ``small``.

    Args:
        dense: Untouched.
        small: ``slim(dense, example, masks, traced)``, trained since.
        example: Input to trace with.
        masks: Which channels ``small`` has.
        traced: As for :func:`slim`.

    Raises:
        LayoutError: The masks do not fit the model's groups.
    """
    state = {name: tensor.detach().clone() for name, tensor in dense.state_dict().items()}
    learnt = small.state_dict()
    for name, position in dense_positions(dense, example, masks, traced).items():
        flat = state[name].flatten()
        flat[position.flatten()] = learnt[name].flatten().to(flat.dtype)
        state[name] = flat.reshape(state[name].shape)
    wide = copy.deepcopy(dense)
    wide.load_state_dict(state)
    return wide


def narrowed(traced: Trace, masks: Sequence[BoolArray]) -> Trace:
    """The groups of the slim network, from those of the dense one.

    Tracing the slim network would mostly give the same, but not always: a depthwise convolution that is left with one
    channel looks like a plain one.

    Args:
        traced: Of the dense network.
        masks: One boolean array per group, True = kept.
    """
    gone: dict[tuple[str, bool], set[int]] = {}
    for group, mask in zip(traced.groups, masks, strict=True):
        for is_producer, members in ((True, group.producers), (False, group.consumers)):
            for member in members:
                lost = {c for c, unit in zip(member.channels, member.units, strict=True) if not mask[unit]}
                gone.setdefault((member.module_name, is_producer), set()).update(lost)
    groups = zip(traced.groups, masks, strict=True)
    return replace(traced, groups=tuple(_narrow_group(group, mask, gone) for group, mask in groups))


def _narrow_group(group: TracedGroup, mask: BoolArray, gone: dict[tuple[str, bool], set[int]]) -> TracedGroup:
    new_unit = {int(unit): index for index, unit in enumerate(np.flatnonzero(mask))}

    def narrow(member: Member, is_producer: bool) -> Member:
        lost = np.array(sorted(gone[member.module_name, is_producer]), dtype=np.int64)
        kept = [(c, unit) for c, unit in zip(member.channels, member.units, strict=True) if mask[unit]]
        channels = tuple(c - int(np.searchsorted(lost, c)) for c, _ in kept)
        return Member(member.module_name, channels, tuple(new_unit[unit] for _, unit in kept))

    return replace(
        group,
        num_units=len(new_unit),
        root_units=tuple(new_unit[unit] for unit in group.root_units if mask[unit]),
        producers=tuple(narrow(member, True) for member in group.producers),
        consumers=tuple(narrow(member, False) for member in group.consumers),
    )


def _why_masks_do_not_fit(traced: Trace, masks: Sequence[BoolArray]) -> str | None:
    sizes = [group.num_units for group in traced.groups]
    if [len(mask) for mask in masks] != sizes:
        return f"masks of sizes {[len(mask) for mask in masks]} do not fit groups of sizes {sizes}"
    empty = [group.name for group, mask in zip(traced.groups, masks, strict=True) if not mask.any()]
    return f"nothing would be left of {', '.join(empty)}" if empty else None
