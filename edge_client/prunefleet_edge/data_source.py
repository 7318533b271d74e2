"""Where images come from: a folder of labelled files, an npz file, or a kind of source that another package provides.

``folder:PATH`` (or a bare PATH) holds ``<label>/*.png``, where a label is a class index or a name listed in
``PATH/classes.txt`` (one a line; the first line is class 0). ``npz:PATH`` holds ``x, y`` or ``x_train, y_train``. Any
other ``KIND:ARGUMENT`` is looked up in the entry-point group ``prunefleet.data``: a callable ``(argument, name)`` that
returns images (uint8, N×H×W×C) and labels. What is not found there is taken for ``package.module:factory``, code of
one's own; see ``dataset_factory``.

What is wrong with an image is said on this machine only, never sent.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunefleet_edge.data import ImageArray, LabelArray, Samples, check_images
from prunefleet_edge.dataset_factory import read_factory
from prunefleet_edge.image_folder import ImageFolder, open_folder
from prunefleet_edge.local_code import names_code
from prunefleet_edge.models import ModelSpec
from prunefleet_edge.npz_file import read_npz
from prunefleet_shared.errors import ConfigError, InputError

SOURCE_GROUP = "prunefleet.data"
MIN_IMAGES = 8
"""Images from which anything can be learned; see ``data.check_trainable``."""
Provider = Callable[[str, str], tuple[ImageArray, LabelArray]]


@dataclass(frozen=True, slots=True)
class SourceData:
    """What a source holds.

    Attributes:
        samples: The images, as the network wants them.
        skipped: Files that could not be read; for the owner's eyes only.
    """

    samples: Samples
    skipped: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """What a source holds, before any network is known.

    Attributes:
        num_images: Images that can be read.
        num_classes: Different labels among them.
        skipped: Files that could not be read.
    """

    num_images: int
    num_classes: int
    skipped: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Arrays:
    images: ImageArray
    labels: LabelArray
    what: str


def load_source(text: str, spec: ModelSpec, name: str) -> SourceData:
    """The images of a source, ready for a network of ``spec``.

    Args:
        text: ``folder:PATH``, a bare PATH, ``npz:PATH``, or another ``KIND:ARGUMENT``.
        spec: Files are converted to its channels and resized to its height and width; arrays must have them already.
        name: Of this device or trainer, for sources that draw a part by name.

    Raises:
        ConfigError: There is no such kind of source (the user's to mend).
        InputError: It cannot be read, or holds nothing that fits the network (the user's to mend).
    """
    source = _open(text, name)
    if isinstance(source, ImageFolder):
        images, labels, skipped = source.load(spec.input_chw)
        return SourceData(check_images(images, labels, spec.num_classes, text), skipped)
    channels, height, width = spec.input_chw
    if source.images.shape[1:] != (height, width, channels):
        got = "x".join(str(size) for size in source.images.shape[1:])
        msg = f"{text}: expected images of {height}x{width}x{channels} for {spec}, got {got}; convert them first"
        raise InputError(msg)
    return SourceData(check_images(source.images, source.labels, spec.num_classes, source.what), ())


def examine_source(text: str, name: str) -> SourceSummary:
    """Look at a source before any campaign is known, so that bad data is found before anything is sent.

    Raises:
        ConfigError: There is no such kind of source (the user's to mend).
        InputError: It cannot be read, holds fewer than :data:`MIN_IMAGES` images, or those of one class only.
    """
    source = _open(text, name)
    labels, skipped = source.examine() if isinstance(source, ImageFolder) else (source.labels, ())
    summary = SourceSummary(len(labels), len(np.unique(labels)), skipped)
    if summary.num_images < MIN_IMAGES:
        unread = f" ({len(skipped)} more cannot be read, such as {skipped[0]})" if skipped else ""
        msg = f"{text}: expected at least {MIN_IMAGES} images to learn from, got {summary.num_images}{unread}"
        raise InputError(msg)
    if summary.num_classes < 2:
        msg = f"{text}: all images are of one class; fine-tuning needs at least two"
        raise InputError(msg)
    return summary


def _open(text: str, name: str) -> ImageFolder | _Arrays:
    kind, colon, argument = text.partition(":")
    if not colon or kind == "folder":
        return open_folder(Path(argument if colon else text))
    if kind == "npz":
        return _Arrays(*read_npz(Path(argument)), text)
    provider = _provider(kind, text)
    return _Arrays(*(provider(argument, name) if provider else read_factory(text)), text)


def _provider(kind: str, text: str) -> Provider | None:
    entries = importlib.metadata.entry_points(group=SOURCE_GROUP)
    for entry in entries.select(name=kind):
        try:
            provider: Provider = entry.load()
        except ImportError as error:
            msg = f"data source {text!r} cannot be loaded: {error}; install what it needs"
            raise ConfigError(msg) from error
        return provider
    if names_code(text):
        return None
    known = ", ".join(sorted({"folder", "npz", *entries.names}))
    msg = (
        f"data source {text!r} is unknown; expected KIND:ARGUMENT with one of {known}, package.module:factory, "
        "or the path of a folder"
    )
    raise ConfigError(msg)
