"""Carries out a plan of fine-tuning, pruning and retraining.

Killed at any moment and started again with the same arguments, a schedule ends with the same bits and does nothing
twice: each of its phases (``fine-tune``, ``masks-1``, ``retrain-1``, …) stands on the disk, finished ones with their
result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from prunefleet_edge.checkpoint import Checkpoint, TrainingState
from prunefleet_edge.criteria import check_applies, score
from prunefleet_edge.data import Samples
from prunefleet_edge.objective import Objective
from prunefleet_edge.pruning import Candidate, narrowed, slim, widened
from prunefleet_edge.pruning_plan import PLANS, PruningPlan, plan_named, shared_out
from prunefleet_edge.ranking import check_budget, even_widths, keep_masks, per_cost, rank_widths
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.saliency import SALIENCY_BATCH
from prunefleet_edge.tracing import Trace
from prunefleet_edge.training import OnStep, num_steps, train
from prunefleet_shared.layout import CostTable, WidthCost
from prunefleet_shared.masks import BoolArray

__all__ = ["PLANS", "PruningPlan", "clear_phases", "phase_names", "plan_named", "prune_and_retrain"]

CheckpointFor = Callable[[str], Checkpoint | None]
ObjectiveFor = Callable[[nn.Module], Objective]


def prune_and_retrain(  # noqa: PLR0913 - a network, what to learn from, how, and three ways to listen in
    dense: nn.Module,
    example: Tensor,
    traced: Trace,
    table: WidthCost,
    budget: int,
    samples: Samples,
    plan: PruningPlan,
    seed: int,
    *,
    checkpoint_for: CheckpointFor = lambda what: None,  # noqa: ARG005 - nothing stands on the disk
    on_step: OnStep | None = None,
    objective_for: ObjectiveFor | None = None,
) -> Candidate:
    """A slim network within ``budget``, pruned and retrained by ``plan`` on ``samples``.

    In several steps the budget falls by equal factors; each step scores the network as the step before left it. Every
    step removes channels from the dense wiring, so masks are in terms of the dense network throughout.

    Args:
        dense: Untouched; a copy of it is fine-tuned when the plan says so.
        example: Input to trace with, N×C×H×W.
        traced: Its groups; those that are left out stay whole.
        table: Cost of their widths.
        budget: Cost to stay within, in the table's unit.
        samples: What to learn from and to score by; never empty.
        plan: How.
        seed: Of order, augmentation, the held-out choice and the control criterion, alike in every phase, so that
            what is held out in one is not learnt in another.
        checkpoint_for: Gives the checkpoint of a phase by its name; with one for every phase an interrupted call can
            be made again and goes on. They keep their results until the caller clears them
            (:func:`clear_phases`), after storing what is returned.
        on_step: Told the steps done and the steps there are, at most, over all phases.
        objective_for: What retraining a slim network minimises; plain training unless given.

    Raises:
        ConfigError: The budget cannot be met, or the criterion does not apply; found before anything is trained.
        LayoutError: ``traced`` is not of ``dense``.
    """
    check_budget(traced.layout, table, budget, plan.limits)
    check_applies(plan.criterion, dense, traced)
    run = _Pruning(example, traced, table, samples, plan, seed, checkpoint_for, _Steps(samples, plan, on_step))
    model = wide = run.fine_tuned(dense)
    masks = tuple(np.ones(group.num_units, dtype=np.bool_) for group in traced.groups)
    for step, (step_budget, recipe) in enumerate(run.steps(budget), start=1):
        if step > 1:
            wide = widened(wide, model, example, masks, traced)
        masks = run.masks(step, model, masks, step_budget)
        model = slim(wide, example, masks, traced)
        model = run.trained(f"retrain-{step}", model, recipe, objective_for(model) if objective_for else None)
    return Candidate(model, masks)


def phase_names(plan: PruningPlan) -> tuple[str, ...]:
    """The phases of a plan in order, as ``checkpoint_for`` is asked for them."""
    pairs = ((f"masks-{step}", f"retrain-{step}") for step in range(1, plan.num_steps + 1))
    fine_tune = ("fine-tune",) if plan.fine_tune else ()
    return (*fine_tune, *(name for pair in pairs for name in pair))


def clear_phases(plan: PruningPlan, checkpoint_for: CheckpointFor) -> None:
    """Forget what stands on the disk, once the plan's result is stored."""
    for name in phase_names(plan):
        checkpoint = checkpoint_for(name)
        if checkpoint:
            checkpoint.clear()


class _Steps:
    """Counts the optimiser's steps over all phases, where each phase alone knows its own."""

    def __init__(self, samples: Samples, plan: PruningPlan, on_step: OnStep | None) -> None:
        self._samples, self._on_step = samples, on_step
        recipes = [*([plan.fine_tune] if plan.fine_tune else []), *shared_out(plan.retrain, plan.num_steps)]
        self._total = sum(num_steps(samples, recipe) for recipe in recipes) if on_step else 0
        self._before = 0

    def tell(self, done: int, _total: int) -> None:
        """A phase made a step."""
        if self._on_step:
            self._on_step(self._before + done, self._total)

    def end_phase(self, recipe: Recipe) -> None:
        """A phase is over, early or not."""
        if self._on_step:
            self._before += num_steps(self._samples, recipe)


@dataclass(frozen=True, slots=True)
class _Pruning:
    """What all phases of one call share."""

    example: Tensor
    traced: Trace
    table: WidthCost
    samples: Samples
    plan: PruningPlan
    seed: int
    checkpoint_for: CheckpointFor
    steps_done: _Steps

    def fine_tuned(self, dense: nn.Module) -> nn.Module:
        """The network that is scored first."""
        if self.plan.fine_tune is None:
            return dense
        return self.trained("fine-tune", copy.deepcopy(dense), self.plan.fine_tune, None)

    def steps(self, budget: int) -> Iterator[tuple[int, Recipe]]:
        """Budget and retraining of each step; budgets fall by equal factors from the dense cost."""
        dense_cost, num_steps = self.table.cost(self.traced.layout.dense_widths), self.plan.num_steps
        ratio = min(1.0, budget / dense_cost)
        for step, recipe in enumerate(shared_out(self.plan.retrain, num_steps), start=1):
            share: float = ratio ** (step / num_steps)
            yield budget if step == num_steps else max(budget, int(dense_cost * share)), recipe

    def trained(self, name: str, model: nn.Module, recipe: Recipe, objective: Objective | None) -> nn.Module:
        """``model`` after one phase of training."""
        train(
            model,
            self.samples,
            recipe,
            self.seed,
            objective=objective,
            checkpoint=self._checkpoint(name),
            on_step=self.steps_done.tell,
        )
        self.steps_done.end_phase(recipe)
        return model

    def masks(self, step: int, model: nn.Module, before: tuple[BoolArray, ...], budget: int) -> tuple[BoolArray, ...]:
        """Which channels of the dense network are left after a step; ``before`` says which ``model`` has."""
        checkpoint = self._checkpoint(f"masks-{step}")
        state = checkpoint.load() if checkpoint else None
        if state and state.is_finished:
            return tuple(state.tensors[str(index)].numpy() for index in range(len(before)))
        masks = self._chosen(model, before, budget)
        if checkpoint:
            checkpoint.save(
                TrainingState({str(i): torch.from_numpy(m) for i, m in enumerate(masks)}, {}, is_finished=True)
            )
        return masks

    def _chosen(self, model: nn.Module, before: tuple[BoolArray, ...], budget: int) -> tuple[BoolArray, ...]:
        plan, layout, own = self.plan, self.traced.layout, narrowed(self.traced, before)
        now = own.layout.dense_widths
        batch_size = min(SALIENCY_BATCH, plan.retrain.micro_batch or SALIENCY_BATCH)
        scores = score(plan.criterion, model, own, self.samples, self.seed, batch_size=batch_size)
        if plan.ranking == "per-layer":
            widths = even_widths(layout, self.table, budget, plan.limits)
        else:
            if plan.is_per_cost:
                # A measured table is made on a grid of eighths; between two of its points it says little.
                at_once = None if isinstance(self.table, CostTable) else [max(1, width // 8) for width in now]
                scores = per_cost(layout, self.table, scores, start=now, at_once=at_once)
            widths = rank_widths(layout, self.table, scores, budget, plan.limits, start=now)
        kept = keep_masks(own.layout, scores, widths)
        return tuple(_composed(mask, part) for mask, part in zip(before, kept, strict=True))

    def _checkpoint(self, name: str) -> Checkpoint | None:
        checkpoint = self.checkpoint_for(name)
        return replace(checkpoint, keeps_result=True) if checkpoint else None


def _composed(before: BoolArray, kept: BoolArray) -> BoolArray:
    """A mask over the channels that ``before`` left, as one over those of the dense network."""
    mask = np.zeros_like(before)
    mask[np.flatnonzero(before)[kept]] = True
    return mask
