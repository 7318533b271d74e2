"""Training on public data: the base, its normalisation, and the slim base of a decision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from prunefleet_edge.data import Samples
from prunefleet_edge.evaluation import accuracy, mean_loss
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.pruning import slim
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.tracing import trace
from prunefleet_edge.work import load_weights, save_weights
from prunefleet_shared.errors import ConfigError, InputError, LayoutError
from prunefleet_shared.masks import BoolArray
from prunefleet_trainer.public import fresh, labelled_by, read_base, retrain_slim_base, set_normalisation, train_base

torch.set_num_threads(1)
TEXT = "resnet8/1x8x8/4"
SPEC = parse_spec(TEXT)
RECIPE = Recipe(epochs=3, learning_rate=0.05, batch_size=16)


def public(num: int = 48) -> Samples:
    labels = torch.arange(num) % 4
    images = torch.rand(num, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5
    return Samples(images + labels[:, None, None, None] / 8, labels)


def half_masks() -> list[BoolArray]:
    return [np.arange(group.num_channels) % 2 == 0 for group in trace(build(SPEC), example_input(SPEC)).layout.groups]


def state(model: nn.Module) -> bytes:
    return save_weights(model)


# --- the base --------------------------------------------------------------------------------------------------------


def test_fresh_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one, again, other = (state(fresh(SPEC, seed)) for seed in (1, 1, 2))
    assert one == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_the_normalisation_is_the_mean_and_deviation_of_every_channel() -> None:
    images = torch.rand(9, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    images[:, 1] *= 0.1
    images[:, 2] = 0.25
    model = set_normalisation(build(parse_spec("resnet8/3x8x8/4")), Samples(images, torch.zeros(9, dtype=torch.int64)))
    pixels = images.numpy().transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
    np.testing.assert_allclose(model.mean.flatten().numpy(), pixels.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(model.std.flatten().numpy()[:2], pixels.std(axis=1, ddof=1)[:2], rtol=1e-5)
    assert model.std.flatten()[2].item() == pytest.approx(1e-3), "a constant channel is not divided by zero"


def test_a_network_without_normalisation_is_left_alone() -> None:
    model = nn.Linear(2, 2)
    before = state(model)
    assert state(set_normalisation(model, public())) == before


def test_a_base_is_trained_the_same_way_every_time_and_learns() -> None:
    epochs: list[int] = []
    model = train_base(SPEC, public(), Recipe(8, 0.05, 16), 3, epochs.append)
    assert epochs == [1, 2, 3, 4, 5, 6, 7, 8]
    assert not model.training
    assert accuracy(model, public()) > 0.5
    assert model.mean.item() == pytest.approx(public().images.mean().item(), rel=1e-5)
    one, again, other = (state(train_base(SPEC, public(), RECIPE, seed)) for seed in (3, 3, 4))
    assert one == again != other


# --- reading a base --------------------------------------------------------------------------------------------------


def test_our_own_file_is_taken_with_its_normalisation() -> None:
    model = train_base(SPEC, public(), RECIPE, 3)
    other_data = Samples(public().images * 0.1, public().labels)
    found = read_base(SPEC, save_weights(model), other_data)
    assert state(found) == state(model)
    assert not found.training


def test_a_bare_network_gets_the_usual_normalisation() -> None:
    model = fresh(SPEC, 3)
    found = read_base(SPEC, save_weights(model.net), public())
    assert state(found.net) == state(model.net)
    assert found.mean.item() == pytest.approx(public().images.mean().item(), rel=1e-5)
    assert found.std.item() == pytest.approx(public().images.std().item(), rel=1e-5)
    assert not found.training


@pytest.mark.parametrize("weights", [b"", b"junk", save_weights(build(parse_spec("resnet8/1x8x8/5")))])
def test_a_file_for_another_network_is_refused(weights: bytes) -> None:
    with pytest.raises(InputError, match="base file: not the weights of"):
        read_base(SPEC, weights, public())


# --- the slim base ---------------------------------------------------------------------------------------------------


def test_a_slim_base_is_pruned_to_the_masks_retrained_and_repeatable() -> None:
    base = save_weights(train_base(SPEC, public(), RECIPE, 3))
    one, again, other = (retrain_slim_base(TEXT, base, half_masks(), public(), RECIPE, seed) for seed in (5, 5, 6))
    assert one == again != other
    pruned = slim(load_weights(build(SPEC), base, "base"), example_input(SPEC), half_masks())
    retrained = load_weights(slim(build(SPEC), example_input(SPEC), half_masks()), one, "slim base")
    assert trace(retrained, example_input(SPEC)).layout.dense_widths == (8, 8, 16, 16, 32, 32)
    assert mean_loss(retrained, public()) < mean_loss(pruned, public())


def test_drawing_by_weight_teaches_what_is_drawn() -> None:
    base = save_weights(fresh(SPEC, 3))
    of_class_2 = (public().labels == 2).float()
    slim_base = retrain_slim_base(TEXT, base, half_masks(), public(), RECIPE, 5, draw_weights=of_class_2)
    model = load_weights(slim(build(SPEC), example_input(SPEC), half_masks()), slim_base, "slim base").eval()
    with torch.no_grad():
        assert (model(public().images).argmax(dim=1) == 2).all(), "it has seen nothing else"


def test_drawing_is_repeatable_and_even_weights_are_not_the_whole_set() -> None:
    base = save_weights(fresh(SPEC, 3))
    even = torch.ones(len(public()))
    one, again = (retrain_slim_base(TEXT, base, half_masks(), public(), RECIPE, 5, even) for _ in range(2))
    assert one == again
    assert one != retrain_slim_base(TEXT, base, half_masks(), public(), RECIPE, 5)


def test_what_does_not_fit_is_refused() -> None:
    base = save_weights(fresh(SPEC, 3))
    with pytest.raises(ConfigError, match="no built-in network"):
        retrain_slim_base("resnet9/1x8x8/4", base, half_masks(), public(), RECIPE, 5)
    with pytest.raises(InputError, match="base model: not the weights"):
        retrain_slim_base(TEXT, b"junk", half_masks(), public(), RECIPE, 5)
    with pytest.raises(LayoutError, match="do not fit"):
        retrain_slim_base(TEXT, base, half_masks()[1:], public(), RECIPE, 5)


def test_images_without_labels_get_the_answers_of_the_base() -> None:
    base = train_base(SPEC, public(), RECIPE, seed=1).train()
    told = labelled_by(base, Samples(public().images, torch.zeros(48, dtype=torch.int64)))
    with torch.no_grad():
        assert told.labels.tolist() == base.eval()(public().images).argmax(dim=1).tolist()
    assert len(set(told.labels.tolist())) > 1, "a base that always says the same would prove nothing"
