"""Names of the recipes in ``recipes``, for command lines that must not wait for torch."""

from __future__ import annotations

import enum


class RecipeName(enum.StrEnum):
    """Which recipe to train with on public data."""

    AUTO = "auto"  # by the size of the network's input
    DIGITS = "digits"
    IMAGES = "images"
