"""MobileNetV2 (Sandler et al. 2018) for 32×32 images: stem and second stage keep the resolution.

A block whose width changes at stride 1 has a projection shortcut, as the network of Rajagopal & Bouganis 2020 has by
its number of parameters (2.41 M with 100 classes).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

_STAGES = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM, _HEAD = 32, 1280


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, 1×1 projection; a shortcut where the stride is 1."""

    def __init__(self, in_channels: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.short: nn.Module | None = None
        if stride == 1:
            is_same = in_channels == channels
            conv = nn.Conv2d(in_channels, channels, 1, bias=False)
            self.short = nn.Identity() if is_same else nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """N×I×H×W to N×C×H'×W'."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return y if self.short is None else y + self.short(x)  # type: ignore[no-any-return]  # nn.Module is untyped here


class CifarMobileNetV2(nn.Module):
    """A stem of 32 channels, seventeen blocks, a head of 1280 channels and a linear classifier."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, _STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        blocks: list[nn.Module] = []
        previous = _STEM
        for expansion, channels, num_blocks, stride in _STAGES:
            for index in range(num_blocks):
                blocks.append(InvertedResidual(previous, channels, expansion, stride if index == 0 else 1))
                previous = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(previous, _HEAD, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(_HEAD)
        self.fc = nn.Linear(_HEAD, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W to logits N×classes."""
        y = self.blocks(F.relu(self.bn1(self.conv1(x))))
        y = F.relu(self.bn2(self.conv2(y)))
        return self.fc(y.mean(dim=(2, 3)))  # type: ignore[no-any-return]  # nn.Module is untyped here
