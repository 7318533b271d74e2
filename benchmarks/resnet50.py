"""ResNet-50 (He et al. 2016) for 224×224 images, written plainly: the large network of the device benchmark."""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.pruning import slim
from prunefleet_edge.tracing import trace
from prunefleet_shared.masks import keep_mask

_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # inner channels, blocks, stride of the first
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions and a shortcut; the stride is the 3×3's, as everybody does since."""

    def __init__(self, in_channels: int, inner: int, stride: int) -> None:
        super().__init__()
        out = _EXPANSION * inner
        self.conv1, self.bn1 = nn.Conv2d(in_channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out:
            self.short = nn.Sequential(nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.short(x))


class ResNet50(nn.Module):
    """N×3×H×W to logits N×classes; 25.6 M parameters with 1000 classes, 4.09 G multiply-accumulates at 224×224."""

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        blocks, previous = [], 64
        for inner, num_blocks, stride in _STAGES:
            for index in range(num_blocks):
                blocks.append(Bottleneck(previous, inner, stride if index == 0 else 1))
                previous = _EXPANSION * inner
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(previous, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(self.blocks(y).mean(dim=(2, 3)))


def layout_and_slim_s(model: nn.Module, example: Tensor) -> tuple[float, float]:
    """Seconds to find the layout, and to take half of all channels out (a second trace included)."""
    start_s = time.perf_counter()
    traced = trace(model, example)
    traced_s = time.perf_counter()
    masks = [keep_mask(range(group.num_units), group.num_units // 2) for group in traced.groups]
    slim(model, example, masks, traced)
    return traced_s - start_s, time.perf_counter() - traced_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pixels", type=int, default=224)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, example = ResNet50(), torch.rand(1, 3, arguments.pixels, arguments.pixels)
    times = [layout_and_slim_s(model, example) for _ in range(arguments.repeats)]
    layout_s, slim_s = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{arguments.pixels} pixels, 1 thread: layout {layout_s:.2f} s, slim {slim_s:.2f} s (medians)")


if __name__ == "__main__":
    main()
