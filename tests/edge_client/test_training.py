"""Training is repeatable, never loses what it held out for, and evaluation counts what it says."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.batches import HOLD_OUT_FROM, augment
from prunefleet_edge.data import Samples
from prunefleet_edge.evaluation import accuracy, losses, mean_loss
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.training import train

torch.set_num_threads(1)
RECIPE = Recipe(epochs=3, learning_rate=0.05, batch_size=16)


class Seen(nn.Module):
    """A small network that remembers the batches it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.batches.append(x.detach().clone())
        return self.fc(F.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))


def a_model() -> Seen:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Seen()


def some(num: int, seed: int = 0) -> Samples:
    """Images whose brightness says the class, more or less, and whose first pixel says which image it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 3
    images = torch.rand(num, 1, 6, 6, generator=generator) * 0.6 + labels[:, None, None, None] * 0.15
    images[:, 0, 0, 0] = torch.arange(num) / 1000
    return Samples(images, labels)


def noise(num: int) -> Samples:
    generator = torch.Generator().manual_seed(9)
    return Samples(torch.rand(num, 1, 6, 6, generator=generator), torch.randint(0, 3, (num,), generator=generator))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def images_seen(model: Seen) -> set[int]:
    return {round(float(image[0, 0, 0]) * 1000) for batch in model.batches for image in batch}


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    [RECIPE, replace(RECIPE, held_out_ratio=0.2, shift_pixels=1, flip=True, label_smoothing=0.1)],
    ids=["plain", "everything"],
)
def test_the_same_seed_gives_the_same_bits(recipe: Recipe) -> None:
    data = some(110)
    one, again, other = (weights(train(a_model(), data, recipe, seed)) for seed in (5, 5, 6))
    assert same(one, again)
    assert not same(one, other)


def test_the_global_generator_is_neither_used_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = weights(train(a_model(), some(40), replace(RECIPE, flip=True, shift_pixels=1), 5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(one, weights(train(a_model(), some(40), replace(RECIPE, flip=True, shift_pixels=1), 5)))


def test_training_learns_in_place_and_ends_in_eval_mode() -> None:
    model, data = a_model(), some(60)
    before = mean_loss(model, data)
    trained = train(model, data, replace(RECIPE, epochs=15), 1)
    assert trained is model
    assert not model.training
    assert mean_loss(model, data) < before / 2


def test_every_image_is_seen_once_an_epoch_and_the_epochs_are_told() -> None:
    model, told = a_model(), []
    train(model, some(50), RECIPE, 1, told.append)
    assert told == [1, 2, 3]
    assert [len(batch) for batch in model.batches] == [16, 16, 18] * 3
    order = [round(float(image[0, 0, 0]) * 1000) for batch in model.batches for image in batch]
    assert sorted(order[:50]) == sorted(order[50:100]) == list(range(50))
    assert order[:50] != order[50:100], "another order every epoch"


@pytest.mark.parametrize("learning_rate", [1e-4, 0.1, 30.0, 1e6])
def test_training_never_ends_with_a_worse_held_out_loss_than_it_began(learning_rate: float) -> None:
    """The held-out images are those the network never trained on; noise and a wild step size make it worse."""
    model, data = a_model(), noise(120)
    before = copy.deepcopy(model)
    train(model, data, Recipe(4, learning_rate, 16, held_out_ratio=0.25), 3)
    seen = torch.cat(model.batches).flatten(1)
    held_out = data[torch.tensor([not bool((image.flatten() == seen).all(dim=1).any()) for image in data.images])]
    assert len(held_out) == 30
    assert mean_loss(model, held_out) <= mean_loss(before, held_out)


def test_a_network_that_only_gets_worse_is_given_back_as_it_was() -> None:
    model, data = a_model(), some(150)
    train(model, data, replace(RECIPE, epochs=30), 1)
    good = weights(model)
    train(model, data, Recipe(4, 1e6, 16, held_out_ratio=0.25), 3)
    assert same(weights(model), good)


@pytest.mark.parametrize(("min_steps", "num_steps"), [(0, 6), (5, 6), (7, 8), (8, 8)])
def test_small_sets_are_passed_over_until_they_have_had_their_steps(min_steps: int, num_steps: int) -> None:
    model = a_model()
    train(model, some(24), Recipe(3, 0.05, 12, min_steps=min_steps), 1)
    assert len(model.batches) == num_steps


def test_training_stops_when_patience_is_over() -> None:
    told: list[int] = []
    train(a_model(), noise(120), Recipe(50, 1e6, 16, held_out_ratio=0.25, patience=3), 3, told.append)
    assert told == [1, 2, 3]


def test_without_hold_out_training_goes_to_the_end() -> None:
    told: list[int] = []
    train(a_model(), noise(120), Recipe(6, 1e-9, 16, patience=1), 3, told.append)
    assert told == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("num", "num_seen"), [(HOLD_OUT_FROM - 1, 99), (HOLD_OUT_FROM, 80)])
def test_under_100_images_nothing_is_held_out(num: int, num_seen: int) -> None:
    model = a_model()
    train(model, some(num), replace(RECIPE, epochs=2, held_out_ratio=0.2), 3)
    assert abs(len(images_seen(model)) - num_seen) <= 1


def test_what_is_held_out_stays_the_same_throughout() -> None:
    model = a_model()
    train(model, some(120), replace(RECIPE, epochs=6, held_out_ratio=0.5), 3)
    assert len(images_seen(model)) == 60


def test_classes_of_one_image_each_can_be_held_out_too() -> None:
    model = a_model()
    data = some(120)
    model.fc = nn.Linear(4, 120)
    train(model, Samples(data.images, torch.arange(120)), replace(RECIPE, epochs=1, held_out_ratio=0.25), 3)
    assert len(images_seen(model)) == 90


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 16, 32])
def test_batches_cover_everything_and_none_is_of_one_unless_all_must_be(batch_size: int) -> None:
    for num in range(1, 70):
        model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
        sizes: list[int] = []
        model.register_forward_hook(lambda _m, _i, output, sizes=sizes: sizes.append(len(output)))
        data = Samples(torch.zeros(num, 1, 1, 1), torch.zeros(num, dtype=torch.int64))
        train(model, data, Recipe(1, 0.1, batch_size), 0)
        assert sum(sizes) == num
        assert max(sizes) < max(2, 2 * batch_size)
        if num > 1 and batch_size > 1:
            assert min(sizes) >= 2


# --- augmentation ----------------------------------------------------------------------------------------------------


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Pixel (r, c) comes from (r + down, c + right); beyond an edge, the edge is repeated."""
    _, height, width = image.shape
    out = torch.empty_like(image)
    for r in range(height):
        for c in range(width):
            out[:, r, c] = image[:, min(max(r + down, 0), height - 1), min(max(c + right, 0), width - 1)]
    return out


IMAGES = torch.rand(40, 2, 5, 7, generator=torch.Generator().manual_seed(3))


def candidates(image: Tensor, recipe: Recipe) -> dict[tuple[bool, int, int], Tensor]:
    reach = range(-recipe.shift_pixels, recipe.shift_pixels + 1)
    flips = {False: image, True: image.flip(2)} if recipe.flip else {False: image}
    return {
        (m, down, right): shifted(base, down, right) for m, base in flips.items() for down in reach for right in reach
    }


@pytest.mark.parametrize(
    ("shift_pixels", "flip"), [(0, False), (0, True), (1, False), (2, True)], ids=["none", "flip", "shift", "both"]
)
def test_every_image_is_moved_as_a_whole_and_within_reach(shift_pixels: int, flip: bool) -> None:
    recipe = replace(RECIPE, shift_pixels=shift_pixels, flip=flip)
    moved = augment(IMAGES, recipe, torch.Generator().manual_seed(1))
    assert moved.shape == IMAGES.shape
    assert moved.dtype == torch.float32
    moves = []
    for image, result in zip(IMAGES, moved, strict=True):
        fitting = [move for move, image_moved in candidates(image, recipe).items() if torch.equal(image_moved, result)]
        assert len(fitting) == 1
        moves += fitting
    assert not shift_pixels or any(down != right for _, down, right in moves), "rows and columns move apart"
    mirrored, downs, rights = (set(part) for part in zip(*moves, strict=True))
    assert mirrored == ({False, True} if flip else {False})
    assert downs == rights == set(range(-shift_pixels, shift_pixels + 1)), "40 images reach every place"


def test_augmentation_follows_its_generator_and_leaves_the_images_alone() -> None:
    recipe = replace(RECIPE, shift_pixels=2, flip=True)
    before = IMAGES.clone()
    one, again, other = (augment(IMAGES, recipe, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(IMAGES, before)


def test_about_half_of_the_images_are_mirrored() -> None:
    images = torch.rand(1000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    moved = augment(images, replace(RECIPE, flip=True), torch.Generator().manual_seed(0))
    assert 440 <= int((moved != images).flatten(1).any(dim=1).sum()) <= 560


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_losses_and_accuracy_one_image_at_a_time() -> None:
    model, data = a_model(), some(23)
    model.train()
    found = losses(model, data)
    model.eval()
    expected, hits = [], 0
    with torch.no_grad():
        for image, label in zip(data.images, data.labels, strict=True):
            logits = model(image[None])[0].double()
            expected.append(float(torch.logsumexp(logits, 0) - logits[label]))
            hits += int(logits.argmax() == label)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    assert mean_loss(model, data) == pytest.approx(np.mean(expected), rel=1e-5)
    assert accuracy(model, data) == hits / 23
    assert accuracy(model, data, batch_size=4) == hits / 23
    assert 0 < hits < 23


@pytest.mark.parametrize("evaluate", [losses, mean_loss, accuracy])
def test_evaluation_is_in_eval_mode_and_changes_no_weight(evaluate: object) -> None:
    model, data = a_model().train(), some(10)
    before = weights(model)
    evaluate(model, data)
    assert not model.training
    assert same(before, weights(model))
    assert model.batches == []
