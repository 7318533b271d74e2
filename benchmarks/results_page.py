"""Writes ``docs/results.md`` and its figures from the committed results: no figure on that page is typed by hand.

python benchmarks/results_page.py
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence

import attack_page
import attack_plot
import device_plot
import fleet_attacked_page
import fleet_cases_page
import fleet_page
import fleet_scale_page
import fleet_spafl_page
import fleet_spafl_plot
import numpy as np
import seed_a_plot
import seed_b_summary
from result_file import RESULTS, ROOT, Row
from seed_a_plot import MARKERS, means_by_level

from prunefleet_edge.retraining_options import STRATEGIES

PAGE = ROOT / "docs" / "results.md"
FIGURES = ROOT / "docs" / "figures"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """A table in Markdown."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
    yield ""


def machine(document: Row) -> Iterator[str]:
    """What made the figures."""
    for run in document["runs"]:
        v = run["versions"]
        where = f"{v['cpu']}, {v['cores']} cores, {v['ram_gb']} GB, {v['os']}, Python {v['python']}, torch {v['torch']}"
        yield f"`{run['command']}`: {where}.\n"


def seed_a(document: Row) -> Iterator[str]:
    """Data-aware pruning and retraining."""
    rows, summary = document["rows"], document["summary"]
    gain = summary["aware_minus_agnostic_pp"]["levels_from_50"]
    topology, retraining = (summary[name]["levels_from_50"]["mean"] for name in ("topology_pp", "retraining_pp"))
    local, taylor = (
        summary[f"{name}_minus_agnostic_pp"]["levels_from_50"]["mean"] for name in ("agnostic_local", "taylor")
    )
    yield "## Seed A: pruning and retraining on the device's own classes\n"
    epochs = sorted({row["epochs"] for row in rows})
    seeds = sorted({row["seed"] for row in rows})
    yield (
        f"`aware` beats `agnostic` by **{gain['mean']:+.1f} points** on average over {gain['num_points']} points "
        f"(network, subset, level from 50 %), {gain['max']:+.1f} at most; the paper says +10.2 and +42.0. Read it with "
        f"care: every arm trained for {', '.join(map(str, epochs))} epochs where the paper has 30, which hurts "
        "`agnostic` most, so this is no reproduction of the paper's figure but of its experiment at a smaller budget.\n"
    )
    by_net = ", ".join(f"{net} {_aware_gain(rows, net):+.1f}" for net in sorted({row["net"] for row in rows}))
    yield (
        f"By network: {by_net}. What drags it down is `aware` at 80 % and more removed, where so short a training on "
        "few images does not bring a network back that was cut in one step.\n"
    )
    yield (
        f"Where the gain comes from: local retraining of the *same* channels that `agnostic` keeps is worth "
        f"{retraining:+.1f} points, choosing the channels by L1 after fine-tuning adds {topology:+.1f}. "
        f"`agnostic_local`, which never looks at the device's data before its last training, stands at {local:+.1f}, "
        f"and Taylor saliency on the device's images at {taylor:+.1f} (at more MACs: see the table). "
        f"Seeds: {', '.join(map(str, seeds))}.\n"
    )
    yield "![Accuracy over the pruning level](figures/seed_a.svg)\n"
    for net, subset in sorted({(row["net"], row["subset"]) for row in rows}, reverse=True):
        yield from _seed_a_table(net, subset, [r for r in rows if (r["net"], r["subset"]) == (net, subset)])
    yield "Departures from the paper:\n"
    yield from (f"- {text}" for text in document["about"]["departures_from_the_paper"])
    yield ""
    yield from machine(document)


def _aware_gain(rows: list[Row], net: str) -> float:
    """``aware`` minus ``agnostic`` in points, mean over a network's points from 50 % on."""
    found = {
        (row["subset"], row["level_percent"], row["seed"], row["arm"]): row["accuracy"]
        for row in rows
        if row["net"] == net and row["level_percent"] >= 50
    }
    points = [key[:3] for key in found if key[3] == "aware"]
    return 100 * float(np.mean([found[(*point, "aware")] - found[(*point, "agnostic")] for point in points]))


def _seed_a_table(net: str, subset: str, rows: list[Row]) -> Iterator[str]:
    dense = 100 * float(np.mean([row["dense_accuracy"] for row in rows]))
    yield f"**{net}, {subset}** (unpruned base, not retrained: {dense:.1f} %)\n"
    by_arm = {arm: means_by_level(rows, arm) for arm in MARKERS}
    levels = sorted({row["level_percent"] for row in rows})
    lines = [[f"{level} %", *(_cell(by_arm[arm], level) for arm in MARKERS), *_costs(rows, level)] for level in levels]
    yield from table(["removed", *MARKERS, "MACs left (L1 / Taylor)"], lines)


def _cell(by_level: dict[int, float], level: int) -> str:
    return f"{by_level[level]:.1f}" if level in by_level else ""


def _costs(rows: list[Row], level: int) -> list[str]:
    found = {row["arm"]: row["macs_ratio"] for row in rows if row["level_percent"] == level}
    return [" / ".join(f"{100 * found[arm]:.0f} %" for arm in ("aware", "aware_taylor") if arm in found)]


def seed_b(document: Row) -> Iterator[str]:
    """Retraining strategies."""
    rows, summary = document["rows"], document["summary"]
    undamaged = [row for row in rows if row["damage"] == seed_b_summary.UNDAMAGED]
    yield "## Seed B: retraining a weight-pruned network on the device\n"
    yield f"{_best_trade(summary['strategies'])}\n"
    yield "![New against original accuracy](figures/seed_b_tradeoff.svg)\n"
    head = ["strategy", "new data", "original task"]
    lines = [
        [name, f"{found['new_gain_pp']:+.1f}", f"{-found['original_loss_pp']:+.1f}"]
        for name, found in summary["strategies"].items()
        if found["new_gain_pp"] is not None
    ]
    yield "Points against `none`, means over networks, sparsities and seeds:\n"
    yield from table(head, lines)
    for net in sorted({row["net"] for row in undamaged}, reverse=True):
        yield from _seed_b_table(net, undamaged)
    yield from _damage_tables(summary["damages"])
    yield "How it was done:\n"
    yield from (f"- {text}" for text in document["about"]["notes"])
    yield ""
    yield from machine(document)


def _best_trade(strategies: Row) -> str:
    found = {name: one for name, one in strategies.items() if one["new_gain_pp"] is not None}
    learns = max(found, key=lambda name: found[name]["new_gain_pp"])
    keeps = min(found, key=lambda name: found[name]["original_loss_pp"])
    return (
        f"`{learns}` learns most of the device's new images ({found[learns]['new_gain_pp']:+.1f} points) and pays for "
        f"it with {found[learns]['original_loss_pp']:.1f} points on the original task; `{keeps}` forgets least "
        f"({found[keeps]['original_loss_pp']:.1f}) and still wins {found[keeps]['new_gain_pp']:+.1f}: there is a "
        "trade-off, and no strategy that is best at both."
    )


def _seed_b_table(net: str, rows: list[Row]) -> Iterator[str]:
    sparsities = sorted({row["sparsity"] for row in rows if row["net"] == net})
    yield f"**{net}**: new data / original task, %, mean over seeds\n"
    lines = []
    for strategy in STRATEGIES:
        cells = []
        for sparsity in sparsities:
            pair = seed_b_summary.means_of(rows, net, sparsity).get(strategy)
            cells.append(f"{pair[0]:.1f} / {pair[1]:.1f}" if pair else "")
        lines.append([strategy, *cells])
    yield from table(["strategy", *(f"{sparsity:.0%} zero" for sparsity in sparsities)], lines)


def _damage_tables(damages: Row) -> Iterator[str]:
    if not damages:
        return
    yield "Damage to the deployed network, and what retraining on the new images wins back (points, new / original):\n"
    names = ["lost_by_damage", *(name for name in STRATEGIES if name != "none")]
    lines = []
    for kind, places in damages.items():
        for place, found in places.items():
            cells = [f"{found[n]['new_pp']:+.1f} / {found[n]['original_pp']:+.1f}" if n in found else "" for n in names]
            lines.append([f"{kind}, {place}", *cells])
    yield from table(["damage", *names], lines)


def device(document: Row) -> Iterator[str]:
    """Latency, memory and time to slim."""
    rows, summary = document["rows"], document["summary"]
    yield "## On the device: latency, memory, slimming\n"
    yield "Latency over MACs, both as fractions of the dense network's, at 70 % of channels removed in onnxruntime:\n"
    at_70 = summary["latency_over_macs_at_70"]
    nets = sorted({net for found in at_70.values() for net in found})
    cells = [
        [variant, *(f"{found[net]:.1f}" if net in found else "" for net in nets)] for variant, found in at_70.items()
    ]
    yield from table(["widths rounded to", *nets], cells)
    yield _targets(at_70) + "\n"
    yield (
        "By the cost table a network is not faster at the same MACs: it has more MACs for the same time, because "
        "widths go where they cost little. Which of the two is wanted is a question of accuracy, not of this table.\n"
    )
    yield "![Latency against MACs](figures/device_latency.svg)\n"
    for net in sorted({row["net"] for row in rows}):
        yield from _device_table(net, [row for row in rows if row["net"] == net])
    yield from machine(document)


def _targets(at_70: dict[str, dict[str, float]]) -> str:
    """Which networks reach the plan's figures, and which do not."""
    parts = []
    for variant, most in (("1", 2.0), ("8", 1.5), ("cost table", 1.5)):
        found = at_70.get(variant, {})
        met = [net for net in sorted(found) if found[net] <= most]
        missed = [net for net in sorted(found) if found[net] > most]
        words = f"{' and '.join(met) or 'no network'}, not by {' or '.join(missed)}" if missed else "all of them"
        parts.append(f"at most {most:g} at widths rounded to {variant}: by {words}")
    return f"The plan asked for {'; '.join(parts)}. Small networks spend their time on calls, not on arithmetic."


def _device_table(net: str, rows: list[Row]) -> Iterator[str]:
    yield f"**{net}** (layout {rows[0]['layout_s']} s, slimming {rows[0]['slim_s']} s)\n"
    head = ["runtime", "channels removed", "rounded to", "MACs", "latency", "training memory, MB"]
    lines = [
        [
            row["runtime"],
            f"{100 * row['channels_removed_ratio']:.0f} %",
            row["rounded_to"],
            f"{100 * row['macs_ratio']:.1f} %",
            f"{100 * row['latency_ratio']:.0f} %",
            "" if row["peak_memory_mb"] is None else row["peak_memory_mb"],
        ]
        for row in sorted(rows, key=lambda row: (row["runtime"], row["level_percent"], str(row["rounded_to"])))
    ]
    yield from table(head, lines)


def secure_sum(document: Row) -> Iterator[str]:
    """What a private sum costs, beside Flower's."""
    yield "## The private sum: what it costs\n"
    yield (
        "Processor time and bytes of one session, medians; `certificates cached` says whether devices had seen each "
        "other before. Flower's SecAgg+ trusts the server to follow the protocol; ours does not.\n"
    )
    head = ["system", "devices", "lanes", "dropped", "certificates cached", "ms per device", "ms coordinator"]
    names = ("system", "devices", "lanes", "dropped", "certificates_cached")
    costs = ("cpu_ms_per_device", "cpu_ms_coordinator")
    sizes = ("up_bytes_per_device", "down_bytes_per_device")
    lines = [
        [*(row[name] for name in names), *(f"{row[name]:.1f}" for name in costs)]
        + [f"{row[name] / 1000:.1f}" for name in sizes]
        for row in sorted(document["rows"], key=lambda row: (row["lanes"], row["devices"], row["system"]))
    ]
    yield from table([*head, "kB up", "kB down"], lines)
    yield from machine(document)


def attacks(document: Row) -> Iterator[str]:
    """What attackers get out of it."""
    yield from itertools.chain(attack_page.lines(document, table), machine(document))


def attack_lift(document: Row) -> Iterator[str]:
    """What a lift mask by itself betrays."""
    yield from itertools.chain(attack_page.lift_lines(document), machine(document))


def fleet_few(document: Row) -> Iterator[str]:
    """A fleet against single devices."""
    yield from itertools.chain(fleet_page.few_lines(document, table), machine(document))


def fleet_lacking(document: Row) -> Iterator[str]:
    """Fleets of classes that nobody else knows."""
    yield from itertools.chain(fleet_cases_page.lacking_lines(document, table), machine(document))


def fleet_clusters(document: Row) -> Iterator[str]:
    """Networks for parts of a fleet."""
    yield from itertools.chain(fleet_cases_page.clusters_lines(document, table), machine(document))


def fleet_attacked(document: Row) -> Iterator[str]:
    """What attackers do to a fleet's decision."""
    yield from itertools.chain(fleet_attacked_page.lines(document, table), machine(document))


def fleet_scale(document: Row) -> Iterator[str]:
    """Fleet size and noise."""
    yield from itertools.chain(fleet_scale_page.lines(document, table), machine(document))


def fleet_spafl(document: Row) -> Iterator[str]:
    """Accuracy over bytes."""
    yield from itertools.chain(fleet_spafl_page.lines(document, table), machine(document))


SECTIONS = {
    "seed_a": seed_a,
    "seed_b": seed_b,
    "device": device,
    "secure_sum": secure_sum,
    "attacks": attacks,
    "attack_lift": attack_lift,
    "fleet_few": fleet_few,
    "fleet_lacking": fleet_lacking,
    "fleet_clusters": fleet_clusters,
    "fleet_attacked": fleet_attacked,
    "fleet_scale": fleet_scale,
    "fleet_spafl": fleet_spafl,
}
PLOTS: dict[str, Callable[[Row], object]] = {
    "seed_a": lambda found: seed_a_plot.plot(found["rows"], FIGURES / "seed_a.svg"),
    "seed_b": lambda found: seed_b_summary.plot(found["rows"], FIGURES / "seed_b_tradeoff.svg"),
    "device": lambda _found: device_plot.plot(RESULTS / "device.json", FIGURES / "device_latency.svg"),
    "attacks": lambda found: attack_plot.plot(found["rows"], FIGURES / "attacks.svg"),
    "fleet_few": lambda found: fleet_page.plot(found, FIGURES / "fleet_few.svg"),
    "fleet_clusters": lambda found: fleet_cases_page.plot_clusters(found, FIGURES / "fleet_clusters.svg"),
    "fleet_attacked": lambda found: fleet_attacked_page.plot(found, FIGURES / "fleet_attacked.svg"),
    "fleet_scale": lambda found: fleet_scale_page.plot(found, FIGURES / "fleet_scale.svg"),
    "fleet_spafl": lambda found: fleet_spafl_plot.plot(found["summary"]["points"], FIGURES / "fleet_spafl.svg"),
}
INTRO = """# Results

Measured, not tuned for this page: every table comes from a file in `benchmarks/results/`, made by the command named
under it; this page is written by `python benchmarks/results_page.py`. Two shared cores made all of it, so compare
within a table, and take absolute times as they are. What has not been run yet is an empty cell.
"""


def main() -> None:
    """Write page and figures from the results that are there."""
    found = {name: RESULTS / f"{name}.json" for name in SECTIONS}
    documents = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items() if path.exists()}
    lines = [INTRO]
    for name, document in documents.items():
        lines += SECTIONS[name](document)
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    for name in documents.keys() & PLOTS.keys():
        PLOTS[name](documents[name])


if __name__ == "__main__":
    main()
