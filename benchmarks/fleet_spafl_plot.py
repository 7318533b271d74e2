"""Accuracy over bytes sent up, ``plain`` and through private sums, for the arms of ``fleet_spafl.py``."""

from __future__ import annotations

from pathlib import Path

from fleet_spafl_summary import TARGETS_PERCENT
from result_file import Row

STYLES = {
    "fleet": ("o", "C0"),
    "fleet_unsteered": ("d", "C9"),
    "fedavg_base": ("s", "C1"),
    "fedavg_random": ("^", "C3"),
    "fedavg_base_tuned": ("P", "C4"),
    "fedavg_random_tuned": ("X", "C5"),
}
FLAT = {"dense": ("-", "0.2"), "local": ("--", "C2"), "agnostic_local": (":", "C6")}
"""Arms that send nothing: lines at each of their levels' accuracy."""
LOWEST_PERCENT = 75
"""What lies below is cut off: averaging's first rounds from random weights."""
PANELS = {"up_bytes": "plain", "up_bytes_sum": "sum"}


def plot(points: list[Row], path: Path) -> None:
    """Write the figure as SVG.

    Args:
        points: Means over seeds, as in the summary.
        path: Where to.
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "fleet_spafl", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharex=True, sharey=True, layout="constrained")
        for axis, (column, mode) in zip(axes, PANELS.items(), strict=True):
            _panel(axis, points, column)
            axis.set(title=f"mode {mode}", xlabel="bytes up, mean per device", xscale="log")
        axes[0].set_ylim(bottom=LOWEST_PERCENT)
        axes[0].set_ylabel("accuracy, mean over devices, %")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _panel(axis: object, points: list[Row], column: str) -> None:
    for arm, (style, colour) in FLAT.items():
        for point in [point for point in points if point["arm"] == arm][:1]:
            label = arm if arm == "dense" else f"{arm}, {point['level_macs_ratio']:.0%} of MACs"
            axis.axhline(point["accuracy_percent"], ls=style, color=colour, lw=1.2, label=f"{label} (0 bytes)")
    for arm, (marker, colour) in STYLES.items():
        # No bytes at all have no place on a logarithmic axis: averaging's round 0 is left out.
        there = [point for point in points if point["arm"] == arm and point[column] > 0]
        if not there:
            continue
        x, y = ([point[name] for point in there] for name in (column, "accuracy_percent"))
        axis.plot(x, y, marker=marker, ms=4, lw=1.2, color=colour, label=arm)
        if arm == "fleet":
            _name_levels(axis, there, column)
    for percent in TARGETS_PERCENT:
        axis.axhline(percent, color="0.85", lw=0.6, zorder=0)
    axis.grid(visible=True, alpha=0.3)


def _name_levels(axis: object, points: list[Row], column: str) -> None:
    for point in points:
        axis.annotate(
            f"{point['level_macs_ratio']:.0%} of MACs",
            (point[column], point["accuracy_percent"]),
            xytext=(6, -9),
            textcoords="offset points",
            fontsize=7,
        )
