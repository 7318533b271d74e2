"""The votes that benchmarks/attacks.py attacks: made by the product's own code, once, and kept outside the repository.

A *device* has 8 private images of each of 10 classes drawn at random. A *shadow* is the attacker's own copy of such a
device, with public images. Both fine-tune ResNet-20 for a few steps, score its channels by Taylor saliency and vote.
*Gradients* are what the attacker can compute for any image it has: the base's squared gate gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from cifar100 import load_base, load_cifar100, spec_of
from result_file import cache_folder
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.data import Samples
from prunefleet_edge.gating import sample_gates
from prunefleet_edge.ranking import per_cost
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.work import WorkOptions, dense_copy, scores_to_vote, traced_as_asked, vote_scores
from prunefleet_shared.campaign import PLAIN, Campaign, CohortPolicy, PrivacyTerms
from prunefleet_shared.documents import digest
from prunefleet_shared.layout import NUM_WIDTH_OPTIONS
from prunefleet_shared.masks import NUM_MASKS, FloatArray, IntArray, grade_layout
from prunefleet_shared.testing import COORDINATOR_PUBLIC, TRAINER_PUBLIC
from prunefleet_trainer.campaign_files import describe_base, make_campaign

NET, LEVELS_PERMILLE = "resnet20", (500, 300)
NUM_CLASSES = 100
GRADIENT_BATCH = 50
HALF_GRADE = (NUM_MASKS + 1) // 2
"""Channels of at least this grade are in the middle one of the nested masks, which keeps half of a group."""


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """What every device of the benchmark is like.

    Attributes:
        classes: Classes it sees, drawn at random.
        per_class: Images of each.
        epochs: Passes of fine-tuning before it scores.
        batch_size: Images of a step.
        learning_rate: Peak.
        seed: Of everything.
    """

    classes: int = 10
    per_class: int = 8
    epochs: int = 6
    batch_size: int = 20
    learning_rate: float = 0.005
    seed: int = 1

    @property
    def recipe(self) -> Recipe:
        """How it fine-tunes."""
        return Recipe(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            shift_pixels=4,
            flip=True,
            is_channels_last=True,
        )


@dataclass(frozen=True, slots=True)
class Votes:
    """Votes of N devices; C channels, L levels, G groups.

    Attributes:
        grades_NC: Graded masks, 0..7.
        options_NLG: Width votes, indices of options.
        scores_NC: What was voted by, Taylor saliency per cost; never leaves a device.
        labels_NI: Class of each image.
        images_NI: Where the images are in their half of CIFAR-100.
    """

    grades_NC: IntArray
    options_NLG: IntArray
    scores_NC: FloatArray
    labels_NI: IntArray
    images_NI: IntArray

    def __len__(self) -> int:
        return len(self.grades_NC)

    @property
    def presence(self) -> npt.NDArray[np.bool_]:
        """True where a device has images of a class, bool [N, 100]."""
        return classes_present(self.labels_NI)

    def masks(self, is_one_bit: bool) -> IntArray:
        """Graded masks, or those of half of each group, int64 [N, C]."""
        return (self.grades_NC >= HALF_GRADE).astype(np.int64) if is_one_bit else self.grades_NC

    def lanes(self, is_one_bit: bool) -> IntArray:
        """The vectors that cross the wire, int64 [N, lanes]: masks, then widths."""
        widths = np.eye(NUM_WIDTH_OPTIONS, dtype=np.int64)[self.options_NLG]
        return np.concatenate([self.masks(is_one_bit), widths.reshape(len(self), -1)], axis=1)


def classes_present(labels_NI: IntArray) -> npt.NDArray[np.bool_]:
    """Which classes are among each row's labels, bool [N, 100]."""
    found_NK = np.zeros((len(labels_NI), NUM_CLASSES), dtype=np.bool_)
    np.put_along_axis(found_NK, labels_NI, values=True, axis=1)
    return found_NK


class World:
    """The base, its campaign, and the votes and gradients that are made from them; slow things are kept on disk."""

    def __init__(self, kind: DeviceKind) -> None:
        self.kind = kind
        model = load_base(NET, cache_folder())
        self._files = describe_base(spec_of(NET), model)
        self.campaign = _campaign_of(self._files)
        name = digest(f"{asdict(kind)} {LEVELS_PERMILLE} {self.campaign.base_digest}".encode())[:16]
        self.folder = cache_folder() / f"attacks-{name}"

    @property
    def base(self) -> bytes:
        """The base's weights, safetensors."""
        return self._files.weights

    def votes(self, half: str, num_devices: int) -> Votes:
        """Votes of the first ``num_devices`` devices of the ``private`` or ``public`` half."""
        rows = [self.vote(half, index) for index in range(num_devices)]
        return Votes(**{name: np.stack([row[name] for row in rows]) for name in Votes.__slots__})

    def vote(self, half: str, index: int) -> dict[str, npt.NDArray[np.generic]]:
        """One device's row of :class:`Votes`; takes seconds when it is not there yet."""
        return self.kept(f"{half}-{index:04d}", lambda: self._vote(half, index))

    def _vote(self, half: str, index: int) -> dict[str, npt.NDArray[np.generic]]:
        samples: Samples = getattr(load_cifar100(), half)
        images = draw_images(samples, self.kind, np.random.default_rng([self.kind.seed, half == "public", index]))
        own = samples[torch.from_numpy(images)]
        options = WorkOptions(self.kind.recipe, seed=index)
        dense = dense_copy(self.campaign, self._files.weights, own, options)
        scores = vote_scores(self.campaign, dense, own)
        vote = scores_to_vote(self.campaign, scores)
        arrays = (vote.grades_C, vote.options_LG, scores, own.labels.numpy(), images)
        return dict(zip(Votes.__slots__, arrays, strict=True))

    def gradients(self, name: str, half: str, images: IntArray) -> tuple[FloatArray, IntArray]:
        """The base's squared gate gradients of some images (float64 [N, C]), and their labels."""
        found = self.kept(f"gradients-{name}", lambda: self._gradients(getattr(load_cifar100(), half), images))
        return found["squares_NC"].astype(np.float64), found["labels_N"].astype(np.int64)

    def _gradients(self, samples: Samples, images: IntArray) -> dict[str, npt.NDArray[np.generic]]:
        chosen, model = samples[torch.from_numpy(images)], load_base(NET, cache_folder())
        traced, parts = traced_as_asked(self.campaign, model), []
        model.requires_grad_(requires_grad=False)  # after tracing, which follows gradients
        for start in range(0, len(chosen), GRADIENT_BATCH):
            part = chosen[slice(start, start + GRADIENT_BATCH)]
            with sample_gates(model, traced, len(part)) as gates:
                F.cross_entropy(model(part.images), part.labels, reduction="sum").backward()
                per_group = [
                    sum(gates[index, name].grad for name in sorted(group.gates)).square()
                    for index, group in enumerate(traced.groups)
                ]
                parts.append(torch.cat(per_group, dim=1))
        return {"squares_NC": torch.cat(parts).numpy(), "labels_N": chosen.labels.numpy()}

    def grades_of_squares(self, squares_NC: FloatArray) -> IntArray:
        """Graded masks of devices whose mean squared gradients these are."""
        layout = self.campaign.layout
        per_channel_C = per_cost(layout, self.campaign.cost_table, np.ones(layout.num_channels))
        return np.stack([grade_layout(layout, row) for row in np.sqrt(squares_NC) * per_channel_C])

    def kept(self, name: str, make: Callable[[], dict[str, npt.NDArray[np.generic]]]) -> dict[str, npt.NDArray]:
        """What is kept under that name, made when it is not there yet."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, make())
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}


def _write(path: Path, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    part.replace(path)


def _campaign_of(files: object) -> Campaign:
    return make_campaign(
        files,  # type: ignore[arg-type]
        campaign_id=digest(b"attacks")[:32],
        device_class="camera",
        levels_permille=LEVELS_PERMILLE,
        cohort=CohortPolicy(size=8, quorum=8, deadline_ms=60_000),
        decision_key=COORDINATOR_PUBLIC,
        slim_base_key=TRAINER_PUBLIC,
        privacy=PrivacyTerms(PLAIN, min_devices=8),
    )


def draw_images(samples: Samples, kind: DeviceKind, rng: np.random.Generator) -> IntArray:
    """Indices of one device's images: ``per_class`` of each of ``classes`` classes."""
    labels = samples.labels.numpy()
    chosen = rng.choice(NUM_CLASSES, kind.classes, replace=False)
    return np.concatenate([some_of_class(labels, int(label), kind.per_class, rng) for label in chosen])


def some_of_class(labels: IntArray, label: int, num: int, rng: np.random.Generator) -> IntArray:
    """Indices of ``num`` images of one class."""
    return rng.choice(np.flatnonzero(labels == label), num, replace=False)


def of_every_class(labels: IntArray, num: int, classes: Sequence[int], seed: int) -> IntArray:
    """Indices of ``num`` images of each class, class by class."""
    rng = np.random.default_rng(seed)
    return np.concatenate([some_of_class(labels, label, num, rng) for label in classes])
