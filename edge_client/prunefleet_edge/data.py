"""A device's private images, checked once, and how they are split: fit, gate, report.

*fit* trains (a part of it is held out for early stopping), *gate* compares the fleet's network with the device's own,
*report* is what published accuracies come from and is touched by nothing else. Nothing here is importable from
``egress``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prunefleet_shared.errors import InputError

ImageArray = npt.NDArray[np.uint8]
LabelArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Samples:
    """Labelled images.

    Attributes:
        images: float32, N×C×H×W, in [0, 1].
        labels: int64, N.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Samples:
        return Samples(self.images[index], self.labels[index])


@dataclass(frozen=True, slots=True)
class PrivateData:
    """A device's images.

    Attributes:
        own: What it learns from; the gate splits it again, or cross-fits where there is little.
        report: Disjoint from ``own``; only simulations and benchmarks have it.
    """

    own: Samples
    report: Samples


def check_images(images: npt.ArrayLike, labels: npt.ArrayLike, num_classes: int, what: str = "data") -> Samples:
    """Read images (N, H, W, C), uint8 or floats in [0, 1], with their labels.

    Args:
        images: The images.
        labels: N class indices.
        num_classes: Labels must lie in 0..num_classes-1.
        what: Name used in errors.

    Raises:
        InputError: No samples, wrong shape or type, NaN, values or labels out of range, or lengths that differ.
    """
    pixels, classes = np.asarray(images), np.asarray(labels)
    why = why_unusable(pixels, classes, num_classes)
    if why:
        msg = f"{what}: {why}"
        raise InputError(msg)
    scale = 255.0 if pixels.dtype == np.uint8 else 1.0
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)) / scale
    return Samples(tensor, torch.from_numpy(classes.astype(np.int64)))


def why_unusable(images: npt.NDArray[np.generic], labels: npt.NDArray[np.generic], num_classes: int) -> str | None:
    """What is wrong with images (N, H, W, C) and their labels, in words; None when they can be used."""
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        return f"expected images of shape (N, H, W, 1 or 3), got {images.shape}"
    if len(images) == 0:
        return "there are no samples"
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        return f"expected {len(images)} integer labels, got {labels.dtype} of shape {labels.shape}"
    if np.min(labels) < 0 or np.max(labels) >= num_classes:
        return f"labels must lie in 0..{num_classes - 1}, got {np.min(labels)}..{np.max(labels)}"
    return None if images.dtype == np.uint8 else _why_not_unit_floats(images)


def _why_not_unit_floats(images: npt.NDArray[np.generic]) -> str | None:
    if not np.issubdtype(images.dtype, np.floating):
        return f"expected uint8 or float images, got {images.dtype}"
    pixels = images.astype(np.float64)
    if not np.isfinite(pixels).all():
        return "images hold NaN or infinity; mend or drop them"
    return None if pixels.min() >= 0 and pixels.max() <= 1 else "float images must lie in [0, 1]"


def check_trainable(samples: Samples, what: str = "data", min_samples: int = 8) -> None:
    """Refuse data nothing can be learned from.

    Raises:
        InputError: Fewer than ``min_samples`` images, or a single class.
    """
    if len(samples) < min_samples:
        msg = f"{what}: expected at least {min_samples} images to fine-tune on, got {len(samples)}"
        raise InputError(msg)
    if bool((samples.labels == samples.labels[0]).all()):
        msg = f"{what}: all images are of one class; fine-tuning needs at least two"
        raise InputError(msg)


def stratified_halves(labels: Tensor, generator: torch.Generator, ratio: float = 0.5) -> tuple[Tensor, Tensor]:
    """Two disjoint index sets over ``labels``; the first takes ``ratio`` of every class (rounded; both get at least one
    where a class has two or more). Classes of one sample are split as if they were one class.
    """
    first, second, lone = [], [], []
    for label in sorted(set(labels.tolist())):
        index = (labels == label).nonzero().flatten()
        index = index[torch.randperm(len(index), generator=generator)]
        if len(index) == 1:
            lone.append(index)
            continue
        cut = min(max(1, round(len(index) * ratio)), len(index) - 1)
        first.append(index[:cut])
        second.append(index[cut:])
    cut = round(len(lone) * ratio)
    first += lone[:cut]
    second += lone[cut:]
    return torch.cat(first).sort().values, torch.cat(second).sort().values
