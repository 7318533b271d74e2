"""Fleets of any size for ``fleet_attacked.py`` and ``fleet_scale.py``: what each device sees, and what is public.

A device's part follows from seed and number alone, so a small fleet is a part of a large one. Two devices may hold the
same image, as two cameras may see the same sheet of paper: a hundred devices of forty images are more than the digits
have. Nothing that is learned from (public or any device's own) is ever reported on.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from cifar100 import load_base, load_cifar100, spec_of
from result_file import cache_folder
from torch import nn

from prunefleet_edge.data import PrivateData, Samples
from prunefleet_edge.models import ModelSpec, parse_spec
from prunefleet_edge.models.weights import load_weights, save_weights
from prunefleet_edge.recipes import Recipe, recipe_named
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.masks import IntArray
from prunefleet_simulation.cameras import shift
from prunefleet_simulation.fleet_data import Pool, digits_pool
from prunefleet_simulation.presets import DIGITS
from prunefleet_trainer.public import fresh, train_base
from prunefleet_trainer.recipes import IMAGES

REPORT_RATIO = 2 / 9
"""Of the digits: a third is public, two ninths are reported on, the rest is the devices'."""
DIGITS_PER_DEVICE, CIFAR_PER_DEVICE = 5, 10
"""Classes of each device."""
CIFAR_FLEET_CLASSES = 20
DIGITS_SPEC, CIFAR_SPEC = parse_spec(f"{DIGITS.model}/1x12x12/10"), spec_of("resnet20")
CIFAR_PUBLIC = replace(IMAGES.slim_base, epochs=2, is_channels_last=True)
CIFAR_LOCAL = replace(recipe_named("images"), is_channels_last=True)


class FleetSource(Protocol):
    """Where a fleet's data come from.

    Attributes:
        name: ``digits`` or ``cifar100``; the column ``case``.
        seed: Of everything.
        images_per_class: Private images of each class of a device, for fit and gate together.
        levels_permille: What is left of the dense MACs at each level of the schedule, in thousandths.
        spec: The network.
        public_recipe: How a slim base is retrained.
        local_recipe: Every training on a device.
    """

    name: str
    seed: int
    images_per_class: int
    levels_permille: tuple[int, ...]
    spec: ModelSpec
    public_recipe: Recipe
    local_recipe: Recipe

    def public(self) -> Samples:
        """What the trainer has."""
        ...

    def base(self) -> nn.Module:
        """The dense base."""
        ...

    def device(self, number: int) -> PrivateData:
        """What device ``number`` learns from, and the images of its classes that nothing learns from."""
        ...


@dataclass(frozen=True, slots=True)
class DigitsParts:
    """Indices into the digits, apart from each other: int64."""

    public: IntArray
    report: IntArray
    private: IntArray


@dataclass(frozen=True)
class DigitsSource:
    """Handwriting of 12x12 pixels, one camera per device, five classes each; base and recipes of preset ``digits``."""

    seed: int
    name: str = "digits"
    images_per_class: int = 8
    levels_permille: tuple[int, ...] = (400, 200)
    spec: ModelSpec = DIGITS_SPEC
    public_recipe: Recipe = DIGITS.public
    local_recipe: Recipe = DIGITS.local

    @functools.cached_property
    def parts(self) -> DigitsParts:
        """Who has which part of the images."""
        order = np.random.default_rng([self.seed, 0xF1EE7]).permutation(len(digits_pool()))
        cuts = np.array([DIGITS.public_ratio, DIGITS.public_ratio + REPORT_RATIO]) * len(order)
        return DigitsParts(*np.split(order, cuts.astype(np.int64)))

    def public(self) -> Samples:
        """A third, no camera between."""
        return digits_pool()[self.parts.public].samples(self.spec.num_classes, "public data")

    def base(self) -> nn.Module:
        """Trained once on the public part, then kept."""
        path = cache_folder() / f"fleet-base-digits-seed{self.seed}.safetensors"
        if path.exists():
            return load_weights(fresh(self.spec, self.seed), path.read_bytes(), str(path)).eval()
        model = train_base(self.spec, self.public(), DIGITS.base, self.seed)
        write_whole(path, save_weights(model), 0o600)
        return model

    def device(self, number: int) -> PrivateData:
        """Its images through its camera; every report image of its classes through the same one."""
        pool, rng = digits_pool(), np.random.default_rng([self.seed, 0xDE71CE, number])
        classes = rng.choice(np.unique(pool.labels), DIGITS_PER_DEVICE, replace=False)
        own = draw_of_each(pool.labels, self.parts.private, classes, self.images_per_class, rng)
        report = self.parts.report[np.isin(pool.labels[self.parts.report], classes)]
        seen = pool[np.concatenate([own, report])]
        if DIGITS.cameras is not None:
            seen = Pool(shift(seen.images, DIGITS.cameras, rng), seen.labels)
        tensors = seen.samples(self.spec.num_classes, "private data")
        return PrivateData(tensors[slice(None, len(own))], tensors[slice(len(own), None)])


@dataclass(frozen=True)
class CifarSource:
    """CIFAR-100 as in ``fleet.py``: ten of the fleet's twenty classes each, the ready-made base, the public half."""

    seed: int
    name: str = "cifar100"
    images_per_class: int = 10
    levels_permille: tuple[int, ...] = (500, 250)
    spec: ModelSpec = CIFAR_SPEC
    public_recipe: Recipe = CIFAR_PUBLIC
    local_recipe: Recipe = CIFAR_LOCAL

    def public(self) -> Samples:
        """The half that the base was trained on."""
        return load_cifar100().public

    def base(self) -> nn.Module:
        """The ready-made one."""
        return load_base("resnet20", cache_folder())

    def device(self, number: int) -> PrivateData:
        """Images of the private half; all official test images of its classes."""
        images, rng = load_cifar100(), np.random.default_rng([self.seed, 0xDE71CE, number])
        fleet = np.random.default_rng([self.seed, 0xF1EE7]).choice(100, CIFAR_FLEET_CLASSES, replace=False)
        classes = rng.choice(fleet, CIFAR_PER_DEVICE, replace=False)
        labels = images.private.labels.numpy()
        own = draw_of_each(labels, np.arange(len(labels)), classes, self.images_per_class, rng)
        is_report = torch.isin(images.test.labels, torch.from_numpy(classes))
        return PrivateData(images.private[torch.from_numpy(own)], images.test[is_report])


SOURCES = {"digits": DigitsSource, "cifar100": CifarSource}


def draw_of_each(
    labels: IntArray, candidates: IntArray, classes: IntArray, num: int, rng: np.random.Generator
) -> IntArray:
    """Indices of ``num`` of the candidates of each class, class by class.

    Args:
        labels: Of all images.
        candidates: Indices of those that may be drawn.
        classes: Which classes.
        num: How many of each.
        rng: What draws.
    """
    own = [rng.choice(candidates[labels[candidates] == label], num, replace=False) for label in classes]
    return np.concatenate(own)
