"""Who listens to a schedule, what is refused, and plans by name."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from schedule_parts import (
    EXAMPLE,
    ITERATIVE,
    ONE_SHOT,
    RECIPE,
    TUNE,
    Task,
    bits,
    samples,
    widths_of,
)
from tied_nets import Tied
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge import schedule
from prunefleet_edge.objective import CrossEntropy
from prunefleet_edge.pruning_plan import PLANS, PruningPlan, plan_named
from prunefleet_edge.schedule import prune_and_retrain
from prunefleet_edge.tracing import trace
from prunefleet_shared.errors import ConfigError, LayoutError
from prunefleet_shared.limits import Limits

# --- who listens, and what is minimised ------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [ONE_SHOT, ITERATIVE, replace(ONE_SHOT, fine_tune=None)])
def test_steps_are_counted_over_all_phases(plan: PruningPlan) -> None:
    told: list[tuple[int, int]] = []
    Task(Tied).run(plan, on_step=lambda *step: told.append(step))
    total = 2 * (4 + (2 if plan.fine_tune else 0))  # 88 images to learn from: two steps an epoch
    assert told == [(step, total) for step in range(1, total + 1)]


def test_a_phase_that_stops_early_does_not_stop_the_count() -> None:
    told: list[tuple[int, int]] = []
    wild = replace(TUNE, epochs=6, learning_rate=1e6, patience=1, micro_batch=0)
    Task(Tied).run(replace(ONE_SHOT, fine_tune=wild), on_step=lambda *step: told.append(step))
    assert told == [(step, 20) for step in (1, 2, *range(13, 21))]


class Halved(CrossEntropy):
    """An objective of the caller's."""

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(images), labels) / 2


def test_the_objective_is_for_retraining_the_slim_network_alone() -> None:
    task, asked = Task(), []

    def objective_for(model: nn.Module) -> Halved:
        asked.append(trace(model, EXAMPLE).layout.dense_widths)
        return Halved()

    found = task.run(ONE_SHOT, objective_for=objective_for)
    plain = task.run(ONE_SHOT)
    assert asked == [widths_of(found)]
    assert bits(found)[1] == bits(plain)[1], "the fine-tuning and the masks are the same"
    assert bits(found)[0] != bits(plain)[0]
    asked.clear()
    found = task.run(ITERATIVE, objective_for=objective_for)
    assert len(asked) == 3
    assert asked[-1] == widths_of(found)


def test_the_seed_decides() -> None:
    task = Task()
    one, again = (bits(task.run(ONE_SHOT)) for _ in range(2))
    other = prune_and_retrain(
        task.dense, EXAMPLE, task.traced, task.table, int(task.dense_cost * 0.4), samples(), ONE_SHOT, 8
    )
    assert one == again
    assert bits(other)[0] != one[0]


class Measured:
    """A table that was measured: one channel less saves nothing."""

    unit = "ns"

    def cost(self, widths):
        return sum(-(-w // 4) * 100 for w in widths)


@pytest.mark.parametrize("plan", [ONE_SHOT, ITERATIVE, replace(ONE_SHOT, ranking="per-layer")])
def test_a_measured_table_is_a_budget_too(plan: PruningPlan) -> None:
    task = Task()
    budget = Measured().cost(task.layout.dense_widths) // 2
    found = prune_and_retrain(task.dense, EXAMPLE, task.traced, Measured(), budget, samples(), plan, 7)
    assert Measured().cost(widths_of(found)) <= budget


def test_what_a_channel_saves_is_averaged_where_the_table_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    task, asked = Task(), []
    really = schedule.per_cost
    monkeypatch.setattr(schedule, "per_cost", lambda *rest, **how: (asked.append(how), really(*rest, **how))[1])
    plan = PruningPlan(replace(RECIPE, epochs=1))
    task.run(plan)
    dense = task.layout.dense_widths
    prune_and_retrain(task.dense, EXAMPLE, task.traced, Measured(), Measured().cost(dense), samples(), plan, 7)
    assert asked == [{"start": dense, "at_once": None}, {"start": dense, "at_once": [w // 8 for w in dense]}]


# --- refusals --------------------------------------------------------------------------------------------------------


def test_groups_of_another_network_are_refused() -> None:
    task, other = Task(), Task(Tied)
    with pytest.raises((LayoutError, AttributeError)):
        prune_and_retrain(other.dense, EXAMPLE, task.traced, task.table, task.dense_cost, samples(), ONE_SHOT, 7)


def test_plans_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="criterion: expected one of l1, l2"):
        PruningPlan(RECIPE, criterion="l3")
    with pytest.raises(ConfigError, match="ranking: expected one of global, per-layer, got 'local'"):
        PruningPlan(RECIPE, ranking="local")
    for num_steps in (0, 5):
        with pytest.raises(ConfigError, match=f"pruning steps: expected 1 to 4, .* got {num_steps}"):
            PruningPlan(RECIPE, num_steps=num_steps)


# --- plans by name ---------------------------------------------------------------------------------------------------


def test_the_paper_s_schedule() -> None:
    plan = plan_named("adapt", replace(RECIPE, shift_pixels=4, is_channels_last=True))
    assert (plan.criterion, plan.ranking, plan.is_per_cost, plan.num_steps) == ("l1", "global", False, 1)
    assert plan.limits == Limits(min_keep=2)
    assert plan.fine_tune is not None
    assert plan.fine_tune.epochs == 5
    assert [plan.fine_tune.rate_at(epoch) for epoch in range(5)] == [1e-3] * 5
    assert plan.retrain.epochs == 25
    rates = [plan.retrain.rate_at(epoch) for epoch in range(25)]
    assert rates == [1e-2] * 10 + [1e-3] * 10 + [1e-4] * 5
    for recipe in (plan.fine_tune, plan.retrain):
        assert (recipe.batch_size, recipe.weight_decay, recipe.momentum) == (128, 1e-4, 0.9)
        assert (recipe.held_out_ratio, recipe.label_smoothing, recipe.min_steps) == (0.2, 0.0, 0)
        assert recipe.patience > recipe.epochs
        assert (recipe.shift_pixels, recipe.flip, recipe.is_channels_last, recipe.micro_batch) == (4, True, True, 25)


def test_the_paper_s_control() -> None:
    plan = plan_named("adapt-agnostic", RECIPE)
    assert plan.fine_tune is None
    assert [plan.retrain.rate_at(epoch) for epoch in range(30)] == [1e-2] * 10 + [1e-3] * 10 + [1e-4] * 10
    assert plan == replace(plan_named("adapt", RECIPE), fine_tune=None, retrain=plan.retrain)


def test_our_own_plans() -> None:
    default = plan_named("default", RECIPE)
    assert default == PruningPlan(
        RECIPE, criterion="taylor", ranking="global", is_per_cost=True, num_steps=1, fine_tune=RECIPE
    )
    assert plan_named("iterative", replace(RECIPE, epochs=30)).num_steps == 5
    assert plan_named("iterative", RECIPE) == replace(default, num_steps=4), "no more steps than epochs"


def test_every_plan_has_a_name_and_others_are_refused() -> None:
    for name in PLANS:
        assert plan_named(name, RECIPE).retrain.epochs >= 1
    with pytest.raises(ConfigError, match="plan: expected one of default, adapt, adapt-agnostic, iterative, got 'x'"):
        plan_named("x", RECIPE)


def test_plans_can_be_made_without_torch() -> None:
    code = "import prunefleet_edge.pruning_plan, prunefleet_edge.search, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    assert done.stdout == "False\n"
