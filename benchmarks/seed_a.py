"""The first seed paper's experiment: does pruning and retraining on a device's own classes beat doing it for all?

    python benchmarks/seed_a.py --nets resnet20 --subsets aquatic,indoor,natural --levels 50,80,90,95 --seeds 1

Rajagopal & Bouganis 2020 (CVPR workshops, arXiv 2006.08554). A network that knows all 100 classes of CIFAR-100 is to
run on a device that sees 10 to 65 of them. Arms, all at the same number of parameters and of epochs:

- ``agnostic`` (theirs): prune the base by L1, retrain on all classes of the public half; never sees the device's data.
- ``aware`` (theirs): fine-tune the base on the device's subset, prune by L1, retrain on the subset.
- ``aware_base_topology``: as ``aware``, but the channels are those that ``agnostic`` keeps. Its lead over ``agnostic``
  is what local retraining is worth; the lead of ``aware`` over it is what a data-aware topology is worth.
- ``aware_taylor``: as ``aware``, with Taylor saliency on the device's images, per parameter saved.
- ``agnostic_local``: what ``agnostic`` made, then fine-tuned on the subset for as long as ``aware`` trains in all.

Rows are appended one at a time to ``benchmarks/results/seed_a.json``; what is there is not run again.
"""

from __future__ import annotations

import copy
import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from cifar100 import SUBSETS, load_base, load_cifar100, spec_of
from result_file import RESULTS, ResultFile, Row, cache_folder
from seed_a_plot import plot
from torch import nn

from prunefleet_edge.checkpoint import Checkpoint
from prunefleet_edge.data import Samples
from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.models import example_input
from prunefleet_edge.pruning import slim
from prunefleet_edge.ranking import keep_masks, per_cost, rank_widths
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.saliency import l1_saliency, taylor_saliency
from prunefleet_edge.tracing import Trace, cost_table, trace
from prunefleet_edge.training import train
from prunefleet_edge.work import load_weights, save_weights
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.layout import CostTable
from prunefleet_shared.masks import BoolArray, FloatArray

ARMS = ("agnostic", "aware", "aware_base_topology", "aware_taylor", "agnostic_local")
KEY = ("net", "subset", "level_percent", "arm", "seed", "epochs")
FINE_TUNE_EPOCHS, RETRAIN_EPOCHS = 5, 25
DEPARTURES = (
    "private half of CIFAR-100 on the device (250 images a class, 200/50 by a seed), public half elsewhere; "
    "the paper retrains and prunes on the same 50,000 images the base saw",
    "the network kept is that of the epoch with the lowest held-out loss, not the highest held-out accuracy",
    "a group keeps an eighth of its channels at least; the paper has rules of its own",
    "Nesterov momentum; rates, weight decay, batch size and the order of epochs are the paper's",
    "agnostic retrains on 20,000 images an epoch and holds 5,000 out; the paper 40,000 and 10,000",
)


@dataclass(frozen=True, slots=True)
class PaperRates:
    """Learning rates of the paper's schedules, by epoch of 30 (research notes of its configuration files).

    Attributes:
        fine_tune: Of the five epochs before pruning.
        retrain: Of the 25 after: (first epoch, rate).
        agnostic: Of the 30 on all classes.
        weight_decay: L2.
        is_channels_last: What is faster here (measured), no matter of the paper's.
    """

    fine_tune: float
    retrain: tuple[tuple[int, float], ...]
    agnostic: tuple[tuple[int, float], ...]
    weight_decay: float
    is_channels_last: bool


RATES = {
    "resnet20": PaperRates(1e-3, ((0, 1e-2), (10, 1e-3), (20, 1e-4)), ((0, 1e-2), (10, 1e-3), (20, 1e-4)), 1e-4, True),
    "mobilenetv2": PaperRates(
        1e-3, ((0, 1e-2), (10, 1e-3), (20, 1e-4)), ((0, 1e-2), (10, 1e-3), (20, 1e-4)), 5e-4, True
    ),
    "alexnet": PaperRates(1e-4, ((0, 1e-3), (10, 1e-4), (20, 1e-5)), ((0, 1e-3), (10, 1e-4), (20, 1e-5)), 5e-4, False),
    "squeezenet": PaperRates(
        8e-4, ((0, 2e-2), (10, 4e-3), (20, 8e-4)), ((0, 2e-2), (10, 4e-3), (20, 8e-4)), 2e-4, False
    ),
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """One network's trainings at a scale of the paper's epochs."""

    fine_tune: Recipe
    retrain: Recipe
    agnostic: Recipe
    local: Recipe

    @property
    def epochs(self) -> int:
        """Epochs of every arm's own training."""
        return self.agnostic.epochs


def schedule(net: str, epochs_scale: float) -> Schedule:
    """The paper's trainings, every phase shortened alike; rounded to whole epochs, at least one a phase."""
    rates = RATES[net]

    def scaled(epochs: int) -> int:
        return max(1, round(epochs * epochs_scale))

    def recipe(epochs: int, steps: tuple[tuple[int, float], ...]) -> Recipe:
        return Recipe(
            epochs=epochs,
            patience=epochs + 1,  # to the end: the paper takes the best epoch afterwards
            learning_rate=steps[0][1],
            rate_steps=tuple((round(first * epochs_scale), rate) for first, rate in steps),
            batch_size=128,
            weight_decay=rates.weight_decay,
            held_out_ratio=0.2,
            shift_pixels=4,
            flip=True,
            is_channels_last=rates.is_channels_last,
        )

    fine_tune, retrain = scaled(FINE_TUNE_EPOCHS), scaled(RETRAIN_EPOCHS)
    return Schedule(
        recipe(fine_tune, ((0, rates.fine_tune),)),
        recipe(retrain, rates.retrain),
        recipe(fine_tune + retrain, rates.agnostic),
        recipe(fine_tune + retrain, rates.retrain),
    )


@dataclass(frozen=True, slots=True)
class Task:
    """One arm at one level on one subset; ``subset`` is empty for the networks that no device's data has touched."""

    net: str
    subset: str
    level_percent: int
    arm: str
    seed: int
    epochs_scale: float

    def __str__(self) -> str:
        return f"{self.net} {self.subset or 'all classes'} {self.level_percent}% {self.arm} seed {self.seed}"


class Bench:
    """The networks of one seed, made when they are first asked for and kept in the cache."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.spec, self.schedule = spec_of(task.net), schedule(task.net, task.epochs_scale)
        self.images = load_cifar100()
        self.base = load_base(task.net, cache_folder())
        self.example = example_input(self.spec)
        self.traced: Trace = trace(self.base, self.example)
        self.parameters = self._table("parameters")

    def _table(self, unit: str) -> CostTable:
        return cost_table(self.base, self.example, self.traced, unit)

    def masks(self, scores_C: FloatArray) -> list[BoolArray]:
        """What to keep at the task's level."""
        layout = self.traced.layout
        budget = int(self.parameters.cost(layout.dense_widths) * (1 - self.task.level_percent / 100))
        return keep_masks(layout, scores_C, rank_widths(layout, self.parameters, scores_C, budget))

    def agnostic(self) -> nn.Module:
        """The base, pruned by its own L1 and retrained on all classes of the public half."""
        small = slim(self.base, self.example, self.masks(l1_saliency(self.base, self.traced)))
        name = f"agnostic-{self.task.level_percent}"
        return self._trained(name, small, self.images.public, self.schedule.agnostic)

    def fine_tuned(self) -> nn.Module:
        """The dense base, fine-tuned on the device's subset."""
        return self._trained(f"fine-{self.task.subset}", copy.deepcopy(self.base), self.own(), self.schedule.fine_tune)

    def own(self) -> Samples:
        """The device's images."""
        return self.images.only(self.images.private, self.task.subset)

    def _trained(self, name: str, model: nn.Module, samples: Samples, recipe: Recipe) -> nn.Module:
        """``model`` trained, from the cache if it was before."""
        task = self.task
        path = cache_folder() / f"{task.net}-{name}-seed{task.seed}-scale{task.epochs_scale}.safetensors"
        if path.exists():
            return load_weights(model, path.read_bytes(), str(path)).eval()
        train(model, samples, recipe, task.seed, checkpoint=Checkpoint(path.with_suffix(".part"), str(recipe)))
        write_whole(path, save_weights(model), 0o600)
        return model

    def model(self) -> nn.Module:
        """The network of the task's arm."""
        task = self.task
        if task.arm == "agnostic":
            return self.agnostic()
        if task.arm == "agnostic_local":
            return train(self.agnostic(), self.own(), self.schedule.local, task.seed)
        dense = self.fine_tuned()
        small = slim(dense, self.example, self.masks(self._scores(dense)))
        return train(small, self.own(), self.schedule.retrain, task.seed)

    def _scores(self, dense: nn.Module) -> FloatArray:
        if self.task.arm == "aware":
            return l1_saliency(dense, self.traced)
        if self.task.arm == "aware_base_topology":
            return l1_saliency(self.base, self.traced)
        own = self.own()
        return per_cost(
            self.traced.layout, self.parameters, taylor_saliency(dense, self.traced, own.images, own.labels)
        )

    def rows(self, subsets: tuple[str, ...]) -> list[Row]:
        """The task's arm, measured on the test images of each subset."""
        model, macs = self.model(), self._table("macs")
        slim_trace = trace(model, self.example)
        widths = slim_trace.layout.dense_widths
        removed = 1 - sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in self.base.parameters())
        shared = {
            "removed": round(removed, 4),
            "macs": round(macs.cost(widths) / macs.cost(self.traced.layout.dense_widths), 4),
        }
        return [self._row(model, subset, shared) for subset in subsets]

    def _row(self, model: nn.Module, subset: str, shared: Row) -> Row:
        test = self.images.only(self.images.test, subset)
        return {
            "net": self.task.net,
            "subset": subset,
            "level_percent": self.task.level_percent,
            "arm": self.task.arm,
            "seed": self.task.seed,
            "accuracy": round(accuracy(model, test), 4),
            "dense_accuracy": round(accuracy(self.base, test), 4),
            "params_removed_ratio": shared["removed"],
            "macs_ratio": shared["macs"],
            "epochs": self.schedule.epochs,
        }


def run_task(task: Task, subsets: tuple[str, ...]) -> list[Row]:
    """Carry out one task in a worker process."""
    return Bench(task).rows(subsets)


def _start_worker() -> None:
    torch.set_num_threads(1)
    os.nice(10)


def tasks(
    nets: list[str], subsets: list[str], levels: list[int], seeds: list[int], arms: list[str], scale: float
) -> Iterator[list[Task]]:
    """In the order of what builds on what: networks of all classes, then those of each subset."""
    for net, seed in itertools.product(nets, seeds):
        yield [Task(net, "", level, "agnostic", seed, scale) for level in levels if "agnostic" in arms]
        for subset in subsets:
            pairs = itertools.product(levels, [arm for arm in arms if arm != "agnostic"])
            local = [Task(net, subset, level, arm, seed, scale) for level, arm in pairs]
            yield local[:1]  # makes the fine-tuned network that the others start from
            yield local[1:]


def summarise(rows: list[Row]) -> Row:
    """The paper's two numbers, and where the gain comes from.

    By its rule: the difference of two arms at each level, averaged over seeds; then over levels for each subset and
    network; then over those.
    """
    pairs = {
        "aware_minus_agnostic_pp": ("aware", "agnostic"),
        "retraining_pp": ("aware_base_topology", "agnostic"),
        "topology_pp": ("aware", "aware_base_topology"),
        "taylor_minus_agnostic_pp": ("aware_taylor", "agnostic"),
        "agnostic_local_minus_agnostic_pp": ("agnostic_local", "agnostic"),
        "agnostic_local_minus_aware_pp": ("agnostic_local", "aware"),
    }
    return {name: _gain(rows, *pair) for name, pair in pairs.items()}


def _gain(rows: list[Row], arm: str, other: str) -> Row:
    found: dict[tuple[str, str, int, int], dict[str, list[float]]] = {}
    for row in rows:
        place = (row["net"], row["subset"], row["level_percent"], row["epochs"])
        found.setdefault(place, {}).setdefault(row["arm"], []).append(100 * row["accuracy"])
    gains = {
        place: float(np.mean(arms[arm]) - np.mean(arms[other]))
        for place, arms in found.items()
        if arm in arms and other in arms
    }
    high = {place: gain for place, gain in gains.items() if place[2] >= 50}
    return {"all_levels": _mean_max(gains), "levels_from_50": _mean_max(high)}


def _mean_max(gains: dict[tuple[str, str, int, int], float]) -> Row:
    if not gains:
        return {"mean": None, "max": None, "num_points": 0}
    by_series: dict[tuple[str, str, int], list[float]] = {}
    for (net, subset, _, epochs), gain in gains.items():
        by_series.setdefault((net, subset, epochs), []).append(gain)
    mean = float(np.mean([np.mean(values) for values in by_series.values()]))
    return {"mean": round(mean, 2), "max": round(max(gains.values()), 2), "num_points": len(gains)}


def _split(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def main(  # noqa: PLR0913, PLR0917 - one argument per option
    nets: Annotated[str, typer.Option(help=f"of {', '.join(RATES)}")] = "resnet20,alexnet",
    subsets: Annotated[str, typer.Option(help=f"of {', '.join(SUBSETS)}")] = "aquatic,indoor",
    levels: Annotated[str, typer.Option(help="per cent of the parameters removed")] = "50,80,90,95",
    seeds: Annotated[str, typer.Option(help="repetitions")] = "1",
    arms: Annotated[str, typer.Option(help=f"of {', '.join(ARMS)}")] = ",".join(ARMS),
    epochs_scale: Annotated[float, typer.Option(min=0.01, help="of the paper's 30 epochs")] = 1.0,
    workers: Annotated[int, typer.Option(min=1, help="processes, one torch thread each")] = 2,
    out: Annotated[Path, typer.Option(help="the result file")] = RESULTS / "seed_a.json",
    plot_to: Annotated[Path | None, typer.Option("--plot", help="write the figure to this SVG")] = None,
) -> None:
    """Run what is not in the result file yet."""
    command = (
        f"python benchmarks/seed_a.py --nets {nets} --subsets {subsets} --levels {levels} --seeds {seeds} "
        f"--arms {arms} --epochs-scale {epochs_scale}"
    )
    about = {
        "paper": "Rajagopal & Bouganis 2020, arXiv 2006.08554: +10.2 pp mean, +42.0 pp max, aware minus agnostic",
        "accuracy": "top-1 of 100 outputs, on the test images of the subset's classes",
        "departures_from_the_paper": list(DEPARTURES),
        "epochs": "of each arm's training; the paper's is 30",
    }
    results = ResultFile(out, command, about, KEY, summarise)
    all_subsets = tuple(_split(subsets))
    plan = tasks(
        _split(nets), _split(subsets), [int(x) for x in _split(levels)], [int(x) for x in _split(seeds)], _split(arms),
        epochs_scale,
    )  # fmt: skip
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        for group in plan:
            _run_group(pool, group, all_subsets, results)
    if plot_to:
        plot(results.rows, plot_to)
    typer.echo(json.dumps(summarise(results.rows), indent=2))


def _run_group(pool: ProcessPoolExecutor, group: list[Task], subsets: tuple[str, ...], results: ResultFile) -> None:
    waiting = {}
    for task in group:
        wanted = tuple(
            s for s in (subsets if task.arm == "agnostic" else (task.subset,)) if not _is_done(results, task, s)
        )
        if wanted:
            waiting[pool.submit(run_task, task, wanted)] = task
    for future in as_completed(waiting):
        rows = future.result()
        results.add(rows)
        scores = ", ".join(f"{row['subset']} {100 * row['accuracy']:.1f} %" for row in rows)
        typer.echo(f"{waiting[future]}: {scores}")


def _is_done(results: ResultFile, task: Task, subset: str) -> bool:
    where = {"net": task.net, "subset": subset, "level_percent": task.level_percent, "arm": task.arm, "seed": task.seed}
    return results.has(**where, epochs=schedule(task.net, task.epochs_scale).epochs)


if __name__ == "__main__":
    typer.run(main)
