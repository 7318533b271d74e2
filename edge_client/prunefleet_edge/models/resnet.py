"""CIFAR residual networks (He et al. 2016, §4.2) with projection shortcuts where the width changes.

State-dict names are those of the project's base files: ``conv1 bn1 blocks.i.{conv1,bn1,conv2,bn2,short.0,short.1} fc``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut: identity, or a strided 1×1 projection where the width changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.short = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """N×I×H×W to N×C×H'×W'."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.short(x))


class CifarResNet(nn.Module):
    """A stem, three stages of ``blocks_per_stage`` blocks (16, 32, 64 channels), average pooling and a classifier."""

    def __init__(self, blocks_per_stage: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        widths = (16, 32, 64)
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        previous = widths[0]
        for stage, width in enumerate(widths):
            for index in range(blocks_per_stage):
                blocks.append(Block(previous, width, 2 if stage > 0 and index == 0 else 1))
                previous = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(previous, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W to logits N×classes."""
        y = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(y.mean(dim=(2, 3)))  # type: ignore[no-any-return]  # nn.Module is untyped here


class Normalised(nn.Module):
    """A network with its input normalisation inside: ``net((x - mean) / std)`` per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, in_channels: int) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.zeros(1, in_channels, 1, 1))
        self.register_buffer("std", torch.ones(1, in_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Inputs in [0, 1], N×C×H×W, to logits N×classes."""
        return self.net((x - self.mean) / self.std)  # type: ignore[no-any-return]  # nn.Module is untyped here
