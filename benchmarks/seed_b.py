"""The second seed paper's question: how to retrain a weight-pruned network on the device that runs it.

    python benchmarks/seed_b.py --nets resnet20,alexnet --sparsities 0.5,0.8,0.9,0.95 --seeds 1,2,3

Chandakkar et al. 2017 (IEEE EDGE; only the abstract could be found): better on the device's new data, hardly worse on
the original task. Here a base that knows the 100 classes of CIFAR-100 is pruned by magnitude and retrained on the
public half, step by step to each sparsity: that is the deployed network. A device has at most 20 private images of
each class, taken by one camera (low contrast, a blur, noise), and retrains the network by each strategy. What counts
is the accuracy on test images taken by that camera (*new*) and on the clean ones (*original*).

With ``--damages stuck,channels,bits`` the deployed network is damaged first (see ``damage``), and strategies show
what they win back.

Rows are appended one at a time to ``benchmarks/results/seed_b.json``; what is there is not run again.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from cifar100 import load_base, load_cifar100, spec_of
from result_file import RESULTS, ResultFile, Row, cache_folder
from scipy import ndimage
from seed_b_summary import UNDAMAGED, plot, summarise
from torch import nn

from prunefleet_edge.checkpoint import Checkpoint
from prunefleet_edge.damage import (
    Damage,
    Holding,
    bit_flips,
    dead_channels,
    drop_implausible,
    largest_weights,
    stuck_at_zero,
    surviving,
)
from prunefleet_edge.data import Samples
from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.models import build
from prunefleet_edge.models.weights import load_weights, save_weights
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.retraining import STRATEGIES, Survivors, retrain, strategy_named
from prunefleet_edge.retraining_options import RetrainingOptions
from prunefleet_edge.weight_pruning import (
    WeightMasks,
    apply_masks,
    magnitude_masks,
    nonzero_masks,
    sparsity_of,
)
from prunefleet_shared.document_file import write_whole

KEY = ("net", "dataset", "strategy", "sparsity", "damage", "seed", "epochs")
DATASET = "cifar100"
NEW_PER_CLASS, TEST_PER_CLASS = 20, 25
BLUR_PIXELS, CONTRAST_LOSS, NOISE = 0.5, 0.3, 0.01
FACTORY_EPOCHS, DEVICE_EPOCHS = 1, 2
EVALUATION_BATCH = 64
ANCHOR_WEIGHT = 0.5
FACTORY_SEED = 0
DAMAGES: dict[str, tuple[Callable[[nn.Module, float, int], Damage], float]] = {
    "stuck": (stuck_at_zero, 0.1),
    "channels": (dead_channels, 0.1),
    "bits": (bit_flips, 1000),
}
"""How a network is damaged, and how much: fractions of stored weights and of channels, flips in a million bits."""
NOTES = (
    "strategies, networks, data and numbers are ours: only the paper's abstract could be found",
    "deployed network: global magnitude pruning of the base in steps 0.5, 0.8, 0.9, 0.95, each retrained on the public "
    f"half for {FACTORY_EPOCHS} epoch (survivors only); made once per network and sparsity",
    f"new data: {NEW_PER_CLASS} private images a class drawn by the seed; camera: Gaussian blur {BLUR_PIXELS} pixels, "
    f"{CONTRAST_LOSS:.0%} of the contrast lost, pixel noise {NOISE} of full scale",
    f"both accuracies: top-1 of 100 classes on the same {100 * TEST_PER_CLASS} test images ({TEST_PER_CLASS} a class, "
    "fixed), clean and through the camera; standard error of one accuracy about 1 point",
    "all strategies: same images, order, rate and epochs; nothing held out; rates were chosen by a few "
    "trials on private images drawn with another seed (they may overlap), never on test images",
    "damage: " + ", ".join(f"{kind} {amount:g}" for kind, (_, amount) in DAMAGES.items()) + " (of stored weights, of "
    "channels, per million stored bits), drawn by the seed; after bit flips a device drops weights that are no number "
    "or larger than any of their layer at deployment; unchecked_*: accuracy without that check",
    "distilled: the teacher is the original, unpruned base; anchored: L2-SP of weight "
    f"{ANCHOR_WEIGHT} in place of weight decay; regrow fills all gaps",
)


@dataclass(frozen=True, slots=True)
class Rates:
    """Peaks of the one-cycle schedules of one network.

    Attributes:
        factory: After pruning, on public images.
        device: On the device's own images.
        is_channels_last: What is faster here (measured).
    """

    factory: float
    device: float
    is_channels_last: bool


RATES = {
    "resnet20": Rates(0.05, 0.005, True),
    "alexnet": Rates(0.01, 0.002, False),
    "squeezenet": Rates(0.05, 0.005, False),
}


def recipes(net: str, epochs_scale: float) -> tuple[Recipe, Recipe]:
    """How the factory and the device train; epochs are scaled and rounded, at least one."""
    rates = RATES[net]
    factory = Recipe(
        epochs=max(1, round(FACTORY_EPOCHS * epochs_scale)),
        learning_rate=rates.factory,
        batch_size=128,
        weight_decay=1e-4,
        shift_pixels=4,
        flip=True,
        is_channels_last=rates.is_channels_last,
    )
    epochs = max(1, round(DEVICE_EPOCHS * epochs_scale))
    return factory, replace(factory, epochs=epochs, learning_rate=rates.device, batch_size=32)


def through_camera(samples: Samples, seed: int) -> Samples:
    """The images as the device's camera would have taken them; the seed is the noise's."""
    pixels = samples.images.numpy().astype(np.float64)
    pixels = ndimage.gaussian_filter(pixels, (0, 0, BLUR_PIXELS, BLUR_PIXELS))
    noise = np.random.default_rng(seed).normal(0, NOISE, pixels.shape)
    pixels = np.clip(pixels * (1 - CONTRAST_LOSS) + CONTRAST_LOSS / 2 + noise, 0, 1)
    return Samples(_from_bytes(np.rint(pixels * 255).astype(np.uint8)), samples.labels)


def _from_bytes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).float() / 255


def some_per_class(samples: Samples, num: int, seed: int) -> Samples:
    """At most ``num`` images of each class, drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for label in range(100):
        index = (samples.labels == label).nonzero().flatten()
        parts.append(index[torch.randperm(len(index), generator=generator)[:num]])
    return samples[torch.cat(parts).sort().values]


def save_images(seeds: list[int]) -> None:
    """Keep what the tasks need in small files, so that a worker does not hold all of CIFAR-100."""
    wanted = {"original": (), "new_test": (), "public": ()} | {f"new-{seed}": () for seed in seeds}
    if all(_images_path(name).exists() for name in wanted):
        return
    images = load_cifar100()
    clean = some_per_class(images.test, TEST_PER_CLASS, seed=0)
    made: dict[str, Samples] = {"original": clean, "new_test": through_camera(clean, seed=0), "public": images.public}
    made |= {f"new-{seed}": through_camera(some_per_class(images.private, NEW_PER_CLASS, seed), seed) for seed in seeds}
    for name, samples in made.items():
        with _images_path(name).open("wb") as file:
            np.savez(file, x=np.rint(samples.images.numpy() * 255).astype(np.uint8), y=samples.labels.numpy())
    load_cifar100.cache_clear()


def _images_path(name: str) -> Path:
    return cache_folder() / f"seed_b-{name}-{NEW_PER_CLASS}-{BLUR_PIXELS}-{CONTRAST_LOSS}-{NOISE}.npz"


def load_images(name: str) -> Samples:
    """What :func:`save_images` kept: ``public``, ``original``, ``new_test`` or ``new-SEED``."""
    with np.load(_images_path(name), allow_pickle=False) as file:
        return Samples(_from_bytes(file["x"]), torch.from_numpy(file["y"]))


@dataclass(frozen=True, slots=True)
class Task:
    """One strategy on one deployed network, damaged or not."""

    net: str
    sparsity: float
    strategy: str
    damage: str
    seed: int
    epochs_scale: float

    def __str__(self) -> str:
        damage = "" if self.damage == UNDAMAGED else f" damaged ({self.damage})"
        return f"{self.net} {self.sparsity:.0%}{damage} {self.strategy} seed {self.seed}"

    @property
    def key(self) -> Row:
        """The row's columns that say which it is."""
        return {
            "net": self.net,
            "dataset": DATASET,
            "strategy": self.strategy,
            "sparsity": self.sparsity,
            "damage": self.damage,
            "seed": self.seed,
            "epochs": recipes(self.net, self.epochs_scale)[1].epochs,
        }


# --- the deployed network ---------------------------------------------------------------------------------------------


def deployed_path(net: str, sparsity: float, epochs_scale: float) -> Path:
    """Where the network is kept that a device starts from."""
    epochs = recipes(net, epochs_scale)[0].epochs
    return cache_folder() / f"seed_b-{net}-{sparsity}-epochs{epochs}.safetensors"


def deploy(net: str, sparsity: float, previous: float | None, epochs_scale: float) -> None:
    """Prune the network one step further than ``previous`` and retrain it on the public half."""
    path = deployed_path(net, sparsity, epochs_scale)
    model = load_base(net, cache_folder()) if previous is None else load_deployed(net, previous, epochs_scale)[0]
    masks = magnitude_masks(model, sparsity, within=None if previous is None else nonzero_masks(model))
    apply_masks(model, masks)
    recipe, _ = recipes(net, epochs_scale)
    part = Checkpoint(path.with_suffix(".part"), f"{recipe} {previous}")
    retrain(model, masks, load_images("public"), recipe, Survivors(), FACTORY_SEED, part)
    write_whole(path, save_weights(model), 0o600)


def load_deployed(net: str, sparsity: float, epochs_scale: float) -> tuple[nn.Module, WeightMasks]:
    """The deployed network, and its survivors."""
    path = deployed_path(net, sparsity, epochs_scale)
    model = load_weights(build(spec_of(net)), path.read_bytes(), str(path)).eval()
    return model, nonzero_masks(model)


# --- on the device ----------------------------------------------------------------------------------------------------


def run_task(task: Task) -> Row:
    """Retrain the deployed network by the task's strategy, and measure both accuracies."""
    model, masks = load_deployed(task.net, task.sparsity, task.epochs_scale)
    recipe = recipes(task.net, task.epochs_scale)[1]
    teacher = load_base(task.net, cache_folder()) if task.strategy == "distilled" else None
    strategy = strategy_named(
        RetrainingOptions(task.strategy, anchor_weight=ANCHOR_WEIGHT), teacher=teacher, seed=task.seed
    )
    facts: Row = {}
    if task.damage != UNDAMAGED:
        damage, facts = damaged(model, task)
        model, masks, strategy = damage.model, surviving(masks, damage.working), Holding(strategy, damage.working)
    retrain(model, masks, load_images(f"new-{task.seed}"), recipe, strategy, task.seed)
    return task.key | measured(model) | facts


def damaged(model: nn.Module, task: Task) -> tuple[Damage, Row]:
    """The deployed network with the task's damage, checked as a careful device would; and what there is to tell."""
    inflict, amount = DAMAGES[task.damage]
    damage = inflict(model, amount, task.seed)
    facts: Row = {"num_hit": damage.num_hit}
    if task.damage == "bits":
        if task.strategy == "none":
            unchecked = measured(damage.model)
            facts |= {f"unchecked_{name}": unchecked[name] for name in ("new_accuracy", "original_accuracy")}
        facts["num_dropped"] = drop_implausible(damage.model, largest_weights(model))
    return damage, facts


def measured(model: nn.Module) -> Row:
    """Both accuracies, and how many weights are zero."""
    return {
        "new_accuracy": round(accuracy(model, load_images("new_test"), EVALUATION_BATCH), 4),
        "original_accuracy": round(accuracy(model, load_images("original"), EVALUATION_BATCH), 4),
        "final_sparsity": round(sparsity_of(nonzero_masks(model)), 4),
    }


def _start_worker() -> None:
    torch.set_num_threads(1)
    os.nice(10)


# --- running ----------------------------------------------------------------------------------------------------------


class Runner:
    """Submits a network's next sparsity before anything else, and a sparsity's tasks when its network is there."""

    def __init__(self, pool: ProcessPoolExecutor, results: ResultFile, tasks: list[Task], epochs_scale: float) -> None:
        self._pool, self._results, self._scale = pool, results, epochs_scale
        self._tasks = [task for task in tasks if not results.has(**task.key)]
        self._waiting: dict[Future[Row | None], Callable[[Row | None], None]] = {}

    def run(self) -> None:
        """Everything that is not in the results."""
        for net in dict.fromkeys(task.net for task in self._tasks):
            self._deploy(net, sorted({task.sparsity for task in self._tasks if task.net == net}), None)
        while self._waiting:
            done, _ = wait(self._waiting, return_when=FIRST_COMPLETED)
            for future in done:
                self._waiting.pop(future)(future.result())

    def _deploy(self, net: str, sparsities: list[float], previous: float | None) -> None:
        """Make the networks of ascending sparsities, each from the one before."""
        if not sparsities:
            return
        first, rest = sparsities[0], sparsities[1:]

        def go_on(_: Row | None) -> None:
            self._deploy(net, rest, first)
            self._submit([task for task in self._tasks if (task.net, task.sparsity) == (net, first)])

        if deployed_path(net, first, self._scale).exists():
            go_on(None)
        else:
            self._waiting[self._pool.submit(deploy, net, first, previous, self._scale)] = go_on

    def _submit(self, tasks: list[Task]) -> None:
        for task in tasks:
            self._waiting[self._pool.submit(run_task, task)] = lambda row, task=task: self._keep(task, row)  # type: ignore[misc]

    def _keep(self, task: Task, row: Row) -> None:
        self._results.add([row])
        typer.echo(f"{task}: new {100 * row['new_accuracy']:.1f} %, original {100 * row['original_accuracy']:.1f} %")


def all_tasks(
    nets: list[str], sparsities: list[float], strategies: list[str], damages: list[str], seeds: list[int], scale: float
) -> Iterator[Task]:
    """Seed by seed, so that an interrupted run has whole comparisons."""
    for damage, seed, net, sparsity, strategy in itertools.product(damages, seeds, nets, sparsities, strategies):
        yield Task(net, sparsity, strategy, damage, seed, scale)


def _split(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def main(  # noqa: PLR0913 - one argument per option
    *,
    nets: Annotated[str, typer.Option(help=f"of {', '.join(RATES)}")] = "resnet20,alexnet",
    sparsities: Annotated[str, typer.Option(help="fractions of the weights removed")] = "0.5,0.8,0.9,0.95",
    strategies: Annotated[str, typer.Option(help=f"of {', '.join(STRATEGIES)}")] = ",".join(STRATEGIES),
    damages: Annotated[str, typer.Option(help=f"{UNDAMAGED}, {', '.join(DAMAGES)}")] = UNDAMAGED,
    seeds: Annotated[str, typer.Option(help="repetitions")] = "1,2,3",
    epochs_scale: Annotated[float, typer.Option(min=0.01, help="of every training's epochs")] = 1.0,
    workers: Annotated[int, typer.Option(min=1, help="processes, one torch thread each")] = 2,
    out: Annotated[Path, typer.Option(help="the result file")] = RESULTS / "seed_b.json",
    plot_to: Annotated[Path | None, typer.Option("--plot", help="Write the trade-off curve to this SVG.")] = None,
) -> None:
    """Run what is not in the result file yet."""
    command = (
        f"python benchmarks/seed_b.py --nets {nets} --sparsities {sparsities} --strategies {strategies} "
        f"--damages {damages} --seeds {seeds} --epochs-scale {epochs_scale}"
    )
    about = {
        "paper": "Chandakkar et al. 2017, IEEE EDGE: retraining a pruned network on the device; abstract only",
        "notes": list(NOTES),
    }
    results = ResultFile(out, command, about, KEY, summarise)
    all_seeds = [int(seed) for seed in _split(seeds)]
    save_images(all_seeds)
    tasks = all_tasks(
        _split(nets),
        [float(sparsity) for sparsity in _split(sparsities)],
        _split(strategies),
        _split(damages),
        all_seeds,
        epochs_scale,
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        Runner(pool, results, list(tasks), epochs_scale).run()
    if plot_to:
        plot(results.rows, plot_to)
    typer.echo(json.dumps(summarise(results.rows), indent=2))


if __name__ == "__main__":
    typer.run(main)
