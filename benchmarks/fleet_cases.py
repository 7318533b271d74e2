"""The fleets of ``benchmarks/fleet.py``: who sees which classes of CIFAR-100, and what the base knew beforehand.

``overlap``: twelve devices see ten classes each, of the twenty that the fleet sees; any two share some, no two share
all, and no image belongs to two. ``families``: twelve devices of three kinds; a kind is two superclasses, and a device
sees six of their ten classes. ``cameras``: as ``overlap``, seen through three kinds of camera. ``lacking``: twelve
devices see five classes each, of ten that the public data do not have; the base was trained without them, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from cifar100 import Cifar100, load_base, load_cifar100, spec_of, with_normalisation
from result_file import cache_folder
from torch import nn

from prunefleet_edge.data import Samples
from prunefleet_edge.models.weights import load_weights, save_weights
from prunefleet_edge.recipes import Recipe, recipe_named
from prunefleet_edge.training import train
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.masks import IntArray
from prunefleet_simulation.cameras import CameraRange, shift
from prunefleet_trainer.public import fresh
from prunefleet_trainer.recipes import IMAGES

NET = "resnet20"
NUM_CLASSES, NUM_DEVICES, MAX_IMAGES_PER_CLASS = 100, 12, 20
LOCAL: Recipe = replace(recipe_named("images"), is_channels_last=True)
"""Every training on a device."""
BASE_EPOCHS = 12
"""Of the base that lacks classes; the one that lacks none had 24."""


@dataclass(frozen=True, slots=True)
class Case:
    """One fleet.

    Attributes:
        name: ``overlap``, ``families``, ``cameras`` or ``lacking``.
        seed: Of classes, images and everything that is trained.
        images_per_class: A device's private images of each of its classes, for fit and gate together.
    """

    name: str
    seed: int
    images_per_class: int

    def __str__(self) -> str:
        return f"{self.name}-{self.seed}-{self.images_per_class}"


SIZES = {"overlap": (20, 10), "families": (30, 6), "cameras": (20, 10), "lacking": (10, 5)}
"""Classes of the fleet, and of each device."""
NUM_KINDS = 3
CAMERAS = CameraRange(rotation_deg=20, blur_pixels=1.0, contrast_loss=0.7, noise=0.06)
"""The first kind of camera changes nothing; two more are drawn from this."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one device has.

    Attributes:
        classes: Its fine classes, ascending.
        images: Indices into the private half, int64.
    """

    classes: tuple[int, ...]
    images: IntArray


def fleet_classes(case: Case) -> tuple[int, ...]:
    """The classes that the fleet sees; the same whatever the number of images."""
    num, _ = SIZES[case.name]
    if case.name == "families":
        return tuple(sorted(label for family in families(case) for label in family))
    chosen = np.random.default_rng([case.seed, 0xF1EE7]).choice(NUM_CLASSES, num, replace=False)
    return tuple(sorted(int(label) for label in chosen))


def families(case: Case) -> list[tuple[int, ...]]:
    """The classes of each kind of device: two superclasses."""
    coarse = list(load_cifar100().fine_classes.values())
    order = np.random.default_rng([case.seed, 0xFA]).permutation(len(coarse))
    pairs = order[: 2 * NUM_KINDS].reshape(NUM_KINDS, 2)
    return [tuple(sorted((*coarse[one], *coarse[other]))) for one, other in pairs]


def holdings(case: Case, labels: IntArray) -> list[Holding]:
    """Deal classes and private images to devices; fewer images per class are a part of more.

    Args:
        case: Which fleet.
        labels: Of the private half.
    """
    rng = np.random.default_rng([case.seed, 0xDEA1])
    classes, per_device = fleet_classes(case), SIZES[case.name][1]
    kinds = families(case) if case.name == "families" else [classes]
    times_held = dict.fromkeys(classes, 0)
    held: list[tuple[int, ...]] = []
    for device in range(NUM_DEVICES):
        order = sorted(kinds[device % len(kinds)], key=lambda label: (times_held[label], rng.random()))
        held.append(tuple(sorted(order[:per_device])))
        for label in order[:per_device]:
            times_held[label] += 1
    images: list[list[IntArray]] = [[] for _ in held]
    for label in classes:
        index = rng.permutation(np.flatnonzero(labels == label))
        for place, device in enumerate(d for d, own in enumerate(held) if label in own):
            first = place * MAX_IMAGES_PER_CLASS
            images[device].append(index[first : first + MAX_IMAGES_PER_CLASS][: case.images_per_class])
    return [Holding(own, np.concatenate(parts)) for own, parts in zip(held, images, strict=True)]


def without_classes(samples: Samples, classes: tuple[int, ...]) -> Samples:
    """The samples of all other classes."""
    return samples[~torch.isin(samples.labels, torch.tensor(classes))]


def public_of(case: Case, images: Cifar100) -> Samples:
    """What the trainer has."""
    return without_classes(images.public, fleet_classes(case)) if case.name == "lacking" else images.public


def base_of(case: Case) -> nn.Module:
    """The dense base: the ready-made one, or one trained here on public data that lack the fleet's classes."""
    if case.name != "lacking":
        return load_base(NET, cache_folder())
    path = cache_folder() / f"fleet-base-lacking-seed{case.seed}.safetensors"
    model = fresh(spec_of(NET), case.seed)
    with_normalisation(model, model.net.state_dict())
    if path.exists():
        return load_weights(model, path.read_bytes(), str(path)).eval()
    recipe = replace(IMAGES.base, epochs=BASE_EPOCHS, is_channels_last=True)
    train(model, public_of(case, load_cifar100()), recipe, case.seed)
    write_whole(path, save_weights(model), 0o600)
    return model


def data_of(case: Case, device: int) -> tuple[Samples, Samples, tuple[int, ...]]:
    """One device's own images, all official test images of its classes, and those classes."""
    images = load_cifar100()
    holding = holdings(case, images.private.labels.numpy())[device]
    test = images.test[torch.isin(images.test.labels, torch.tensor(holding.classes))]
    own = images.private[torch.from_numpy(holding.images)]
    if case.name == "cameras" and device % NUM_KINDS:
        own, test = (_through(samples, case.seed, device % NUM_KINDS) for samples in (own, test))
    return own, test, holding.classes


def _through(samples: Samples, seed: int, kind: int) -> Samples:
    """The samples as a kind of camera would have taken them."""
    pixels = (255 * samples.images).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    taken = shift(pixels, CAMERAS, np.random.default_rng([seed, 0xCA3, kind]))
    return Samples(torch.from_numpy(taken).permute(0, 3, 1, 2).float().contiguous() / 255, samples.labels)
