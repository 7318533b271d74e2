"""Every strategy against plain SGD written out by hand, and what each promises, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.batches import batches
from prunefleet_edge.checkpoint import Checkpoint
from prunefleet_edge.data import Samples
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.retraining import (
    All,
    Anchored,
    Distilled,
    Regrow,
    Strategy,
    Survivors,
    Untouched,
    has_gaps,
    retrain,
    strategy_named,
)
from prunefleet_edge.retraining_options import STRATEGIES, RetrainingOptions
from prunefleet_edge.training import train
from prunefleet_edge.weight_pruning import WeightMasks, apply_masks, full_masks, magnitude_masks, nonzero_masks
from prunefleet_shared.errors import LayoutError

torch.set_num_threads(1)
RECIPE = Recipe(epochs=2, learning_rate=0.05, batch_size=8, weight_decay=0.01, rate_steps=((0, 0.05), (1, 0.02)))
Weights = dict[str, Tensor]


class Net(nn.Module):
    """A convolution, a norm, a linear layer, with biases: everything a strategy treats in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.leaky_relu(self.norm(self.conv(x)), 0.1).mean(dim=(2, 3)))
        return out


def deployed(sparsity: float = 0.5) -> tuple[Net, WeightMasks]:
    """A network that has learnt a little and was pruned; its norm's statistics are its own."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Net()
    train(model, some(24, seed=9), replace(RECIPE, epochs=3), 1)
    masks = magnitude_masks(model, sparsity)
    apply_masks(model, masks)
    return model, masks


def some(num: int = 20, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 3
    return Samples(torch.rand(num, 1, 6, 6, generator=generator) * 0.6 + labels[:, None, None, None] * 0.15, labels)


def weights(model: nn.Module) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def close(model: nn.Module, expected: nn.Module) -> bool:
    other = expected.state_dict()
    return all(torch.allclose(v, other[n], rtol=1e-4, atol=1e-6) for n, v in model.state_dict().items())


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# --- against a loop by hand ------------------------------------------------------------------------------------------


def by_hand(
    model: Net,
    loss_of: Callable[[Net, Tensor, Tensor], Tensor],
    project: Callable[[Net], None],
    enter: Callable[[Net], object],
    decay: float,
) -> Net:
    """Nesterov SGD, parameter by parameter: g += decay w; v = 0.9 v + g (v = g first); w -= rate (g + 0.9 v)."""
    momentum: Weights = {}
    data, generator = some(), torch.Generator().manual_seed(7)
    for epoch in range(RECIPE.epochs):
        order = torch.randperm(len(data), generator=generator)
        enter(model)
        for images, labels in batches(data, RECIPE, order, generator):
            model.zero_grad()
            loss_of(model, images, labels).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    assert weight.grad is not None
                    gradient = weight.grad + decay * weight
                    momentum[name] = 0.9 * momentum[name] + gradient if name in momentum else gradient.clone()
                    weight.sub_((0.05, 0.02)[epoch] * (gradient + 0.9 * momentum[name]))
                project(model)
    return model


def close_gaps(masks: WeightMasks) -> Callable[[Net], None]:
    def project(model: Net) -> None:
        for name, mask in masks.items():
            for place in (~mask).nonzero().tolist():
                model.get_parameter(name).data[tuple(place)] = 0.0

    return project


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([logits[i].logsumexp(0) - logits[i, label] for i, label in enumerate(labels.tolist())]).mean()


def plain_loss(model: Net, images: Tensor, labels: Tensor) -> Tensor:
    return ce(model(images), labels)


def test_all_is_plain_sgd_and_training_as_it_always_was() -> None:
    model, masks = deployed()
    expected = by_hand(copy.deepcopy(model), plain_loss, lambda _m: None, nn.Module.train, 0.01)
    found = retrain(copy.deepcopy(model), masks, some(), RECIPE, All(), 7)
    assert close(found, expected)
    assert same(weights(found), weights(train(copy.deepcopy(model), some(), RECIPE, 7))), "to the last bit"


def test_survivors_by_hand() -> None:
    model, masks = deployed()
    expected = by_hand(copy.deepcopy(model), plain_loss, close_gaps(masks), nn.Module.train, 0.01)
    assert close(retrain(copy.deepcopy(model), masks, some(), RECIPE, Survivors(), 7), expected)


def test_regrow_by_hand() -> None:
    model, masks = deployed()
    start = weights(model)

    def put_back(trained: Net) -> None:
        for name, parameter in trained.named_parameters():
            for place in torch.ones_like(parameter).nonzero().tolist():
                is_gap = name in masks and not masks[name][tuple(place)]
                if not is_gap:
                    parameter.data[tuple(place)] = start[name][tuple(place)]

    expected = by_hand(copy.deepcopy(model), plain_loss, put_back, nn.Module.eval, 0.01)
    assert close(retrain(copy.deepcopy(model), masks, some(), RECIPE, Regrow(), 7), expected)


def test_anchored_by_hand() -> None:
    model, masks = deployed()
    start = weights(model)

    def loss_of(trained: Net, images: Tensor, labels: Tensor) -> Tensor:
        loss = plain_loss(trained, images, labels)
        for name, parameter in trained.named_parameters():
            for weight, anchor in zip(parameter.flatten(), start[name].flatten(), strict=True):
                loss = loss + 0.5 * 0.7 * (weight - anchor) ** 2
        return loss

    expected = by_hand(copy.deepcopy(model), loss_of, close_gaps(masks), nn.Module.train, 0.0)
    assert close(retrain(copy.deepcopy(model), masks, some(), RECIPE, Anchored(0.7), 7), expected)


@pytest.mark.parametrize("has_teacher", [False, True], ids=["itself", "the original"])
def test_distilled_by_hand(has_teacher: bool) -> None:
    model, masks = deployed()
    teacher = deployed(sparsity=0.0)[0] if has_teacher else copy.deepcopy(model)

    def loss_of(trained: Net, images: Tensor, labels: Tensor) -> Tensor:
        logits = trained(images)
        with torch.no_grad():
            wanted = (teacher.eval()(images) / 3.0).softmax(dim=1)
        answers = (logits / 3.0).softmax(dim=1)
        distance = torch.stack([(w * (w.log() - a.log())).sum() for w, a in zip(wanted, answers, strict=True)]).mean()
        return 0.75 * ce(logits, labels) + 0.25 * 9.0 * distance

    expected = by_hand(copy.deepcopy(model), loss_of, close_gaps(masks), nn.Module.train, 0.01)
    strategy = Distilled(teacher if has_teacher else None, temperature=3.0, distilled_ratio=0.25)
    assert close(retrain(copy.deepcopy(model), masks, some(), RECIPE, strategy, 7), expected)


# --- promises --------------------------------------------------------------------------------------------------------


def test_none_changes_no_bit() -> None:
    model, masks = deployed()
    before = weights(model)
    assert retrain(model.train(), masks, some(), RECIPE, Untouched(), 7) is model
    assert not model.training
    assert same(weights(model), before)


@pytest.mark.parametrize("strategy", [Survivors(), Anchored(), Distilled()], ids=lambda s: type(s).__name__)
def test_gaps_stay_zero_to_the_bit_and_survivors_move(strategy: Strategy) -> None:
    model, masks = deployed()
    before = weights(model)
    retrain(model, masks, some(), RECIPE, strategy, 7)
    for name, mask in masks.items():
        after = model.get_parameter(name).detach()
        assert (after[~mask] == 0).all()
        assert (after[mask] != before[name][mask]).any()
    assert not torch.equal(before["norm.running_mean"], weights(model)["norm.running_mean"]), "norms move too"
    assert not torch.equal(before["fc.bias"], model.fc.bias)


def test_all_fills_gaps() -> None:
    model, masks = deployed()
    retrain(model, masks, some(), RECIPE, All(), 7)
    assert not has_gaps(nonzero_masks(model))


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_dropping_what_was_regrown_restores_the_deployed_network_bit_for_bit(decay: float) -> None:
    """Momentum, weight decay and the norms' statistics included."""
    model, masks = deployed()
    before = weights(model)
    retrain(model, masks, some(40), replace(RECIPE, epochs=5, weight_decay=decay), Regrow(), 7)
    assert not has_gaps(nonzero_masks(model)), "all gaps are filled"
    apply_masks(model, masks)
    assert same(weights(model), before)


@pytest.mark.parametrize("ratio", [0.25, 0.6])
def test_regrowing_a_part_keeps_the_other_gaps(ratio: float) -> None:
    model, masks = deployed()
    before = weights(model)
    num_gaps = sum(int((~mask).sum()) for mask in masks.values())

    def filled(seed: int) -> WeightMasks:
        grown = retrain(copy.deepcopy(model), masks, some(), RECIPE, Regrow(ratio, seed), 7)
        found = nonzero_masks(grown)
        apply_masks(grown, masks)
        assert same(weights(grown), before)
        return {name: found[name] & ~mask for name, mask in masks.items()}

    one, again, other = filled(1), filled(1), filled(2)
    assert sum(int(mask.sum()) for mask in one.values()) == round(ratio * num_gaps)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_an_anchor_holds_and_no_anchor_does_not() -> None:
    model, masks = deployed()
    start = weights(model)

    def distance(weight: float) -> float:
        moved = retrain(copy.deepcopy(model), masks, some(), RECIPE, Anchored(weight), 7)
        return sum(float((p.detach() - start[n]).square().sum()) for n, p in moved.named_parameters())

    assert distance(5.0) < distance(0.5) < distance(0.0)


def test_an_anchor_of_weight_zero_is_survivors_without_decay() -> None:
    model, masks = deployed()
    anchored = retrain(copy.deepcopy(model), masks, some(), RECIPE, Anchored(0.0), 7)
    plain = retrain(copy.deepcopy(model), masks, some(), replace(RECIPE, weight_decay=0.0), Survivors(), 7)
    assert close(anchored, plain)


def test_a_teacher_is_never_changed_and_holds_its_pupil() -> None:
    model, masks = deployed()
    teacher = deployed(0.0)[0].train()
    before = weights(teacher)
    images = some(60, seed=3).images

    def difference(ratio: float) -> float:
        pupil = retrain(
            copy.deepcopy(model), masks, some(), replace(RECIPE, epochs=8), Distilled(teacher, 2.0, ratio), 7
        )
        with torch.no_grad():
            answers = copy.deepcopy(teacher).eval()(images).log_softmax(1)
            return float(F.kl_div(pupil(images).log_softmax(1), answers, log_target=True, reduction="batchmean"))

    assert difference(1.0) < difference(0.0)
    assert same(weights(teacher), before)
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_a_teacher_answers_in_eval_mode_whatever_mode_it_came_in() -> None:
    model, masks = deployed()
    teacher = deployed(0.0)[0]
    one, other = (
        retrain(copy.deepcopy(model), masks, some(), RECIPE, Distilled(copy.deepcopy(teacher).train(mode)), 7)
        for mode in (False, True)
    )
    assert same(weights(one), weights(other))


def test_without_gaps_survivors_is_all_and_regrow_moves_nothing() -> None:
    model, _ = deployed(0.0)
    before = weights(model)
    everything = retrain(copy.deepcopy(model), None, some(), RECIPE, All(), 7)
    assert same(weights(everything), weights(retrain(copy.deepcopy(model), None, some(), RECIPE, Survivors(), 7)))
    assert same(weights(retrain(model, full_masks(model), some(), RECIPE, Regrow(), 7)), before)


def test_gaps_start_at_zero_whatever_was_there() -> None:
    model, masks = deployed()
    dirty = copy.deepcopy(model)
    dirty.conv.weight.data[~masks["conv.weight"]] = 3.0
    one = retrain(dirty, masks, some(), RECIPE, Regrow(), 7)
    assert same(weights(one), weights(retrain(model, masks, some(), RECIPE, Regrow(), 7)))


def test_masks_of_another_network_are_refused() -> None:
    model, masks = deployed()
    with pytest.raises(LayoutError, match="masks do not fit"):
        retrain(model, {"conv.weight": masks["conv.weight"]}, some(), RECIPE, Survivors(), 7)


def options_of(name: str) -> RetrainingOptions:
    return RetrainingOptions(name, regrow_ratio=0.5)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    model, masks = deployed()
    before = torch.get_rng_state()
    one, again = (
        weights(retrain(copy.deepcopy(model), masks, some(), RECIPE, strategy_named(options_of(name)), 7))
        for _ in range(2)
    )
    assert same(one, again)
    assert torch.equal(torch.get_rng_state(), before)


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "none"])
@pytest.mark.parametrize("last_step", [1, 3])
def test_an_interrupted_retraining_ends_with_the_same_bits(name: str, last_step: int, tmp_path: Path) -> None:
    model, masks = deployed()
    whole = retrain(copy.deepcopy(model), masks, some(), RECIPE, strategy_named(options_of(name)), 7)

    def kept() -> Checkpoint:
        return Checkpoint(tmp_path / "run", name, every_s=0.0)

    def cut(done: int, _of: int) -> None:
        if done > last_step:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        retrain(copy.deepcopy(model), masks, some(), RECIPE, strategy_named(options_of(name)), 7, kept(), cut)
    steps: list[int] = []
    resumed = retrain(
        copy.deepcopy(model), masks, some(), RECIPE, strategy_named(options_of(name)), 7, kept(),
        lambda done, _of: steps.append(done),
    )  # fmt: skip
    assert steps[0] == last_step + 1, "it went on where it stood"
    assert same(weights(resumed), weights(whole))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("none", Untouched), ("survivors", Survivors), ("regrow", Regrow), ("all", All), ("anchored", Anchored),
     ("distilled", Distilled)],
)  # fmt: skip
def test_strategies_by_name(name: str, kind: type[object]) -> None:
    assert type(strategy_named(RetrainingOptions(name))) is kind


def test_the_numbers_reach_their_strategy() -> None:
    model, masks = deployed()
    teacher = deployed(0.0)[0]

    def run(options: RetrainingOptions) -> Weights:
        strategy = strategy_named(options, teacher=teacher, seed=4)
        return weights(retrain(copy.deepcopy(model), masks, some(), RECIPE, strategy, 7))

    for name, changed in (
        ("anchored", RetrainingOptions("anchored", anchor_weight=2.0)),
        ("distilled", RetrainingOptions("distilled", temperature=5.0)),
        ("distilled", RetrainingOptions("distilled", distilled_ratio=0.9)),
        ("regrow", RetrainingOptions("regrow", regrow_ratio=0.3)),
    ):
        assert not same(run(RetrainingOptions(name)), run(changed)), changed
    by_itself = strategy_named(RetrainingOptions("distilled"))
    assert not same(
        run(RetrainingOptions("distilled")), weights(retrain(copy.deepcopy(model), masks, some(), RECIPE, by_itself, 7))
    ), "the teacher given is the one that teaches"


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "none"])
def test_label_smoothing_reaches_every_loss(name: str) -> None:
    model, masks = deployed()
    images, labels = some().images, some().labels
    found = []
    for smoothing in (0.0, 0.2):
        strategy = strategy_named(RetrainingOptions(name), label_smoothing=smoothing)
        strategy.prepare(model, masks)
        found.append(float(strategy.loss(model.eval(), images, labels).detach()))
    share = 0.5 if name == "distilled" else 1.0
    plain, smooth = (float(F.cross_entropy(model(images), labels, label_smoothing=s).detach()) for s in (0.0, 0.2))
    assert found[1] - found[0] == pytest.approx(share * (smooth - plain), abs=1e-5)


def test_has_gaps() -> None:
    model, masks = deployed()
    assert has_gaps(masks)
    assert not has_gaps(full_masks(model))
