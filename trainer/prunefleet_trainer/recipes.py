"""How networks are trained on public data: the base, and the slim base of a decision."""

from __future__ import annotations

from dataclasses import dataclass, replace

from prunefleet_edge.models import ModelSpec
from prunefleet_edge.recipes import Recipe
from prunefleet_trainer.recipe_name import RecipeName

SMALL_PIXELS = 16
"""Inputs up to this height are drawings rather than photographs: mirrored or shifted far, a digit is another digit."""


@dataclass(frozen=True, slots=True)
class PublicRecipes:
    """Training on public data.

    Attributes:
        base: Of the base, from random weights.
        slim_base: Of a slim base, from the base's weights.
    """

    base: Recipe
    slim_base: Recipe

    def with_epochs(self, epochs: int | None) -> PublicRecipes:
        """The same with ``epochs`` passes over the data at most; None changes nothing."""
        if epochs is None:
            return self
        return PublicRecipes(replace(self.base, epochs=epochs), replace(self.slim_base, epochs=epochs))


DIGITS = PublicRecipes(
    base=Recipe(epochs=16, learning_rate=0.1, batch_size=64, shift_pixels=1),
    slim_base=Recipe(epochs=12, learning_rate=0.05, batch_size=64, shift_pixels=1),
)
IMAGES = PublicRecipes(
    base=Recipe(epochs=24, learning_rate=0.2, batch_size=128, shift_pixels=4, flip=True),
    slim_base=Recipe(epochs=3, learning_rate=0.1, batch_size=128, shift_pixels=4, flip=True),
)


def public_recipes(name: RecipeName, spec: ModelSpec) -> PublicRecipes:
    """The recipes of this name; ``auto`` goes by the size of the network's input."""
    is_small = spec.input_chw[1] <= SMALL_PIXELS
    if name is RecipeName.DIGITS or (name is RecipeName.AUTO and is_small):
        return DIGITS
    return IMAGES
