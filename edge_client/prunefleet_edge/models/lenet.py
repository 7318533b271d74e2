"""LeNet-5 in the widths that federated pruning is compared on: 20 and 50 convolution channels, 500 hidden units.

Caffe's form of LeNet-5 (LeCun et al. 1998), with ReLU, as used by SpaFL (Kim et al., NeurIPS 2024) for 28×28 images.
State-dict names: ``conv1 conv2 fc1 fc2``.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

_KERNEL = 5


class LeNet5(nn.Module):
    """Two 5×5 convolutions without padding, a 2×2 max-pool after each, and two linear layers; no norm."""

    def __init__(self, input_chw: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = input_chw
        self.conv1 = nn.Conv2d(channels, 20, _KERNEL)
        self.conv2 = nn.Conv2d(20, 50, _KERNEL)
        self.fc1 = nn.Linear(50 * _pixels_left(height) * _pixels_left(width), 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W of the size it was made for, H and W at least 16, to logits N×classes."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]  # nn.Module is untyped here


def _pixels_left(side: int) -> int:
    """Height or width after both convolutions and pools."""
    for _ in range(2):
        side = (side - _KERNEL + 1) // 2
    return side
