"""What one vote says about its device's images: which classes they are of, and whether one image is among them.

The attacker is the coordinator: it knows the base and the public half, and reads a device's vote (as in privacy mode
``plain``), or the exact sum of a cohort. It never sees a private image, but for the candidate of the last attack.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from attack_shadows import Bank, made_up_votes, public_bank
from attack_statistics import Task, auc
from attack_votes import HALF_GRADE, NUM_CLASSES, Votes, World, of_every_class
from cifar100 import load_cifar100
from result_file import Row

from prunefleet_shared.masks import BoolArray, FloatArray, IntArray

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
COHORTS = (1, 8, 32, 100)
COHORT_DRAWS = 400
ATTACKS = ("profiles", "shadows", "made_up")
Attack = Callable[[FloatArray], FloatArray]
"""From vectors as they cross the wire (means of a cohort's, float64 [N, lanes]) to class scores [N, 100]."""


# --- which classes ----------------------------------------------------------------------------------------------------


def class_tasks(world: World, devices: Votes, shadows: Votes) -> Iterator[Task]:
    """Hit rate of the ten best guesses (chance 0.1) and AUC, for each form of vote, attack and size of cohort."""

    @functools.cache
    def fitted(is_one_bit: bool) -> dict[str, Attack]:
        return attacks(world, shadows, public_bank(world), is_one_bit)

    def measures(name: str, is_one_bit: bool, size: int) -> Row:
        lanes_NF = devices.lanes(is_one_bit).astype(np.float64)
        return _class_measures(fitted(is_one_bit)[name], lanes_NF, devices.presence, size)

    sizes = [size for size in COHORTS if size <= len(devices)]
    for is_one_bit, name, size in itertools.product((False, True), ATTACKS, sizes):
        vote = "one_bit" if is_one_bit else "graded"
        key = {"attack": f"classes_{name}", "vote": vote, "cohort": size}
        yield key, functools.partial(measures, name, is_one_bit, size)


def _class_measures(attack: Attack, lanes_NF: FloatArray, presence_NK: BoolArray, size: int) -> Row:
    if size == 1:
        scores_NK = attack(lanes_NF)
        hits = hit_rates(scores_NK, presence_NK)
        found = [auc(s[p], s[~p]) for s, p in zip(scores_NK.T, presence_NK.T, strict=True) if p.any()]
        facts = {"class_auc": round(float(np.mean(found)), 4), "class_auc_of_best": round(float(np.max(found)), 4)}
    else:
        hits, facts = _cohort_hits(attack, lanes_NF, presence_NK, size), {}
    return {
        "hit_rate": round(float(hits.mean()), 4),
        "hit_rate_se": round(float(hits.std(ddof=1) / np.sqrt(len(hits))), 4),
        **facts,
    }


def _cohort_hits(attack: Attack, lanes_NF: FloatArray, presence_NK: BoolArray, size: int) -> FloatArray:
    """Hit rate for a member of a cohort, from the cohort's exact sum; cohorts are drawn from the same devices."""
    rng = np.random.default_rng(size)
    members = np.stack([rng.choice(len(lanes_NF), size, replace=False) for _ in range(COHORT_DRAWS)])
    scores_TK = attack(np.stack([lanes_NF[chosen].mean(axis=0) for chosen in members]))
    return hit_rates(scores_TK, presence_NK[members[:, 0]])


def hit_rates(scores_NK: FloatArray, presence_NK: BoolArray) -> FloatArray:
    """Share of the best guesses that are right, guessing as many classes as a device has."""
    num = int(presence_NK[0].sum())
    best = np.argsort(-scores_NK, axis=1, kind="stable")[:, :num]
    return np.take_along_axis(presence_NK, best, axis=1).mean(axis=1)


def attacks(world: World, shadows: Votes, bank: Bank, is_one_bit: bool) -> dict[str, Attack]:
    """Attacks by name: likeness to a class's profile, what shadow devices teach, what made-up devices teach."""
    shadow_NF = shadows.lanes(is_one_bit).astype(np.float64)
    return {
        "profiles": _profile_attack(world, bank, shadow_NF, is_one_bit),
        "shadows": _shadow_attack(shadow_NF, shadows.presence),
        "made_up": _made_up_attack(made_up_votes(world, bank), shadow_NF, shadows.presence, is_one_bit),
    }


def _profile_attack(world: World, bank: Bank, shadow_NF: FloatArray, is_one_bit: bool) -> Attack:
    """Likeness (correlation over channels) of a vote's departure from the usual to each class's own."""
    grades_KC = world.grades_of_squares(bank.class_means)
    profiles_KC = (grades_KC >= HALF_GRADE if is_one_bit else grades_KC).astype(np.float64)
    profiles_KC -= profiles_KC.mean(axis=0)
    profiles_KC /= np.linalg.norm(profiles_KC, axis=1, keepdims=True)
    usual_C = shadow_NF.mean(axis=0)[: profiles_KC.shape[1]]
    return lambda lanes: (lanes[:, : len(usual_C)] - usual_C) @ profiles_KC.T


def _shadow_attack(shadow_NF: FloatArray, presence_NK: BoolArray) -> Attack:
    """Ridge regression from a shadow device's vote to its classes, with the best penalty leaving one out."""
    standardised = _Standardised(shadow_NF)
    inputs = standardised(shadow_NF)
    targets = presence_NK - presence_NK.mean(axis=0)

    def left_out(ridge: float) -> FloatArray:
        inverse = np.linalg.inv(_gram(inputs, inputs) + ridge * np.eye(len(inputs)))
        return targets - inverse @ targets / np.diag(inverse)[:, None]

    best = max(RIDGES, key=lambda ridge: hit_rates(left_out(ridge), presence_NK).mean())
    weights = np.linalg.solve(_gram(inputs, inputs) + best * np.eye(len(inputs)), targets)
    return lambda lanes: _gram(standardised(lanes), inputs) @ weights


def _made_up_attack(made_up: Votes, shadow_NF: FloatArray, presence_NK: BoolArray, is_one_bit: bool) -> Attack:
    """Ridge regression on made-up devices; real votes are centred and scaled as the shadows' are.

    The penalty is the one with the best hit rate on the shadow devices.
    """
    made_up_NF = made_up.lanes(is_one_bit).astype(np.float64)
    inputs = _Standardised(made_up_NF)(made_up_NF)
    targets = made_up.presence - made_up.presence.mean(axis=0)
    covariance, cross = inputs.T @ inputs / len(inputs), inputs.T @ targets / len(inputs)
    standardised = _Standardised(shadow_NF)

    def weights(ridge: float) -> FloatArray:
        return np.linalg.solve(covariance + ridge * np.eye(len(covariance)), cross)

    shadow_inputs = standardised(shadow_NF)
    best = max(RIDGES, key=lambda ridge: hit_rates(shadow_inputs @ weights(ridge), presence_NK).mean())
    chosen = weights(best)
    return lambda lanes: standardised(lanes) @ chosen


class _Standardised:
    """Centres and scales lanes as those it was made from; a lane that hardly varies is not blown up."""

    def __init__(self, lanes_NF: FloatArray) -> None:
        self._mean, self._std = lanes_NF.mean(axis=0), lanes_NF.std(axis=0) + 0.1

    def __call__(self, lanes_NF: FloatArray) -> FloatArray:
        return (lanes_NF - self._mean) / self._std


def _gram(a: FloatArray, b: FloatArray) -> FloatArray:
    return a @ b.T / a.shape[1]


# --- is this image among them -----------------------------------------------------------------------------------------


def image_tasks(world: World, devices: Votes, shadows: Votes, num_devices: int) -> Iterator[Task]:
    """AUC for "image x is one of the device's", against images that no network has seen; mean over devices."""
    victims = range(min(num_devices, len(devices)))

    def measures(against: str) -> Row:
        bank, test = public_bank(world), _test_images(world)
        members = [world.gradients(f"device-{index:04d}", "private", devices.images_NI[index]) for index in victims]
        found = [_image_auc(world, devices, shadows, bank, index, members[index], test, against) for index in victims]
        return {
            "auc": round(float(np.mean(found)), 4),
            "auc_se": round(float(np.std(found, ddof=1) / np.sqrt(len(found))), 4),
        }

    for against in ("same_classes", "any_classes"):
        key = {"attack": f"image_{against}", "vote": "graded", "cohort": 1}
        yield key, functools.partial(measures, against)


def _test_images(world: World) -> tuple[FloatArray, IntArray]:
    per_class, labels = world.kind.per_class, load_cifar100().test.labels.numpy()
    chosen = of_every_class(labels, per_class, range(NUM_CLASSES), seed=1)
    return world.gradients(f"test-{per_class}", "test", chosen)


def _image_auc(
    world: World,
    devices: Votes,
    shadows: Votes,
    bank: Bank,
    index: int,
    members: tuple[FloatArray, IntArray],
    test: tuple[FloatArray, IntArray],
    against: str,
) -> float:
    """The attacker knows which classes the device has, so that only the image itself can tell (``same_classes``).

    A device's ranking follows its mean squared gradients: an image lifts the channels where its own squares are above
    the device's mean. The score is how well that lift agrees with what the vote has beyond its classes' mean.
    """
    classes = np.flatnonzero(devices.presence[index])
    class_means_KC = bank.class_means
    mixture_C = class_means_KC[classes].mean(axis=0)
    expected_C = (
        world.grades_of_squares(mixture_C[None])[0] - world.grades_of_squares(class_means_KC.mean(axis=0)[None])[0]
    )
    surprise_C = devices.grades_NC[index] - shadows.grades_NC.mean(axis=0) - expected_C

    def scores(squares_NC: FloatArray, labels_N: IntArray) -> FloatArray:
        usual = class_means_KC[labels_N] if against == "same_classes" else mixture_C
        lift = np.log((squares_NC + mixture_C) / (usual + mixture_C))
        return (lift - lift.mean(axis=1, keepdims=True)) @ surprise_C

    chosen = np.isin(test[1], classes) if against == "same_classes" else slice(None)
    return auc(scores(*members), scores(test[0][chosen], test[1][chosen]))
