"""What the rows of ``fleet.py`` come to: means by arm, paired differences with intervals, devices that got worse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from result_file import Row

from prunefleet_shared.masks import FloatArray
from prunefleet_simulation.statistics import WORSE_MARGIN, bootstrap_mean

AGAINST = ("local", "agnostic_local", "agnostic", "dense", "fleet_unsteered", "oracle")
CLUSTERS = "fleet_clusters"
PLACE = ("case", "images_per_class", "level_macs_ratio")


def summarise(rows: Sequence[Row]) -> Row:
    """By case, images and level, and over all of them."""
    places = sorted({tuple(row[name] for name in PLACE) for row in rows})
    by_place = [
        {**dict(zip(PLACE, place, strict=True)), **compared([r for r in rows if _place(r) == place])}
        for place in places
    ]
    return {"by_place": by_place, "all": compared(rows) if rows else {}}


def _place(row: Row) -> tuple[object, ...]:
    return tuple(row[name] for name in PLACE)


def compared(rows: Sequence[Row]) -> Row:
    """Means of the arms, and the arm ``fleet`` against each other, in percentage points with 95 % intervals."""
    arms = sorted({row["arm"] for row in rows})
    means = {arm: round(100 * float(np.mean([r["accuracy"] for r in rows if r["arm"] == arm])), 2) for arm in arms}
    differences = {f"minus_{other}": difference(rows, other) for other in AGAINST if other in arms and "fleet" in arms}
    return {"accuracy_percent": means, "fleet": differences, **_clusters(rows, arms), **_mixture(rows)}


def _clusters(rows: Sequence[Row], arms: Sequence[str]) -> Row:
    """Where there are clusters: what they are worth, and how many devices took another network than the one for all."""
    taken = [row["network"] > 0 for row in rows if row["arm"] == CLUSTERS]
    if not taken:
        return {}
    differences = {f"minus_{other}": difference(rows, other, CLUSTERS) for other in ("fleet", "local") if other in arms}
    return {CLUSTERS: {**differences, "share_of_a_cluster": round(float(np.mean(taken)), 4)}}


def paired(rows: Sequence[Row], arm: str, other: str) -> dict[int, FloatArray]:
    """By seed, the differences of two arms on the same devices, fractions."""
    first, second = (_accuracies(rows, name) for name in (arm, other))
    both = sorted(first.keys() & second.keys(), key=str)
    return {
        seed: np.array([first[place] - second[place] for place in both if place[0] == seed])
        for seed in sorted({int(place[0]) for place in both})
    }


def _accuracies(rows: Sequence[Row], arm: str) -> dict[tuple[int, ...], float]:
    return {
        (row["seed"], row["device"], row["images_per_class"], row["level_macs_ratio"]): row["accuracy"]
        for row in rows
        if row["arm"] == arm
    }


def difference(rows: Sequence[Row], other: str, arm: str = "fleet") -> Row:
    """``arm`` minus ``other`` on the same devices: mean and 95 % interval in points, and the share that got worse."""
    found = list(paired(rows, arm, other).values())
    interval, every = bootstrap_mean(found), np.concatenate(found)
    return {
        "mean_pp": round(100 * interval.mean, 2),
        "ci95_pp": [round(100 * interval.ci95_low, 2), round(100 * interval.ci95_high, 2)],
        "share_worse": round(float((every < -WORSE_MARGIN).mean()), 4),
    }


def _mixture(rows: Sequence[Row]) -> Row:
    found = {
        (row["seed"], row["images_per_class"]): (row["weight_on_fleet"], row["is_confident"])
        for row in rows
        if "weight_on_fleet" in row
    }
    if not found:
        return {}
    weights, confident = zip(*found.values(), strict=True)
    return {
        "weight_on_fleet": {"mean": round(float(np.mean(weights)), 4), "min": min(weights), "max": max(weights)},
        "share_confident": round(float(np.mean(confident)), 4),
    }
