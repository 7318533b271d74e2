"""The picture of benchmarks/device.py: latency against MACs, each over the dense network's."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "device_latency.svg"
STYLES = {"1": ("o", "any width"), "8": ("s", "multiples of 8"), "cost table": ("^", "multiples of 8, cost table")}


def plot(results: Path, figure: Path = FIGURE) -> None:
    """Draw onnxruntime's rows, one panel a network."""
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    rows = [row for row in rows if row["runtime"] == "onnxruntime"]
    nets = sorted({row["net"] for row in rows})
    mpl.rcParams["svg.hashsalt"] = "prunefleet"  # the same results, the same file
    drawing, panels = plt.subplots(1, len(nets), figsize=(3.1 * len(nets), 3.4), squeeze=False, sharey=True)
    for net, panel in zip(nets, panels[0], strict=True):
        _panel(panel, [row for row in rows if row["net"] == net])
        panel.set_title(net)
        panel.set_xlabel("MACs, of dense")
    panels[0][0].set_ylabel("latency, of dense")
    panels[0][0].legend(fontsize=7)
    drawing.tight_layout()
    figure.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(figure, metadata={"Date": None})
    plt.close(drawing)
    print(figure.name)


def _panel(panel: plt.Axes, rows: list[dict[str, float]]) -> None:
    panel.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="as MACs")
    panel.plot([0, 0.5], [0, 1], color="0.6", linewidth=1, linestyle=":", label="twice MACs")
    for variant, (marker, words) in STYLES.items():
        own = [row for row in rows if str(row["rounded_to"]) == variant or row["level_percent"] == 0]
        own.sort(key=lambda row: row["macs_ratio"])
        xs, ys = [row["macs_ratio"] for row in own], [row["latency_ratio"] for row in own]
        panel.plot(xs, ys, marker=marker, markersize=4, linewidth=1, label=words)
    panel.set_xlim(0, 1.02)
    panel.set_ylim(0, 1.3)
    panel.grid(alpha=0.3)
