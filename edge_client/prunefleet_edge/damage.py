"""Faults in a deployed network, planted on purpose, and what a device that checks can do about them.

The second seed paper says that retraining makes a pruned network more fault tolerant, without saying which faults
(only its abstract could be found); these three are ours: memory cells that read zero, a unit of the accelerator that
computes nothing, and flipped bits. All are drawn from a seed and made on a copy.

A weight that is stuck cannot be trained: :class:`Holding` keeps it at zero under any strategy. A flipped bit is not
stuck: its weight can be trained, if the network still says anything at all.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunefleet_edge.retraining import Strategy
from prunefleet_edge.weight_pruning import WeightMasks, prunable_weights
from prunefleet_shared.errors import ConfigError, LayoutError

BITS_PER_WEIGHT = 32


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged network.

    Attributes:
        model: A copy of the network, damaged.
        working: By parameter name: bool, True = can hold a value, False = stuck at zero. Only parameters with a fault.
        num_hit: Weights, channels or bits that were hit.
    """

    model: nn.Module
    working: WeightMasks
    num_hit: int


def stuck_at_zero(model: nn.Module, ratio: float, seed: int) -> Damage:
    """A fraction of the stored weights reads zero, for good.

    Args:
        model: Untouched.
        ratio: Fraction, in [0, 1], of the weights that are not zero: those a pruned network stores.
        seed: Of the choice.

    Raises:
        ConfigError: A ratio out of range (the user's to mend).
        InputError: The network has no such weights.
    """
    _check_ratio(ratio)
    damaged = copy.deepcopy(model)
    weights = prunable_weights(damaged)
    hit = _drawn_of(torch.cat([weight.detach().flatten() != 0 for weight in weights.values()]), ratio, seed)
    working = {name: ~part.reshape(weights[name].shape) for name, part in _split(hit, weights).items()}
    working = {name: mask for name, mask in working.items() if not mask.all()}
    hold_at_zero(damaged, working)
    return Damage(damaged, working, int(hit.sum()))


def dead_channels(model: nn.Module, ratio: float, seed: int) -> Damage:
    """A fraction of the output channels of convolutions computes zero: filter and bias are stuck there.

    The norm that follows is computed elsewhere and still adds its shift. Every convolution loses
    ``round(ratio * channels)`` of its channels, at most all but one; the classifier loses none.

    Args:
        model: Untouched.
        ratio: Fraction, in [0, 1].
        seed: Of the choice.

    Raises:
        ConfigError: A ratio out of range (the user's to mend).
        InputError: The network has no such weights.
    """
    _check_ratio(ratio)
    damaged = copy.deepcopy(model)
    generator, num_hit = torch.Generator().manual_seed(seed), 0
    working: WeightMasks = {}
    for name, weight in prunable_weights(damaged).items():
        channels_dim = _channels_dim(damaged, name)
        if weight.dim() < 3:
            continue
        num_channels = weight.shape[channels_dim]
        dead = torch.randperm(num_channels, generator=generator)[: min(round(ratio * num_channels), num_channels - 1)]
        if len(dead):
            num_hit += len(dead)
            working |= _without_channels(damaged, name, dead, channels_dim)
    hold_at_zero(damaged, working)
    return Damage(damaged, working, num_hit)


def _channels_dim(model: nn.Module, name: str) -> int:
    """Which dimension of a weight counts its layer's output channels."""
    layer = model.get_submodule(name.rpartition(".")[0])
    return 1 if getattr(layer, "transposed", False) else 0


def _without_channels(model: nn.Module, name: str, dead: Tensor, channels_dim: int) -> WeightMasks:
    weight = model.get_parameter(name)
    working = {name: torch.ones_like(weight, dtype=torch.bool).index_fill_(channels_dim, dead, value=False)}
    bias_name = f"{name.removesuffix('weight')}bias"
    bias = dict(model.named_parameters()).get(bias_name)
    if bias is not None:
        working[bias_name] = torch.ones_like(bias, dtype=torch.bool).index_fill_(0, dead, value=False)
    return working


@torch.no_grad()
def bit_flips(model: nn.Module, num_per_million: float, seed: int) -> Damage:
    """Bits of the stored float32 weights flipped once, any bit: sign, exponent or fraction.

    What comes of it is left as it is, also where it is no number: one flip of a high exponent bit makes a weight of
    1e38, and the network useless. See :func:`drop_implausible`.

    Args:
        model: Untouched.
        num_per_million: Flipped bits in a million of those of the weights that are not zero; at most all.
        seed: Of the choice.

    Raises:
        ConfigError: Out of range, or weights that are not float32 (the user's to mend).
        InputError: The network has no such weights.
    """
    _check_ratio(num_per_million / 1e6, "num_per_million", "0 to 1,000,000")
    damaged = copy.deepcopy(model)
    weights = prunable_weights(damaged)
    untyped = [name for name, weight in weights.items() if weight.dtype != torch.float32]
    if untyped:
        msg = f"{untyped[0]}: expected float32 weights to flip bits of, got {weights[untyped[0]].dtype}"
        raise ConfigError(msg)
    flips = _drawn_flips(weights, num_per_million / 1e6, seed)
    for name, part in _split(flips, weights).items():
        bits = weights[name].detach().contiguous().flatten().view(torch.int32)
        weights[name].copy_((bits ^ part).view(torch.float32).reshape(weights[name].shape))
    return Damage(damaged, {}, round(num_per_million / 1e6 * _num_stored_bits(model)))


def largest_weights(model: nn.Module) -> dict[str, float]:
    """The largest magnitude in each prunable weight: four bytes a layer that a device keeps to check by."""
    return {name: float(weight.detach().abs().max()) for name, weight in prunable_weights(model).items()}


@torch.no_grad()
def drop_implausible(model: nn.Module, largest: Mapping[str, float]) -> int:
    """Set to zero, in place, every weight that is no number or larger than any was at deployment; returns how many.

    The check of a careful loader: what cannot be right is treated as a gap that training may fill, as range checks of
    activations do (Chen et al. 2021, "Ranger"). Flips that leave a plausible value pass.

    Raises:
        LayoutError: ``largest`` is of another network.
    """
    weights = prunable_weights(model)
    if weights.keys() != largest.keys():
        msg = f"the largest weights are not those of {type(model).__name__}; take them from the deployed network"
        raise LayoutError(msg)
    num_dropped = 0
    for name, weight in weights.items():
        is_plausible = weight.abs() <= largest[name]  # NaN is not
        num_dropped += int((~is_plausible).sum())
        weight.masked_fill_(~is_plausible, 0.0)
    return num_dropped


@torch.no_grad()
def hold_at_zero(model: nn.Module, working: Mapping[str, Tensor]) -> None:
    """Set what is stuck to zero, in place."""
    for name, mask in working.items():
        model.get_parameter(name).masked_fill_(~mask, 0.0)


def surviving(masks: Mapping[str, Tensor], working: Mapping[str, Tensor]) -> WeightMasks:
    """The survivors of pruning that are not stuck."""
    return {name: mask & working[name] if name in working else mask for name, mask in masks.items()}


class Holding:
    """Any strategy, on a network with stuck parameters: they stay at zero after every step, whatever it fills or moves.

    Args:
        strategy: The strategy; prepared and asked through this one.
        working: See :class:`Damage`.
    """

    def __init__(self, strategy: Strategy, working: Mapping[str, Tensor]) -> None:
        self._strategy, self._working = strategy, working
        self.is_training, self.is_decayed = strategy.is_training, strategy.is_decayed

    def prepare(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """See :class:`~prunefleet_edge.retraining.Strategy`."""
        self._strategy.prepare(model, masks)

    def enter(self, model: nn.Module) -> None:
        """See :class:`~prunefleet_edge.objective.Objective`."""
        self._strategy.enter(model)

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """See :class:`~prunefleet_edge.objective.Objective`."""
        return self._strategy.loss(model, images, labels)

    def project(self, model: nn.Module) -> None:
        """See :class:`~prunefleet_edge.objective.Objective`."""
        self._strategy.project(model)
        hold_at_zero(model, self._working)


def _drawn_flips(weights: Mapping[str, nn.Parameter], ratio: float, seed: int) -> Tensor:
    """For every weight, int32 with the bits set that flip: ``round(ratio * n)`` of the n bits of nonzero weights."""
    flat = torch.cat([weight.detach().flatten() for weight in weights.values()])
    stored = flat.nonzero().flatten()
    num_bits = BITS_PER_WEIGHT * len(stored)
    drawn = torch.randperm(num_bits, generator=torch.Generator().manual_seed(seed))[: round(ratio * num_bits)]
    set_bits = torch.ones_like(drawn) << (drawn % BITS_PER_WEIGHT)
    flips = torch.zeros(len(flat), dtype=torch.int64).index_add_(0, stored[drawn // BITS_PER_WEIGHT], set_bits)
    return torch.where(flips >= 1 << 31, flips - (1 << 32), flips).to(torch.int32)  # the same bits, signed


def _num_stored_bits(model: nn.Module) -> int:
    return BITS_PER_WEIGHT * sum(int((weight != 0).sum()) for weight in prunable_weights(model).values())


def _drawn_of(eligible: Tensor, ratio: float, seed: int) -> Tensor:
    """A bool tensor in which ``round(ratio * n)`` of the n True places of ``eligible`` are True."""
    index = eligible.nonzero().flatten()
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))
    drawn = torch.zeros_like(eligible)
    drawn[index[order[: round(ratio * len(index))]]] = True
    return drawn


def _split(flat: Tensor, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    parts = torch.split(flat, [weight.numel() for weight in weights.values()])
    return dict(zip(weights, parts, strict=True))


def _check_ratio(ratio: float, name: str = "ratio", expected: str = "a fraction in [0, 1]") -> None:
    if not 0 <= ratio <= 1:
        msg = f"damage: {name}: expected {expected}, got {ratio if name == 'ratio' else ratio * 1e6}"
        raise ConfigError(msg)
