"""Training on public data: the base, and the slim base of a decision.

A topology the whole fleet shares can be retrained once, where data and compute are; that is where most of a fleet's
gain comes from. ``draw_weights`` is the place where *steering* comes in: public images drawn as the fleet's own sums
suggest. Until then every image counts the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from prunefleet_edge.data import Samples
from prunefleet_edge.models import ModelSpec, build, example_input, parse_spec
from prunefleet_edge.models.resnet import Normalised
from prunefleet_edge.pruning import slim
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.training import train
from prunefleet_edge.work import load_weights, save_weights
from prunefleet_shared.errors import InputError
from prunefleet_shared.masks import BoolArray


def train_base(
    spec: ModelSpec, public: Samples, recipe: Recipe, seed: int, on_epoch: Callable[[int], None] | None = None
) -> nn.Module:
    """A dense base from random weights, its input normalisation measured on ``public``."""
    model = set_normalisation(fresh(spec, seed), public)
    return train(model, public, recipe, seed, on_epoch)


def fresh(spec: ModelSpec, seed: int) -> nn.Module:
    """A network of ``spec`` with weights drawn from ``seed``; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(spec)


def set_normalisation(model: nn.Module, public: Samples) -> nn.Module:
    """Write the per-channel mean and standard deviation of ``public`` into the network."""
    if isinstance(model, Normalised):
        std, mean = torch.std_mean(public.images, dim=(0, 2, 3), keepdim=True)
        model.mean.copy_(mean)
        model.std.copy_(std.clamp_min(1e-3))
    return model


def read_base(spec: ModelSpec, weights: bytes, public: Samples) -> nn.Module:
    """A base from a safetensors file: ours (normalisation inside), or a bare network trained with the usual one.

    Raises:
        InputError: The file is for another network.
    """
    model = build(spec)
    try:
        return load_weights(model, weights, "base file").eval()
    except InputError:
        if not isinstance(model, Normalised):
            raise
    load_weights(model.net, weights, "base file")
    return set_normalisation(model, public).eval()


def retrain_slim_base(
    model: str,
    base: bytes,
    masks: Sequence[BoolArray],
    public: Samples,
    recipe: Recipe,
    seed: int,
    draw_weights: Tensor | None = None,
    on_epoch: Callable[[int], None] | None = None,
) -> bytes:
    """Prune the base to ``masks`` and retrain it on public data.

    Args:
        model: The network's specification.
        base: Its weights, safetensors.
        masks: What to keep, one boolean array per group.
        public: What to retrain on.
        recipe: How.
        seed: Of order and augmentation.
        draw_weights: Relative frequency of each public image, float N; None draws every image equally often.
        on_epoch: Called with the number of epochs done.

    Returns:
        The slim network's weights, safetensors.
    """
    spec = parse_spec(model)
    dense = load_weights(build(spec), base, "base model")
    small = slim(dense, example_input(spec), masks)
    samples = public if draw_weights is None else _draw(public, draw_weights, seed)
    return save_weights(train(small, samples, recipe, seed, on_epoch))


def _draw(public: Samples, draw_weights: Tensor, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return public[torch.multinomial(draw_weights, len(public), replacement=True, generator=generator)]
