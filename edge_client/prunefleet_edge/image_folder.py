"""A folder of labelled images, such as ``<label>/a.png``; what cannot be read is skipped and named to the owner."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from prunefleet_edge.data import ImageArray, LabelArray
from prunefleet_shared.errors import ConfigError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

T = TypeVar("T")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
CLASSES_FILE = "classes.txt"
MAX_PIXELS = 50_000_000
"""Larger pictures are skipped: a small file can hold a picture that fills the memory (a decompression bomb)."""
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_CLASS = 10_000
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The files of a folder and their labels, not read yet.

    Attributes:
        path: The folder.
        files: Images with their class index, in the order of their names.
    """

    path: Path
    files: tuple[tuple[Path, int], ...]

    def examine(self) -> tuple[LabelArray, tuple[Path, ...]]:
        """Labels of the files that look like images (their headers are read), and the other files."""
        return self._each(lambda image: image.verify())[1:]

    def load(self, input_chw: tuple[int, int, int]) -> tuple[ImageArray, LabelArray, tuple[Path, ...]]:
        """Images (uint8, N×H×W×C) resized to ``input_chw``, their labels, and the files that cannot be read.

        Raises:
            InputError: Not one image can be read, or the network takes neither grey nor RGB images.
        """
        channels, height, width = input_chw
        if channels not in _MODES:
            msg = f"{self.path}: images are grey or RGB, but the network takes {channels} channels"
            raise InputError(msg)

        def pixels(image: PilImage) -> ImageArray:
            from PIL import Image, ImageOps

            upright = ImageOps.exif_transpose(image).convert(_MODES[channels])
            return np.asarray(upright.resize((width, height), Image.Resampling.BILINEAR), dtype=np.uint8)

        images, labels, skipped = self._each(pixels)
        if not images:
            msg = f"{self.path}: none of its {len(self.files)} images can be read, such as {skipped[0]}"
            raise InputError(msg)
        return np.stack(images).reshape(len(images), height, width, channels), labels, skipped

    def _each(self, look: Callable[[PilImage], T]) -> tuple[list[T], LabelArray, tuple[Path, ...]]:
        seen: list[T] = []
        labels: list[int] = []
        skipped: list[Path] = []
        for path, label in self.files:
            try:
                seen.append(_look_at(path, look))
            except Exception:  # noqa: BLE001 - pillow raises nearly anything on cut or hostile files; each is named
                skipped.append(path)
            else:
                labels.append(label)
        return seen, np.asarray(labels, dtype=np.int64), tuple(skipped)


def open_folder(path: Path) -> ImageFolder:
    """List the images below ``path`` with their labels.

    Raises:
        InputError: No such folder, no images in it, or a sub-folder that is no label.
        ConfigError: ``classes.txt`` cannot be used.
    """
    if not path.is_dir():
        msg = f"{path}: expected a folder with one sub-folder of images for each label"
        raise InputError(msg)
    names = _class_names(path / CLASSES_FILE)
    try:
        folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        files = [(file, _label(folder, names)) for folder in folders for file in _images_in(folder)]
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise InputError(msg) from None
    if not files:
        msg = f"{path}: expected images, such as {path / '0' / 'a.png'}, found none ({', '.join(sorted(SUFFIXES))})"
        raise InputError(msg)
    return ImageFolder(path, tuple(files))


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _class_names(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: expected a class name on each line, in UTF-8: {error}"
        raise ConfigError(msg) from None
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if "" in names or len(set(names)) != len(names):
        msg = f"{path}: expected a different class name on each line, got an empty line or a name twice"
        raise ConfigError(msg)
    return {name: index for index, name in enumerate(names)}


def _label(folder: Path, names: dict[str, int]) -> int:
    if folder.name in names:
        return names[folder.name]
    text = folder.name
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < MAX_CLASS:
        return int(text)
    msg = f"{folder}: expected a class index as the folder's name, or a name listed in {folder.parent / CLASSES_FILE}"
    raise InputError(msg)


def _look_at(path: Path, look: Callable[[PilImage], T]) -> T:
    from PIL import Image

    if path.stat().st_size > MAX_FILE_BYTES:
        msg = "too large"
        raise ValueError(msg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a broken EXIF block is no reason to skip a picture
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=("PNG", "JPEG", "BMP")) as image:
            if image.width * image.height > MAX_PIXELS:
                msg = "too many pixels"
                raise ValueError(msg)
            return look(image)
