"""The attackers' section of ``docs/results.md`` and its figure, from ``benchmarks/results/fleet_attacked.json``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from result_file import Row

Table = Callable[[Sequence[str], Sequence[Sequence[object]]], Iterator[str]]
WORDS = {
    "fleet": "nobody attacks",
    "fleet_colluders": "{share:.0f} % collude in range",
    "fleet_breakers": "{share:.0f} % breaks the protocol",
}
GATE_STYLES = {1: ("o", "C0", "kept by the gate"), 0: ("s", "C3", "without the gate")}


def lines(document: Row, table: Table) -> Iterator[str]:
    """The section in Markdown; ``table`` draws a table."""
    summary = document["summary"]
    yield "## A fleet under attack\n"
    yield (
        "A hundred devices vote once; then some of them attack, and decision, steering, slim base and gate are done "
        "anew. Colluders obey every rule of the lane table and all hand in the fleet's own order upside down, the "
        "opposite widths and the lift mask of a wrong kind; one that breaks the protocol turns its cohort's sum into "
        "the worst that still passes the check. Both know the sum of all honest votes, which nobody is told. Measured "
        "are devices that are honest in every row.\n"
    )
    yield from _claim(summary)
    yield "![A fleet under attack](figures/fleet_attacked.svg)\n"
    for place in summary["accuracy_alone_percent"]:
        yield from _place_table(place, summary["by_attack"], table)


def _claim(summary: Row) -> Iterator[str]:
    if not summary["claim"]:
        return
    verdict = "The claim holds" if summary["claim"]["holds"] else "**The claim fails**"
    numbers = "; ".join(points(one) for one in summary["claim"]["minus_local"])
    yield (
        f"Claim: under 20 % in-range colluders a gated fleet is not below `local`, as far as can be told. {verdict}: "
        f"{numbers} points against `local`. An interval that reaches 0 does not prove that nothing was lost.\n"
    )


def _place_table(alone: Row, by_attack: Sequence[Row], table: Table) -> Iterator[str]:
    where = (alone["case"], alone["level_macs_ratio"])
    found = [one for one in by_attack if (one["case"], one["level_macs_ratio"]) == where]
    yield alone_words(alone, sorted({seed for one in found for seed in one["seeds"]}))
    head = ["attack", "round", "accuracy, gate", "minus `local`", "minus honest", "gate accepts", "accuracy, no gate"]
    yield from _scatter_words([one for one in found if one["has_gate"] == 0 and one["arm"] == "fleet"])
    lines_ = []
    for gated in (one for one in found if one["has_gate"] == 1):
        bare = next(one for one in found if one["has_gate"] == 0 and _attack_of(one) == _attack_of(gated))
        lines_.append(
            [
                attack_words(gated),
                round_words(gated),
                f"{gated['accuracy_percent']:.1f} %",
                points(gated["minus_local"]),
                points(gated["minus_honest"]) if gated["arm"] != "fleet" or gated["num_cohorts"] > 1 else "",
                f"{100 * gated['accepted_share']:.0f} %",
                f"{bare['accuracy_percent']:.1f} %",
                f"{gated['agreement_permille'] / 10:.0f} %",
                f"{100 * gated['confident_share']:.0f} %",
                measured_words(gated),
            ]
        )
    yield from table([*head, "channels as honest", "steers", "measured"], lines_)


def _scatter_words(honest: Sequence[Row]) -> Iterator[str]:
    """How far two honest decisions are apart: no effect of an attack can be told that is smaller."""
    for other in (one for one in honest if one["num_cohorts"] > 1):
        yield (
            f"Read small differences with care: the two honest decisions keep {other['agreement_permille'] / 10:.0f} % "
            "of their channels in common, and yet without the gate the second stands at "
            f"{points(other['minus_honest'])} points against the first. Intervals are over devices; each seed's slim "
            "base is retrained once for each decision, and that scatter is in none of them.\n"
        )


def alone_words(alone: Row, seeds: Sequence[int]) -> str:
    """What devices reach without a fleet, as a table's title."""
    means = ", ".join(f"`{arm}` {alone[arm]:.1f} %" for arm in ("dense", "local", "agnostic_local"))
    told = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return (
        f"**{alone['case']}, {100 * alone['level_macs_ratio']:.0f} % of the MACs**, {told}. Without a fleet: {means}.\n"
    )


def measured_words(place: Row) -> str:
    """How many devices a line is over, and of which seeds."""
    return f"{place['num_measured']}, seed {' '.join(map(str, place['seeds']))}"


def points(difference: Row) -> str:
    """A paired difference with its interval, in points."""
    low, high = difference["ci95_pp"]
    return f"{difference['mean_pp']:+.1f} ({low:+.1f} to {high:+.1f})"


def attack_words(place: Row) -> str:
    """Who attacks, in words."""
    return WORDS[place["arm"]].format(share=100 * place["attacker_share"])


def round_words(place: Row) -> str:
    """How the round is summed, in words."""
    if place["num_cohorts"] == 1:
        return "one cohort"
    return f"{place['num_cohorts']} cohorts, {'median' if place['is_median'] else 'sum'}"


def _attack_of(place: Row) -> tuple[Any, ...]:
    return tuple(place[name] for name in ("arm", "attacker_share", "num_cohorts", "is_median"))


# --- the figure -------------------------------------------------------------------------------------------------------


def plot(document: Row, path: Path) -> None:
    """Write the figure as SVG: a panel for each case and level, an attack a line."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    alone, by_attack = document["summary"]["accuracy_alone_percent"], document["summary"]["by_attack"]
    with mpl.rc_context({"svg.hashsalt": "fleet_attacked", "svg.fonttype": "none", "font.size": 9}):
        size = (4.6 + 3.6 * len(alone), 4.0)
        figure, axes = plt.subplots(1, len(alone), figsize=size, squeeze=False, sharey=True, layout="constrained")
        for axis, place in zip(axes.flat, alone, strict=True):
            where = (place["case"], place["level_macs_ratio"])
            _panel(axis, where, [one for one in by_attack if (one["case"], one["level_macs_ratio"]) == where])
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _panel(axis: Any, where: tuple[str, float], found: Sequence[Row]) -> None:
    attacks = sorted({_attack_of(one) for one in found}, reverse=True)
    words = {_attack_of(one): f"{attack_words(one)}, {round_words(one)}" for one in found}
    for has_gate, (marker, colour, label) in GATE_STYLES.items():
        own = [one for one in found if one["has_gate"] == has_gate]
        places = [attacks.index(_attack_of(one)) + (0.12 if has_gate else -0.12) for one in own]
        means = [one["minus_local"]["mean_pp"] for one in own]
        bounds = [one["minus_local"]["ci95_pp"] for one in own]
        errors = [
            [mean - low for mean, (low, _) in zip(means, bounds, strict=True)],
            [high - mean for mean, (_, high) in zip(means, bounds, strict=True)],
        ]
        axis.errorbar(means, places, xerr=errors, fmt=marker, ms=4, color=colour, lw=1.2, capsize=2, label=label)
    axis.axvline(0, color="0.5", lw=1, ls="--")
    axis.set_yticks(range(len(attacks)), [words[attack] for attack in attacks])
    axis.set(title=f"{where[0]}, {100 * where[1]:.0f} % of the MACs", xlabel="points against local, 95 % interval")
    axis.grid(visible=True, alpha=0.3)
