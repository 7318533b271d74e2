"""Fine-tuning with early stopping, and evaluation. Same seed, same machine, same network.

One :class:`Recipe` says everything; the same function trains the base, retrains a slim net on public data and
fine-tunes on a device, so that arms differ only in what the caller changes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.data import Samples, stratified_halves

HOLD_OUT_FROM = 100
"""Samples from which a part can be spared for early stopping."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: Passes over the data, at most.
        min_steps: Steps below which more passes are made: a fold of 20 images learns as long as all 40 would.
        learning_rate: Peak of a one-cycle schedule (Smith & Topin 2019).
        batch_size: Samples per step; a last batch of less than half of it is merged into the one before.
        weight_decay: L2.
        momentum: Nesterov.
        held_out_ratio: Fraction of the samples kept aside for early stopping; 0 trains on all, to the end.
            Sets of fewer than :data:`HOLD_OUT_FROM` samples are never split: on 40 images, holding a fifth out cost
            6 to 15 points of accuracy (8 images are too few to say when to stop, and too many to miss).
        patience: Epochs without a better held-out loss before stopping.
        shift_pixels: Random translation, at most, in pixels.
        flip: Random horizontal mirror.
        label_smoothing: In [0, 1).
    """

    epochs: int
    learning_rate: float
    batch_size: int = 32
    weight_decay: float = 5e-4
    momentum: float = 0.9
    held_out_ratio: float = 0.0
    patience: int = 8
    shift_pixels: int = 0
    flip: bool = False
    label_smoothing: float = 0.0
    min_steps: int = 0


def train(
    model: nn.Module,
    samples: Samples,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[int], None] | None = None,
) -> nn.Module:
    """Train ``model`` in place and return it in eval mode, at the epoch with the lowest held-out loss.

    The state before training competes too: with something held out, training never ends worse than it began there.

    Args:
        model: Trained in place.
        samples: What to learn from; never empty.
        recipe: How.
        seed: Of order, augmentation and the held-out choice.
        on_epoch: Called with the number of epochs done.
    """
    generator = torch.Generator().manual_seed(seed)
    fit, held_out = _hold_out(samples, recipe.held_out_ratio, generator)
    optimizer = torch.optim.SGD(
        model.parameters(),
        recipe.learning_rate,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
        fused=True,  # one kernel for all parameters: small networks spend their time in calls
    )
    steps_per_epoch = len(_batch_sizes(len(fit), recipe.batch_size))
    epochs = max(recipe.epochs, math.ceil(recipe.min_steps / steps_per_epoch))
    steps = epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps + 1)
    best = _Best(model, held_out)
    for epoch in range(epochs):
        _run_epoch(model, fit, recipe, generator, optimizer, schedule)
        if on_epoch:
            on_epoch(epoch + 1)
        if best.look(model) >= recipe.patience:
            break
    return best.restore(model)


def _run_epoch(
    model: nn.Module,
    fit: Samples,
    recipe: Recipe,
    generator: torch.Generator,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    model.train()
    for images, labels in _batches(fit, recipe, generator):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels, label_smoothing=recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()


class _Best:
    """Remembers the state with the lowest held-out loss."""

    def __init__(self, model: nn.Module, held_out: Samples | None) -> None:
        self._held_out = held_out
        self._epochs_without = 0
        if held_out is not None:
            self._loss = mean_loss(model, held_out)
            self._state = copy.deepcopy(model.state_dict())

    def look(self, model: nn.Module) -> int:
        """Epochs since the best one (always 0 with nothing held out)."""
        if self._held_out is None:
            return 0
        loss = mean_loss(model, self._held_out)
        self._epochs_without += 1
        if loss < self._loss:
            self._loss, self._state, self._epochs_without = loss, copy.deepcopy(model.state_dict()), 0
        return self._epochs_without

    def restore(self, model: nn.Module) -> nn.Module:
        if self._held_out is not None:
            model.load_state_dict(self._state)
        return model.eval()


def _hold_out(samples: Samples, ratio: float, generator: torch.Generator) -> tuple[Samples, Samples | None]:
    if ratio <= 0 or len(samples) < HOLD_OUT_FROM:
        return samples, None
    held_out, fit = stratified_halves(samples.labels, generator, ratio)
    return (samples[fit], samples[held_out]) if len(fit) else (samples, None)


def _batch_sizes(num_samples: int, batch_size: int) -> list[int]:
    """Sizes of the batches of one epoch: none has a single sample (a norm cannot learn from one) unless all have."""
    full, rest = divmod(num_samples, batch_size)
    if full == 0:
        return [num_samples]
    sizes = [batch_size] * full
    if rest >= max(2, batch_size // 2):
        return [*sizes, rest]
    sizes[-1] += rest
    return sizes


def _batches(fit: Samples, recipe: Recipe, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(fit), generator=generator)
    for index in torch.split(order, _batch_sizes(len(fit), recipe.batch_size)):
        yield augment(fit.images[index], recipe, generator), fit.labels[index]


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Shift each N×C×H×W image by up to ``shift_pixels`` (edges repeated) and mirror it with probability one half."""
    num, _, height, width = images.shape
    if recipe.flip:
        mirrored = torch.rand(num, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if recipe.shift_pixels:
        pad = recipe.shift_pixels
        padded = F.pad(images, (pad, pad, pad, pad), mode="replicate")
        top, left = torch.randint(0, 2 * pad + 1, (2, num), generator=generator)
        rows = top[:, None] + torch.arange(height)
        columns = left[:, None] + torch.arange(width)
        images = padded[torch.arange(num)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images


@torch.no_grad()
def losses(model: nn.Module, samples: Samples) -> Tensor:
    """Cross-entropy of each sample, float32 N, in eval mode."""
    model.eval()
    return F.cross_entropy(model(samples.images), samples.labels, reduction="none")


def mean_loss(model: nn.Module, samples: Samples) -> float:
    """Mean cross-entropy."""
    return float(losses(model, samples).mean())


@torch.no_grad()
def accuracy(model: nn.Module, samples: Samples, batch_size: int = 512) -> float:
    """Top-1, fraction of ``samples`` (over all of the network's outputs), in eval mode."""
    model.eval()
    correct = 0
    for start in range(0, len(samples), batch_size):
        part = samples[slice(start, start + batch_size)]
        correct += int((model(part.images).argmax(dim=1) == part.labels).sum())
    return correct / len(samples)
