"""The first seed paper's figure: accuracy over the pruning level, one panel for each network and subset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from result_file import Row

MARKERS = {
    "agnostic": "o",
    "aware": "s",
    "aware_base_topology": "D",
    "aware_taylor": "^",
    "agnostic_local": "v",
}


def plot(rows: list[Row], path: Path) -> None:
    """Write the figure as SVG; the dashed line is the unpruned base."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    panels = sorted({(row["net"], row["subset"]) for row in rows}, reverse=True)
    columns = max(1, min(3, len(panels)))
    lines = -(-len(panels) // columns)
    with mpl.rc_context({"svg.hashsalt": "seed_a", "svg.fonttype": "none", "font.size": 9}):
        size = (3.4 * columns, 2.9 * lines + 0.4)
        figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
        for axis, panel in zip(axes.flat, panels, strict=False):
            _panel(axis, panel, [row for row in rows if (row["net"], row["subset"]) == panel])
        for axis in list(axes.flat)[len(panels) :]:
            axis.axis("off")
        for line in axes:
            line[0].set_ylabel("accuracy on the subset, %")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _panel(axis: object, panel: tuple[str, str], rows: list[Row]) -> None:
    axis.axhline(100 * rows[0]["dense_accuracy"], color="0.5", lw=1, ls="--")
    for arm, marker in MARKERS.items():
        points = means_by_level(rows, arm)
        # Where the two topologies are the same, one line lies on the other: the control is drawn broad and pale.
        style = {"lw": 5, "alpha": 0.35} if arm == "aware_base_topology" else {"lw": 1.2}
        axis.plot(list(points), list(points.values()), marker=marker, ms=4, label=arm, **style)
    axis.set(title=" · ".join(panel), xlabel="parameters removed, %")
    axis.grid(visible=True, alpha=0.3)


def means_by_level(rows: list[Row], arm: str) -> dict[int, float]:
    """Accuracy in per cent by level, the mean over seeds."""
    levels = sorted({row["level_percent"] for row in rows if row["arm"] == arm})
    return {
        level: float(np.mean([100 * r["accuracy"] for r in rows if (r["arm"], r["level_percent"]) == (arm, level)]))
        for level in levels
    }
