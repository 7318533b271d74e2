"""What a network gets right: losses and accuracy, in eval mode, a bounded number of samples at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.data import Samples

EVALUATION_BATCH = 512
"""Samples per forward pass: changes memory, not the result."""


@torch.no_grad()
def losses(model: nn.Module, samples: Samples) -> Tensor:
    """Cross-entropy of each sample, float32 N, in eval mode."""
    model.eval()
    parts = _parts(samples, EVALUATION_BATCH)
    return torch.cat([F.cross_entropy(model(part.images), part.labels, reduction="none") for part in parts])


def mean_loss(model: nn.Module, samples: Samples) -> float:
    """Mean cross-entropy."""
    return float(losses(model, samples).mean())


@torch.no_grad()
def accuracy(model: nn.Module, samples: Samples, batch_size: int = EVALUATION_BATCH) -> float:
    """Top-1, fraction of ``samples`` (over all of the network's outputs), in eval mode."""
    model.eval()
    parts = _parts(samples, batch_size)
    return sum(int((model(part.images).argmax(dim=1) == part.labels).sum()) for part in parts) / len(samples)


def _parts(samples: Samples, size: int) -> Iterator[Samples]:
    return (samples[slice(start, start + size)] for start in range(0, len(samples), size))
