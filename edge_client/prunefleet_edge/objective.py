"""What a training step minimises, and where it may go: the seam between the training loop and retraining strategies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses


class Objective(Protocol):
    """One way to train; the loop in ``training`` calls these and knows no more."""

    def enter(self, model: nn.Module) -> None:
        """Put the model into the mode in which it trains; called before every epoch and after a resume."""

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch: images N×C×H×W in [0, 1], labels int64 N."""

    def project(self, model: nn.Module) -> None:
        """Put the weights back onto the set they may lie in; called after every step."""


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Plain training: everything moves.

    Attributes:
        label_smoothing: In [0, 1).
    """

    label_smoothing: float = 0.0

    def enter(self, model: nn.Module) -> None:
        """See :class:`Objective`."""
        model.train()

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """See :class:`Objective`."""
        return F.cross_entropy(model(images), labels, label_smoothing=self.label_smoothing)

    def project(self, model: nn.Module) -> None:
        """See :class:`Objective`."""
