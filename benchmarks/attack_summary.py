"""From the rows of benchmarks/attacks.py to the figures worth quoting; what speaks against us comes first."""

from __future__ import annotations

import numpy as np
from result_file import Row

LOST = 0.02
"""Accuracy a device must lose to count as worse off."""


def summarise(rows: list[Row]) -> Row:
    """The summary of all rows, means over seeds."""
    return {
        "classes_from_one_vote": _classes(rows),
        "membership_in_exact_sums": _membership(rows, None),
        "poisoning_broken_protocol": _poisoning(rows, "knowing_shift"),
        "poisoning_within_the_protocol": _poisoning(rows, "fleet_inverted"),
        "devices_worse_off_broken_protocol": _poisoning(rows, "knowing_shift", "worse_share"),
        "gate_after_poison": _gate(rows),
        "classes_of_a_member_from_exact_sums": _member_classes(rows),
        "membership_in_noised_sums": {
            f"epsilon_{epsilon:g}": _membership(rows, epsilon) for epsilon in _values(rows, "membership", "epsilon")
        },
        "image_membership": {
            attack.removeprefix("image_"): {m: _mean(rows, m, attack=attack) for m in ("auc", "auc_se")}
            for attack in sorted({row["attack"] for row in rows if row["attack"].startswith("image_")})
        },
        "epsilon_refuted": _canary(rows),
        "lying_coordinator": _protocol(rows),
    }


def _protocol(rows: list[Row]) -> Row:
    """Lies and collusions by kind: how many were tried, and how many ended as claimed."""
    found = [row for row in rows if row["part"] == "protocol"]
    kinds = sorted({row["attack"].removeprefix("protocol_").partition("::")[0] for row in found})
    of_kind = {kind: [row for row in found if row["attack"].startswith(f"protocol_{kind}::")] for kind in kinds}
    return {
        kind: {"tried": len(some), "as_claimed": sum(row["as_claimed"] for row in some)}
        for kind, some in of_kind.items()
    }


def _values(rows: list[Row], attack: str, column: str) -> list[float]:
    return sorted({row[column] for row in rows if row["attack"] == attack and row[column] is not None})


def _mean(rows: list[Row], measure: str, **wanted: object) -> float | None:
    """Mean of a column over the rows that have the wanted values; None if there is none."""
    found = [row[measure] for row in rows if all(row.get(name) == value for name, value in wanted.items())]
    known = [value for value in found if value is not None]
    return round(float(np.mean(known)), 4) if known else None


def _best_hit(rows: list[Row], vote: str, cohort: int) -> Row:
    """The strongest of the class attacks (chance 0.1)."""
    names = {row["attack"] for row in rows if row["attack"].startswith("classes_")}
    hits = {name: _mean(rows, "hit_rate", attack=name, vote=vote, cohort=cohort) for name in sorted(names)}
    found = {name.removeprefix("classes_"): hit for name, hit in hits.items() if hit is not None}
    return {"hit_rate": max(found.values(), default=None), "attack": max(found, key=lambda n: found[n], default=None)}


def _classes(rows: list[Row]) -> Row:
    votes = sorted({row["vote"] for row in rows if row["attack"].startswith("classes_")})
    return {
        vote: {
            **_best_hit(rows, vote, 1),
            "chance": 0.1,
            "mean_class_auc": _mean(rows, "class_auc", attack="classes_made_up", vote=vote, cohort=1),
        }
        for vote in votes
    }


def _member_classes(rows: list[Row]) -> Row:
    sizes = sorted({row["cohort"] for row in rows if row["attack"].startswith("classes_") and row["cohort"] > 1})
    return {f"cohort_{size}": _best_hit(rows, "graded", size)["hit_rate"] for size in sizes}


def _membership(rows: list[Row], epsilon: float | None) -> Row:
    found = [row for row in rows if row["attack"] == "membership" and row["epsilon"] == epsilon]
    return {
        f"{vote}_cohort_{size}": {
            measure: _mean(found, measure, vote=vote, cohort=size) for measure in ("auc", "tpr_at_1_percent_fpr")
        }
        for vote, size in sorted({(row["vote"], row["cohort"]) for row in found})
    }


def _poisoning(rows: list[Row], attack: str, measure: str = "overlap") -> Row:
    """Overlap with the honest decision (chance 0.5), or another measure, by rule and share of attackers."""
    found = [row for row in rows if row["attack"] == attack]
    places = sorted({(row["rule"], row["cohort"]) for row in found})
    shares = sorted({row["attackers"] for row in found})
    return {
        f"{rule}_cohort_{size}": {
            f"{100 * share:g}_percent": _mean(found, measure, rule=rule, cohort=size, attackers=share)
            for share in shares
        }
        for rule, size in places
    }


def _gate(rows: list[Row]) -> Row:
    """Accuracy after the poisoned decisions, and the share of devices that lose 2 points or more by the poison."""
    found = {row["attack"].removeprefix("gate_"): row for row in rows if row["attack"].startswith("gate_")}
    summary: Row = {}
    for name, row in found.items():
        summary[name] = {key: row[f"accuracy_{key}"] for key in ("with_gate", "without_gate")}
        if name != "honest" and "honest" in found:
            for key in ("with_gate", "without_gate"):
                column = f"by_device_{key}"
                lost = np.array(found["honest"][column]) - np.array(row[column])
                summary[name][f"worse_share_{key}"] = round(float((lost >= LOST).mean()), 4)
    return summary


def _canary(rows: list[Row]) -> Row:
    return {
        noise: {
            f"epsilon_{epsilon:g}": _mean(rows, "epsilon_lower_bound", attack="canary", noise=noise, epsilon=epsilon)
            for epsilon in _values(rows, "canary", "epsilon")
        }
        for noise in sorted({row["noise"] for row in rows if row["attack"] == "canary"})
    }
