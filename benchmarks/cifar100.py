"""CIFAR-100 as the benchmarks use it: a public half for bases and trainers, a private half for devices, a test set.

Read from ``../shared/data`` beside the checkout; see its README for where the images come from. Nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from prunefleet_edge.data import Samples
from prunefleet_edge.models import ModelSpec, build, parse_spec
from prunefleet_shared.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
"""Per channel, of the bases' README."""

SUBSETS: dict[str, tuple[str, ...]] = {
    "aquatic": ("aquatic_mammals", "fish"),
    "indoor": ("food_containers", "household_electrical_devices", "household_furniture"),
    "outdoor": (
        "large_man-made_outdoor_things",
        "large_natural_outdoor_scenes",
        "vehicles_1",
        "vehicles_2",
        "trees",
        "small_mammals",
        "people",
    ),
    "natural": (
        "flowers",
        "fruit_and_vegetables",
        "insects",
        "large_omnivores_and_herbivores",
        "medium_mammals",
        "non-insect_invertebrates",
        "small_mammals",
        "reptiles",
    ),
    "random": (
        "aquatic_mammals",
        "fish",
        "flowers",
        "fruit_and_vegetables",
        "household_furniture",
        "large_man-made_outdoor_things",
        "large_omnivores_and_herbivores",
        "medium_mammals",
        "non-insect_invertebrates",
        "people",
        "reptiles",
        "trees",
        "vehicles_2",
    ),
}
"""Unions of coarse classes: the subsets of Rajagopal & Bouganis 2020, by the configuration files of their code."""


@dataclass(frozen=True, slots=True)
class Cifar100:
    """All images of a benchmark, float32 in [0, 1].

    Attributes:
        public: What bases and trainers see: 250 images of each class.
        private: What devices see: 250 other images of each class, without the twins of test images.
        test: 100 images of each class that nothing learns from.
        num_twins: Private and public images that were left out because the test set has them too.
        fine_classes: Fine class indices of each coarse class, by its name.
    """

    public: Samples
    private: Samples
    test: Samples
    num_twins: int
    fine_classes: dict[str, tuple[int, ...]]

    def subset_classes(self, subset: str) -> tuple[int, ...]:
        """Fine class indices of one of :data:`SUBSETS`."""
        return tuple(sorted(fine for coarse in SUBSETS[subset] for fine in self.fine_classes[coarse]))

    def only(self, samples: Samples, subset: str) -> Samples:
        """The samples whose class belongs to a subset; labels stay those of all 100 classes."""
        return samples[torch.isin(samples.labels, torch.tensor(self.subset_classes(subset)))]


@cache
def load_cifar100() -> Cifar100:
    """Read everything once (about 20 seconds).

    Raises:
        InputError: The data is not there.
    """
    private, public = _read("cifar100.npz"), _read("cifar100_public.npz")
    test_images = {image.tobytes() for image in private["x_test"]}
    parts = [_without_twins(arrays["x_train"], arrays["y_train"], test_images) for arrays in (public, private)]
    fine, names = private["fine_to_coarse"], [str(name) for name in private["coarse_class_names"]]
    fine_classes = {name: tuple(np.flatnonzero(fine == index).tolist()) for index, name in enumerate(names)}
    num_twins = len(public["x_train"]) + len(private["x_train"]) - sum(len(labels) for _, labels in parts)
    public_samples, private_samples = (_samples(*part) for part in parts)
    test = _samples(private["x_test"], private["y_test"])
    return Cifar100(public_samples, private_samples, test, num_twins, fine_classes)


def _read(name: str) -> dict[str, np.ndarray]:
    path = SHARED / "data" / name
    if not path.exists():
        msg = f"{path}: the benchmark's images are not there; it needs the folder `shared` beside the checkout"
        raise InputError(msg)
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def _without_twins(images: np.ndarray, labels: np.ndarray, unwanted: set[bytes]) -> tuple[np.ndarray, np.ndarray]:
    is_kept = np.array([image.tobytes() not in unwanted for image in images])
    return images[is_kept], labels[is_kept]


def _samples(images: np.ndarray, labels: np.ndarray) -> Samples:
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255
    return Samples(pixels, torch.from_numpy(labels.astype(np.int64)))


def spec_of(net: str) -> ModelSpec:
    """A built-in network for these images."""
    return parse_spec(f"{net}/3x32x32/100")


def load_base(net: str, bases: Path) -> nn.Module:
    """The dense base, trained on the public half only, its normalisation inside.

    Args:
        net: Name of a built-in network.
        bases: Where to look for bases that are not in ``../shared/models``.

    Raises:
        InputError: There is none.
    """
    name = f"{net}_cifar100.safetensors"
    path = next((path for path in (SHARED / "models" / name, bases / name) if path.exists()), None)
    if path is None:
        msg = f"no base for {net}: expected {name} in {SHARED / 'models'} or {bases}; make it with benchmarks/bases.py"
        raise InputError(msg)
    return with_normalisation(build(spec_of(net)), load_file(path))


def with_normalisation(model: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    """Fill a network from a bare state dict, and write the images' normalisation into it."""
    model.net.load_state_dict(weights)
    model.mean.copy_(torch.tensor(MEAN).reshape(1, 3, 1, 1))
    model.std.copy_(torch.tensor(STD).reshape(1, 3, 1, 1))
    return model.eval()
