"""The section of ``docs/results.md`` on accuracy over bytes: every figure from the result file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fleet_summary import paired
from result_file import Row
from spafl_world import NUM_DEVICES

from prunefleet_simulation.statistics import bootstrap_mean

Table = Callable[[Sequence[str], Sequence[Sequence[object]]], Iterator[str]]
SHOWN_ROUNDS = (0, 1, 2, 5, 10, 20, 50)
SILENT = ("dense", "local", "agnostic_local")
PUBLISHED_FOR = {"fedavg_random": "FedAvg", "local": "Local"}
"""Whose published figure stands beside which arm."""


def lines(document: Row, table: Table) -> Iterator[str]:
    """The section in Markdown; ``table`` draws a table."""
    summary, about = document["summary"], document["about"]
    points = summary["points"]
    yield "## Accuracy over bytes: masks and sums against averaging weights\n"
    yield (
        "Fashion-MNIST, LeNet-5 (20/50/500), 100 devices, Dirichlet(0.2), the setting of SpaFL; 10,000 training images "
        f"are public. Seeds: {', '.join(map(str, sorted({row['seed'] for row in document['rows']})))}.\n"
    )
    yield from _verdict(summary)
    yield "![Accuracy over bytes up](figures/fleet_spafl.svg)\n"
    yield from _targets(summary, table)
    yield from _differences(document["rows"], table)
    yield from _points(points, about["published"], table)
    yield "How it was done:\n"
    names = ("accuracy", "split", "up_bytes", "up_bytes_sum", "down_bytes", "latency_ratio", "fedavg")
    yield from (f"- `{name}`: {about[name]}" for name in names)
    yield from (f"- `{name}`: `{about[name]}`" for name in ("base", "slim_base", "local"))
    yield ""


def _verdict(summary: Row) -> Iterator[str]:
    """Whether the ratio that was wanted is there, and what needs no bytes at all."""
    found = [
        (target["target_percent"], arm, ratio["up_bytes"])
        for target in summary["targets"]
        for arm, ratio in target["fleet_over"].items()
        if isinstance(ratio, dict)
    ]
    wanted = summary["ratio_wanted"]
    if found:
        met = [place for place in found if place[2] <= wanted]
        least, most = (round(1 / pick(ratio for _, _, ratio in found)) for pick in (max, min))
        yield (
            f"Wherever `fleet` and averaging both reach a target after sending something, `fleet` sent 1/{least:,} to "
            f"1/{most:,} of averaging's bytes in `plain`; at most 1/{round(1 / wanted)} was asked for, and "
            f"{len(met)} of {len(found)} pairs of target and averaging arm meet it.\n"
        )
    else:
        yield "So far no target is reached by `fleet` and by averaging that sent something, so there is no ratio.\n"
    yield from _without_bytes(summary)


def _without_bytes(summary: Row) -> Iterator[str]:
    """A ratio says nothing where nobody need send anything: so this is said beside it."""
    reached = {
        arm: max((t["target_percent"] for t in summary["targets"] if t["up_bytes"].get(arm) is not None), default=None)
        for arm in SILENT
    }
    parts = [f"`{arm}` reaches {percent} %" for arm, percent in reached.items() if percent is not None]
    if parts:
        yield (
            f"Read it with care: {', '.join(parts)} without sending a byte. Averaging makes one model for all classes; "
            "a network fine-tuned on the device need only tell the device's own apart, whoever decided its topology.\n"
        )


def _differences(rows: Sequence[Row], table: Table) -> Iterator[str]:
    """What the fleet's bytes buy: paired differences to arms that cost as much on the device."""
    lines_found = []
    for level in sorted({row["level_macs_ratio"] for row in rows if row["arm"] == "fleet"}, reverse=True):
        there = [row for row in rows if row["level_macs_ratio"] == level]
        for other in ("local", "agnostic_local", "fleet_unsteered"):
            found = [one for one in paired(there, "fleet", other).values() if len(one) == NUM_DEVICES]
            if found:
                mean = bootstrap_mean(found)
                interval = f"{100 * mean.ci95_low:+.2f} to {100 * mean.ci95_high:+.2f}"
                lines_found.append([f"{level:.0%}", f"`{other}`", f"{100 * mean.mean:+.2f}", interval, len(found)])
    if lines_found:
        yield "`fleet` minus another arm of the same MACs on the same devices, points, with 95 % intervals:\n"
        yield from table(["MACs", "minus", "mean", "interval", "seeds"], lines_found)


def _targets(summary: Row, table: Table) -> Iterator[str]:
    targets = summary["targets"]
    arms = sorted({arm for target in targets for arm in target["up_bytes"]}, key=lambda arm: (arm not in SILENT, arm))
    yield "Kilobytes up per device to reach a mean accuracy, `plain` / `sum`; empty: not reached:\n"
    if summary["unfinished"]:
        names = ", ".join(f"`{arm}`" for arm in summary["unfinished"])
        yield f"**Not run to the last round yet**, so that an empty cell says nothing: {names}.\n"
    rows = [[f"{target['target_percent']} %", *(_kilobytes(target, arm) for arm in arms)] for target in targets]
    yield from table(["target", *(f"`{arm}`" for arm in arms)], rows)


def _kilobytes(target: Row, arm: str) -> str:
    found = [target[column].get(arm) for column in ("up_bytes", "up_bytes_sum")]
    return "" if None in found else " / ".join(_kb(value) for value in found)


def _kb(value: float) -> str:
    return f"{value / 1000:,.1f}" if value else "0"


def _points(points: Sequence[Row], published: Row, table: Table) -> Iterator[str]:
    others = dict(published["accuracy_percent"])
    yield (
        "All points:\n"
        if not others
        else (
            f"All points. The last column is *published*, not measured here ({published['source']}). It comes from ten "
            "times the rounds and other splits, so it says where the field stands, not who is ahead:\n"
        )
    )
    head = ["arm", "MACs", "rounds", "accuracy, %", "worst tenth, %", "kB up, plain", "kB up, sum", "kB down"]
    rows = [
        [
            f"`{point['arm']}`",
            f"{100 * point['macs_ratio']:.0f} %",
            f"{point['rounds']:g}" if point["arm"].startswith("fedavg") else "",
            f"{point['accuracy_percent']:.1f}",
            f"{point['worst_tenth_percent']:.1f}",
            *(_kb(point[column]) for column in ("up_bytes", "up_bytes_sum", "down_bytes")),
            "",
        ]
        for point in points
        if not point["arm"].startswith("fedavg") or point["rounds"] in SHOWN_ROUNDS
    ]
    for arm, name in PUBLISHED_FOR.items():
        for row in rows[::-1]:
            if row[0] == f"`{arm}`" and name in others:
                row[-1] = f"{others.pop(name)} ({name})"
                break
    rows += [[name, *[""] * 7, f"{accuracy}"] for name, accuracy in others.items()]
    yield from table([*head, "published" if published["accuracy_percent"] else ""], rows)
