"""Opening what a job on this device is about: the network, its groups, what widths cost, and how training goes."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from prunefleet_edge.data import Samples
from prunefleet_edge.memory import memory_table, micro_batch_for
from prunefleet_edge.models import ModelSpec, build
from prunefleet_edge.models.weights import read_base, set_normalisation
from prunefleet_edge.profile import latency_table, read_profile
from prunefleet_edge.prune_settings import LocalSettings, PruneSettings
from prunefleet_edge.pruning_plan import PruningPlan, plan_named
from prunefleet_edge.recipes import Recipe, recipe_named
from prunefleet_edge.tracing import Trace, cost_table
from prunefleet_shared.errors import ConfigError, InputError
from prunefleet_shared.layout import WidthCost
from prunefleet_shared.limits import Limits

MEMORY_BATCH = 32
"""Batch at which a budget in training memory is counted."""


def open_base(settings: PruneSettings, spec: ModelSpec, samples: Samples) -> nn.Module:
    """The dense network, in eval mode: from its file, with the weights that code of one's own gave it, or random ones.

    Raises:
        ConfigError: A built-in network without weights, and not told to train it from scratch (the user's to mend).
        InputError: The file is for another network (the user's to mend).
    """
    allowed = (spec.architecture,)  # named on this machine's command line
    if settings.base:
        return read_base(spec, read_file(settings.base), str(settings.base), samples, allowed)
    if not spec.is_code and not settings.scratch:
        msg = f"{spec}: its weights are random; give trained ones with --base, or train it here first with --scratch"
        raise ConfigError(msg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = build(spec, allowed)
    return (set_normalisation(model, samples) if settings.scratch else model).eval()


def read_file(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        InputError: It cannot be read (the user's to mend).
    """
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path}: expected a readable file: {error.strerror}"
        raise InputError(msg) from None


def open_table(settings: PruneSettings, model: nn.Module, example: Tensor, traced: Trace) -> WidthCost:
    """What widths cost, in the unit that was asked for.

    Raises:
        InputError: The profile cannot be read, or is another network's (the user's to mend).
    """
    if settings.budget_in == "training-memory":
        return memory_table(model, example, traced, MEMORY_BATCH)
    if settings.profile:
        return latency_table(read_profile(settings.profile), traced.layout, settings.model)
    return cost_table(model, example, traced, settings.budget_in)


def local_recipe(settings: LocalSettings, model: nn.Module, example: Tensor) -> Recipe:
    """How training goes on this device: the preset, the epochs asked for, batches that fit the memory.

    Raises:
        ConfigError: There is no such preset (the user's to mend).
        InputError: Not even the smallest batch fits (the user's to mend).
    """
    recipe = recipe_named(settings.recipe_name)
    if settings.epochs is not None:
        recipe = replace(recipe, epochs=settings.epochs, min_steps=0)
    limit_bytes = settings.memory_limit_bytes
    if limit_bytes is None:
        return recipe
    return replace(recipe, micro_batch=micro_batch_for(model, example[:1], recipe.batch_size, limit_bytes))


def local_plan(settings: PruneSettings, recipe: Recipe, traced: Trace) -> PruningPlan:
    """The plan that was named, with what was asked for besides.

    Raises:
        ConfigError: A name is unknown, or a number does not fit (the user's to mend).
    """
    _check_skipped(settings.skip, traced)
    plan = plan_named(settings.plan, recipe)
    limits = Limits(max(settings.min_keep, plan.limits.min_keep), settings.round_to, frozenset(settings.skip))
    if settings.scratch and plan.fine_tune is None:
        plan = replace(plan, fine_tune=recipe)
    return replace(
        plan,
        limits=limits,
        criterion=settings.criterion or plan.criterion,
        ranking=settings.ranking or plan.ranking,
        num_steps=settings.steps or plan.num_steps,
    )


def _check_skipped(skipped: tuple[str, ...], traced: Trace) -> None:
    names = [group.name for group in traced.groups]
    for name in skipped:
        if name not in names and name not in traced.frozen:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
            msg = f"skip: no group of channels is called {name!r}; {hint}"
            raise ConfigError(msg)
