"""A whole run: every seed in turn, then the report. ``cli`` turns options into settings and calls :func:`simulate`."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import platform
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from prunefleet_shared.campaign import PLAIN, SUM_DP
from prunefleet_shared.gate_terms import FLEET_WIDTHS
from prunefleet_simulation import jobs
from prunefleet_simulation.fleet_data import FleetData, make_fleet_data
from prunefleet_simulation.page import write_report
from prunefleet_simulation.progress import Progress
from prunefleet_simulation.progress_events import RunFinished, RunStarted, SeedFinished
from prunefleet_simulation.results import RunResult, SeedResult
from prunefleet_simulation.seed_run import SeedPlan, run_seed
from prunefleet_simulation.seed_story import SeedStory
from prunefleet_simulation.settings import Settings
from prunefleet_simulation.simulated_device import Workers
from prunefleet_trainer.campaign_files import BaseFiles

PLAIN_NOTE = (
    "Privacy mode plain: the coordinator sees each device's contribution while adding it up. Good for one machine; "
    "a coordinator that others run needs mode sum."
)
SUM_NOTE = (
    "Privacy mode sum: the coordinator learns nothing but sums over {num_devices} devices ({min_devices} at least). An "
    "exact sum still says something about each device in it; only noise changes that."
)
CONTROL_NOTE = "Control: every vote was replaced by the public L1 order of the base, so the fleet knows nothing."
BLEND_NOTE = (
    "No public retraining: the base was trained on the public part, but no pruned network was. Each device prunes its "
    "own fine-tuned copy, for the arm fleet to the decided widths with the channels that the fleet's order and its own "
    "give together, for agnostic_local by the weight norms of the base."
)
FLEET_WIDTHS_NOTE = (
    "Gate: the fleet's network is set against each device's own channels at the fleet's widths (arm fleet_widths), so "
    "that all devices end with the same widths."
)
BASES_AHEAD = 2
"""Bases trained before their seed's turn: the first would leave all workers but one idle."""
_PACKAGES = ("prunefleet", "torch", "torch-pruning", "numpy", "grpcio", "protobuf", "cryptography", "scikit-learn")


def simulate(settings: Settings, progress: Progress, command: str) -> Path:
    """Run all seeds and write the report.

    Args:
        settings: What to simulate.
        progress: The display.
        command: The command line, for the report.

    Returns:
        The report's page, ``<out>/<run id>/report.html``; ``report.json`` lies beside it.

    Raises:
        PrunefleetError: Settings, data or a participant failed; what was finished stays in the run's folder.
    """
    started_s = time.monotonic()
    run_id = new_run_id(settings, datetime.now(UTC))
    folder = settings.out / run_id
    progress.on(RunStarted(_title(settings), len(settings.seeds)))
    plans = [(seed, make_fleet_data(settings, seed)) for seed in settings.seeds]  # bad data stops us before training
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")  # gRPC's threads do not survive a fork
    with ProcessPoolExecutor(settings.workers, mp_context=context, initializer=jobs.start_worker) as executor:
        story = SeedStory(progress)
        workers = Workers(executor, story.job_done)
        seeds, weight_bytes = asyncio.run(_all_seeds(settings, plans, workers, story, progress, folder))
    notes = (*plans[0][1].notes, _privacy_note(settings), *_special_notes(settings))
    wall_s = time.monotonic() - started_s
    run = RunResult(
        run_id, settings.preset, command, notes, tuple(seeds), versions(), wall_s, settings.public_retraining
    )
    replay = f"prunefleet coordinator replay {folder}"
    page = write_report(run, folder, replay_command=replay, base_weight_bytes=weight_bytes)
    progress.on(RunFinished(str(page)))
    return page


async def _all_seeds(
    settings: Settings,
    plans: list[tuple[int, FleetData]],
    workers: Workers,
    story: SeedStory,
    progress: Progress,
    folder: Path,
) -> tuple[list[SeedResult], int]:
    results: list[SeedResult] = []
    story.plan(settings.devices, len(settings.levels))
    story.announce("training the base on public data" if settings.base is None else "reading the base")
    bases = [_start_base(settings, *plan, workers) for plan in plans[:BASES_AHEAD]]
    for number, (seed, data) in enumerate(plans):
        files = await bases[number]
        if len(bases) < len(plans):
            bases.append(_start_base(settings, *plans[len(bases)], workers))
        seed_folder = folder / f"seed-{seed}"
        seed_folder.mkdir()
        try:
            result = await run_seed(SeedPlan(settings, seed, data, files, seed_folder), workers, story)
        finally:  # private working copies have no place in a run's folder, whatever came of the run
            shutil.rmtree(seed_folder / "devices", ignore_errors=True)
        results.append(result)
        means: dict[str, float] = {
            arm: sum(d.accuracy[arm] for d in result.devices) / len(result.devices) for arm in result.arm_costs
        }
        progress.on(SeedFinished(seed, means))
        story.plan(settings.devices, len(settings.levels))
    return results, len(files.weights)


def _start_base(settings: Settings, seed: int, data: FleetData, workers: Workers) -> asyncio.Task[BaseFiles]:
    recipe = settings.recipe.base
    base = workers.run(
        jobs.base_job,
        data.spec,
        data.public,
        recipe,
        seed,
        settings.base,
        is_steered=settings.is_steered,
        num_clusters=settings.clusters,
    )
    return asyncio.create_task(base)


def new_run_id(settings: Settings, now: datetime) -> str:
    """A folder name that sorts by time, free in ``settings.out``."""
    name = f"{now:%Y%m%d-%H%M%S}-{settings.preset}"
    number, run_id = 1, name
    while (settings.out / run_id).exists():
        number += 1
        run_id = f"{name}-{number}"
    return run_id


def versions() -> dict[str, str]:
    """Packages and the machine, as a result needs to be read beside."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # running from a checkout that was not installed
            found[package] = "not installed"
    return found | {
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores": str(os.cpu_count()),
        "ram_gb": f"{psutil.virtual_memory().total / 2**30:.0f}",
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _special_notes(settings: Settings) -> tuple[str, ...]:
    said = (
        (settings.votes == "public_l1", CONTROL_NOTE),
        (not settings.public_retraining, BLEND_NOTE),
        (settings.gate_alternative == FLEET_WIDTHS, FLEET_WIDTHS_NOTE),
    )
    return tuple(note for applies, note in said if applies)


def _privacy_note(settings: Settings) -> str:
    if settings.privacy == PLAIN:
        return PLAIN_NOTE
    if settings.privacy == SUM_DP:
        return f"Privacy mode sum+dp: the coordinator learns noisy sums only; epsilon {settings.epsilon:g}, delta 1e-6."
    return SUM_NOTE.format(num_devices=settings.devices, min_devices=settings.min_devices)


def _title(settings: Settings) -> str:
    levels = ", ".join(f"{100 * level:g} %" for level in settings.levels)
    unit = {"macs": "MACs"}.get(settings.budget, settings.budget)
    return f"{settings.preset}: {settings.devices} devices, {levels} of the dense {unit}"
