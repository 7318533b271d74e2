"""How a device fine-tunes, by kind of data; simulations use the same recipes. torch is imported late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunefleet_shared.errors import ConfigError

if TYPE_CHECKING:
    from prunefleet_edge.training import Recipe

RECIPE_NAMES = ("digits", "images")
"""``digits``: small grey pictures, few of them. ``images``: colour photographs."""


def recipe_named(name: str) -> Recipe:
    """The recipe of that name; imports torch.

    Raises:
        ConfigError: There is none (the user's to mend).
    """
    from prunefleet_edge.training import Recipe

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
