"""Labelled images in an npz file, read without pickle: whatever is in it, no code of it runs."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from prunefleet_edge.data import ImageArray, LabelArray, why_unusable
from prunefleet_shared.errors import InputError

MAX_CLASSES = 10_000
DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What numpy and the archive modules raise on a file that is cut, damaged or no npz at all."""


def read_npz(path: Path) -> tuple[ImageArray, LabelArray]:
    """Images (uint8, N×H×W×C) and labels: arrays ``x, y`` or ``x_train, y_train``.

    Raises:
        InputError: Not such a file, arrays missing, or of the wrong shape, type or range (the user's to mend).
    """
    try:
        with path.open("rb") as file:  # numpy leaves it open when the archive is damaged
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                msg = "it holds one bare array"
                raise ValueError(msg)
            return labelled_arrays(arrays, "" if "x" in arrays else "_train", path)
    except DAMAGED as error:
        msg = f"{path}: not a readable npz file: {error}"
        raise InputError(msg) from None


def labelled_arrays(arrays: Any, suffix: str, path: Path) -> tuple[ImageArray, LabelArray]:
    """``x<suffix>`` and ``y<suffix>`` of an open npz file.

    Raises:
        InputError: One is missing, or of the wrong shape, type or range.
    """
    names = (f"x{suffix}", f"y{suffix}")
    missing = [name for name in names if name not in arrays]
    if missing:
        wanted, absent = " and ".join(names), " and ".join(missing)
        msg = f"{path}: expected arrays {wanted}, {absent} missing; it has {sorted(arrays)}"
        raise InputError(msg)
    images, labels = (arrays[name] for name in names)
    part = suffix.removeprefix("_") or "images"
    if images.dtype != np.uint8:
        msg = f"{path}: {part}: expected uint8 images, got {images.dtype} of shape {images.shape}"
        raise InputError(msg)
    why = why_unusable(images, labels, MAX_CLASSES)
    if why:
        msg = f"{path}: {part}: {why}"
        raise InputError(msg)
    return images, labels.astype(np.int64)
