"""The data of one simulated fleet: a public part for the trainer, a private part per device, disjoint."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from prunefleet_edge.data import ImageArray, LabelArray, PrivateData, Samples, check_images
from prunefleet_edge.models import ModelSpec, parse_spec
from prunefleet_edge.npz_file import DAMAGED, labelled_arrays
from prunefleet_shared.errors import ConfigError, InputError
from prunefleet_shared.masks import IntArray
from prunefleet_simulation.cameras import shift
from prunefleet_simulation.partition import parse_partition
from prunefleet_simulation.settings import Settings

MIN_OWN_IMAGES = 8
MIN_REPORT_IMAGES = 4


@dataclass(frozen=True, slots=True)
class Pool:
    """Labelled images: uint8 N×H×W×C and int64 N."""

    images: ImageArray
    labels: LabelArray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: IntArray) -> Pool:
        return Pool(self.images[index], self.labels[index])

    def samples(self, num_classes: int, what: str) -> Samples:
        """The same as tensors.

        Raises:
            InputError: They cannot be used.
        """
        return check_images(self.images, self.labels, num_classes, what)


@dataclass(frozen=True, slots=True)
class DevicePools:
    """One device's images, as they travel to a worker process of this machine."""

    own: Pool
    report: Pool

    def private(self, num_classes: int) -> PrivateData:
        """The same as tensors."""
        own, report = self.own.samples(num_classes, "private data"), self.report.samples(num_classes, "report data")
        return PrivateData(own, report)


@dataclass(frozen=True, slots=True)
class FleetData:
    """A fleet's data under one seed.

    Attributes:
        spec: Network, input shape and classes that fit it.
        public: The trainer's part.
        devices: One entry per device.
        notes: Where the parts came from, for the report.
    """

    spec: ModelSpec
    public: Pool
    devices: tuple[DevicePools, ...]
    notes: tuple[str, ...]


def make_fleet_data(settings: Settings, seed: int) -> FleetData:
    """Split the settings' data for one seed.

    Raises:
        InputError: The data cannot be used, or is too little for so many devices.
        ConfigError: The settings contradict each other.
    """
    train, test, origin = _load(settings.data)
    rng = np.random.default_rng([seed, 0xF1EE7])
    public, private, notes = _split_public(settings, train, rng)
    num_classes = 1 + max(int(pool.labels.max()) for pool in (train, public, test) if pool)
    height, width, channels = train.images.shape[1:]
    architecture = settings.model or settings.recipe.model
    spec = parse_spec(f"{architecture}/{channels}x{height}x{width}/{num_classes}")
    if public.images.shape[1:] != train.images.shape[1:]:
        msg = f"public images are {public.images.shape[1:]}, the devices' {train.images.shape[1:]}; they must agree"
        raise InputError(msg)
    parts = parse_partition(settings.partition)(private.labels, settings.devices, rng)
    devices = tuple(_device(settings, private[part], test, [seed, device]) for device, part in enumerate(parts))
    _check_enough(devices, settings)
    return FleetData(spec, public, devices, (origin, *notes))


def _load(data: str | None) -> tuple[Pool, Pool | None, str]:
    if data is None:
        return (
            digits_pool(),
            None,
            "Images: scikit-learn's handwritten digits, 8x8 scaled to 12x12, one camera per device.",
        )
    path = npz_path(data, "data")
    train, test = load_npz(path)
    return train, test, f"Images: {path.name}."


@functools.cache
def digits_pool() -> Pool:
    """Scikit-learn's handwritten digits: 1797 images of 12x12x1."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = ndimage.zoom(digits.images / 16, (1, 1.5, 1.5), order=1)
    pixels = np.asarray(np.rint(np.clip(images, 0, 1)[..., None] * 255), dtype=np.uint8)
    return Pool(pixels, digits.target.astype(np.int64))


def npz_path(text: str, what: str) -> Path:
    """The path of ``npz:PATH``.

    Raises:
        ConfigError: Not of that form, or no such file.
    """
    kind, _, path = text.partition(":")
    if kind != "npz" or not path:
        msg = f"{what}: expected npz:PATH, got {text!r}"
        raise ConfigError(msg)
    if not Path(path).is_file():
        msg = f"{what}: there is no file {path}"
        raise ConfigError(msg)
    return Path(path)


@functools.cache
def load_npz(path: Path) -> tuple[Pool, Pool | None]:
    """``x_train, y_train`` and, where present, ``x_test, y_test`` of an npz file (no pickle).

    Raises:
        InputError: Not such a file, arrays missing, or of the wrong shape, type or range.
    """
    try:
        with path.open("rb") as file:  # numpy leaves it open when the archive is damaged
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                msg = "it holds one bare array"
                raise ValueError(msg)
            train = _pool(arrays, "train", path)
            test = _pool(arrays, "test", path) if "x_test" in arrays else None
    except DAMAGED as error:
        msg = f"{path}: not a readable npz file: {error}"
        raise InputError(msg) from None
    if test is not None and test.images.shape[1:] != train.images.shape[1:]:
        shapes = f"{test.images.shape[1:]}, training images {train.images.shape[1:]}"
        msg = f"{path}: test images are of shape {shapes}; they must agree"
        raise InputError(msg)
    return train, test


def _pool(arrays: Any, part: str, path: Path) -> Pool:
    return Pool(*labelled_arrays(arrays, f"_{part}", path))


def _split_public(settings: Settings, train: Pool, rng: np.random.Generator) -> tuple[Pool, Pool, tuple[str, ...]]:
    base = f"Base: given ({settings.base.name})." if settings.base else "Base: trained here on the public part."
    if settings.public:
        path = npz_path(settings.public, "public")
        return load_npz(path)[0], train, (f"Public part: {path.name}.", base)
    order = rng.permutation(len(train))
    cut = int(len(train) * settings.recipe.public_ratio)
    note = f"Public part: {cut} of {len(train)} training images, split off by the seed; no device has them."
    return train[order[:cut]], train[order[cut:]], (note, base)


def _device(settings: Settings, mine: Pool, test: Pool | None, seed: list[int]) -> DevicePools:
    preset, rng = settings.recipe, np.random.default_rng(seed)
    limit = settings.images_per_device or preset.images_per_device
    own_index, rest_index = stratified_cut(mine.labels, limit)
    own, report = mine[own_index], mine[rest_index]
    if test is not None:
        candidates = np.flatnonzero(np.isin(test.labels, np.unique(own.labels)))
        report = test[candidates]
    report = report[np.sort(rng.permutation(len(report))[: preset.report_images])]
    if preset.cameras is None:
        return DevicePools(own, report)
    both = shift(np.concatenate([own.images, report.images]), preset.cameras, rng)
    return DevicePools(Pool(both[: len(own)], own.labels), Pool(both[len(own) :], report.labels))


def stratified_cut(labels: LabelArray, limit: int) -> tuple[IntArray, IntArray]:
    """Indices of ``limit`` images that hold every class in proportion (rounded), in given order, and of the rest."""
    rank = np.zeros(len(labels))
    for label in np.unique(labels):
        index = np.flatnonzero(labels == label)
        rank[index] = (np.arange(len(index)) + 0.5) / len(index)
    order = np.argsort(rank, kind="stable")
    return np.sort(order[:limit]), np.sort(order[limit:])


def _check_enough(devices: tuple[DevicePools, ...], settings: Settings) -> None:
    for number, device in enumerate(devices):
        own, report = len(device.own), len(device.report)
        if own < MIN_OWN_IMAGES or report < MIN_REPORT_IMAGES:
            msg = (
                f"device {number} would have {own} images to learn from and {report} to report on, expected at least "
                f"{MIN_OWN_IMAGES} and {MIN_REPORT_IMAGES}; use fewer than {settings.devices} devices, another "
                "partition, or more data"
            )
            raise InputError(msg)
        if len(np.unique(device.own.labels)) < 2:
            msg = f"device {number} would have images of one class only; use another partition or fewer devices"
            raise InputError(msg)
