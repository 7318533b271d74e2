"""AlexNet (Krizhevsky et al. 2012) in the form that fits 32×32 images: one classifying layer, no batch norm.

State-dict names are those of the project's base files: ``features.{0,3,6,8,10}`` and ``classifier``.
"""

from __future__ import annotations

from torch import Tensor, nn


class CifarAlexNet(nn.Module):
    """Five convolutions (64, 192, 384, 256, 256 channels) with three max-pools, and a linear classifier."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×32×32 (up to 63×63) to logits N×classes; larger images are averaged over what is left of them."""
        return self.classifier(self.features(x).mean(dim=(2, 3)))  # type: ignore[no-any-return]  # nn.Module is untyped
