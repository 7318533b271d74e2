"""The fleet of ``benchmarks/fleet_spafl.py``: Fashion-MNIST on a hundred devices that see other classes each.

As in SpaFL (Kim et al., NeurIPS 2024): LeNet-5 (20/50/500), each class split over devices by Dirichlet(0.2), and test
images that follow a device's own shares of the classes. Other than there, 10,000 of the 60,000 training images are
public: they are drawn first, and no device has one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from result_file import ROOT, cache_folder
from torch import nn

from prunefleet_edge.data import LabelArray, Samples, check_images
from prunefleet_edge.models import parse_spec
from prunefleet_edge.models.weights import load_weights, save_weights
from prunefleet_edge.recipes import Recipe
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.errors import InputError
from prunefleet_shared.masks import IntArray
from prunefleet_simulation.partition import by_dirichlet
from prunefleet_trainer.public import fresh, train_base

SPEC = parse_spec("lenet5/1x28x28/10")
NUM_CLASSES, NUM_DEVICES, NUM_PUBLIC = 10, 100, 10_000
ALPHA = 0.2
MIN_IMAGES, MIN_CLASSES, MIN_TEST_IMAGES = 20, 2, 1
"""The partition is drawn again until every device has that much: one with less has nothing to learn from, and is no
device of this fleet. (Li et al., ICDE 2022, do the same with 10 images.)"""
_MOST_DRAWS = 1000

BASE = Recipe(epochs=10, learning_rate=0.03, batch_size=64, shift_pixels=2, flip=True)
"""Of the base, on the public images alone."""


@dataclass(frozen=True, slots=True)
class Fashion:
    """All images, float32 in [0, 1], in the official order.

    Attributes:
        train: 60,000.
        test: 10,000.
    """

    train: Samples
    test: Samples


@cache
def load_fashion() -> Fashion:
    """Read everything once.

    Raises:
        InputError: The data is not there.
    """
    path = ROOT.parent / "shared" / "data" / "fashion_mnist.npz"
    if not path.exists():
        msg = f"{path}: the benchmark's images are not there; it needs the folder `shared` beside the checkout"
        raise InputError(msg)
    with np.load(path) as file:
        parts = [check_images(file[f"x_{part}"], file[f"y_{part}"], NUM_CLASSES, part) for part in ("train", "test")]
    return Fashion(*parts)


@dataclass(frozen=True, slots=True)
class Split:
    """Who has which images; all indices ascending or shuffled, never twice.

    Attributes:
        public: Of training images, int64.
        own: Of training images, one array for each device.
        test: Of test images, one array for each device.
    """

    public: IntArray
    own: tuple[IntArray, ...]
    test: tuple[IntArray, ...]


def split_of(seed: int, train_labels: LabelArray, test_labels: LabelArray) -> Split:
    """Draw the public images, deal the others to devices, and the test images in the same proportions.

    Args:
        seed: Of everything that is drawn.
        train_labels: Of all training images.
        test_labels: Of all test images.

    Raises:
        InputError: No draw gave every device enough.
    """
    rng = np.random.default_rng([seed, 0x5BAF1])
    order = rng.permutation(len(train_labels))
    public, private = np.sort(order[:NUM_PUBLIC]), np.sort(order[NUM_PUBLIC:])
    for _ in range(_MOST_DRAWS):
        own = [private[part] for part in by_dirichlet(train_labels[private], NUM_DEVICES, ALPHA, rng)]
        counts_DC = np.stack([np.bincount(train_labels[part], minlength=NUM_CLASSES) for part in own])
        test = _deal_alike(counts_DC, test_labels, rng)
        if _is_enough(counts_DC, test):
            return Split(public, tuple(own), tuple(test))
    msg = f"{_MOST_DRAWS} partitions were drawn, and each left a device with too few images"
    raise InputError(msg)


def _deal_alike(counts_DC: IntArray, labels: LabelArray, rng: np.random.Generator) -> list[IntArray]:
    """Split each class over the devices as ``counts_DC`` is."""
    parts: list[list[IntArray]] = [[] for _ in counts_DC]
    for label in range(NUM_CLASSES):
        index = rng.permutation(np.flatnonzero(labels == label))
        shares_D = counts_DC[:, label] / max(1, counts_DC[:, label].sum())
        cuts = np.rint(np.cumsum(shares_D)[:-1] * len(index)).astype(np.int64)
        for device, part in enumerate(np.split(index, cuts)):
            parts[device].append(part)
    return [np.concatenate(part) for part in parts]


def _is_enough(counts_DC: IntArray, test: list[IntArray]) -> bool:
    return bool(
        (counts_DC.sum(axis=1) >= MIN_IMAGES).all()
        and ((counts_DC > 0).sum(axis=1) >= MIN_CLASSES).all()
        and min(len(part) for part in test) >= MIN_TEST_IMAGES
    )


@dataclass(frozen=True, slots=True)
class World:
    """One seed's images.

    Attributes:
        seed: Which.
        public: What base and slim bases are trained on.
        own: What each device learns from.
        test: What each device is judged by, and nothing else looks at.
    """

    seed: int
    public: Samples
    own: tuple[Samples, ...]
    test: tuple[Samples, ...]

    @property
    def images_per_class(self) -> float:
        """A device's images of a class, on average."""
        return round(sum(len(own) for own in self.own) / len(self.own) / NUM_CLASSES, 2)


def world_of(seed: int) -> World:
    """The fleet of that seed."""
    images = load_fashion()
    split = split_of(seed, images.train.labels.numpy(), images.test.labels.numpy())
    own, test = (
        tuple(samples[torch.from_numpy(part)] for part in parts)
        for samples, parts in ((images.train, split.own), (images.test, split.test))
    )
    return World(seed, images.train[torch.from_numpy(split.public)], own, test)


def base_of(world: World) -> nn.Module:
    """The dense base of a seed, trained on its public images; kept in the cache."""
    path = cache_folder() / f"spafl-base-{BASE.epochs}-seed{world.seed}.safetensors"
    if path.exists():
        return load_weights(fresh(SPEC, world.seed), path.read_bytes(), str(path)).eval()
    model = train_base(SPEC, world.public, BASE, world.seed)
    write_whole(path, save_weights(model), 0o600)
    return model
