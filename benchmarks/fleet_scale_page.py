"""The section of ``docs/results.md`` on fleet size and noise, and its figure, from ``results/fleet_scale.json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fleet_attacked_page import GATE_STYLES, Table, alone_words, measured_words, points
from result_file import Row

WHOLE = (100, 0)
"""Devices and epsilon of the decision that the others are compared with."""
SIZE_COLOURS = ("C1", "C2", "C4", "C5")


def lines(document: Row, table: Table) -> Iterator[str]:
    """The section in Markdown; ``table`` draws a table."""
    summary = document["summary"]
    yield "## Fleet size and noise\n"
    yield (
        "How good a decision is by the number of devices that vote, and by the noise that hides them (mode `sum+dp`, "
        "delta one in a million, one vote and two outcomes, at least four fifths of the devices in the sum). Smaller "
        "fleets are the first devices of a hundred. *Channels as whole fleet*: share of kept channels in common with "
        "the decision of a hundred devices without noise.\n"
    )
    yield "![Fleet size and noise](figures/fleet_scale.svg)\n"
    for alone in summary["accuracy_alone_percent"]:
        found = places_of(summary, alone)
        yield alone_words(alone, sorted({seed for one in found for seed in one["seeds"]}))
        yield _l1_words(document["rows"], alone)
        yield _verdict([one for one in found if one["has_gate"] == 0])
        yield from _table(found, table)


def _verdict(bare: Sequence[Row]) -> str:
    """Whether size and noise show in accuracy at all; without the gate, which would hide it."""
    others = [one for one in bare if (one["num_devices"], one["epsilon"]) != WHOLE]
    told = [one for one in others if not one["minus_whole"]["ci95_pp"][0] <= 0 <= one["minus_whole"]["ci95_pp"][1]]
    agreements = [one["agreement_permille"] / 10 for one in others]
    means = [one["minus_whole"]["mean_pp"] for one in others]
    return (
        f"Of {len(others)} smaller or noisier decisions, which keep {min(agreements):.0f} to {max(agreements):.0f} % "
        f"of the whole fleet's channels, {len(told)} can be told from it in accuracy, without the gate, by an interval "
        f"that leaves out 0; means lie between {min(means):+.1f} and {max(means):+.1f} points of it. An interval over "
        "few devices, with one retraining of each slim base, sees differences of some points at best.\n"
    )


def places_of(summary: Row, alone: Row) -> list[Row]:
    """The places of one case and level."""
    where = ("case", "level_macs_ratio")
    return [one for one in summary["by_place"] if all(one[name] == alone[name] for name in where)]


def _l1_words(rows: Sequence[Row], alone: Row) -> str:
    found = l1_agreements(rows, alone)
    mean = sum(found) / len(found)
    return f"Public knowledge alone (L1) agrees with the whole fleet on {mean / 10:.0f} % of the channels.\n"


def l1_agreements(rows: Sequence[Row], alone: Row) -> list[int]:
    """By seed: channels that L1 pruning shares with the whole fleet's decision, thousandths."""
    where = ("case", "level_macs_ratio")
    own = [row for row in rows if row["arm"] == "agnostic_local" and all(row[name] == alone[name] for name in where)]
    return [row["agreement_permille"] for row in {row["seed"]: row for row in own}.values()]


def _table(found: Sequence[Row], table: Table) -> Iterator[str]:
    head = ["devices", "epsilon", "accuracy, gate", "minus `local`", "minus whole fleet", "gate accepts"]
    lines_ = []
    for gated in (one for one in found if one["has_gate"] == 1):
        place = (gated["num_devices"], gated["epsilon"])
        bare = next(one for one in found if one["has_gate"] == 0 and (one["num_devices"], one["epsilon"]) == place)
        lines_.append(
            [
                gated["num_devices"],
                f"{gated['epsilon']:g}" if gated["epsilon"] else "exact",
                f"{gated['accuracy_percent']:.1f} %",
                points(gated["minus_local"]),
                "" if place == WHOLE else points(gated["minus_whole"]),
                f"{100 * gated['accepted_share']:.0f} %",
                f"{bare['accuracy_percent']:.1f} %",
                f"{gated['agreement_permille'] / 10:.0f} %",
                measured_words(gated),
            ]
        )
    yield from table([*head, "accuracy, no gate", "channels as whole fleet", "measured"], lines_)


# --- the figure -------------------------------------------------------------------------------------------------------


def plot(document: Row, path: Path) -> None:
    """Write the figure as SVG: accuracy by size and by noise, agreement; a line of panels for each case and level."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    alone = document["summary"]["accuracy_alone_percent"]
    with mpl.rc_context({"svg.hashsalt": "fleet_scale", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(len(alone), 3, figsize=(11, 3.3 * len(alone)), squeeze=False, layout="constrained")
        for line, place in zip(axes, alone, strict=True):
            found = places_of(document["summary"], place)
            _by_size(line[0], place, [one for one in found if one["epsilon"] == 0])
            _by_epsilon(line[1], found)
            _agreements(line[2], found, l1_agreements(document["rows"], place))
            for axis in line:
                axis.grid(visible=True, alpha=0.3)
                axis.legend(frameon=False, fontsize=7)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _by_size(axis: Any, alone: Row, exact: Sequence[Row]) -> None:
    others = [one for one in exact if one["num_devices"] != WHOLE[0]]
    for has_gate, (marker, colour, label) in GATE_STYLES.items():
        own = [one for one in others if one["has_gate"] == has_gate]
        _differences(axis, own, "num_devices", 1.03 if has_gate else 0.97, marker=marker, color=colour, label=label)
    _log_axis(axis, sorted({one["num_devices"] for one in others}))
    title = f"{alone['case']}, {100 * alone['level_macs_ratio']:.0f} % of the MACs: exact sums"
    axis.set(title=title, xlabel="devices that vote", ylabel="points against the whole fleet, exact")


def _by_epsilon(axis: Any, found: Sequence[Row]) -> None:
    noisy = [one for one in found if one["epsilon"] and one["has_gate"] == 1]
    sizes = sorted({one["num_devices"] for one in noisy})
    for colour, size, aside in zip(SIZE_COLOURS, sizes, (0.97, 1.03, 1.09), strict=False):
        own = [one for one in noisy if one["num_devices"] == size]
        _differences(axis, own, "epsilon", aside, marker="o", color=colour, label=f"{size} devices, kept by the gate")
    _log_axis(axis, sorted({one["epsilon"] for one in noisy}))
    axis.set(title="sums with noise", xlabel="epsilon", ylabel="points against the whole fleet, exact")


def _differences(axis: Any, rows: Sequence[Row], x: str, aside: float, **style: Any) -> None:
    """Paired differences with their intervals; ``aside`` moves them so that they do not hide each other."""
    axis.axhline(0, color="0.5", lw=1, ls="--")
    for index, one in enumerate(sorted(rows, key=lambda row: row[x])):
        mean, (low, high) = one["minus_whole"]["mean_pp"], one["minus_whole"]["ci95_pp"]
        told = style if index == 0 else style | {"label": None}
        axis.errorbar([one[x] * aside], [mean], yerr=[[mean - low], [high - mean]], ms=4, lw=1.2, capsize=2, **told)


def _agreements(axis: Any, found: Sequence[Row], of_l1: Sequence[int]) -> None:
    own = [one | {"agreement": one["agreement_permille"] / 10} for one in found if one["has_gate"] == 1]
    for colour, size in zip(SIZE_COLOURS, sorted({one["num_devices"] for one in own if one["epsilon"]}), strict=False):
        noisy = [one for one in own if one["epsilon"] and one["num_devices"] == size]
        _line(axis, noisy, "epsilon", "agreement", marker="o", color=colour, label=f"{size} devices")
        for one in own:
            if not one["epsilon"] and one["num_devices"] == size and one["agreement"] < 100:
                axis.axhline(one["agreement"], color=colour, lw=1, ls=":", label=f"{size} devices, exact")
    axis.axhline(sum(of_l1) / len(of_l1) / 10, color="0.5", lw=1, ls="--", label="public order alone (L1)")
    _log_axis(axis, sorted({one["epsilon"] for one in own if one["epsilon"]}))
    axis.set(title="channels as whole fleet without noise", xlabel="epsilon", ylabel="channels in common, %")


def _line(axis: Any, rows: Sequence[Row], x: str, y: str, **style: Any) -> None:
    ordered = sorted(rows, key=lambda row: row[x])
    axis.plot([row[x] for row in ordered], [row[y] for row in ordered], ms=4, lw=1.2, **style)


def _log_axis(axis: Any, ticks: Sequence[float]) -> None:
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
