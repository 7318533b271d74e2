"""The sections of the page of results on fleets that lack classes and on fleets with clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from fleet_page import ARMS, STYLES, difference_words
from result_file import Row

Table = Callable[[Sequence[str], Sequence[Sequence[object]]], Iterator[str]]
WORDS = {
    "families": "kinds of classes",
    "cameras": "kinds of cameras",
    "overlap": "no kinds",
    "lacking": "classes that the public data lack",
}
CLUSTERS = "fleet_clusters"


def lacking_lines(document: Row, table: Table) -> Iterator[str]:
    """Fleets whose classes the public data and the base have never seen."""
    about, summary = document["about"], document["summary"]
    steering = summary["all"]["fleet"]["minus_fleet_unsteered"]
    yield "## Fleets of classes that the public data lack\n"
    yield (
        f"{about['network']}, CIFAR-100 without ten classes, on which the base was trained and which the trainer has; "
        f"{about['devices']} devices see five of the ten each. Steering cannot find what is not there: it must notice, "
        f"or do no harm. It {_noticed(summary)}; `fleet` minus `fleet_unsteered`: {difference_words(steering)}. "
        f"{_seeds(document)}\n"
    )
    yield from _accuracies(summary, table, ARMS)


def _noticed(summary: Row) -> str:
    share = summary["all"]["share_confident"]
    return f"believed its fit in {100 * share:.0f} % of the fleets"


def clusters_lines(document: Row, table: Table) -> Iterator[str]:
    """Fleets whose devices come in kinds, and fleets whose do not."""
    about, summary = document["about"], document["summary"]
    yield "## Clusters\n"
    yield (
        f"{about['network']}, CIFAR-100. *Kinds of classes*: three, each of two superclasses, of whose ten classes a "
        "device sees six. *Kinds of cameras*: the same classes as without kinds, but two of three devices see them "
        "tilted, blurred and paler, in one of two ways. *No kinds*: the fleets above. In the arm `fleet_clusters` each "
        "slim base has a network for all and one for each of three parts of what the sums say the fleet sees; a device "
        f"takes, in private, the one that errs least on its images. {_seeds(document)}\n"
    )
    yield "![Clusters](figures/fleet_clusters.svg)\n"
    yield from _accuracies(summary, table, (*ARMS, CLUSTERS))
    yield "`fleet_clusters` minus another arm, points:\n"
    head = ["fleet", "images a class", "MACs", "fleet", "local", "took a cluster's network"]
    yield from table(head, [_cluster_cells(part) for part in summary["by_place"] if CLUSTERS in part])


def _seeds(document: Row) -> str:
    """Of which fleets, and how many of their devices, the rows are: a fleet may not be through yet."""
    seeds = sorted({row["seed"] for row in document["rows"]})
    found = {(row["case"], row["seed"], row["images_per_class"], row["device"]) for row in document["rows"]}
    fleets = {place[:3] for place in found}
    most = len(fleets) * document["about"]["devices"]
    return f"Seeds: {', '.join(map(str, seeds))}; {len(found)} of {most} devices measured so far."


def _place(part: Row) -> list[object]:
    return [WORDS[part["case"]], part["images_per_class"], f"{100 * part['level_macs_ratio']:.0f} %"]


def _cluster_cells(part: Row) -> list[object]:
    found = part[CLUSTERS]
    differences = [difference_words(found.get(f"minus_{other}")) for other in ("fleet", "local")]
    return [*_place(part), *differences, f"{100 * found['share_of_a_cluster']:.0f} %"]


def _accuracies(summary: Row, table: Table, arms: Sequence[str]) -> Iterator[str]:
    yield "Accuracy, per cent, mean over devices and seeds:\n"
    rows = []
    for part in summary["by_place"]:
        means = part["accuracy_percent"]
        rows.append([*_place(part), *(f"{means[arm]:.1f}" if arm in means else "" for arm in arms)])
    yield from table(["fleet", "images a class", "MACs", *arms], rows)


def plot_clusters(document: Row, path: Path) -> None:
    """Write the figure as SVG: for each fleet and level, the arms side by side."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    parts = document["summary"]["by_place"]
    arms = [arm for arm in (*ARMS, CLUSTERS) if any(arm in part["accuracy_percent"] for part in parts)]
    with mpl.rc_context({"svg.hashsalt": "clusters", "svg.fonttype": "none", "font.size": 9}):
        figure, axis = plt.subplots(figsize=(7.4, 3.4), layout="constrained")
        for number, arm in enumerate(arms):
            heights = [part["accuracy_percent"].get(arm, np.nan) for part in parts]
            places = np.arange(len(parts)) + (number - (len(arms) - 1) / 2) * 0.8 / len(arms)
            colour = STYLES[arm][0] if arm in STYLES else "#009e73"
            axis.bar(places, heights, 0.8 / len(arms), color=colour, label=arm)
        axis.set_xticks(range(len(parts)), ["\n".join(map(str, _words(part))) for part in parts])
        axis.set_ylabel("accuracy on the device's classes, %")
        axis.grid(visible=True, axis="y", alpha=0.3)
        figure.legend(loc="outside upper center", ncols=4, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _words(part: Row) -> list[str]:
    kind, number, level = _place(part)
    return [str(kind), f"{number} images", f"{level} of the MACs"]
