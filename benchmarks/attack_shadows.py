"""What the attacker makes of public images without training: their gradients, and thousands of made-up devices.

A made-up device never fine-tunes: its scores are mean squared gate gradients of the base, which are computed once for
each image. So it is free, and votes a little differently from a real one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from attack_votes import NUM_CLASSES, Votes, World, of_every_class
from cifar100 import load_cifar100

from prunefleet_edge.ranking import per_cost
from prunefleet_edge.work import scores_to_vote
from prunefleet_shared.masks import FloatArray, IntArray

BANK_PER_CLASS, NUM_MADE_UP = 40, 6000


@dataclass(frozen=True, slots=True)
class Bank:
    """The attacker's public images: squared gate gradients (float64 [N, C]) and classes."""

    squares_NC: FloatArray
    labels_N: IntArray

    @property
    def class_means(self) -> FloatArray:
        """Mean squares of each class, float64 [100, C]."""
        return np.stack([self.squares_NC[self.labels_N == label].mean(axis=0) for label in range(NUM_CLASSES)])


def public_bank(world: World) -> Bank:
    """Gradients of public images, as many of each class."""
    labels = load_cifar100().public.labels.numpy()
    images = of_every_class(labels, BANK_PER_CLASS, range(NUM_CLASSES), seed=0)
    return Bank(*world.gradients(f"bank-{BANK_PER_CLASS}", "public", images))


def made_up_votes(world: World, bank: Bank) -> Votes:
    """Votes of :data:`NUM_MADE_UP` devices with public images of as many classes as a real one has."""
    name = f"made-up-{BANK_PER_CLASS}-{NUM_MADE_UP}"
    return Votes(**world.kept(name, lambda: _made_up(world, bank)))


def _made_up(world: World, bank: Bank) -> dict[str, npt.NDArray[np.generic]]:
    rng = np.random.default_rng(0)
    of_class = [np.flatnonzero(bank.labels_N == label) for label in range(NUM_CLASSES)]
    chosen = [rng.choice(NUM_CLASSES, world.kind.classes, replace=False) for _ in range(NUM_MADE_UP)]
    images_NI = np.array(
        [
            np.concatenate([rng.choice(of_class[label], world.kind.per_class, replace=False) for label in classes])
            for classes in chosen
        ]
    )
    layout = world.campaign.layout
    per_channel_C = per_cost(layout, world.campaign.cost_table, np.ones(layout.num_channels))
    scores_NC = np.stack([np.sqrt(bank.squares_NC[own].mean(axis=0)) for own in images_NI]) * per_channel_C
    votes = [scores_to_vote(world.campaign, scores) for scores in scores_NC]
    arrays = (
        np.stack([vote.grades_C for vote in votes]),
        np.stack([vote.options_LG for vote in votes]),
        scores_NC,
        bank.labels_N[images_NI],
        images_NI,
    )
    return dict(zip(Votes.__slots__, arrays, strict=True))
