"""What the rows of ``seed_b.py`` say: means against doing nothing, Pareto fronts, what is won back, and the plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from result_file import Row

from prunefleet_edge.retraining_options import STRATEGIES

UNDAMAGED = "none"
"""A row's ``damage`` when there was none."""


def summarise(rows: list[Row]) -> Row:
    """For each strategy, means over seeds and over (network, sparsity), in points; the Pareto front of each place."""
    undamaged = [row for row in rows if row["damage"] == UNDAMAGED]
    fronts = {f"{net} {sparsity}": _front(means_of(undamaged, net, sparsity)) for net, sparsity in _places(undamaged)}
    kinds = sorted({row["damage"] for row in rows} - {UNDAMAGED})
    return {
        "strategies": {name: _against_none(undamaged, name) for name in STRATEGIES if name != "none"},
        "pareto_front": fronts,
        "damages": {kind: _won_back(undamaged, [row for row in rows if row["damage"] == kind]) for kind in kinds},
    }


def _won_back(undamaged: list[Row], rows: list[Row]) -> Row:
    """What the damage took, and what each strategy wins back against the damaged network, in points."""
    found: Row = {}
    for net, sparsity in _places(rows):
        before, after = means_of(undamaged, net, sparsity), means_of(rows, net, sparsity)
        if "none" not in after:
            continue
        place = found.setdefault(f"{net} {sparsity}", {})
        if "none" in before:
            place["lost_by_damage"] = _difference(before["none"], after["none"])
        place |= {name: _difference(pair, after["none"]) for name, pair in after.items() if name != "none"}
    return found


def _difference(one: tuple[float, float], other: tuple[float, float]) -> Row:
    return {"new_pp": round(one[0] - other[0], 2), "original_pp": round(one[1] - other[1], 2)}


def _places(rows: list[Row]) -> list[tuple[str, float]]:
    return sorted({(row["net"], row["sparsity"]) for row in rows})


def means_of(rows: list[Row], net: str, sparsity: float) -> dict[str, tuple[float, float]]:
    """By strategy: mean new and original accuracy over seeds, in per cent."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if (row["net"], row["sparsity"]) == (net, sparsity):
            pair = (100 * row["new_accuracy"], 100 * row["original_accuracy"])
            found.setdefault(row["strategy"], []).append(pair)
    means = {name: np.mean(pairs, axis=0) for name, pairs in found.items()}
    return {name: (float(mean[0]), float(mean[1])) for name, mean in means.items()}


def _against_none(rows: list[Row], strategy: str) -> Row:
    gains, losses = [], []
    for place in _places(rows):
        means = means_of(rows, *place)
        if strategy in means and "none" in means:
            gains.append(means[strategy][0] - means["none"][0])
            losses.append(means["none"][1] - means[strategy][1])
    if not gains:
        return {"new_gain_pp": None, "original_loss_pp": None, "num_places": 0}
    return {
        "new_gain_pp": round(float(np.mean(gains)), 2),
        "original_loss_pp": round(float(np.mean(losses)), 2),
        "num_places": len(gains),
    }


def _front(means: dict[str, tuple[float, float]]) -> list[str]:
    """Strategies that no other beats in one accuracy without losing in the other, best new accuracy first."""

    def is_beaten(name: str) -> bool:
        new, original = means[name]
        return any(n >= new and o >= original and (n, o) != (new, original) for n, o in means.values())

    return sorted((name for name in means if not is_beaten(name)), key=lambda name: -means[name][0])


def plot(rows: list[Row], path: Path) -> None:
    """New against original accuracy: a panel per network, a line per strategy through the sparsities."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    rows = [row for row in rows if row["damage"] == UNDAMAGED]
    nets = sorted({row["net"] for row in rows})
    with mpl.rc_context({"svg.hashsalt": "seed_b", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(1, len(nets), figsize=(5 * len(nets), 4.2), squeeze=False, layout="constrained")
        for axis, net in zip(axes[0], nets, strict=True):
            sparsities = [sparsity for place, sparsity in _places(rows) if place == net]
            for name, marker in zip(STRATEGIES, "os^Dvp", strict=True):
                points = [means_of(rows, net, s)[name] for s in sparsities if name in means_of(rows, net, s)]
                axis.plot([o for _, o in points], [n for n, _ in points], marker=marker, lw=1, ms=5, label=name)
            for sparsity in sparsities:
                new, original = means_of(rows, net, sparsity).get("none", (0.0, 0.0))
                axis.annotate(f"{sparsity:.0%}", (original, new), (3, -10), textcoords="offset points", fontsize=7)
            axis.set(title=net, xlabel="original task, % of clean test images", ylabel="new data, % through the camera")
            axis.grid(visible=True, alpha=0.3)
        axes[0][0].legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
