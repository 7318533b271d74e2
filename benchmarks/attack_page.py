"""The attacks' section of ``docs/results.md``: every figure from the result file, the bad ones first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from result_file import Row

Table = Callable[[Sequence[str], Sequence[Sequence[object]]], Iterator[str]]
RULES = ("sum", "median", "trimmed_mean")


def lines(document: Row, table: Table) -> Iterator[str]:
    """The section in Markdown; ``table`` draws a table."""
    summary = document["summary"]
    yield "## Attacks on our own protocol\n"
    yield from _classes(summary)
    yield from _membership(summary, table)
    yield "![Attacks](figures/attacks.svg)\n"
    yield from _poisoning(summary, table)
    yield from _gate(summary)
    yield from _audit(summary, table)
    yield from _protocol(summary)
    yield "How it was done:\n"
    yield from (f"- {text}" for text in document["about"]["notes"])
    yield ""


def lift_lines(document: Row) -> Iterator[str]:
    """What one lift mask betrays: the votes attacked above have none."""
    about, found = document["about"], document["summary"]
    hits = ", ".join(f"{_percent(hit)} with {name.split('_')[2]}" for name, hit in found.items())
    yield "### Lift masks\n"
    yield (
        "Votes above have no lift mask; where a campaign steers they have. **Seen by itself, a lift mask betrays "
        f"more**: of {about['guesses']} guesses by steering's own fit are right, by private images of each class, "
        f"{hits}; chance is {_percent(about['chance'])} ({about['network']}, devices of ten classes of CIFAR-100).\n"
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _classes(summary: Row) -> Iterator[str]:
    found = summary["classes_from_one_vote"]
    if not found:
        return
    hits = " and ".join(f"{_percent(one['hit_rate'])} ({vote.replace('_', ' ')})" for vote, one in found.items())
    sums = ", ".join(
        f"{_percent(hit)} from the sum of {size.removeprefix('cohort_')}"
        for size, hit in summary["classes_of_a_member_from_exact_sums"].items()
    )
    image = summary["image_membership"]
    yield (
        f"**One single vote betrays its device's classes**: of ten guesses, {hits} are right, chance is 10 %. So a "
        f"vote must not be seen by itself. Of a member of a cohort the exact sum betrays {sums}.\n"
    )
    if image:
        words = ", ".join(
            f"{one['auc']:.2f} ± {one['auc_se']:.2f} ({name.replace('_', ' ')})" for name, one in image.items()
        )
        yield f"Whether one known image is among a device's 80: AUC {words}; 0.5 is chance (± standard error).\n"


def _membership(summary: Row, table: Table) -> Iterator[str]:
    exact = summary["membership_in_exact_sums"]
    if not exact:
        return
    yield (
        "**An exact sum does not hide a device from one who knows its vote** (AUC, and true positives at 1 % false "
        "ones). Only noise does, whatever the size of the cohort:\n"
    )
    releases = {"exact": exact} | summary["membership_in_noised_sums"]
    places = sorted({place for found in releases.values() for place in found}, key=_by_vote_and_size)
    cells = [
        [release.replace("_", " "), *(_both(found.get(place)) for place in places)]
        for release, found in releases.items()
    ]
    yield from table(["sum", *(place.replace("_", " ") for place in places)], cells)


def _by_vote_and_size(place: str) -> tuple[str, int]:
    vote, size = place.rsplit("_", 1)
    return vote, int(size)


def _both(found: Row | None) -> str:
    return f"{found['auc']:.2f} / {_percent(found['tpr_at_1_percent_fpr'])}" if found else ""


def _poisoning(summary: Row, table: Table) -> Iterator[str]:
    words = {
        "poisoning_broken_protocol": (
            "Devices that break the protocol and know their cohort's sum (an upper bound): overlap with the honest "
            "decision (chance 0.5), by share of bad devices"
        ),
        "devices_worse_off_broken_protocol": (
            "The same: share of devices whose network keeps less than 95 % of the saliency that the honest decision "
            "keeps"
        ),
        "poisoning_within_the_protocol": "Devices that obey the protocol and lie, all in the same way: overlap",
    }
    for name, text in words.items():
        found = summary[name]
        if found:
            places = sorted(found, key=lambda place: (int(place.rsplit("_", 1)[1]), RULES.index(_rule(place))))
            shares = list(found[places[0]])
            yield f"{text}:\n"
            head = ["rule, cohort", *(share.replace("_percent", " %") for share in shares)]
            cells = [
                [f"{_rule(place)}, {place.rsplit('_', 1)[1]}", *(_number(found[place][share]) for share in shares)]
                for place in places
            ]
            yield from table(head, cells)


def _rule(place: str) -> str:
    return place.split("_cohort_", maxsplit=1)[0]


def _gate(summary: Row) -> Iterator[str]:
    if summary["gate_after_poison"]:
        yield "What 30 % of bad devices cost the others, really trained on a few devices (accuracy):\n"
    for name, found in summary["gate_after_poison"].items():
        after = f"- decision `{name}`: {_percent(found['with_gate'])} with the gate, "
        after += f"{_percent(found['without_gate'])} without"
        if "worse_share_with_gate" in found:
            after += (
                f"; devices that lost 2 points or more: {_percent(found['worse_share_with_gate'])} and "
                f"{_percent(found['worse_share_without_gate'])}"
            )
        yield after
    yield ""


def _protocol(summary: Row) -> Iterator[str]:
    found = summary.get("lying_coordinator") or {}
    if found:
        words = ", ".join(
            f"{one['as_claimed']} of {one['tried']} ({kind.replace('_', ' ')})" for kind, one in found.items()
        )
        yield (
            f"A coordinator that lies to honest devices, and colluders below and above the bound: {words} ended as the "
            "[threat model](threat-model.md) says. Above the bound the attack succeeds; that is the control.\n"
        )


def _audit(summary: Row, table: Table) -> Iterator[str]:
    found = summary["epsilon_refuted"]
    if found:
        epsilons = list(next(iter(found.values())))
        yield "The largest epsilon that an audit by canaries refutes; it must stay below the claim:\n"
        cells = [[noise.replace("_", " "), *(_number(one[e]) for e in epsilons)] for noise, one in found.items()]
        yield from table(["noise", *(epsilon.replace("_", " ") for epsilon in epsilons)], cells)
