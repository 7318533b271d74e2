"""Rows of ``fleet_attacked.py`` and ``fleet_scale.py``, and what those of one place (attack, size, noise) come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import typer
from fleet_bench import Decided, FleetBench, agreement_permille
from fleet_device import FleetDevice
from fleet_jobs import up_bytes
from fleet_summary import difference
from result_file import ResultFile, Row

from prunefleet_shared.campaign import Campaign
from prunefleet_shared.mixture import PPM

ALONE = ("dense", "local", "agnostic", "agnostic_local")
ABOUT = {
    "accuracy": "top-1 on images of the device's classes that no device and no trainer learns from",
    "up_bytes": "payloads a device sends in a campaign, as they are masked in its privacy mode: vote and outcomes",
    "agreement_permille": "channels kept here and by the honest decision of the whole fleet without noise, in "
    "thousandths of the mean number of channels the two keep",
}


class FleetRows:
    """Adds rows of one fleet at one level to a result file, unless they are there.

    Args:
        bench: The fleet.
        level: Index into the schedule.
        num_measured: Devices on which accuracy is measured: the first ones.
        results: The file.
    """

    def __init__(self, bench: FleetBench, level: int, num_measured: int, results: ResultFile) -> None:
        self._bench, self._level, self._results = bench, level, results
        self._devices = range(num_measured)

    def add_alone(self, facts: Row, reference: Decided) -> None:
        """Arms without a fleet; ``facts`` fills the columns that are the fleets', ``reference`` as in ``add_fleet``."""
        l1 = {"agreement_permille": agreement_permille(self._bench.agnostic(self._level).masks, reference.masks)}
        told = {"dense": {}, "local": {}, "agnostic": l1, "agnostic_local": l1}
        for number in self._devices:
            keys = [self._key(arm, number) | facts | {"has_gate": 0} for arm in ALONE]
            if not all(self._results.has(**key) for key in keys):
                found = FleetDevice(self._bench, number, self._level).alone()
                self._results.add([key | told[key["arm"]] | found[key["arm"]] | {"up_bytes": 0} for key in keys])

    def add_fleet(self, arm: str, facts: Row, decided: Decided, reference: Decided, campaign: Campaign) -> None:
        """A decision tried on the measured devices, with the gate and without.

        Args:
            arm: Its name.
            facts: Columns that say which attack, size or noise it is of.
            decided: The decision.
            reference: The honest, noise-free decision of the whole fleet.
            campaign: Under which it was made.
        """
        told = facts | _told(decided, reference) | {"up_bytes": up_bytes(campaign)}
        for number in self._devices:
            keys = [self._key(arm, number) | facts | {"has_gate": has_gate} for has_gate in (0, 1)]
            if not all(self._results.has(**key) for key in keys):
                slim = self._bench.slim(decided)
                found = FleetDevice(self._bench, number, self._level).with_fleet(slim)
                self._results.add([key | told | found[str(key["has_gate"])] for key in keys])
        typer.echo(self._words(arm, facts))

    def _key(self, arm: str, number: int) -> Row:
        return {
            "case": self._bench.source.name,
            "arm": arm,
            "images_per_class": self._bench.source.images_per_class,
            "level_macs_ratio": self._bench.source.levels_permille[self._level] / 1000,
            "seed": self._bench.source.seed,
            "device": f"device-{number:02d}",
        }

    def _words(self, arm: str, facts: Row) -> str:
        own = of_place(self._results.rows, self._key(arm, 0) | facts, (*self._key(arm, 0).keys() - {"device"}, *facts))
        by_gate = [np.mean([100 * row["accuracy"] for row in own if row["has_gate"] == gate]) for gate in (1, 0)]
        return f"seed {own[0]['seed']} {arm} {facts}: {by_gate[0]:.1f} % with the gate, {by_gate[1]:.1f} % without"


def _told(decided: Decided, reference: Decided) -> Row:
    mixture = decided.record.mixture
    return {
        "agreement_permille": agreement_permille(decided.masks, reference.masks),
        "is_confident": int(mixture.is_confident),
        "explained": round(mixture.explained_ppm / PPM, 4),
        "largest_weight": round(max(mixture.weights_ppm) / PPM, 4),
    }


def of_place(rows: Sequence[Row], where: Mapping[str, object], names: Sequence[str]) -> list[Row]:
    """The rows that agree with ``where`` in these columns."""
    return [row for row in rows if all(row[name] == where[name] for name in names)]


def means_alone(rows: Sequence[Row]) -> list[Row]:
    """Mean accuracies without a fleet, by case and level, in per cent."""
    names = ("case", "level_macs_ratio")
    places = sorted({tuple(row[name] for name in names) for row in rows})
    found = []
    for where in (dict(zip(names, place, strict=True)) for place in places):
        same = of_place(rows, where, names)
        found.append(where | {arm: mean_percent([row for row in same if row["arm"] == arm]) for arm in ALONE})
    return found


def mean_percent(rows: Sequence[Row]) -> float | None:
    """Mean accuracy in per cent; None of no rows."""
    return round(100 * float(np.mean([row["accuracy"] for row in rows])), 2) if rows else None


def compared(own: Sequence[Row], others: Mapping[str, Sequence[Row]]) -> Row:
    """One place: its means, and its rows against others of the same devices, in points with 95 % intervals."""
    ours = [row | {"arm": "ours"} for row in own]
    against = {
        f"minus_{name}": difference(ours + [row | {"arm": name} for row in rows], name, "ours")
        for name, rows in others.items()
        if {_place_of(row) for row in rows} & {_place_of(row) for row in own}
    }
    accepted = [row["is_accepted"] for row in own if "is_accepted" in row]
    by_seed = {row["seed"]: row for row in own}.values()
    return {
        "accuracy_percent": mean_percent(own),
        **against,
        "accepted_share": round(float(np.mean(accepted)), 4) if accepted else None,
        "agreement_permille": round(float(np.mean([row["agreement_permille"] for row in by_seed]))),
        "confident_share": round(float(np.mean([row["is_confident"] for row in by_seed])), 4),
        "seeds": sorted(row["seed"] for row in by_seed),
        "num_measured": len({_place_of(row) for row in own}),
    }


def _place_of(row: Row) -> tuple[object, ...]:
    return row["seed"], row["device"]


def numbers(text: str) -> list[int]:
    """Whole numbers of a list such as ``1,2,3``."""
    return [int(part) for part in text.split(",")]
