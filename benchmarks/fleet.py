"""Does a fleet decide better than one device alone? Devices with few images of their own, by masks and sums only.

    python benchmarks/fleet.py --experiment few --seeds 1,2,3

Every arm starts from the same base, splits and local steps; arms that are retrained on public data take the same number
of steps there.

- ``dense``: the base, fine-tuned on the device; not pruned.
- ``local``: what a device does alone: own Taylor scores, own pruning, own retraining.
- ``agnostic``: the base pruned by L1 and retrained on all public images alike; ``agnostic_local``: the same, fine-tuned
  on the device.
- ``fleet``: the topology that the summed votes decide, retrained on public images drawn as the fleet's lift masks say
  (steering), fine-tuned on the device, and kept if the gate prefers it to ``local``.
- ``fleet_unsteered``: the fleet's topology, but all public images drawn alike; no gate. ``oracle``: drawn by the true
  classes; no gate.

- ``fleet_clusters``: as ``fleet``, but each device takes the network that errs least on its images, of the one for all
  and one for each of three parts of what the sums say the fleet sees.

Experiments: ``few`` (fleets of twelve devices that see ten of twenty classes each), ``lacking`` (public data and base
lack the fleet's classes), ``clusters`` (devices that come in kinds, and devices that do not). Rows are appended as they
come to ``benchmarks/results/fleet_<experiment>.json``; what is there is not run again.
"""

from __future__ import annotations

import functools
import itertools
import json
import multiprocessing
import shutil
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import fleet_summary
import numpy as np
import typer
from cifar100 import load_cifar100, spec_of
from fleet_cases import (
    MAX_IMAGES_PER_CLASS,
    NET,
    NUM_CLASSES,
    NUM_DEVICES,
    Case,
    base_of,
    fleet_classes,
    holdings,
    public_of,
)
from fleet_jobs import GATED, Job, Slim, device_job, slim_job, start_worker, vote_job
from result_file import RESULTS, ResultFile, Row, cache_folder

from prunefleet_coordinator.aggregation import decide
from prunefleet_edge.models import example_input
from prunefleet_edge.ranking import masks_by_order
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.threads import DEFAULT_THREADS, use_threads
from prunefleet_edge.tracing import trace
from prunefleet_shared.campaign import SUM, Campaign, CohortPolicy, PrivacyTerms
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.masks import BoolArray
from prunefleet_shared.messages import Total
from prunefleet_shared.mixture import PPM
from prunefleet_shared.steering_record import SteeringRecord, make_record
from prunefleet_trainer.campaign_files import BaseFiles, agnostic_masks, describe_base, make_campaign
from prunefleet_trainer.recipes import IMAGES
from prunefleet_trainer.steering import PublicUse, draw_weights, profiles, public_use, steering_terms

LEVELS_PERMILLE = (500, 250)
CASES = {"few": ("overlap",), "lacking": ("lacking",), "clusters": ("families", "cameras", "overlap")}
NUM_CLUSTERS = {"clusters": 3}
KEY = ("case", "arm", "images_per_class", "level_macs_ratio", "seed", "device")
Draw = tuple[list[BoolArray], list[float] | None]
"""What is kept, and how often each public image is drawn."""
NO_KEY = b"no key: nothing is signed in this benchmark"


def public_recipe(epochs: int) -> Recipe:
    """Every retraining of a slim base."""
    return replace(IMAGES.slim_base, epochs=epochs, is_channels_last=True)


@functools.lru_cache(maxsize=1)
def _described(name: str, seed: int) -> tuple[BaseFiles, PublicUse]:
    """The base of a case and how public data use it; the same for fleets that start from the same base."""
    case = Case(name, seed, MAX_IMAGES_PER_CLASS)
    base = base_of(case)
    files = describe_base(spec_of(NET), base)
    use = public_use(
        base, trace(base, example_input(spec_of(NET))).as_in(files.layout), public_of(case, load_cifar100())
    )
    return replace(files, steering=steering_terms(use)), use


class Bench:
    """One fleet's campaign, its files in the cache.

    Args:
        case: Which fleet.
        epochs: Of public retraining.
        pool: Worker processes.
        num_clusters: Of the arm ``fleet_clusters``; 1: there is no such arm.
        has_oracle: Whether the arm ``oracle`` is run, too.
    """

    def __init__(self, case: Case, epochs: int, pool: Executor, *, num_clusters: int, has_oracle: bool) -> None:
        self.case, self._epochs, self.pool, self._has_oracle = case, epochs, pool, has_oracle
        self.job = Job(case, cache_folder() / "fleet" / str(case))
        self.job.folder.mkdir(parents=True, exist_ok=True)
        self.public = public_of(case, load_cifar100())
        files, self._use = _described(case.name, case.seed if case.name == "lacking" else 0)
        self.files = replace(files, steering=steering_terms(self._use, num_clusters))
        self.campaign = self._campaign()
        (self.job.folder / "base.safetensors").write_bytes(self.files.weights)
        (self.job.folder / "campaign.json").write_bytes(canonical_bytes(self.campaign))

    def _campaign(self) -> Campaign:
        return make_campaign(
            self.files,
            campaign_id=digest(str(self.case).encode())[:32],
            device_class="benchmark",
            levels_permille=LEVELS_PERMILLE,
            cohort=CohortPolicy(NUM_DEVICES, NUM_DEVICES, 1000),
            privacy=PrivacyTerms(SUM, 8),
            decision_key=NO_KEY,
            slim_base_key=NO_KEY,
        )

    def votes(self) -> Total:
        """The fleet's sum, from the cache if its devices voted before."""
        path = self.job.folder / f"votes-{self.campaign.vote_lanes.num_lanes}.npy"
        if not path.exists():
            vectors = list(self.pool.map(vote_job, [self.job] * NUM_DEVICES, range(NUM_DEVICES)))
            np.save(path, np.array(vectors))
        lanes_L = np.load(path).sum(axis=0)
        return Total(tuple(int(lane) for lane in lanes_L), NUM_DEVICES)

    def slims(self, vote_total: Total, level: int) -> tuple[dict[str, tuple[Slim, ...]], Row]:
        """The slim networks of every arm that has some, and what was found out about the fleet's classes."""
        decision = decide(self.campaign, vote_total, level)
        masks = masks_by_order(decision.prior, decision.widths)
        masks_KC = profiles(self.campaign, steering_terms(self._use), self._use)
        record = make_record(self.campaign, decision, vote_total, self._use.kinds, masks_KC)
        agnostic = agnostic_masks(self.files, self.campaign.cost_table, self.campaign.levels[level].budget)
        networks = [(masks, draw_weights(shares, self._use.kind_N).tolist()) for shares in record.network_weights_ppm]
        draws: dict[str, list[Draw]] = {
            "fleet": networks[:1],
            "fleet_unsteered": [(masks, None)],
            "agnostic": [(agnostic, None)],
        }
        if self.campaign.num_networks > 1:
            draws["fleet_clusters"] = networks
        if self._has_oracle:
            draws["oracle"] = [(masks, self._true_weights())]
        return self._made(draws), self._found(record)

    def _made(self, draws: dict[str, list[Draw]]) -> dict[str, tuple[Slim, ...]]:
        orders = {arm: [self._order(*draw) for draw in of_arm] for arm, of_arm in draws.items()}
        futures = {order[1]: self.pool.submit(slim_job, *order) for of_arm in orders.values() for order in of_arm}
        return {arm: tuple(futures[order[1]].result() for order in of_arm) for arm, of_arm in orders.items()}

    def _order(
        self, masks: list[BoolArray], weights_N: list[float] | None
    ) -> tuple[Job, Slim, Recipe, list[float] | None]:
        lists = tuple(tuple(int(kept) for kept in mask) for mask in masks)
        drawn = "alike" if weights_N is None else digest(np.array(weights_N).tobytes())[:12]
        name = f"slim-{digest(canonical_bytes(lists))[:12]}-{drawn}-{self._epochs}-seed{self.case.seed}.safetensors"
        shared = self.job.folder.parent / "slim" / digest(self.files.weights)[:12]
        shared.mkdir(parents=True, exist_ok=True)
        return self.job, Slim(lists, shared / name), public_recipe(self._epochs), weights_N

    def _true_weights(self) -> list[float]:
        """Public images drawn by how many devices see their class: what no coordinator knows."""
        held = holdings(self.case, load_cifar100().private.labels.numpy())
        counts = np.bincount([label for own in held for label in own.classes], minlength=NUM_CLASSES)
        return [float(counts[label]) for label in self.public.labels.tolist()]

    def _found(self, record: SteeringRecord) -> Row:
        shares = zip(record.mixture.weights_ppm, record.kinds, strict=True)
        on_fleet = sum(weight for weight, kind in shares if kind in fleet_classes(self.case))
        return {
            "weight_on_fleet": round(on_fleet / PPM, 4),
            "explained": round(record.mixture.explained_ppm / PPM, 4),
            "is_confident": int(record.mixture.is_confident),
        }


def run_case(bench: Bench, results: ResultFile) -> None:
    """All arms of all devices of one fleet at all levels."""
    if _is_done(bench.case, results):
        return
    vote_total = bench.votes()
    found = [bench.slims(vote_total, level) for level in range(len(LEVELS_PERMILLE))]
    orders = [
        (device, level)
        for device, level in itertools.product(range(NUM_DEVICES), range(len(LEVELS_PERMILLE)))
        if not results.has(**_key(bench.case, "fleet", level, device))
    ]
    futures = {
        bench.pool.submit(device_job, bench.job, device, level, found[level][0]): level for device, level in orders
    }
    for future in as_completed(futures):
        rows, facts = future.result(), found[futures[future]][1]
        results.add([row | facts if row["arm"] in GATED else row for row in rows])
        typer.echo(_words(rows))
    shutil.rmtree(bench.job.folder / "devices", ignore_errors=True)


def _is_done(case: Case, results: ResultFile) -> bool:
    places = itertools.product(range(len(LEVELS_PERMILLE)), range(NUM_DEVICES))
    return all(results.has(**_key(case, "fleet", level, device)) for level, device in places)


def _key(case: Case, arm: str, level: int, device: int) -> Row:
    ratio = LEVELS_PERMILLE[level] / 1000
    return {
        "case": case.name,
        "arm": arm,
        "images_per_class": case.images_per_class,
        "level_macs_ratio": ratio,
        "seed": case.seed,
        "device": f"device-{device:02d}",
    }


def _words(rows: list[Row]) -> str:
    first = rows[0]
    where = f"{first['case']} seed {first['seed']}, {first['images_per_class']} images a class, {first['device']}"
    scores = ", ".join(f"{row['arm']} {100 * row['accuracy']:.1f}" for row in rows)
    return f"{where}, {first['level_macs_ratio']:.0%}: {scores}"


def main(
    experiment: Annotated[str, typer.Option(help=f"of {', '.join(CASES)}")] = "few",
    seeds: Annotated[str, typer.Option(help="fleets")] = "1,2,3",
    images_per_class: Annotated[str, typer.Option(help="private images of each class, for fit and gate")] = "4,10,20",
    epochs: Annotated[int, typer.Option(min=1, max=4, help="of public retraining")] = 2,
    oracle: Annotated[bool, typer.Option(help="the arm oracle, too")] = False,
    workers: Annotated[int, typer.Option(min=1, help="processes, one torch thread each")] = 2,
    out: Annotated[Path | None, typer.Option(help="the result file")] = None,
) -> None:
    """Run what is not in the result file yet."""
    command = (
        f"python benchmarks/fleet.py --experiment {experiment} --seeds {seeds} "
        f"--images-per-class {images_per_class} --epochs {epochs}"
    )
    about = {
        "accuracy": "top-1 of 100 outputs, on all official test images of the device's classes",
        "up_bytes": "payloads a device sends in a campaign, as they are masked in mode sum: vote and outcomes",
        "public_epochs": epochs,
        "network": NET,
        "devices": NUM_DEVICES,
    }
    results = ResultFile(out or RESULTS / f"fleet_{experiment}.json", command, about, KEY, fleet_summary.summarise)
    use_threads(DEFAULT_THREADS)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker) as pool:
        for name, seed, num_images in itertools.product(CASES[experiment], _numbers(seeds), _numbers(images_per_class)):
            case, num_clusters = Case(name, seed, num_images), NUM_CLUSTERS.get(experiment, 1)
            run_case(Bench(case, epochs, pool, num_clusters=num_clusters, has_oracle=oracle), results)
    typer.echo(json.dumps(fleet_summary.summarise(results.rows), indent=2))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    typer.run(main)
