"""How many images is the fleet's prior worth to a device that blends? Chooses ``blending.PRIOR_IMAGES``.

    python benchmarks/blend.py --seeds 101,102

Fleets of ten devices of the preset ``digits`` without public retraining: every device votes, the sum is decided, and
each prunes its own dense copy to the decided widths with the prior worth 0, 10, 40 or 160 images, or everything, then
fine-tunes it. No gate. Accuracy is on the device's report split. The seeds are the preset's validation seeds; reported
figures use others (1, 2, 3).
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from result_file import RESULTS, ResultFile, Row

from prunefleet_coordinator.aggregation import decide
from prunefleet_edge import work
from prunefleet_edge.data import PrivateData
from prunefleet_edge.egress import vote_vector
from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.threads import use_threads
from prunefleet_edge.training import train
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.messages import Total
from prunefleet_simulation.fleet_data import make_fleet_data
from prunefleet_simulation.seed_run import SeedPlan
from prunefleet_simulation.settings import Settings
from prunefleet_trainer.campaign_files import describe_base
from prunefleet_trainer.public import train_base

PRIOR_IMAGES = (0, 10, 40, 160, 10**9)
"""The last one stands for infinity: the prior decides alone."""
IMAGES_PER_DEVICE = (10, 40)
KEY = ("seed", "images_per_device", "device", "level_permille", "prior_images")


def run_fleet(seed: int, images_per_device: int, folder: Path, results: ResultFile) -> None:
    """All rows of one fleet.

    Args:
        seed: Of data, base and devices.
        images_per_device: What each learns from.
        folder: For dense copies.
        results: Where the rows go.
    """
    settings = Settings(seeds=(seed,), images_per_device=images_per_device, privacy="plain")
    data = make_fleet_data(settings, seed)
    public = data.public.samples(data.spec.num_classes, "public data")
    files = describe_base(data.spec, train_base(data.spec, public, settings.recipe.base, seed))
    plan = SeedPlan(settings, seed, data, files, folder)
    campaign = plan.campaign()
    owned = [pools.private(data.spec.num_classes) for pools in data.devices]
    options = [replace(plan.options(number), state_dir=folder / str(number)) for number in range(len(owned))]
    votes = [work.prepare_vote(campaign, files.weights, mine.own, o) for mine, o in zip(owned, options, strict=True)]
    lanes = np.sum([vote_vector(campaign, vote) for vote in votes], axis=0)
    total = Total(tuple(int(lane) for lane in lanes), len(votes))
    for number, mine in enumerate(owned):
        rows = device_rows(campaign, total, files.weights, mine, options[number])
        facts = {"seed": seed, "images_per_device": images_per_device, "device": number}
        results.add([facts | row for row in rows])


def device_rows(
    campaign: Campaign, total: Total, base: bytes, mine: PrivateData, options: work.WorkOptions
) -> list[Row]:
    """What every worth of the prior comes to on one device, at every level; without its gate."""
    rows: list[Row] = []
    for level in range(len(campaign.levels)):
        decision = decide(campaign, total, level)
        for prior_images in PRIOR_IMAGES:
            start = work.blended(campaign, decision, base, mine.own, options, prior_images)
            tuned = train(start.model, mine.own, options.fine_tuning, options.seed)
            top1 = round(accuracy(tuned, mine.report), 5)
            rows.append(
                {"level_permille": campaign.levels[level].permille, "prior_images": prior_images, "accuracy": top1}
            )
    return rows


def summarise(rows: list[Row]) -> Row:
    """Mean accuracy by images a device, level and worth of the prior; differences to the prior alone, with errors."""
    summary: Row = {}
    for images in IMAGES_PER_DEVICE:
        for level in sorted({row["level_permille"] for row in rows}):
            part = [row for row in rows if row["images_per_device"] == images and row["level_permille"] == level]
            by_worth = {
                worth: np.array([r["accuracy"] for r in part if r["prior_images"] == worth]) for worth in PRIOR_IMAGES
            }
            alone = by_worth[PRIOR_IMAGES[-1]]
            summary[f"{images} images, {level} permille"] = {
                str(worth): {
                    "accuracy": round(float(found.mean()), 4),
                    "over_prior_alone": round(float((found - alone).mean()), 4),
                    "standard_error": round(float((found - alone).std(ddof=1) / np.sqrt(len(found))), 4),
                }
                for worth, found in by_worth.items()
                if len(found) > 1
            }
    return summary


def main(
    seeds: Annotated[str, typer.Option(help="fleets")] = "101,102",
    threads: Annotated[int, typer.Option(min=1, help="torch's")] = 1,
    out: Annotated[Path, typer.Option(help="the result file")] = RESULTS / "blend.json",
) -> None:
    """Run what is not in the result file yet."""
    use_threads(threads)
    about = {"accuracy": "top-1 on the device's report split, no gate", "devices": 10, "preset": "digits"}
    results = ResultFile(out, f"python benchmarks/blend.py --seeds {seeds}", about, KEY, summarise)
    for seed in (int(part) for part in seeds.split(",")):
        for images in IMAGES_PER_DEVICE:
            with tempfile.TemporaryDirectory() as folder:
                run_fleet(seed, images, Path(folder), results)


if __name__ == "__main__":
    typer.run(main)
