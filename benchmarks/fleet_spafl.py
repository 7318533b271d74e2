"""How much accuracy do masks and sums buy for their bytes, against averaging weights? The setting of SpaFL.

    python benchmarks/fleet_spafl.py --seeds 1,2,3

Fashion-MNIST, LeNet-5 (20/50/500), 100 devices, Dirichlet(0.2) (see ``spafl_world``). Arms:

- ``fleet``: all devices vote once, a topology is decided for each level, retrained on the public images, fine-tuned on
  the device, and kept if the gate prefers it to ``local``. One point for each level.
- ``fleet_unsteered``: the same with public images drawn alike and no gate.
- ``local``: what a device does alone, from the same base: own scores, own pruning, own retraining.
- ``agnostic_local``: the base pruned by L1, retrained on public images, fine-tuned on the device; it needs no fleet.
- ``dense``: the base, fine-tuned on the device; not pruned.
- ``fedavg_base``, ``fedavg_random``: federated averaging of the dense network (see ``fedavg``), from the same base and
  from random weights. One model for all devices, measured after some of the rounds.
- ``fedavg_base_tuned``, ``fedavg_random_tuned``: the last of these models, fine-tuned on the device.

Accuracy is top-1 on the device's own part of the test set, which nothing else looks at. Rows are appended as they come
to ``benchmarks/results/fleet_spafl.json``; what is there is not run again, and averaging goes on from its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import fedavg
import fleet_spafl_summary
import typer
from result_file import RESULTS, ResultFile, Row, cache_folder
from spafl_bytes import fedavg_down_bytes, fedavg_up_bytes
from spafl_fleet import LEVELS_PERMILLE, LOCAL, PUBLIC, SILENT, SPEAKING, Fleet, key_of, tuned
from spafl_world import (
    ALPHA,
    BASE,
    MIN_CLASSES,
    MIN_IMAGES,
    MIN_TEST_IMAGES,
    NUM_DEVICES,
    NUM_PUBLIC,
    SPEC,
    World,
    base_of,
    world_of,
)
from torch import nn

from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.models.weights import set_normalisation
from prunefleet_edge.threads import use_threads
from prunefleet_trainer.public import fresh

PLAN = fedavg.FedAvgPlan()
MEASURED = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
"""Rounds of federated averaging after which every device is measured."""
FEDAVG = ("fedavg_base", "fedavg_random")
ARMS = ("dense", "local", "fleet", *FEDAVG, "agnostic_local", "fleet_unsteered", *(f"{arm}_tuned" for arm in FEDAVG))
KEY = ("case", "arm", "images_per_class", "level_macs_ratio", "rounds", "seed", "device")


def run_ours(world: World, arms: Sequence[str], levels: Sequence[int | None], results: ResultFile) -> None:
    """The arms with a campaign, level by level and device by device; only what is missing.

    Args:
        world: One seed's images.
        arms: Which.
        levels: Indices into the schedule; None is the network that is not pruned, arm ``dense`` alone.
        results: Where rows are, and go.
    """
    orders = [
        (level, device, missing)
        for level in levels
        for device in _devices()
        if (missing := [arm for arm in arms if _lacks_ours(world, arm, device, level, results)])
    ]
    if not orders:
        return
    fleet = Fleet(world)
    for level, device, missing in orders:
        rows = fleet.device_rows(device, level, missing)
        results.add(rows)
        typer.echo(_words(rows))
    if len(LEVELS_PERMILLE) - 1 in levels:
        fleet.drop_copies()


def _lacks_ours(world: World, arm: str, device: int, level: int | None, results: ResultFile) -> bool:
    """Whether an arm that has this level lacks its row."""
    if (arm == "dense") != (level is None):
        return False
    return not results.has(**key_of(world, arm, device, level, rounds=int(arm in SPEAKING)))


def run_fedavg(world: World, arm: str, results: ResultFile) -> None:
    """All rounds of an arm of :data:`FEDAVG` whose rows are not there yet."""
    missing = [number for number in MEASURED if not _has_all(world, arm, number, results)]
    if missing:
        _averaged(world, arm, missing, results)


def run_tuned(world: World, arm: str, results: ResultFile) -> None:
    """The last model of an arm of :data:`FEDAVG`, fine-tuned on every device."""
    name = f"{arm}_tuned"
    if _has_all(world, name, PLAN.rounds, results):
        return
    model, own = _averaged(world, arm, [], results), world.own
    for device in _devices():
        if not results.has(**key_of(world, name, device, None, PLAN.rounds)):
            fitted = tuned(model, own[device], 1000 * world.seed + device)
            results.add([_fedavg_row(world, name, device, PLAN.rounds, fitted)])


def _averaged(world: World, arm: str, missing: Sequence[int], results: ResultFile) -> nn.Module:
    def measure(number: int, model: nn.Module) -> None:
        if number in missing:
            rows = [_fedavg_row(world, arm, device, number, model) for device in _devices()]
            results.add(rows)
            mean = sum(row["accuracy"] for row in rows) / len(rows)
            typer.echo(f"seed {world.seed}, {arm}, round {number}: {100 * mean:.1f}")

    start = base_of(world) if arm == "fedavg_base" else set_normalisation(fresh(SPEC, world.seed), world.public)
    path = cache_folder() / "spafl" / f"{arm}-seed{world.seed}-{PLAN.local_epochs}-{PLAN.learning_rate}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    not_after = min(missing, default=PLAN.rounds)
    return fedavg.run(start, world.own, PLAN, world.seed, path, measure, not_after=not_after)


def _fedavg_row(world: World, arm: str, device: int, rounds: int, model: nn.Module) -> Row:
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    times = PLAN.times_chosen(world.seed, rounds, NUM_DEVICES)[device]
    up, up_sum = fedavg_up_bytes(times, num_weights, PLAN)
    return {
        **key_of(world, arm, device, None, rounds),
        "macs_ratio": 1.0,
        "latency_ratio": 1.0,
        "accuracy": round(accuracy(model, world.test[device]), 4),
        "up_bytes": up,
        "up_bytes_sum": up_sum,
        "down_bytes": fedavg_down_bytes(times, num_weights),
        "own_images": len(world.own[device]),
        "test_images": len(world.test[device]),
    }


def _has_all(world: World, arm: str, rounds: int, results: ResultFile) -> bool:
    return all(results.has(**key_of(world, arm, device, None, rounds)) for device in _devices())


def _devices() -> range:
    return range(NUM_DEVICES)


def _words(rows: Sequence[Row]) -> str:
    scores = ", ".join(f"{row['arm']} {row['level_macs_ratio']:g}: {100 * row['accuracy']:.1f}" for row in rows)
    return f"seed {rows[0]['seed']}, {rows[0]['device']}: {scores}"


def about() -> Row:
    """What a reader of the rows needs to know."""
    return {
        "accuracy": "top-1 on the device's own test images: each class of the 10,000 test images is split over the "
        "devices as its private training images are; means are over devices, each counted once",
        "split": f"{NUM_PUBLIC:,} training images drawn by seed are public; the others are dealt to {NUM_DEVICES} "
        f"devices, each class by Dirichlet({ALPHA}), drawn again until every device has at least {MIN_IMAGES} images "
        f"of {MIN_CLASSES} classes, and {MIN_TEST_IMAGES} test image",
        "up_bytes": "sent by a device so far. Ours: packed vote and outcomes, up to the row's level. Averaging: 4 "
        "bytes for each weight and each round in which the device was drawn",
        "up_bytes_sum": "the same as all messages of private sums by the table of sizes in docs/protocol.md, among "
        "100 devices for ours, among a round's ten for averaging (weights as words of 32 bits)",
        "down_bytes": "fetched by a device so far. Ours: campaign, base, and slim bases up to the row's level. "
        "Averaging: the model of each round in which it was drawn, and the last. Messages of private sums are left "
        "out",
        "latency_ratio": "measured, batch 1; of networks that are not pruned 1 by definition",
        "rounds": "of averaging; of ours 1 for arms that vote, else 0",
        "base": repr(BASE),
        "local": repr(LOCAL),
        "slim_base": repr(PUBLIC),
        "fedavg": f"{PLAN!r}; epochs and batch size are the paper's, its rate was fixed by judgement beforehand",
        "targets": list(fleet_spafl_summary.TARGETS_PERCENT),
        "published": fleet_spafl_summary.PUBLISHED,
    }


def main(
    seeds: Annotated[str, typer.Option(help="splits, bases and everything that is drawn")] = "1,2,3",
    arms: Annotated[str, typer.Option(help=f"of {', '.join(ARMS)}")] = ",".join(ARMS),
    levels: Annotated[str, typer.Option(help="of ours, thousandths of the MACs")] = ",".join(map(str, LEVELS_PERMILLE)),
    out: Annotated[Path, typer.Option(help="the result file")] = RESULTS / "fleet_spafl.json",
) -> None:
    """Run what is not in the result file yet."""
    chosen = arms.split(",")
    unknown = set(chosen) - set(ARMS)
    if unknown:
        msg = f"arms: expected some of {', '.join(ARMS)}, got {', '.join(sorted(unknown))}"
        raise typer.BadParameter(msg)
    command = f"python benchmarks/fleet_spafl.py --seeds {seeds} --arms {arms} --levels {levels}"
    results = ResultFile(out, command, about(), KEY, fleet_spafl_summary.summarise)
    use_threads(1)
    places = [LEVELS_PERMILLE.index(int(part)) for part in levels.split(",")]
    for seed in (int(part) for part in seeds.split(",")):
        world = world_of(seed)
        run_ours(world, [arm for arm in chosen if arm in (*SILENT, *SPEAKING)], [None, *places], results)
        for arm in (arm for arm in chosen if arm in FEDAVG):
            run_fedavg(world, arm, results)
        for arm in (arm for arm in FEDAVG if f"{arm}_tuned" in chosen):
            run_tuned(world, arm, results)
    typer.echo(json.dumps(fleet_spafl_summary.summarise(results.rows)["targets"], indent=2))


if __name__ == "__main__":
    typer.run(main)
