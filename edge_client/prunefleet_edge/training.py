"""Fine-tuning with early stopping. Same seed, same machine, same network; interrupted or not.

One :class:`~prunefleet_edge.recipes.Recipe` says everything; the same function trains the base, retrains a slim net on
public data and fine-tunes on a device, so that arms differ only in what the caller changes.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prunefleet_edge.batches import batch_sizes, batches, hold_out, micro_batches
from prunefleet_edge.checkpoint import Checkpoint, TrainingState
from prunefleet_edge.data import Samples
from prunefleet_edge.evaluation import mean_loss
from prunefleet_edge.objective import CrossEntropy, Objective
from prunefleet_edge.recipes import Recipe

OnStep = Callable[[int, int], None]
"""Told the steps done and the steps there are, at most."""


def train(
    model: nn.Module,
    samples: Samples,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[int], None] | None = None,
    *,
    objective: Objective | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> nn.Module:
    """Train ``model`` in place and return it in eval mode, at the epoch with the lowest held-out loss.

    The state before training competes too: with something held out, training never ends worse than it began there.

    Args:
        model: Trained in place.
        samples: What to learn from; never empty.
        recipe: How.
        seed: Of order, augmentation and the held-out choice.
        on_epoch: Called with the number of epochs done.
        objective: What to minimise; cross-entropy with the recipe's label smoothing unless given.
        checkpoint: Where to go on from, and to save to; None keeps nothing. At the end it is cleared, or keeps the
            trained network, which a later call then returns at once.
        on_step: Called after every step.
    """
    state = checkpoint.load() if checkpoint else None
    if state and state.is_finished:
        _set_format(model, recipe)
        model.load_state_dict(state.tensors)
        return model.eval()
    generator = torch.Generator().manual_seed(seed)
    fit, held_out = hold_out(samples, recipe.held_out_ratio, generator)
    run = _Run(model, fit, recipe, generator, _Best(model, held_out), objective or CrossEntropy(recipe.label_smoothing))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout draws from torch's own generator
        if state:
            run.restore(state)
        while run.epoch < run.epochs and run.best.epochs_without < recipe.patience:
            run.one_epoch(checkpoint, on_step)
            if on_epoch:
                on_epoch(run.epoch)
    run.best.restore(model)
    if checkpoint:
        checkpoint.finish(model.state_dict())
    return model


def num_steps(samples: Samples, recipe: Recipe) -> int:
    """Steps that :func:`train` makes of ``samples``, at most."""
    # The labels stand for the images, which need not be copied to be counted.
    counted = Samples(samples.labels, samples.labels)
    fit, _ = hold_out(counted, recipe.held_out_ratio, torch.Generator().manual_seed(0))
    steps_per_epoch = len(batch_sizes(len(fit), recipe.batch_size))
    return num_epochs(recipe, steps_per_epoch) * steps_per_epoch


def num_epochs(recipe: Recipe, steps_per_epoch: int) -> int:
    """Epochs that make the recipe's least number of steps."""
    return max(recipe.epochs, math.ceil(recipe.min_steps / steps_per_epoch))


def _set_format(model: nn.Module, recipe: Recipe) -> None:
    if recipe.is_channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a keyword torch does not type


class _Run:
    """A training under way."""

    def __init__(
        self,
        model: nn.Module,
        fit: Samples,
        recipe: Recipe,
        generator: torch.Generator,
        best: _Best,
        objective: Objective,
    ) -> None:
        _set_format(model, recipe)
        self._model, self._fit, self._recipe = model, fit, recipe
        self._generator, self.best, self._objective = generator, best, objective
        self.epoch = self._batch = 0
        self._order = torch.empty(0, dtype=torch.int64)
        self._optimizer = torch.optim.SGD(
            model.parameters(),
            recipe.learning_rate,
            recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
            fused=True,  # one kernel for all parameters: small networks spend their time in calls
        )
        self._steps_per_epoch = len(batch_sizes(len(fit), recipe.batch_size))
        self.epochs = num_epochs(recipe, self._steps_per_epoch)
        self._schedule = self._new_schedule()

    def _new_schedule(self) -> torch.optim.lr_scheduler.LRScheduler:
        recipe, steps = self._recipe, self.epochs * self._steps_per_epoch
        if not recipe.rate_steps:
            return torch.optim.lr_scheduler.OneCycleLR(self._optimizer, recipe.learning_rate, total_steps=steps + 1)
        return torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: recipe.rate_at(step // self._steps_per_epoch) / recipe.learning_rate
        )

    def one_epoch(self, checkpoint: Checkpoint | None, on_step: OnStep | None) -> None:
        """Train for what is left of the epoch, then look at what is held out."""
        if self._batch == 0:
            self._order = torch.randperm(len(self._fit), generator=self._generator)
        self._objective.enter(self._model)
        for images, labels in batches(self._fit, self._recipe, self._order, self._generator, self._batch):
            self._one_step(images, labels)
            self._batch += 1
            if on_step:
                on_step(self.epoch * self._steps_per_epoch + self._batch, self.epochs * self._steps_per_epoch)
            if checkpoint and checkpoint.is_due():
                checkpoint.save(self.state())
        self.epoch, self._batch = self.epoch + 1, 0
        self.best.look(self._model)

    def _one_step(self, images: Tensor, labels: Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        for part, part_labels in micro_batches(images, labels, self._recipe.micro_batch):
            share = len(part_labels) / len(labels)
            loss = self._objective.loss(self._model, part, part_labels)
            (loss * share if share < 1 else loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._optimizer.step()
        self._schedule.step()
        self._objective.project(self._model)

    def state(self) -> TrainingState:
        """All there is to say about this training now."""
        tensors = {f"model.{name}": tensor for name, tensor in self._model.state_dict().items()}
        for index, parameter in enumerate(self._model.parameters()):
            momentum = self._optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{index}"] = momentum
        tensors |= {"order": self._order, "generator": self._generator.get_state(), "dropout": torch.get_rng_state()}
        best_tensors, best_numbers = self.best.state()
        return TrainingState(tensors | best_tensors, {"epoch": self.epoch, "batch": self._batch} | best_numbers)

    def restore(self, state: TrainingState) -> None:
        """Go back to where :meth:`state` was taken."""
        self._model.load_state_dict(_within(state.tensors, "model."))
        for index, parameter in enumerate(self._model.parameters()):
            if f"momentum.{index}" in state.tensors:
                buffer = torch.empty_like(parameter).copy_(state.tensors[f"momentum.{index}"])
                self._optimizer.state[parameter]["momentum_buffer"] = buffer
        self._order = state.tensors["order"]
        self._generator.set_state(state.tensors["generator"])
        torch.set_rng_state(state.tensors["dropout"])
        self.epoch, self._batch = int(state.numbers["epoch"]), int(state.numbers["batch"])
        self.best.resume(state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch expects a step of the optimiser before each of the schedule
            for _ in range(self.epoch * self._steps_per_epoch + self._batch):
                self._schedule.step()


def _within(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class _Best:
    """Remembers the state with the lowest held-out loss."""

    def __init__(self, model: nn.Module, held_out: Samples | None) -> None:
        self._held_out = held_out
        self.epochs_without = 0
        self._loss = math.inf
        self._state: dict[str, Tensor] = {}
        if held_out is not None:
            self._loss = mean_loss(model, held_out)
            self._state = copy.deepcopy(model.state_dict())

    def look(self, model: nn.Module) -> None:
        """Compare with the best epoch so far (nothing, with nothing held out)."""
        if self._held_out is None:
            return
        loss = mean_loss(model, self._held_out)
        self.epochs_without += 1
        if loss < self._loss:
            self._loss, self._state, self.epochs_without = loss, copy.deepcopy(model.state_dict()), 0

    def state(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """For a checkpoint."""
        tensors = {f"best.{name}": tensor for name, tensor in self._state.items()}
        return tensors, {"best_loss": self._loss, "epochs_without": self.epochs_without}

    def resume(self, state: TrainingState) -> None:
        """From a checkpoint."""
        self._state = _within(state.tensors, "best.")
        self._loss, self.epochs_without = state.numbers["best_loss"], int(state.numbers["epochs_without"])

    def restore(self, model: nn.Module) -> nn.Module:
        """The model at its best, in eval mode."""
        if self._held_out is not None:
            model.load_state_dict(self._state)
        return model.eval()
