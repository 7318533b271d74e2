"""From samples to batches: what is held out, in what order images come, and how they are augmented."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.data import Samples, stratified_halves
from prunefleet_edge.recipes import Recipe

HOLD_OUT_FROM = 100
"""Samples from which a part can be spared for early stopping."""


def hold_out(samples: Samples, ratio: float, generator: torch.Generator) -> tuple[Samples, Samples | None]:
    """What to learn from, and what to judge by: ``ratio`` of every class, or nothing where samples are few."""
    if ratio <= 0 or len(samples) < HOLD_OUT_FROM:
        return samples, None
    held_out, fit = stratified_halves(samples.labels, generator, ratio)
    return (samples[fit], samples[held_out]) if len(fit) else (samples, None)


def batch_sizes(num_samples: int, batch_size: int) -> list[int]:
    """Sizes of the batches of one epoch: none has a single sample (a norm cannot learn from one) unless all have."""
    full, rest = divmod(num_samples, batch_size)
    if full == 0:
        return [num_samples]
    sizes = [batch_size] * full
    if rest >= max(2, batch_size // 2):
        return [*sizes, rest]
    sizes[-1] += rest
    return sizes


def batches(
    fit: Samples, recipe: Recipe, order: Tensor, generator: torch.Generator, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented images and labels, batch by batch.

    Args:
        fit: The samples.
        recipe: Batch size and augmentation.
        order: A permutation of the samples, int64 N.
        generator: Of the augmentation; drawn from as each batch is taken.
        first: Index of the first batch to give: an interrupted epoch goes on where it stood.
    """
    for index in torch.split(order, batch_sizes(len(fit), recipe.batch_size))[first:]:
        yield augment(fit.images[index], recipe, generator), fit.labels[index]


def micro_batches(images: Tensor, labels: Tensor, micro_batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch in parts that fit the memory, of nearly equal size; all at once when ``micro_batch`` is 0."""
    num_parts = -(-len(labels) // micro_batch) if micro_batch else 1
    yield from zip(images.tensor_split(num_parts), labels.tensor_split(num_parts), strict=True)


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
    return images.contiguous(memory_format=torch.channels_last) if recipe.is_channels_last else images
