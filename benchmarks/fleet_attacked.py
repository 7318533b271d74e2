"""What attackers do to a fleet's decision, and to the networks its honest devices end up with.

    python benchmarks/fleet_attacked.py --seeds 1,2,3

A hundred devices vote once. Some of them then attack (``fleet_attackers``), and everything after the vote is done anew:
decision, steering, slim base, gate. Accuracy is measured on the first ten devices (or fewer), always honest.

- ``dense``, ``local``, ``agnostic``, ``agnostic_local``: without a fleet, as in ``fleet.py``.
- ``fleet``: nobody attacks. ``fleet_colluders``: votes in range. ``fleet_breakers``: whole cohort sums.
  ``has_gate`` says whether the device's gate had the last word, or the fleet's network was kept whatever it was.

Rows are appended as they come to ``benchmarks/results/fleet_attacked.json``; what is there is not run again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import fleet_places
import numpy as np
import typer
from fleet_attackers import attackers, broken, colluded, worst_vote
from fleet_bench import Cohorts, Decided, FleetBench, total_of
from fleet_places import FleetRows, numbers
from fleet_sources import SOURCES
from result_file import RESULTS, ResultFile, Row

from prunefleet_edge.threads import DEFAULT_THREADS, use_threads
from prunefleet_shared.messages import Total

NUM_DEVICES, NUM_SPARED, COHORTS = 100, 10, 10
KEY = ("case", "arm", "level_macs_ratio", "seed", "device", "attacker_share", "num_cohorts", "is_median", "has_gate")
FACTS = ("attacker_share", "num_cohorts", "is_median")
"""Columns that, with arm and gate, say which attack a row is of."""


@dataclass(frozen=True, slots=True)
class Attack:
    """Who attacks how, and how the round is summed.

    Attributes:
        arm: ``fleet``, ``fleet_colluders`` or ``fleet_breakers``.
        share: Of the fleet that attacks.
        num_cohorts: Of the round.
        combination: How their sums become one.
    """

    arm: str
    share: float = 0.0
    num_cohorts: int = 1
    combination: str = "sum"

    @property
    def cohorts(self) -> Cohorts:
        """How the round is summed."""
        return Cohorts(NUM_DEVICES, self.num_cohorts, self.combination)

    @property
    def facts(self) -> Row:
        """The same as columns."""
        is_median = int(self.combination == "median")
        return dict(zip(FACTS, (self.share, self.num_cohorts, is_median), strict=True))


ATTACKS = (
    Attack("fleet"),
    Attack("fleet_colluders", 0.2),
    Attack("fleet_breakers", 0.01),
    Attack("fleet_breakers", 0.01, COHORTS),
    Attack("fleet_breakers", 0.01, COHORTS, "median"),
    Attack("fleet", 0.0, COHORTS, "median"),
    Attack("fleet_colluders", 0.1),
    Attack("fleet_colluders", 0.05),
)
"""In this order: what is asked most comes first."""


def sums_of(bench: FleetBench, attack: Attack) -> list[Total]:
    """The sums of a round's cohorts under an attack."""
    campaign, seed = bench.campaign(attack.cohorts), bench.source.seed
    vectors_NL = bench.vectors(campaign, NUM_DEVICES)
    bad = attackers(NUM_DEVICES, NUM_SPARED, attack.share, np.random.default_rng([seed, 0xBAD]))
    honest_L = np.delete(vectors_NL, bad, axis=0).sum(axis=0)
    worst_L = worst_vote(campaign, honest_L, bench.profiles(campaign))
    if attack.arm == "fleet_colluders":
        vectors_NL = colluded(vectors_NL, bad, worst_L)
    drawn_KM = np.random.default_rng([seed, 0xC0]).permutation(NUM_DEVICES).reshape(attack.num_cohorts, -1)
    sums = [total_of(vectors_NL[members]) for members in drawn_KM]
    if attack.arm != "fleet_breakers":
        return sums
    is_hit_K = np.isin(drawn_KM, bad).any(axis=1)
    return [broken(one, worst_L) if is_hit else one for one, is_hit in zip(sums, is_hit_K, strict=True)]


def run_level(bench: FleetBench, level: int, num_measured: int, results: ResultFile) -> None:
    """All attacks on one fleet at one level."""
    rows = FleetRows(bench, level, num_measured, results)
    honest = _decided(bench, ATTACKS[0], level)
    rows.add_alone(dict.fromkeys(FACTS, 0), honest)
    for attack in ATTACKS:
        decided = _decided(bench, attack, level)
        rows.add_fleet(attack.arm, attack.facts, decided, honest, bench.campaign(attack.cohorts))


def _decided(bench: FleetBench, attack: Attack, level: int) -> Decided:
    return bench.decide(bench.campaign(attack.cohorts), sums_of(bench, attack), level)


# --- what the rows come to --------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Row]) -> Row:
    """Each attack against ``local`` and against the fleet that nobody attacks; whether the claim holds."""
    places = list(_places(rows))
    return {"accuracy_alone_percent": fleet_places.means_alone(rows), "by_attack": places, "claim": claim(places)}


def _places(rows: Sequence[Row]) -> Iterator[Row]:
    names = ("case", "level_macs_ratio", "has_gate", "arm", *FACTS)
    fleet = [row for row in rows if row["arm"].startswith("fleet")]
    for place in sorted({tuple(row[name] for name in names) for row in fleet}):
        own = [row for row in fleet if tuple(row[name] for name in names) == place]
        where = dict(zip(names, place, strict=True))
        same = fleet_places.of_place(rows, where, ("case", "level_macs_ratio"))
        honest = [row for row in same if row["arm"] == "fleet" and row["has_gate"] == where["has_gate"]]
        others = {
            "local": [row for row in same if row["arm"] == "local"],
            "honest": [row for row in honest if row["num_cohorts"] == 1],
        }
        yield where | fleet_places.compared(own, others)


def claim(places: Sequence[Row]) -> Row:
    """Whether, behind the gate, 20 % colluders leave no case below ``local``: the whole interval below 0 refutes it."""
    found = [
        place["minus_local"]
        for place in places
        if place["arm"] == "fleet_colluders" and place["attacker_share"] == 0.2 and place["has_gate"] == 1
    ]
    return {"holds": int(all(one["ci95_pp"][1] >= 0 for one in found)), "minus_local": found} if found else {}


def main(
    seeds: Annotated[str, typer.Option(help="fleets")] = "1,2,3",
    levels: Annotated[str, typer.Option(help="which of the source's levels are tried, by index")] = "1",
    measured: Annotated[
        int, typer.Option(min=1, max=NUM_SPARED, help="devices whose accuracy is measured")
    ] = NUM_SPARED,
    source: Annotated[str, typer.Option(help=f"of {', '.join(SOURCES)}")] = "digits",
    out: Annotated[Path, typer.Option(help="the result file")] = RESULTS / "fleet_attacked.json",
) -> None:
    """Run what is not in the result file yet."""
    command = (
        f"python benchmarks/fleet_attacked.py --seeds {seeds} --levels {levels} --measured {measured} --source {source}"
    )
    about = {
        **fleet_places.ABOUT,
        "devices": NUM_DEVICES,
        "attackers": f"never among the first {NUM_SPARED} devices; they know the sum of all honest votes",
    }
    results = ResultFile(out, command, about, KEY, summarise)
    use_threads(DEFAULT_THREADS)
    for seed, level in itertools.product(numbers(seeds), numbers(levels)):
        run_level(FleetBench(SOURCES[source](seed)), level, measured, results)
    typer.echo(json.dumps(summarise(results.rows), indent=2))


if __name__ == "__main__":
    typer.run(main)
