"""Training on public data: the base, and the slim base of a decision.

A topology the whole fleet shares can be retrained once, where data and compute are; that is where most of a fleet's
gain comes from. ``draw_weights`` is where *steering* comes in: public images drawn as the fleet's own sums suggest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn

from prunefleet_edge.data import Samples
from prunefleet_edge.models import ModelSpec, build, example_input, parse_spec
from prunefleet_edge.models import weights as weights_file
from prunefleet_edge.models.weights import load_weights, save_weights, set_normalisation
from prunefleet_edge.pruning import slim
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.tracing import trace
from prunefleet_edge.training import train
from prunefleet_shared.layout import Layout
from prunefleet_shared.masks import BoolArray

LABEL_BATCH = 256
"""Images per forward pass."""


def train_base(
    spec: ModelSpec,
    public: Samples,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[int], None] | None = None,
    allowed_code: Collection[str] = (),
) -> nn.Module:
    """A dense base from random weights, its input normalisation measured on ``public``."""
    model = set_normalisation(fresh(spec, seed, allowed_code), public)
    return train(model, public, recipe, seed, on_epoch)


def fresh(spec: ModelSpec, seed: int, allowed_code: Collection[str] = ()) -> nn.Module:
    """A network of ``spec`` with weights drawn from ``seed``; torch's global generator is left as it was.

    ``allowed_code`` and errors: see :func:`prunefleet_edge.models.build`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(spec, allowed_code)


def read_base(spec: ModelSpec, weights: bytes, public: Samples, allowed_code: Collection[str] = ()) -> nn.Module:
    """A base from a safetensors file: ours (normalisation inside), or a bare network trained with the usual one.

    Raises:
        ConfigError: There is no such network, or it is code that is not allowed.
        InputError: The file is for another network.
    """
    return weights_file.read_base(spec, weights, "base file", public, allowed_code)


@torch.no_grad()
def labelled_by(base: nn.Module, public: Samples) -> Samples:
    """The images with the base's own answers for labels: for public data that nobody has labelled.

    Retraining on them holds a slim base to what the dense one says (self-training, Lee 2013, "Pseudo-Label"); steering
    takes images of one answer for one kind.
    """
    base.eval()
    answers = [base(part).argmax(dim=1) for part in torch.split(public.images, LABEL_BATCH)]
    return Samples(public.images, torch.cat(answers))


def prune_base(
    model: str,
    base: bytes,
    masks: Sequence[BoolArray],
    *,
    layout: Layout | None = None,
    allowed_code: Collection[str] = (),
) -> bytes:
    """The base pruned to ``masks`` and not retrained: all that can be done without public data.

    Arguments, result and errors are those of :func:`retrain_slim_base`.
    """
    return save_weights(_pruned(model, base, masks, layout, allowed_code))


def _pruned(
    model: str, base: bytes, masks: Sequence[BoolArray], layout: Layout | None, allowed_code: Collection[str]
) -> nn.Module:
    spec = parse_spec(model)
    dense, example = load_weights(build(spec, allowed_code), base, "base model"), example_input(spec)
    return slim(dense, example, masks, trace(dense, example).as_in(layout) if layout else None)


def retrain_slim_base(  # noqa: PLR0913 - all that a slim base follows from
    model: str,
    base: bytes,
    masks: Sequence[BoolArray],
    public: Samples,
    recipe: Recipe,
    seed: int,
    draw_weights: Tensor | None = None,
    *,
    on_epoch: Callable[[int], None] | None = None,
    layout: Layout | None = None,
    allowed_code: Collection[str] = (),
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
        layout: Whose groups the masks are for; None for all that can be traced.
        allowed_code: See :func:`prunefleet_edge.models.build`.

    Returns:
        The slim network's weights, safetensors.
    """
    small = _pruned(model, base, masks, layout, allowed_code)
    samples = public if draw_weights is None else _draw(public, draw_weights, seed)
    return save_weights(train(small, samples, recipe, seed, on_epoch))


def _draw(public: Samples, draw_weights: Tensor, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return public[torch.multinomial(draw_weights, len(public), replacement=True, generator=generator)]
