"""The report's charts, drawn by matplotlib as SVG to be set into a page.

Every function takes parts of a :class:`~prunefleet_coordinator.report_model.Report` and returns one ``<svg>`` element:
same input, same bytes. No global figure is made (matplotlib's settings are changed while a chart is drawn and put back:
draw from one thread at a time). Text stays text: it can be searched and read aloud, and the page's font applies.
Colours are Okabe & Ito's, which colour-blind readers tell apart: blue is the fleet or a gain, orange a loss, grey the
rest.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from prunefleet_coordinator.report_model import (
    Arm,
    ArmName,
    DecisionRecord,
    Device,
    GroupTally,
    Paired,
    Round,
    Seed,
    Wire,
)
from prunefleet_shared.masks import NUM_MASKS, FloatArray
from prunefleet_shared.metrics import GAIN_EDGES, LATENCY_EDGES, NUM_BINS

BLUE, ORANGE, GREY, PALE, INK = "#0072b2", "#d55e00", "#8a94a0", "#dfe4ea", "#24303c"
CERTAINTY = LinearSegmentedColormap.from_list("certainty", ["#eef3f8", "#7fb3d5", BLUE, "#003e63"], N=15)
ARM_LABELS: dict[ArmName, str] = {
    "dense": "dense, fine-tuned",
    "agnostic": "public only",
    "agnostic_local": "public, then local",
    "local": "own pruning",
    "fleet_widths": "own channels, fleet's widths",
    "fleet": "fleet",
}
MAX_CELLS = 64
"""Cells drawn per group; wider groups show means of neighbouring channels, or the page would weigh megabytes."""
_WIDTH_IN = 7.6
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same measurements on every machine
    "font.size": 9.5,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
}


def accuracy_by_arm(arms: dict[ArmName, Arm], devices: Sequence[Device]) -> str:
    """A row per arm: every device a dot, the mean with its 95 % interval, the mean as a number."""
    with _style("accuracy"):
        figure, axes = _figure(0.9 + 0.5 * len(arms))
        scatter = np.random.default_rng(0)
        for row, (name, arm) in enumerate(arms.items()):
            colour = BLUE if name == "fleet" else GREY
            dots = 100 * np.asarray([device.accuracy[name] for device in devices])
            heights = row + 0.24 * scatter.uniform(-1, 1, len(dots))
            axes.plot(dots, heights, "o", color=colour, alpha=0.4, markersize=4, markeredgewidth=0)
            low, high = 100 * arm.accuracy_ci95_low, 100 * arm.accuracy_ci95_high
            axes.plot([low, high], [row, row], color=INK, linewidth=2, solid_capstyle="butt")
            axes.plot(100 * arm.accuracy_mean, row, "o", color=colour, markeredgecolor=INK, markersize=8)
            _right_label(axes, row, f"{100 * arm.accuracy_mean:.1f} %", bold=name == "fleet")
        _rows(axes, [ARM_LABELS[name] for name in arms])
        axes.grid(axis="x")
        axes.set_xlabel("accuracy on the device's report images, %")
        return _svg(figure, "accuracy")


def gains(devices: Sequence[Device], paired: Iterable[tuple[ArmName, Paired]]) -> str:
    """For each other arm, what every device gained by the fleet's network, sorted; losses in orange."""
    with _style("gains"):
        pairs = list(paired)
        figure = Figure(figsize=(_WIDTH_IN, 2.7), layout="constrained")
        panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
        for axes, (name, pair) in zip(panels, pairs, strict=True):
            points = sorted(100 * (device.accuracy["fleet"] - device.accuracy[name]) for device in devices)
            _gain_steps(axes, np.asarray(points))
            axes.axhline(100 * pair.mean, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_title(f"against {ARM_LABELS[name]}: mean {100 * pair.mean:+.1f}", fontsize=9.5, loc="left")
            axes.set_xlabel(f"{len(points)} devices, worst to best")
            axes.set_xticks([])
            axes.grid(axis="y")
        low, high = panels[0].get_ylim()
        panels[0].set_ylim(min(low, -1), max(high, 1))  # or rounding errors would fill the panel when nothing differs
        panels[0].set_ylabel("gain, points")
        return _svg(figure, "gains")


def _gain_steps(axes: Axes, points: FloatArray) -> None:
    edges = np.arange(len(points) + 1)
    axes.stairs(np.clip(points, 0, None), edges, fill=True, color=BLUE, alpha=0.85)
    axes.stairs(np.clip(points, None, 0), edges, fill=True, color=ORANGE, alpha=0.85)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.spines["bottom"].set_visible(False)


def topology(decisions: Sequence[DecisionRecord], tallies: Sequence[GroupTally], permilles: Sequence[int]) -> str:
    """The decided network: a row per group, the dense width outlined, a cell per channel kept.

    A cell's colour is its grade tally ÷ (7 × devices): 1 where every device keeps the channel in all seven masks, ½
    where the votes are worth a coin toss. Channels stand in the decided order. Row lengths grow with the square root
    of the dense width, so that narrow and wide groups can be read in one picture.

    Args:
        decisions: One per level, all of one seed.
        tallies: The groups of that seed, in layout order.
        permilles: Each decision's nominal fraction of the dense cost, in thousandths.
    """
    with _style("topology"):
        row_in = 0.24 if len(tallies) <= 24 else 0.17
        figure = Figure(figsize=(_WIDTH_IN, 1.0 + row_in * len(tallies)), layout="constrained")
        panels = figure.subplots(1, len(decisions), sharey=True, squeeze=False)[0]
        for axes, decision, permille in zip(panels, decisions, permilles, strict=True):
            for row, (tally, width, order) in enumerate(zip(tallies, decision.widths, decision.prior, strict=True)):
                _group_row(axes, row, tally, order[:width])
            axes.set_title(f"level {decision.level + 1}: {permille / 10:g} % of the cost", fontsize=9.5, loc="left")
            axes.set_xlim(0, 1.16 * max(tally.num_channels for tally in tallies) ** 0.5)
            axes.set_xticks([])
            axes.spines[["left", "bottom"]].set_visible(False)
        _rows(panels[0], [tally.group for tally in tallies], fontsize=7.5 if row_in > 0.2 else 6.5)
        _certainty_bar(figure, panels)
        return _svg(figure, "topology")


def _group_row(axes: Axes, row: int, tally: GroupTally, kept: Sequence[int]) -> None:
    length = tally.num_channels**0.5
    certainty = np.asarray(tally.grade_tally)[list(kept)] / (NUM_MASKS * tally.num_devices)
    cells = [float(part.mean()) for part in np.array_split(certainty, min(len(kept), MAX_CELLS))]
    cell = length * len(kept) / tally.num_channels / len(cells)
    axes.broken_barh(
        [(i * cell, cell) for i in range(len(cells))],
        (row - 0.36, 0.72),
        facecolors=[CERTAINTY(value) for value in cells],
        edgecolors="white",
        linewidth=0.3 if len(cells) <= 32 else 0,
    )
    axes.add_patch(Rectangle((0, row - 0.36), length, 0.72, fill=False, edgecolor=GREY, linewidth=0.7))
    axes.text(length + 0.1, row, f"{len(kept)}/{tally.num_channels}", va="center", fontsize=6.5, color=INK)


def _certainty_bar(figure: Figure, panels: Sequence[Axes]) -> None:
    scale = ScalarMappable(Normalize(0, 1), CERTAINTY)
    bar = figure.colorbar(scale, ax=list(panels), location="bottom", aspect=60, fraction=0.04, pad=0.02)
    bar.set_ticks([0, 0.5, 1], labels=["nobody keeps it", "no opinion", "everybody keeps it"], fontsize=8)
    bar.outline.set_visible(False)


def bytes_by_direction(wire: Wire, num_devices: float) -> str:
    """Bytes on a log scale: the protocol's up and down per device and session, model downloads, and what FedAvg sends.

    Args:
        wire: The report's totals.
        num_devices: Devices per seed, to share out the model downloads.
    """
    rows = [
        ("protocol up, per session", wire.up_bytes_per_device_session, BLUE),
        ("protocol down, per session", wire.down_bytes_per_device_session, BLUE),
        ("models down, whole campaign", wire.model_down_bytes / max(1.0, num_devices), GREY),
    ]
    if wire.base_weight_bytes:
        rows.append(("for scale: all weights, fp32", float(wire.base_weight_bytes), GREY))
    with _style("bytes"):
        figure, axes = _figure(0.85 + 0.34 * len(rows))
        for row, (_, size, colour) in enumerate(rows):
            axes.plot([1, max(size, 1)], [row, row], color=PALE, linewidth=2)
            axes.plot(max(size, 1), row, "o", color=colour, markersize=8)
            _right_label(axes, row, format_bytes(size))
        axes.set_xscale("log")
        axes.set_xlim(10, 10 * max(size for _, size, _ in rows))
        _rows(axes, [label for label, _, _ in rows])
        ticks = [10**exponent for exponent in range(1, 12) if 10**exponent <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [format_bytes(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(axis="x")
        axes.set_xlabel("bytes per device (log scale)")
        return _svg(figure, "bytes")


def outcomes(rounds: Sequence[Round]) -> str:
    """For every level, summed over seeds: how many devices fell into each bin of accuracy gain and of latency.

    Args:
        rounds: At least one whose outcome session has closed; others are passed over.
    """
    told = [(part, part.outcome) for part in rounds if part.outcome]
    levels = sorted({part.level for part, _ in told})
    with _style("outcomes"):
        figure = Figure(figsize=(_WIDTH_IN, 0.7 + 1.5 * len(levels)), layout="constrained")
        panels = figure.subplots(len(levels), 2, sharex="col", sharey=True, squeeze=False)
        for (gain_axes, latency_axes), level in zip(panels, levels, strict=True):
            parts = [(part, outcome) for part, outcome in told if part.level == level]
            gain = np.sum([outcome.accuracy_gain for _, outcome in parts], axis=0)
            latency = np.sum([outcome.latency_ratio for _, outcome in parts], axis=0)
            colours = [ORANGE if edge < 0 else BLUE if edge > 0.005 else GREY for edge in (*GAIN_EDGES, 1.0)]
            _histogram(gain_axes, gain, [100 * edge for edge in GAIN_EDGES], colours)
            _histogram(latency_axes, latency, LATENCY_EDGES, [GREY] * NUM_BINS)
            title = f"level {level + 1}: {parts[0][0].level_permille / 10:g} % of the cost"
            gain_axes.set_title(title, fontsize=9.5, loc="left")
            gain_axes.set_ylabel("devices")
        panels[-1][0].set_xlabel("accuracy gain over own choice, points")
        panels[-1][1].set_xlabel("latency ÷ dense latency")
        return _svg(figure, "outcomes")


def _histogram(axes: Axes, counts: FloatArray, edges: Sequence[float], colours: Sequence[str]) -> None:
    # Bins have unequal widths on purpose (fine around "no change"), so they are drawn as steps of equal size.
    axes.bar(np.arange(NUM_BINS) + 0.5, counts, width=0.88, color=list(colours))
    labels = [f"{edge:g}".replace("-", "\N{MINUS SIGN}") for edge in edges]
    axes.set_xticks(range(1, NUM_BINS), labels, fontsize=7, rotation=60)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.grid(axis="y")


def time_by_seed(seeds: Sequence[Seed]) -> str:
    """A bar per seed: wall time."""
    with _style("time"):
        figure, axes = _figure(0.7 + 0.26 * len(seeds))
        axes.barh(range(len(seeds)), [seed.wall_s for seed in seeds], height=0.6, color=GREY)
        for row, seed in enumerate(seeds):
            _right_label(axes, row, f"{seed.wall_s:,.0f} s")
        _rows(axes, [f"seed {seed.seed}" for seed in seeds])
        axes.grid(axis="x")
        axes.set_xlabel("wall time, s")
        return _svg(figure, "time")


def format_bytes(size: float) -> str:
    """A size in the SI unit that gives 1 to 999 of it: ``"620 B"``, ``"1.08 MB"``."""
    scaled = float(size)
    for unit in ("B", "kB", "MB"):
        if round(scaled) < 1000:
            return f"{scaled:.3g} {unit}"
        scaled /= 1000
    return f"{scaled:.4g} GB"


def _style(name: str) -> AbstractContextManager[None]:
    settings: Any = {**_STYLE, "svg.hashsalt": name}  # Any: newer stubs name every key, older ones do not
    return mpl.rc_context(settings)


def _figure(height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    return figure, figure.subplots()


def _rows(axes: Axes, labels: Sequence[str], fontsize: float = 9.5) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=fontsize)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.spines["left"].set_visible(False)


def _right_label(axes: Axes, row: int, text: str, *, bold: bool = False) -> None:
    place = axes.get_yaxis_transform()  # x in axes fractions, y in rows
    axes.text(1.02, row, text, transform=place, va="center", fontweight="bold" if bold else "normal")


def _svg(figure: Figure, name: str) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Hundredths of a point are finer than any screen, and a third of the page's weight less.
    text = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    # Several charts share one page, and ids must be unique in it.
    text = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return text.strip()
