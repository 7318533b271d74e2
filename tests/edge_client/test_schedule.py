"""Pruning by a plan: in one shot, in steps, interrupted."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from schedule_parts import (
    EXAMPLE,
    ITERATIVE,
    ONE_SHOT,
    RECIPE,
    TUNE,
    Task,
    bits,
    samples,
    store,
    widths_of,
)
from tied_nets import Concatenated, Tied, small_resnet
from torch import nn

from prunefleet_edge import schedule
from prunefleet_edge.checkpoint import Checkpoint
from prunefleet_edge.criteria import CRITERIA, score
from prunefleet_edge.data import Samples
from prunefleet_edge.pruning import Candidate, slim
from prunefleet_edge.pruning_plan import RANKINGS, PruningPlan, shared_out
from prunefleet_edge.ranking import even_widths, keep_masks, per_cost, rank_widths
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.schedule import clear_phases, phase_names, prune_and_retrain
from prunefleet_edge.tracing import cost_table, trace
from prunefleet_edge.training import train
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.limits import Limits, narrowest_widths

# --- one shot --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [small_resnet, Tied, Concatenated])
@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("is_per_cost", [True, False])
def test_one_shot_is_fine_tune_score_slim_retrain(
    make: Callable[[], nn.Module], ranking: str, is_per_cost: bool
) -> None:
    """Written out."""
    task, data = Task(make), samples()
    budget = int(task.dense_cost * 0.4)
    dense = train(copy.deepcopy(task.dense), data, TUNE, 7)
    scores = score("taylor", dense, task.traced, data, 7, batch_size=25)
    if ranking == "per-layer":
        widths = even_widths(task.layout, task.table, budget)
    else:
        ranked = per_cost(task.layout, task.table, scores) if is_per_cost else scores
        widths = rank_widths(task.layout, task.table, ranked, budget)
    masks = keep_masks(task.layout, scores, widths)
    expected = train(slim(dense, EXAMPLE, masks), data, RECIPE, 7)
    found = task.run(replace(ONE_SHOT, ranking=ranking, is_per_cost=is_per_cost))
    assert bits(found) == bits(Candidate(expected, tuple(masks)))


@pytest.mark.parametrize("plan", [ONE_SHOT, ITERATIVE, replace(ITERATIVE, fine_tune=None)])
def test_the_dense_network_is_left_alone(plan: PruningPlan) -> None:
    task = Task()
    task.dense.train()
    before = copy.deepcopy(task.dense.state_dict())
    found = task.run(plan)
    assert all(torch.equal(before[name], tensor) for name, tensor in task.dense.state_dict().items())
    assert task.dense.training
    assert all(p.requires_grad and p.grad is None for p in task.dense.parameters())
    assert not found.model.training
    assert not any(module._forward_hooks for module in (*task.dense.modules(), *found.model.modules()))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_prunes_to_the_budget(criterion: str) -> None:
    task = Task()
    plan = PruningPlan(replace(RECIPE, epochs=1), criterion=criterion)
    found = task.run(plan)
    widths = widths_of(found)
    assert task.table.cost(widths) <= 0.4 * task.dense_cost
    assert trace(found.model, EXAMPLE).layout.dense_widths == widths
    expected = score(criterion, task.dense, task.traced, samples(), 7, batch_size=25)
    assert bits(found)[1] == [mask.tolist() for mask in keep_masks(task.layout, expected, widths)]


def test_limits_are_kept_in_one_step_and_in_many() -> None:
    task = Task()
    limits = Limits(min_keep=6, round_to=4, skipped=frozenset({task.layout.groups[1].name}))
    for plan in (ONE_SHOT, ITERATIVE, replace(ITERATIVE, ranking="per-layer")):
        widths = widths_of(task.run(replace(plan, limits=limits), ratio=0.5))
        assert widths[1] == task.layout.dense_widths[1]
        assert all(w >= 8 for w in widths)
        assert all(w % 4 == 0 for w in widths)
        assert task.table.cost(widths) <= 0.5 * task.dense_cost


def test_groups_that_are_frozen_stay_whole() -> None:
    task = Task()
    names = [group.name for group in task.layout.groups[2:]]
    some = task.traced.only(names)
    table = cost_table(task.dense, EXAMPLE, some)
    budget = int(0.6 * task.dense_cost)
    for plan in (ONE_SHOT, ITERATIVE):
        found = prune_and_retrain(task.dense, EXAMPLE, some, table, budget, samples(), plan, 7)
        assert len(found.masks) == len(names)
        widths = (*task.layout.dense_widths[:2], *widths_of(found))
        assert trace(found.model, EXAMPLE).layout.dense_widths == widths
        assert task.table.cost(widths) <= budget


# --- in steps --------------------------------------------------------------------------------------------------------


class Recorder:
    """Counts what is asked of training, and sees what is scored."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[Recipe] = []
        self.scored: list[int] = []
        really_train, really_score = schedule.train, schedule.score

        def counted_train(model: nn.Module, data: Samples, recipe: Recipe, seed: int, **options: object) -> nn.Module:
            self.trained.append(recipe)
            return really_train(model, data, recipe, seed, **options)

        def counted_score(name: str, model: nn.Module, found: object, *rest: object, **options: object) -> np.ndarray:
            self.scored.append(found.layout.num_channels)
            return really_score(name, model, found, *rest, **options)

        monkeypatch.setattr(schedule, "train", counted_train)
        monkeypatch.setattr(schedule, "score", counted_score)


@pytest.mark.parametrize("make", [small_resnet, Tied, Concatenated])
def test_steps_prune_by_equal_factors_and_score_what_is_left(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen, task = Recorder(monkeypatch), Task(make)
    checkpoints = store(tmp_path)
    found = task.run(ITERATIVE, 0.3, checkpoint_for=checkpoints)
    steps = []
    for step in (1, 2, 3):
        state = checkpoints(f"masks-{step}").load()
        assert state is not None
        steps.append([state.tensors[str(index)].numpy() for index in range(len(task.layout.groups))])
    costs = [task.table.cost([int(mask.sum()) for mask in masks]) for masks in steps]
    for cost, exponent in zip(costs, (1 / 3, 2 / 3, 1), strict=True):
        assert cost <= task.dense_cost * 0.3**exponent
    assert costs[0] > task.dense_cost * 0.3 ** (2 / 3), "not all at once"
    assert seen.scored == [task.layout.num_channels, *(sum(int(m.sum()) for m in masks) for masks in steps[:2])]
    for earlier, later in itertools.pairwise(steps):
        assert all((later_mask <= mask).all() for mask, later_mask in zip(earlier, later, strict=True))
    assert [mask.tolist() for mask in found.masks] == [mask.tolist() for mask in steps[-1]]
    assert seen.trained == [TUNE, *shared_out(RECIPE, 3)]


@pytest.mark.parametrize(("micro_batch", "expected"), [(0, 64), (25, 25), (100, 64)])
def test_scoring_holds_no_more_samples_than_training(
    micro_batch: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    really_score = schedule.score
    monkeypatch.setattr(schedule, "score", lambda *rest, batch_size: (asked.append(batch_size), really_score(*rest))[1])
    Task(Tied).run(PruningPlan(replace(RECIPE, epochs=1, micro_batch=micro_batch)))
    assert asked == [expected]


def test_the_last_step_of_three_written_out(tmp_path: Path) -> None:
    """The network of step two, slimmed and scored as such, makes the masks of step three."""
    task, data, checkpoints = Task(), samples(), store(tmp_path)
    found = task.run(ITERATIVE, 0.3, checkpoint_for=checkpoints)
    state = checkpoints("masks-2").load()
    before = [state.tensors[str(index)].numpy() for index in range(len(task.layout.groups))]
    second = slim(task.dense, EXAMPLE, before)
    second.load_state_dict(checkpoints("retrain-2").load().tensors)
    second.eval()
    own = trace(second, EXAMPLE)
    table = cost_table(second, EXAMPLE, own)
    scores = score("taylor", second, own, data, 7, batch_size=25)
    ranked = per_cost(own.layout, table, scores)
    now = own.layout.dense_widths
    widths = rank_widths(task.layout, task.table, ranked, int(task.dense_cost * 0.3), start=now)
    kept = keep_masks(own.layout, scores, widths)
    for mask, first, relative in zip(found.masks, before, kept, strict=True):
        assert mask[first].tolist() == relative.tolist()
        assert not mask[~first].any()
    expected = train(slim(second, EXAMPLE, kept), data, shared_out(RECIPE, 3)[-1], 7)
    assert bits(Candidate(expected, found.masks)) == bits(found)


def test_a_depthwise_convolution_can_be_pruned_to_one_channel_in_steps() -> None:
    task = Task(Tied)
    ratio = task.table.cost(narrowest_widths(task.layout)) / task.dense_cost + 1e-9
    for ranking in RANKINGS:
        found = task.run(replace(ITERATIVE, ranking=ranking), ratio)
        assert widths_of(found) == narrowest_widths(task.layout)
        assert found.model(EXAMPLE).isfinite().all()


def test_a_budget_for_everything_prunes_nothing() -> None:
    task = Task()
    for plan in (ONE_SHOT, ITERATIVE):
        assert widths_of(task.run(plan, 2.0)) == task.layout.dense_widths


@pytest.mark.parametrize(("num_steps", "epochs"), [(1, [30]), (2, [15, 15]), (3, [7, 7, 16]), (5, [3, 3, 3, 3, 18])])
def test_epochs_are_shared_out(num_steps: int, epochs: list[int]) -> None:
    assert [recipe.epochs for recipe in shared_out(Recipe(30, 0.1), num_steps)] == epochs


@pytest.mark.parametrize("epochs", range(1, 26))
def test_all_epochs_are_used_whatever_the_number_of_steps(epochs: int) -> None:
    recipe = Recipe(epochs, 0.1, rate_steps=((0, 0.1), (10, 0.01), (20, 0.001)), min_steps=100)
    for num_steps in range(1, epochs + 1):
        parts = shared_out(recipe, num_steps)
        assert len(parts) == num_steps
        assert sum(part.epochs for part in parts) == epochs
        assert min(part.epochs for part in parts) >= 1
        assert parts[-1].epochs == max(part.epochs for part in parts)
        assert all(part.rate_at(0) == 0.1 for part in parts)
        assert 100 <= sum(part.min_steps for part in parts) < 100 + num_steps
        assert all(
            replace(part, epochs=epochs, rate_steps=recipe.rate_steps, min_steps=100) == recipe for part in parts
        )


def test_rates_by_epoch_are_compressed() -> None:
    recipe = Recipe(25, 0.1, rate_steps=((0, 0.1), (10, 0.01), (20, 0.001)))
    parts = shared_out(recipe, 2)
    assert [part.epochs for part in parts] == [12, 13]
    assert [parts[0].rate_at(epoch) for epoch in range(12)] == [0.1] * 5 + [0.01] * 5 + [0.001] * 2


# --- interruptions ---------------------------------------------------------------------------------------------------


class Power:
    """Goes off at a given step of the whole schedule, counted over all starts."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self, _done: int, _total: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("plan", [ONE_SHOT, ITERATIVE], ids=["one shot", "iterative"])
def test_interrupted_at_any_step_and_started_again_is_the_same(plan: PruningPlan, tmp_path: Path) -> None:
    task, told = Task(Tied), []
    expected = bits(task.run(plan, on_step=lambda *step: told.append(step)))
    for step in range(1, len(told) + 1):
        checkpoints = store(tmp_path / str(step))
        with pytest.raises(KeyboardInterrupt):
            task.run(plan, checkpoint_for=checkpoints, on_step=Power(step))
        resumed: list[tuple[int, int]] = []
        found = task.run(plan, checkpoint_for=checkpoints, on_step=lambda *step, r=resumed: r.append(step))
        assert bits(found) == expected
        assert resumed == told[step - 1 :], "nothing that was done is done again"


def test_interrupted_wherever_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes just before or just after each write."""
    task = Task(Tied)
    expected = bits(task.run(ITERATIVE))
    really_save, writes = Checkpoint.save, [0]
    for is_after in (False, True):
        for fatal in range(1, 40, 3):
            writes[0] = 0

            def save(self, state, fatal=fatal, is_after=is_after):
                writes[0] += 1
                if is_after or writes[0] != fatal:
                    really_save(self, state)
                if writes[0] == fatal:
                    raise KeyboardInterrupt

            checkpoints = store(tmp_path / f"{is_after}-{fatal}")
            with monkeypatch.context() as patch:
                patch.setattr(Checkpoint, "save", save)
                try:
                    task.run(ITERATIVE, checkpoint_for=checkpoints)
                    is_over = True
                except KeyboardInterrupt:
                    is_over = False
            assert bits(task.run(ITERATIVE, checkpoint_for=checkpoints)) == expected
            if is_over:
                break
        assert is_over, "all writes were tried"


def test_what_cannot_be_is_refused_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, task = Recorder(monkeypatch), Task(Tied)
    with pytest.raises(ConfigError, match="a budget of 0 macs cannot be met: the smallest widths cost"):
        task.run(ONE_SHOT, 0.0)
    with pytest.raises(ConfigError, match="there is no group nowhere"):
        task.run(replace(ONE_SHOT, limits=Limits(skipped=frozenset({"nowhere"}))))
    with pytest.raises(ConfigError, match="there is none in grouped"):
        task.run(replace(ONE_SHOT, criterion="norm-scale"))
    assert not seen.trained


def test_what_is_finished_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, checkpoints = Task(), store(tmp_path)
    expected = bits(task.run(ITERATIVE, checkpoint_for=checkpoints))
    seen = Recorder(monkeypatch)
    told: list[object] = []
    found = task.run(ITERATIVE, checkpoint_for=checkpoints, on_step=lambda *step: told.append(step))
    assert bits(found) == expected
    assert not told
    assert not seen.scored
    assert not found.model.training
    assert {path.stem for path in tmp_path.iterdir()} == set(phase_names(ITERATIVE))
    clear_phases(ITERATIVE, checkpoints)
    assert not list(tmp_path.iterdir())


def test_phases_in_order() -> None:
    assert phase_names(ONE_SHOT) == ("fine-tune", "masks-1", "retrain-1")
    assert phase_names(replace(ITERATIVE, num_steps=2, fine_tune=None)) == (
        "masks-1", "retrain-1", "masks-2", "retrain-2",
    )  # fmt: skip
    clear_phases(ONE_SHOT, lambda _name: None)


def test_phases_without_a_checkpoint_are_done_again(tmp_path: Path) -> None:
    task, whole = Task(Tied), store(tmp_path)
    expected = bits(task.run(ITERATIVE))

    def some(name: str) -> Checkpoint | None:
        return whole(name) if name.startswith("retrain") else None

    with pytest.raises(KeyboardInterrupt):
        task.run(ITERATIVE, checkpoint_for=some, on_step=Power(9))
    assert bits(task.run(ITERATIVE, checkpoint_for=some)) == expected
