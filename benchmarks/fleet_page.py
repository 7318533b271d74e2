"""The sections of the page of results on fleets against single devices, and their figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from result_file import Row

Table = Callable[[Sequence[str], Sequence[Sequence[object]]], Iterator[str]]
ARMS = ("dense", "agnostic", "agnostic_local", "local", "fleet_unsteered", "fleet")
STYLES = {
    "dense": ("#8a94a0", "--", "o"),
    "agnostic": ("#c9a66b", "-", "v"),
    "agnostic_local": ("#e69f00", "-", "^"),
    "local": ("#d55e00", "-", "s"),
    "fleet_unsteered": ("#56b4e9", "-", "D"),
    "fleet": ("#0072b2", "-", "o"),
}


def few_lines(document: Row, table: Table) -> Iterator[str]:
    """Devices with few images of their own."""
    rows, summary = document["rows"], document["summary"]
    yield "## Fleets: does deciding together beat deciding alone?\n"
    about, seeds = document["about"], sorted({row["seed"] for row in rows})
    num_devices = len({(row["seed"], row["device"], row["images_per_class"]) for row in rows})
    yield (
        f"{about['network']}, CIFAR-100: {about['devices']} devices see ten of their fleet's twenty classes each, with "
        "4, 10 or 20 private images of each class; accuracy over all 100 outputs, on all official test images of a "
        f"device's classes. Seeds {', '.join(map(str, seeds))}; {num_devices} devices. Every arm starts from "
        f"the same base, with the same splits and local steps; public retraining is {about['public_epochs']} epochs "
        "everywhere. What was chosen, was chosen on seed 101.\n"
    )
    yield from _verdicts(summary)
    yield "![Accuracy over private images](figures/fleet_few.svg)\n"
    yield from _accuracies(summary, table)
    yield from _differences(summary, table)


def _verdicts(summary: Row) -> Iterator[str]:
    """The claims of the plan against what was measured, over all rows so far."""
    against = summary["all"]["fleet"]
    means = summary["all"]["accuracy_percent"]
    best = max(("local", "agnostic_local"), key=lambda arm: means[arm])
    gain = against[f"minus_{best}"]
    half = [part for part in summary["by_place"] if part["level_macs_ratio"] == 0.5]
    dense = [part["fleet"]["minus_dense"]["mean_pp"] for part in half]
    steering, mixture = against["minus_fleet_unsteered"], summary["all"].get("weight_on_fleet", {})
    yield (
        f"- `fleet` against the better of `local` and `agnostic_local` ({best}): **{gain['mean_pp']:+.1f} points** "
        f"({gain['ci95_pp'][0]:+.1f} to {gain['ci95_pp'][1]:+.1f}); the plan wants +5 with the interval above 0.\n"
        f"- against `agnostic`: {against['minus_agnostic']['mean_pp']:+.1f} (plan: +10). Against `dense` at half the "
        f"MACs: {', '.join(f'{value:+.1f}' for value in dense)} by private images (plan: 0 or more)"
        f"{_tried() if min(dense) < 0 else ''}.\n"
        f"- devices worse than `local` by more than half a point: {100 * against['minus_local']['share_worse']:.0f} % "
        "(plan: 10 % at most).\n"
        f"- steering (`fleet` against `fleet_unsteered`): {steering['mean_pp']:+.1f} points "
        f"({steering['ci95_pp'][0]:+.1f} to {steering['ci95_pp'][1]:+.1f}). The mixture puts "
        f"{100 * mixture['mean']:.0f} % of its weight on the fleet's classes (plan: 60 %), "
        f"{100 * mixture['min']:.0f} to {100 * mixture['max']:.0f} % over fleets; chance is 20 %.\n"
    )


def _tried() -> str:
    return (
        "; what was tried against that, on validation fleets, is in "
        "[ADR 22](adr/0022-steering-by-lift-masks.md) and [ADR 24](adr/0024-the-fleets-votes-choose-the-channels.md)"
    )


def _accuracies(summary: Row, table: Table) -> Iterator[str]:
    yield "Accuracy, per cent, mean over devices and seeds:\n"
    head = ["images a class", "MACs", *ARMS]
    yield from table(head, [_accuracy_cells(part) for part in summary["by_place"]])


def _accuracy_cells(part: Row) -> list[object]:
    means = part["accuracy_percent"]
    place = [part["images_per_class"], f"{100 * part['level_macs_ratio']:.0f} %"]
    return [*place, *(f"{means[arm]:.1f}" if arm in means else "" for arm in ARMS)]


def _differences(summary: Row, table: Table) -> Iterator[str]:
    yield "`fleet` minus another arm, points, with the paired 95 % interval and the share of devices that got worse:\n"
    others = [arm for arm in ARMS if arm != "fleet"]
    head = ["images a class", "MACs", *others]
    yield from table(head, [_difference_cells(part, others) for part in summary["by_place"]])


def _difference_cells(part: Row, others: Sequence[str]) -> list[object]:
    place: list[object] = [part["images_per_class"], f"{100 * part['level_macs_ratio']:.0f} %"]
    return [*place, *(difference_words(part["fleet"].get(f"minus_{other}")) for other in others)]


def difference_words(found: Row | None) -> str:
    """A paired difference with its interval and the share of devices that got worse; empty for None."""
    if found is None:
        return ""
    low, high = found["ci95_pp"]
    return f"{found['mean_pp']:+.1f} ({low:+.1f} to {high:+.1f}), {100 * found['share_worse']:.0f} % worse"


def plot(document: Row, path: Path) -> None:
    """Write the figure as SVG: a panel for each level, a line for each arm over the number of private images."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    parts = document["summary"]["by_place"]
    levels = sorted({part["level_macs_ratio"] for part in parts}, reverse=True)
    with mpl.rc_context({"svg.hashsalt": "fleet", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(
            1, len(levels), figsize=(7.4, 3.4), squeeze=False, sharey=True, layout="constrained"
        )
        for axis, level in zip(axes[0], levels, strict=True):
            _panel(axis, [part for part in parts if part["level_macs_ratio"] == level], level)
        axes[0][0].set_ylabel("accuracy on the device's classes, %")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _panel(axis: object, parts: Sequence[Row], level: float) -> None:
    parts = sorted(parts, key=lambda part: part["images_per_class"])
    for arm, (colour, line, marker) in STYLES.items():
        points = [(p["images_per_class"], p["accuracy_percent"][arm]) for p in parts if arm in p["accuracy_percent"]]
        if points:
            axis.plot(*np.array(points).T, color=colour, ls=line, marker=marker, ms=4, label=arm)
    axis.set(title=f"{100 * level:.0f} % of the MACs", xlabel="private images of each class")
    axis.set_xticks([part["images_per_class"] for part in parts])
    axis.grid(visible=True, alpha=0.3)
