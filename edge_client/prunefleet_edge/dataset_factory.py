"""Images from code of one's own: ``package.module:factory`` returns arrays, or a dataset as torch's loaders take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prunefleet_edge.data import ImageArray, LabelArray
from prunefleet_edge.local_code import load_code
from prunefleet_shared.errors import InputError


def read_factory(text: str) -> tuple[ImageArray, LabelArray]:
    """Images (N×H×W×C, uint8 or floats in [0, 1]) and labels from ``package.module:factory``, called with nothing.

    It returns either two arrays ``(images, labels)``, or a dataset: something with a length whose items are pairs of an
    image and a class index. An image is an array H×W×C or H×W, or a torch tensor C×H×W; a picture of pillow will do.

    Raises:
        ConfigError: There is no such code (the user's to mend).
        InputError: It fails, or returns something else (the user's to mend).
    """
    factory = load_code(text, "data")
    try:
        made = factory()
        images, labels = made if _is_pair_of_arrays(made) else _stacked(made)
    except Exception as error:  # the user's code may raise anything
        msg = f"{text}: expected arrays (images, labels) or a dataset of (image, class index): {error}"
        raise InputError(msg) from error
    return np.asarray(images), np.asarray(labels)


def _is_pair_of_arrays(made: object) -> bool:
    return isinstance(made, tuple) and len(made) == 2 and all(hasattr(part, "shape") for part in made)


def _stacked(dataset: Sequence[tuple[Any, Any]]) -> tuple[ImageArray, LabelArray]:
    pairs = [dataset[index] for index in range(len(dataset))]
    return np.stack([_height_width_channels(image) for image, _ in pairs]), np.asarray([int(y) for _, y in pairs])


def _height_width_channels(image: Any) -> ImageArray:
    pixels = np.asarray(image)
    if hasattr(image, "permute") and pixels.ndim == 3:  # torch's tensors have their channels first
        pixels = pixels.transpose(1, 2, 0)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
