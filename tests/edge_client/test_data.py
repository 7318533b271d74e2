"""What is refused as data, in words that say what to mend; and how data are split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunefleet_edge.data import Samples, check_images, check_trainable, stratified_halves
from prunefleet_shared.errors import InputError

NUM, CLASSES = 6, 3
LABELS = np.arange(NUM) % CLASSES
BYTES = np.random.default_rng(0).integers(0, 256, (NUM, 4, 5, 3), dtype=np.uint8)
FLOATS = BYTES.astype(np.float32) / 255


def with_value(value: float) -> np.ndarray:
    images = FLOATS.copy()
    images[2, 1, 1, 0] = value
    return images


# --- what is read ----------------------------------------------------------------------------------------------------


def test_bytes_become_unit_floats_channels_first() -> None:
    samples = check_images(BYTES, LABELS, CLASSES)
    assert samples.images.shape == (NUM, 3, 4, 5)
    assert samples.images.dtype == torch.float32
    assert samples.labels.dtype == torch.int64
    for n, row, column, channel in ((0, 0, 0, 0), (5, 3, 4, 2), (2, 1, 3, 1)):
        assert samples.images[n, channel, row, column].item() == pytest.approx(BYTES[n, row, column, channel] / 255)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_they_are(dtype: type) -> None:
    images = FLOATS.astype(dtype)
    samples = check_images(images, LABELS.astype(np.uint8), CLASSES)
    np.testing.assert_array_equal(samples.images.numpy(), images.astype(np.float32).transpose(0, 3, 1, 2))


def test_lists_and_one_channel_are_fine() -> None:
    samples = check_images([[[[0.0]], [[1.0]]]], [0], 1)
    assert samples.images.shape == (1, 1, 2, 1)


def test_what_was_read_is_a_copy() -> None:
    images, labels = FLOATS.copy(), LABELS.copy()
    samples = check_images(images, labels, CLASSES)
    images[:], labels[:] = 0, 0
    assert samples.images.max() > 0
    assert samples.labels.max() > 0


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (BYTES[:0], LABELS[:0], "there are no samples"),
        (BYTES[0], LABELS, r"expected images of shape \(N, H, W, 1 or 3\), got \(4, 5, 3\)"),
        (BYTES.transpose(0, 3, 1, 2), LABELS, r"expected images of shape .*, got \(6, 3, 4, 5\)"),
        (BYTES[..., :2], LABELS, r"1 or 3\), got \(6, 4, 5, 2\)"),
        (FLOATS[:, :0], LABELS, r"expected images of shape .*, got \(6, 0, 5, 3\)"),
        ([], [], r"expected images of shape .*, got \(0,\)"),
        (BYTES, LABELS[:-1], r"expected 6 integer labels, got int64 of shape \(5,\)"),
        (BYTES, LABELS[:, None], r"expected 6 integer labels, got int64 of shape \(6, 1\)"),
        (BYTES, LABELS.astype(np.float64), r"expected 6 integer labels, got float64"),
        (BYTES, LABELS.astype(bool), r"expected 6 integer labels, got bool"),
        (BYTES, LABELS.astype(str), r"expected 6 integer labels, got <U"),
        (BYTES, LABELS - 1, r"labels must lie in 0\.\.2, got -1\.\.1"),
        (BYTES, LABELS + 1, r"labels must lie in 0\.\.2, got 1\.\.3"),
        (BYTES.astype(np.int64), LABELS, "expected uint8 or float images, got int64"),
        (BYTES.astype(object), LABELS, "expected uint8 or float images, got object"),
        (FLOATS.astype(np.complex64), LABELS, "expected uint8 or float images, got complex64"),
        (with_value(np.nan), LABELS, "NaN or infinity; mend or drop them"),
        (with_value(np.inf), LABELS, "NaN or infinity; mend or drop them"),
        (with_value(1.01), LABELS, r"float images must lie in \[0, 1\]"),
        (with_value(-0.01), LABELS, r"float images must lie in \[0, 1\]"),
        (BYTES.astype(np.float32), LABELS, r"float images must lie in \[0, 1\]"),
    ],
)
def test_unusable_data_are_refused_by_name(images: np.ndarray, labels: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=f"^camera 7: .*{words}"):
        check_images(images, labels, CLASSES, "camera 7")


def samples_of(labels: list[int]) -> Samples:
    return Samples(torch.zeros(len(labels), 1, 2, 2), torch.tensor(labels))


def test_too_few_images_cannot_be_learned_from() -> None:
    with pytest.raises(InputError, match="mine: expected at least 8 images to fine-tune on, got 7"):
        check_trainable(samples_of([0, 1] * 3 + [0]), "mine")
    check_trainable(samples_of([0, 1] * 4), "mine")
    check_trainable(samples_of([0, 1]), "mine", min_samples=2)


def test_no_images_cannot_be_learned_from() -> None:
    with pytest.raises(InputError, match="at least 8 images to fine-tune on, got 0"):
        check_trainable(samples_of([]))


def test_one_class_cannot_be_learned_from() -> None:
    with pytest.raises(InputError, match="mine: all images are of one class; fine-tuning needs at least two"):
        check_trainable(samples_of([3] * 20), "mine")


# --- splits ----------------------------------------------------------------------------------------------------------


def labels_of(counts: dict[int, int]) -> torch.Tensor:
    labels = torch.tensor([label for label, count in counts.items() for _ in range(count)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(8))]


def halves(labels: torch.Tensor, seed: int = 1, ratio: float = 0.5) -> tuple[list[int], list[int]]:
    first, second = stratified_halves(labels, torch.Generator().manual_seed(seed), ratio)
    return first.tolist(), second.tolist()


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.5, 0.75, 0.9])
def test_halves_are_disjoint_cover_everything_and_both_hold_every_class(ratio: float) -> None:
    counts = {0: 2, 1: 3, 2: 10, 5: 40, 7: 1, 8: 1}
    labels = labels_of(counts)
    first, second = halves(labels, ratio=ratio)
    assert sorted(first + second) == list(range(len(labels)))
    for label, count in counts.items():
        shares = [sum(int(labels[i]) == label for i in part) for part in (first, second)]
        assert sum(shares) == count
        if count >= 2:
            assert min(shares) >= 1
            assert abs(shares[0] - count * ratio) <= 1


def test_classes_of_one_image_are_shared_out_between_the_halves() -> None:
    first, second = halves(torch.arange(8))
    assert len(first) == len(second) == 4
    first, second = halves(torch.arange(8), ratio=0.75)
    assert len(first) == 6


def test_halves_follow_the_seed() -> None:
    labels = labels_of({0: 20, 1: 20})
    assert halves(labels, seed=1) == halves(labels, seed=1)
    assert halves(labels, seed=1) != halves(labels, seed=2)


def test_samples_are_indexed_together() -> None:
    samples = check_images(BYTES, LABELS, CLASSES)
    part = samples[torch.tensor([4, 1])]
    assert len(part) == 2
    assert torch.equal(part.images, samples.images[[4, 1]])
    assert part.labels.tolist() == [LABELS[4], LABELS[1]]
