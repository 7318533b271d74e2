"""Unstructured pruning: single weights are set to zero by magnitude, the network keeps its shape.

Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015 (arXiv 1506.02626):
the smallest weights go, the others are retrained, and again. What is pruned here is the weights of convolutions and
linear layers; biases and norms are few and never pruned. Zeroed weights save storage (see ``weight_file``), not time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from prunefleet_shared.errors import ConfigError, InputError, LayoutError

WeightMasks = dict[str, Tensor]
"""By the parameter's name in the network: bool, of the parameter's shape, True = kept. The False ones are *gaps*."""
SCOPES = ("global", "layer")
"""``global``: one threshold for all layers; ``layer``: every layer loses the same fraction."""


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that pruning may touch, by name: those of convolutions and linear layers, each once.

    Raises:
        InputError: There are none (the model's fault).
    """
    ours = {id(m.weight) for m in model.modules() if isinstance(m, (_ConvNd, nn.Linear))}
    found = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in ours}
    if not found:
        msg = f"{type(model).__name__}: expected convolutions or linear layers with weights, got none; nothing to prune"
        raise InputError(msg)
    return found


def magnitude_masks(
    model: nn.Module, sparsity: float, scope: str = "global", within: Mapping[str, Tensor] | None = None
) -> WeightMasks:
    """Masks without the smallest weights: exactly ``round(sparsity * n)`` of n are gaps; ties go by index, first first.

    Args:
        model: Untouched.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        scope: One of :data:`SCOPES`: n counts all prunable weights, or those of each layer.
        within: Masks of an earlier pruning: their gaps go first, whatever the weights there are now.

    Raises:
        ConfigError: Sparsity or scope out of range, or a layer would lose every weight (the user's to mend).
        InputError: A weight is NaN (the model's fault).
        LayoutError: ``within`` does not fit the model.
    """
    _check_options(sparsity, scope)
    weights = prunable_weights(model)
    if within is not None:
        check_masks(model, within)
    sizes = {name: _magnitudes(name, weight, within) for name, weight in weights.items()}
    if scope == "global":
        kept = _without_smallest(torch.cat(list(sizes.values())), sparsity)
        flat = dict(zip(sizes, torch.split(kept, [len(size) for size in sizes.values()]), strict=True))
    else:
        flat = {name: _without_smallest(size, sparsity) for name, size in sizes.items()}
    empty = [name for name, mask in flat.items() if not mask.any()]
    if empty:
        msg = (
            f"sparsity {sparsity}: nothing would be left of {', '.join(empty)}, and the network would say nothing; "
            f"lower the sparsity, or try the other scope of {' and '.join(SCOPES)}"
        )
        raise ConfigError(msg)
    return {name: mask.reshape(weights[name].shape) for name, mask in flat.items()}


def _check_options(sparsity: float, scope: str) -> None:
    if not 0 <= sparsity < 1:
        msg = f"sparsity: expected a fraction of at least 0 and below 1, got {sparsity}"
        raise ConfigError(msg)
    if scope not in SCOPES:
        msg = f"scope: expected one of {', '.join(SCOPES)}, got {scope!r}"
        raise ConfigError(msg)


def _magnitudes(name: str, weight: Tensor, within: Mapping[str, Tensor] | None) -> Tensor:
    size = weight.detach().abs().flatten()
    if bool(size.isnan().any()):
        msg = f"{name}: holds NaN, which has no magnitude; the network's training went astray, take an earlier one"
        raise InputError(msg)
    return size if within is None else size.masked_fill(~within[name].flatten(), -1.0)


def _without_smallest(size: Tensor, sparsity: float) -> Tensor:
    mask = torch.ones(len(size), dtype=torch.bool)
    mask[size.argsort(stable=True)[: round(sparsity * len(size))]] = False
    return mask


def full_masks(model: nn.Module) -> WeightMasks:
    """Masks without a gap: the network as it is."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable_weights(model).items()}


def nonzero_masks(model: nn.Module) -> WeightMasks:
    """Masks whose gaps are the weights that are zero."""
    return {name: weight.detach() != 0 for name, weight in prunable_weights(model).items()}


def check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Refuse masks that are not exactly the model's.

    Raises:
        LayoutError: A name, a shape or a type differs.
    """
    wanted = {name: tuple(weight.shape) for name, weight in prunable_weights(model).items()}
    got = {name: tuple(mask.shape) for name, mask in masks.items()}
    if wanted != got:
        wrong = sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name))
        first = f"{wrong[0]} expected {wanted.get(wrong[0], 'no mask')}, got {got.get(wrong[0], 'none')}"
        msg = f"masks do not fit {type(model).__name__}: {first}; make them from this network"
        raise LayoutError(msg)
    untyped = [name for name, mask in masks.items() if mask.dtype != torch.bool]
    if untyped:
        msg = f"mask of {untyped[0]}: expected bool, got {masks[untyped[0]].dtype}"
        raise LayoutError(msg)


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Set the gaps to zero, in place; survivors keep their bits. Returns the model.

    Raises:
        LayoutError: The masks do not fit the model.
    """
    check_masks(model, masks)
    for name, weight in prunable_weights(model).items():
        weight.masked_fill_(~masks[name], 0.0)
    return model


def sparsity_of(masks: Mapping[str, Tensor]) -> float:
    """Fraction of the weights that are gaps, in [0, 1]."""
    total = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / total


def cubic_sparsities(final: float, num_steps: int, initial: float = 0.0) -> tuple[float, ...]:
    """Sparsity after each of ``num_steps`` prunings, ascending to ``final``: many weights go early, few late.

    Zhu & Gupta, "To Prune, or Not to Prune", 2017 (arXiv 1710.01878), eq. (1):
    ``s_t = s_f + (s_i - s_f) (1 - t / n)^3``.

    Raises:
        ConfigError: Not ``0 <= initial <= final < 1``, or no step (the user's to mend).
    """
    if not 0 <= initial <= final < 1 or num_steps < 1:
        msg = (
            f"sparsity schedule: expected 0 <= initial <= final < 1 and at least one step, got initial {initial}, "
            f"final {final}, {num_steps} steps"
        )
        raise ConfigError(msg)
    return tuple(final + (initial - final) * (1 - step / num_steps) ** 3 for step in range(1, num_steps + 1))


def prune_in_steps(
    model: nn.Module,
    sparsities: Sequence[float],
    retrain: Callable[[nn.Module, WeightMasks, int], object],
    scope: str = "global",
) -> WeightMasks:
    """Prune, retrain, prune further, in place; one sparsity is one-shot pruning. Returns the last masks.

    What is a gap stays one: every step's gaps are among the next one's.

    Args:
        model: Pruned in place.
        sparsities: Ascending; see :func:`cubic_sparsities`.
        retrain: Called after each step with the model, its masks and the 0-based step; trains in place.
        scope: One of :data:`SCOPES`.

    Raises:
        ConfigError: No sparsity, one out of range, or they descend (the user's to mend).
    """
    if not sparsities or list(sparsities) != sorted(sparsities):
        msg = f"sparsities: expected at least one, ascending, got {list(sparsities)}"
        raise ConfigError(msg)
    masks = full_masks(model)
    for step, sparsity in enumerate(sparsities):
        masks = magnitude_masks(model, sparsity, scope, within=masks)
        apply_masks(model, masks)
        retrain(model, masks, step)
        apply_masks(model, masks)
    return masks
