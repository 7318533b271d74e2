"""SqueezeNet (Iandola et al. 2016) for 32×32 images, with batch norm after every convolution.

State-dict names are those of the project's base files: ``conv1 bn conv2`` and
``fires.i.{squeeze,bn1,expand1,bn2,expand3,bn3}``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

_FIRES = (
    (96, 16, 64),
    (128, 16, 64),
    (128, 32, 128),
    None,  # a max-pool
    (256, 32, 128),
    (256, 48, 192),
    (384, 48, 192),
    (384, 64, 256),
    None,
    (512, 64, 256),
)


class Fire(nn.Module):
    """A 1×1 convolution that squeezes, then a 1×1 and a 3×3 that expand, side by side."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(squeezed)
        self.expand1 = nn.Conv2d(squeezed, expanded, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(expanded)
        self.expand3 = nn.Conv2d(squeezed, expanded, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(expanded)

    def forward(self, x: Tensor) -> Tensor:
        """N×I×H×W to N×2E×H×W."""
        x = F.relu(self.bn1(self.squeeze(x)))
        return F.relu(torch.cat([self.bn2(self.expand1(x)), self.bn3(self.expand3(x))], dim=1))


class CifarSqueezeNet(nn.Module):
    """A 3×3 stem of 96 channels, eight Fire modules, and a 1×1 convolution as classifier."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 96, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(96)
        self.fires = nn.Sequential(*(Fire(*fire) if fire else nn.MaxPool2d(2) for fire in _FIRES))
        self.conv2 = nn.Conv2d(512, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W to logits N×classes; H and W at least 8."""
        x = F.max_pool2d(F.relu(self.bn(self.conv1(x))), 2)
        return self.conv2(self.fires(x)).mean(dim=(2, 3))  # type: ignore[no-any-return]  # nn.Module is untyped here
