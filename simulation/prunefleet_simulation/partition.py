"""Who gets which images: non-IID splits of a labelled pool over devices, disjoint, drawn from a generator."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from prunefleet_edge.data import LabelArray
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.masks import IntArray

Partition = Callable[[LabelArray, int, np.random.Generator], list[IntArray]]


def parse_partition(text: str) -> Partition:
    """Read ``classes``, ``classes:K`` or ``dirichlet:ALPHA``.

    Raises:
        ConfigError: None of these, or a number out of range.
    """
    classes = re.fullmatch(r"classes(?::(\d+))?", text)
    if classes and int(classes[1] or 5) >= 2:
        per_device = int(classes[1] or 5)
        return lambda labels, num_devices, rng: by_classes(labels, num_devices, per_device, rng)
    dirichlet = re.fullmatch(r"dirichlet:(\d*\.?\d+)", text)
    if dirichlet and float(dirichlet[1]) > 0:
        alpha = float(dirichlet[1])
        return lambda labels, num_devices, rng: by_dirichlet(labels, num_devices, alpha, rng)
    msg = f"partition {text!r} is unknown; expected classes, classes:K (K >= 2 per device) or dirichlet:ALPHA (> 0)"
    raise ConfigError(msg)


def by_classes(labels: LabelArray, num_devices: int, per_device: int, rng: np.random.Generator) -> list[IntArray]:
    """Each device gets ``per_device`` classes; classes are dealt evenly and a class's images shared by its holders."""
    all_classes = np.unique(labels)
    held = _deal(all_classes, num_devices, min(per_device, len(all_classes)), rng)
    parts: list[list[IntArray]] = [[] for _ in range(num_devices)]
    for label in all_classes:
        holders = [device for device in range(num_devices) if label in held[device]]
        index = rng.permutation(np.flatnonzero(labels == label))
        for device, part in zip(holders, np.array_split(index, max(1, len(holders))), strict=False):
            parts[device].append(part)
    return [rng.permutation(np.concatenate(part)) for part in parts]


def _deal(classes: IntArray, num_devices: int, per_device: int, rng: np.random.Generator) -> list[set[int]]:
    """Deal distinct classes to each device from shuffled decks, so that holders per class differ by one at most."""
    times_held = dict.fromkeys((int(label) for label in classes), 0)
    held = []
    for _ in range(num_devices):
        order = sorted(times_held, key=lambda label: (times_held[label], rng.random()))
        held.append(set(order[:per_device]))
        for label in order[:per_device]:
            times_held[label] += 1
    return held


def by_dirichlet(labels: LabelArray, num_devices: int, alpha: float, rng: np.random.Generator) -> list[IntArray]:
    """Each class is split over devices in proportions drawn from Dirichlet(``alpha``) (Hsu et al. 2019)."""
    parts: list[list[IntArray]] = [[] for _ in range(num_devices)]
    for label in np.unique(labels):
        index = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum(rng.dirichlet([alpha] * num_devices))[:-1] * len(index)
        for device, part in enumerate(np.split(index, cuts.astype(np.int64))):
            parts[device].append(part)
    return [rng.permutation(np.concatenate(part)) for part in parts]
