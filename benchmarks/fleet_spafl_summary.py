"""What the rows of ``fleet_spafl.py`` come to: points of accuracy over bytes, and the bytes to reach fixed accuracies.

A point is an arm at a level or after a number of rounds, with the means over all devices of a seed; it counts only when
all devices have been measured. The targets were fixed before the first run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fedavg import FedAvgPlan
from result_file import Row
from spafl_world import NUM_DEVICES

TARGETS_PERCENT = (85, 88, 90, 92, 94)
"""Mean accuracies over devices."""
RATIO_WANTED = 1 / 500
"""Our bytes over those of federated averaging, in ``plain``, wherever both reach a target."""
PUBLISHED = {
    "source": "Kim et al., SpaFL, NeurIPS 2024, table 2: Fashion-MNIST, LeNet-5, 100 devices, 10 a round, 500 rounds, "
    "Dirichlet 0.2, no public images",
    "accuracy_percent": {},
}
"""Others' figures, once somebody has read them in the paper; none is taken from memory."""
BYTES = ("up_bytes", "up_bytes_sum", "down_bytes")
_PLACE = ("arm", "level_macs_ratio", "rounds", "seed")


def summarise(rows: Sequence[Row]) -> Row:
    """Points, bytes to each target, and ratios of ours to averaging's."""
    found = points(rows)
    targets = [_target(found, percent) for percent in TARGETS_PERCENT]
    return {
        "points": mean_points(found),
        "unfinished": _unfinished(found),
        "targets": targets,
        "ratio_wanted": RATIO_WANTED,
    }


def _unfinished(found: Sequence[Row]) -> list[str]:
    """Arms of averaging that some seed has not run to the last round: that they miss a target says nothing yet."""
    last: dict[tuple[str, int], int] = {}
    for point in found:
        if point["arm"].startswith("fedavg"):
            place = point["arm"], point["seed"]
            last[place] = max(last.get(place, 0), point["rounds"])
    return sorted({arm for (arm, _), rounds in last.items() if rounds < FedAvgPlan().rounds})


def points(rows: Sequence[Row]) -> list[Row]:
    """One for each arm, level, number of rounds and seed that all devices have rows of."""
    by_place: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        by_place.setdefault(tuple(row[name] for name in _PLACE), []).append(row)
    return [
        dict(zip(_PLACE, place, strict=True)) | _means(there)
        for place, there in sorted(by_place.items(), key=lambda item: [str(part) for part in item[0]])
        if len(there) == NUM_DEVICES
    ]


def _means(rows: Sequence[Row]) -> Row:
    accuracies = np.sort([row["accuracy"] for row in rows])
    worst = accuracies[: max(1, len(accuracies) // 10)]
    whole = sum(row["accuracy"] * row["test_images"] for row in rows) / sum(row["test_images"] for row in rows)
    return {
        "accuracy_percent": round(100 * float(accuracies.mean()), 2),
        "worst_tenth_percent": round(100 * float(worst.mean()), 2),
        "by_test_image_percent": round(100 * whole, 2),
        "macs_ratio": round(float(np.mean([row["macs_ratio"] for row in rows])), 4),
        **{name: round(float(np.mean([row[name] for row in rows]))) for name in BYTES},
    }


def mean_points(found: Sequence[Row]) -> list[Row]:
    """The same as means over seeds, in the order of bytes up."""
    by_place: dict[tuple[object, ...], list[Row]] = {}
    for point in found:
        by_place.setdefault(tuple(point[name] for name in _PLACE[:-1]), []).append(point)
    merged = []
    for place, there in by_place.items():
        means = {
            name: round(float(np.mean([point[name] for point in there])), 4) for name in there[0] if name not in _PLACE
        }
        merged.append(dict(zip(_PLACE[:-1], place, strict=True)) | {"seeds": len(there)} | means)
    return sorted(merged, key=lambda point: (point["arm"], point["rounds"], -point["level_macs_ratio"]))


def _target(found: Sequence[Row], percent: int) -> Row:
    """By arm, the fewest bytes up with which a target is reached, mean over the seeds, None where one does not."""
    arms = sorted({point["arm"] for point in found})
    reached = {arm: _bytes_to([point for point in found if point["arm"] == arm], percent) for arm in arms}
    unfinished = _unfinished(found)
    return {
        "target_percent": percent,
        "up_bytes": {arm: bytes_up and bytes_up["up_bytes"] for arm, bytes_up in reached.items()},
        "up_bytes_sum": {arm: bytes_up and bytes_up["up_bytes_sum"] for arm, bytes_up in reached.items()},
        "fleet_over": {
            arm: _ratios(reached, arm, is_finished=arm not in unfinished) for arm in arms if arm.startswith("fedavg")
        },
    }


def _bytes_to(found: Sequence[Row], percent: int) -> Row | None:
    """Means over the seeds of the cheapest point that reaches the target; None if a seed has none."""
    best = []
    for seed in sorted({point["seed"] for point in found}):
        enough = [p for p in found if p["seed"] == seed and p["accuracy_percent"] >= percent]
        if not enough:
            return None
        best.append(min(enough, key=lambda point: point["up_bytes"]))
    return {name: round(float(np.mean([point[name] for point in best]))) for name in BYTES[:2]}


def _ratios(reached: dict[str, Row | None], other: str, *, is_finished: bool) -> Row | str:
    """Ours over theirs; in words where one of them has no such figure."""
    ours, theirs = reached.get("fleet"), reached[other]
    if ours is None:
        return "not reached by fleet"
    if theirs is None:
        return f"not reached by {other}" + ("" if is_finished else " so far; it has not been run to the end")
    if theirs["up_bytes"] == 0:
        return f"{other} is there before its first round"
    return {name: float(f"{ours[name] / theirs[name]:.3g}") for name in BYTES[:2]}
