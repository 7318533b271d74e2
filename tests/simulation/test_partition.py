"""Splits: nothing is given twice, nothing is lost, and the generator alone decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunefleet_edge.data import LabelArray
from prunefleet_shared.masks import IntArray
from prunefleet_simulation.partition import by_classes, by_dirichlet, parse_partition

LABELS = np.random.default_rng(0).integers(0, 10, 600)


def labels_of(seed: int, num: int, num_classes: int) -> LabelArray:
    return np.random.default_rng(seed).integers(0, num_classes, num)


def disjoint(parts: list[IntArray]) -> bool:
    every = np.concatenate(parts)
    return len(every) == len(np.unique(every))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num=st.integers(1, 200),
    num_classes=st.integers(1, 12),
    num_devices=st.integers(2, 15),
    per_device=st.integers(2, 14),
)
def test_classes_are_dealt_without_loss_or_repetition(
    seed: int, num: int, num_classes: int, num_devices: int, per_device: int
) -> None:
    labels = labels_of(seed, num, num_classes)
    parts = by_classes(labels, num_devices, per_device, np.random.default_rng(seed))
    assert len(parts) == num_devices
    assert disjoint(parts)
    assert all(len(np.unique(labels[part])) <= per_device for part in parts)
    held = np.unique(labels[np.concatenate(parts)])
    present = np.unique(labels)
    if num_devices * min(per_device, len(present)) >= len(present):
        assert sorted(np.concatenate(parts)) == list(range(num)), "every image has a device"
    else:  # fewer hands than classes: what is handed out at all is handed out whole
        assert len(np.concatenate(parts)) == np.isin(labels, held).sum()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num=st.integers(1, 200),
    num_classes=st.integers(1, 12),
    num_devices=st.integers(2, 15),
    alpha=st.sampled_from([0.001, 0.1, 1.0, 100.0]),
)
def test_dirichlet_gives_every_image_to_one_device(
    seed: int, num: int, num_classes: int, num_devices: int, alpha: float
) -> None:
    labels = labels_of(seed, num, num_classes)
    parts = by_dirichlet(labels, num_devices, alpha, np.random.default_rng(seed))
    assert len(parts) == num_devices
    assert sorted(np.concatenate(parts)) == list(range(num))
    for label in range(num_classes):
        assert sum(int((labels[part] == label).sum()) for part in parts) == int((labels == label).sum())


@pytest.mark.parametrize(("num_devices", "per_device"), [(10, 5), (4, 2), (7, 3), (10, 10)])
def test_each_device_has_its_classes_and_each_class_about_as_many_devices(num_devices: int, per_device: int) -> None:
    parts = by_classes(LABELS, num_devices, per_device, np.random.default_rng(1))
    classes = [set(LABELS[part].tolist()) for part in parts]
    assert {len(held) for held in classes} == {per_device}
    holders = [sum(label in held for held in classes) for label in range(10)]
    assert max(holders) - min(holders) <= 1


def test_a_class_is_shared_evenly_by_its_holders() -> None:
    parts = by_classes(LABELS, 10, 5, np.random.default_rng(1))
    for label in range(10):
        sizes = [int((LABELS[part] == label).sum()) for part in parts if label in LABELS[part]]
        assert max(sizes) - min(sizes) <= 1


def test_a_small_alpha_is_more_lopsided_than_a_large_one() -> None:
    def spread(alpha: float) -> float:
        parts = by_dirichlet(LABELS, 6, alpha, np.random.default_rng(2))
        return float(np.std([[(LABELS[part] == label).sum() for part in parts] for label in range(10)]))

    assert spread(0.1) > 3 * spread(100.0)


@pytest.mark.parametrize("text", ["classes", "classes:3", "dirichlet:0.3"])
def test_the_generator_alone_decides(text: str) -> None:
    split = parse_partition(text)
    one, again, other = (split(LABELS, 8, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert any(a.tolist() != b.tolist() for a, b in zip(one, other, strict=True))


def test_the_number_after_the_colon_counts() -> None:
    parts = parse_partition("classes:3")(LABELS, 8, np.random.default_rng(0))
    assert {len(np.unique(LABELS[part])) for part in parts} == {3}
    assert {
        len(np.unique(LABELS[part])) for part in parse_partition("classes")(LABELS, 8, np.random.default_rng(0))
    } == {5}
