"""How good a fleet's decision is, by the number of its devices and by the noise that hides them.

    python benchmarks/fleet_scale.py --seeds 1,2,3

A hundred devices vote once; smaller fleets are the first of them. Noise (mode ``sum+dp``) is drawn by the product's own
functions, a share for each device, from a generator with a seed, for a campaign of one vote and two outcomes. Accuracy
is measured on the same ten first devices everywhere, or some of them; a fleet of five decides for others, too.

- ``dense``, ``local``, ``agnostic``, ``agnostic_local``: without a fleet, as in ``fleet.py``.
- ``fleet``: ``num_devices`` devices decide under ``epsilon`` (0: exact sums). ``has_gate`` says whether the gate
  had the last word, or the fleet's network was kept whatever it was. ``agreement_permille`` needs no training.

Rows are appended as they come to ``benchmarks/results/fleet_scale.json``; what is there is not run again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import fleet_places
import numpy as np
import typer
from fleet_bench import Cohorts, Decided, FleetBench, total_of
from fleet_places import FleetRows, numbers
from fleet_sources import SOURCES
from result_file import RESULTS, ResultFile, Row

from prunefleet_edge.threads import DEFAULT_THREADS, use_threads
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.masks import IntArray
from prunefleet_shared.noise import device_noise
from prunefleet_shared.private_sum import noise_shares

WHOLE, MAX_MEASURED = 100, 10
SIZES = (100, 10, 20, 50, 5)
NOISY_SIZES, EPSILONS = (100, 20), (1.0, 8.0, 4.0, 2.0)
KEY = ("case", "arm", "level_macs_ratio", "seed", "device", "num_devices", "epsilon", "has_gate")
PLACES = (
    *(Cohorts(size) for size in SIZES),
    *(Cohorts(size, epsilon=epsilon) for size, epsilon in itertools.product(NOISY_SIZES, EPSILONS)),
)


def noise_of(campaign: Campaign, num_devices: int, seed: int) -> IntArray:
    """What the devices of a sum add to it together: int64 [L]; zeros where the campaign has no noise.

    Args:
        campaign: Under which they vote.
        num_devices: In the sum.
        seed: The same one gives the same noise, which a real device must never do.
    """
    table, terms = campaign.vote_lanes, campaign.privacy.noise
    total_L = np.zeros(table.num_lanes, dtype=np.int64)
    if terms is None:
        return total_L
    draw = np.random.default_rng([seed, 0x4015E, num_devices, terms.epsilon_milli]).bytes
    for _ in range(num_devices):
        total_L += device_noise(table, terms.multiplier_milli, noise_shares(campaign), draw)
    return total_L


def decided_by(bench: FleetBench, fleet: Cohorts, level: int) -> Decided:
    """The decision of the first devices of a fleet."""
    campaign = bench.campaign(fleet)
    exact = total_of(bench.vectors(campaign, fleet.num_devices))
    noise_L = noise_of(campaign, fleet.num_devices, bench.source.seed)
    noisy = type(exact)(tuple((np.array(exact.lanes) + noise_L).tolist()), exact.num_devices)
    return bench.decide(campaign, [noisy], level)


def run_level(bench: FleetBench, level: int, num_measured: int, results: ResultFile) -> None:
    """All sizes and all noise at one level."""
    rows = FleetRows(bench, level, num_measured, results)
    reference = decided_by(bench, Cohorts(WHOLE), level)
    rows.add_alone({"num_devices": 1, "epsilon": 0.0}, reference)
    for place in PLACES:
        facts = {"num_devices": place.num_devices, "epsilon": place.epsilon}
        rows.add_fleet("fleet", facts, decided_by(bench, place, level), reference, bench.campaign(place))


# --- what the rows come to --------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Row]) -> Row:
    """Each size and epsilon against ``local`` and against the whole fleet without noise."""
    return {"accuracy_alone_percent": fleet_places.means_alone(rows), "by_place": list(_places(rows))}


def _places(rows: Sequence[Row]) -> Iterator[Row]:
    names = ("case", "level_macs_ratio", "has_gate", "epsilon", "num_devices")
    fleet = [row for row in rows if row["arm"] == "fleet"]
    for place in sorted({tuple(row[name] for name in names) for row in fleet}):
        where = dict(zip(names, place, strict=True))
        same = fleet_places.of_place(rows, where, ("case", "level_macs_ratio"))
        whole = where | {"epsilon": 0, "num_devices": WHOLE}
        others = {
            "local": [row for row in same if row["arm"] == "local"],
            "whole": fleet_places.of_place(fleet, whole, names),
        }
        yield where | fleet_places.compared(fleet_places.of_place(fleet, where, names), others)


def main(
    seeds: Annotated[str, typer.Option(help="fleets")] = "1,2,3",
    levels: Annotated[str, typer.Option(help="which of the source's levels are tried, by index")] = "1",
    measured: Annotated[int, typer.Option(min=1, max=MAX_MEASURED, help="devices that are measured")] = MAX_MEASURED,
    source: Annotated[str, typer.Option(help=f"of {', '.join(SOURCES)}")] = "digits",
    out: Annotated[Path, typer.Option(help="the result file")] = RESULTS / "fleet_scale.json",
) -> None:
    """Run what is not in the result file yet."""
    command = (
        f"python benchmarks/fleet_scale.py --seeds {seeds} --levels {levels} --measured {measured} --source {source}"
    )
    results = ResultFile(out, command, fleet_places.ABOUT, KEY, summarise)
    use_threads(DEFAULT_THREADS)
    for seed, level in itertools.product(numbers(seeds), numbers(levels)):
        run_level(FleetBench(SOURCES[source](seed)), level, measured, results)
    typer.echo(json.dumps(summarise(results.rows), indent=2))


if __name__ == "__main__":
    typer.run(main)
