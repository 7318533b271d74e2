"""The picture of benchmarks/attacks.py: what one vote and what sums betray, and what poison does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from result_file import Row

RULES = {"sum": "o", "median": "s", "trimmed_mean": "^"}
POISON = (("knowing_shift", "overlap"), ("knowing_shift", "worse_share"), ("fleet_inverted", "overlap"))
POISON_COHORT = 8
POISON_WORDS = {
    "knowing_shift": "poison that breaks the protocol",
    "fleet_inverted": "poison that obeys the protocol and lies",
}
MEASURE_WORDS = {
    "overlap": "overlap with the honest decision",
    "worse_share": "devices that lose 5 % of their saliency",
}


def plot(rows: list[Row], path: Path) -> None:
    """Write the figure as SVG: classes, membership, and three panels of poisoning."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "attacks", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(2, 3, figsize=(11, 6.6), layout="constrained")
        panels: list[tuple[Callable[..., None], list[Row]]] = [
            (_classes, [row for row in rows if row["attack"].startswith("classes_")]),
            (_membership, [row for row in rows if row["attack"] == "membership"]),
            (_canary, [row for row in rows if row["attack"] == "canary"]),
            *((functools.partial(_poisoning, measure), _poisoned(rows, attack)) for attack, measure in POISON),
        ]
        for axis, (draw, own) in zip(axes.flat, panels, strict=True):
            if own:
                draw(axis, own)
                axis.grid(visible=True, alpha=0.3)
            else:
                axis.axis("off")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _poisoned(rows: list[Row], attack: str) -> list[Row]:
    return [row for row in rows if (row["attack"], row["cohort"]) == (attack, POISON_COHORT)]


def _line(axis: Any, rows: list[Row], x: str, y: str, **style: Any) -> None:
    """Mean over seeds at each x; rows without a value are left out."""
    known = [row for row in rows if row.get(y) is not None]
    places = sorted({row[x] for row in known})
    axis.plot(places, [np.mean([row[y] for row in known if row[x] == place]) for place in places], lw=1.2, **style)


def _classes(axis: Any, rows: list[Row]) -> None:
    for attack in sorted({row["attack"] for row in rows}):
        for vote, style in (("graded", "-"), ("one_bit", ":")):
            label = attack.removeprefix("classes_") if vote == "graded" else None
            found = [row for row in rows if (row["attack"], row["vote"]) == (attack, vote)]
            _line(axis, found, "cohort", "hit_rate", marker="o", ms=4, ls=style, label=label, color=_colour(attack))
    axis.axhline(0.1, color="0.5", lw=1, ls="--")
    _log_axis(axis, (1, 8, 32, 100))
    axis.set(ylim=(0, None), xlabel="devices in the sum", ylabel="share of 10 guesses that are right")
    axis.set_title("classes of a device (chance 0.1)\nsolid: graded vote, dotted: one bit")
    axis.legend(frameon=False, fontsize=8)


def _colour(attack: str) -> str:
    return {"classes_profiles": "C0", "classes_shadows": "C1", "classes_made_up": "C2"}.get(attack, "C3")


def _membership(axis: Any, rows: list[Row]) -> None:
    for vote, epsilon in (("graded", None), ("one_bit", None), ("one_bit", 8.0), ("one_bit", 4.0), ("one_bit", 1.0)):
        label = f"exact, {vote.replace('_', ' ')}" if epsilon is None else f"epsilon {epsilon:g}"
        found = [row for row in rows if (row["vote"], row["epsilon"]) == (vote, epsilon)]
        _line(axis, found, "cohort", "auc", marker="o", ms=4, label=label)
    axis.axhline(0.5, color="0.5", lw=1, ls="--")
    _log_axis(axis, (8, 32, 100))
    axis.set(ylim=(0.45, 1.01), xlabel="devices in the sum", ylabel="AUC")
    axis.set_title("was this device in the cohort?\n(attacker knows its vote)")
    axis.legend(frameon=False, fontsize=8, loc=(0.02, 0.46))


def _log_axis(axis: Any, ticks: tuple[int, ...]) -> None:
    axis.set_xscale("log")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()


def _canary(axis: Any, rows: list[Row]) -> None:
    for noise, marker in (("as_claimed", "o"), ("half_the_std", "x")):
        found = [row for row in rows if row["noise"] == noise]
        _line(axis, found, "epsilon", "epsilon_lower_bound", marker=marker, ms=5, label=noise.replace("_", " "))
    ends = [0, max((row["epsilon"] for row in rows), default=1.0)]
    axis.plot(ends, ends, color="0.5", lw=1, ls="--", label="the claim")
    axis.set(xlabel="epsilon claimed", ylabel="epsilon refuted (95 %)")
    axis.set_title("audit of the noise by a canary")
    axis.legend(frameon=False, fontsize=8)


def _poisoning(measure: str, axis: Any, rows: list[Row]) -> None:
    shares = sorted({row["attackers"] for row in rows})
    places = [{**row, "place": shares.index(row["attackers"])} for row in rows]
    for rule, marker in RULES.items():
        found = [row for row in places if row["rule"] == rule]
        _line(axis, found, "place", measure, marker=marker, ms=4, label=rule.replace("_", " "))
    if measure == "overlap":
        axis.axhline(0.5, color="0.5", lw=1, ls="--")
    axis.set_xticks(range(len(shares)), [f"{100 * share:g}" for share in shares])
    axis.set(ylim=(-0.02, 1.02), xlabel="attackers, % of devices", ylabel=MEASURE_WORDS[measure])
    axis.set_title(f"{POISON_WORDS[rows[0]['attack']]}\ncohorts of {POISON_COHORT}")
    axis.legend(frameon=False, fontsize=8)
