"""How a network is trained, as data; and the recipes by name. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from prunefleet_shared.errors import ConfigError

RECIPE_NAMES = ("digits", "images")
"""``digits``: small grey pictures, few of them. ``images``: colour photographs."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: Passes over the data, at most.
        min_steps: Steps below which more passes are made: a fold of 20 images learns as long as all 40 would.
        learning_rate: Peak of a one-cycle schedule (Smith & Topin 2019), unless ``rate_steps`` are given.
        rate_steps: Piecewise constant rates instead: (first epoch, learning rate), ascending from epoch 0.
        batch_size: Samples per step; a last batch of less than half of it is merged into the one before.
        micro_batch: Samples that are held in memory at once; the gradients of a batch's micro-batches are added up
            before its step. 0 takes the whole batch at once. A norm sees one micro-batch at a time.
        weight_decay: L2.
        momentum: Nesterov.
        held_out_ratio: Fraction of the samples kept aside for early stopping; 0 trains on all, to the end.
            Sets of fewer than :data:`~prunefleet_edge.batches.HOLD_OUT_FROM` samples are never split: on 40 images,
            holding a fifth out cost 6 to 15 points of accuracy (8 images are too few to say when to stop, and too
            many to miss).
        patience: Epochs without a better held-out loss before stopping.
        shift_pixels: Random translation, at most, in pixels.
        flip: Random horizontal mirror.
        label_smoothing: In [0, 1).
        is_channels_last: Keep tensors in N×H×W×C order, which makes convolutions of colour photographs faster on CPUs.
    """

    epochs: int
    learning_rate: float
    batch_size: int = 32
    weight_decay: float = 5e-4
    momentum: float = 0.9
    held_out_ratio: float = 0.0
    patience: int = 8
    shift_pixels: int = 0
    flip: bool = False
    label_smoothing: float = 0.0
    min_steps: int = 0
    rate_steps: tuple[tuple[int, float], ...] = ()
    micro_batch: int = 0
    is_channels_last: bool = False

    def rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch by ``rate_steps``; ``learning_rate`` when there are none."""
        return next((rate for first, rate in reversed(self.rate_steps) if first <= epoch), self.learning_rate)


def recipe_named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: There is none (the user's to mend).
    """
    check_recipe_name(name)
    if name == "digits":
        return Recipe(epochs=20, learning_rate=0.03, batch_size=20, held_out_ratio=0.2, shift_pixels=1, min_steps=40)
    return Recipe(epochs=20, learning_rate=0.02, batch_size=32, held_out_ratio=0.2, shift_pixels=4, flip=True)


def check_recipe_name(name: str) -> None:
    """Refuse a name without a recipe.

    Raises:
        ConfigError: There is none (the user's to mend).
    """
    if name not in RECIPE_NAMES:
        msg = f"preset: expected one of {', '.join(RECIPE_NAMES)}, got {name!r}"
        raise ConfigError(msg)
