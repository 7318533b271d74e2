"""By which rules sums of votes become a decision: named in the signed campaign, checked alike by who makes and runs it.

What each order rule does is in the coordinator's ``order_rules``; here are only their names and ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

MEAN, MAJORITY, BORDA, PUBLIC = "mean", "majority", "borda", "public"
ORDER_RULES = (MEAN, MAJORITY, BORDA, PUBLIC)
"""From summed grades to an order of channels."""
MAX_PUBLIC_VOTES = 10**9
"""More than any fleet: the public evidence decides. (Rule ``public`` says so plainly, and for channels only.)"""
MAX_NEAR_TIE_MILLI = 10**9


@dataclass(frozen=True, slots=True)
class DecisionRules:
    """How a decision follows from the votes.

    Attributes:
        order: One of :data:`ORDER_RULES`.
        public_votes: As how many devices the public evidence counts, in channels and in widths; 0: not at all, except
            that it breaks ties.
        near_tie_milli: Channels at the cut that the fleet's grades tell apart by less than this are left to the public
            order; in thousandths of one device's largest possible say (a grade of 7 against 0). 1000: what one device
            more could turn around. 0: only true ties.
    """

    order: str = MEAN
    public_votes: int = 0
    near_tie_milli: int = 0


DEFAULT_RULES = DecisionRules()
"""Summed grades, and nothing but what the fleet says."""


def why_rules_impossible(rules: DecisionRules, *, is_noisy: bool) -> str | None:
    """What is wrong with the rules, and what to do; None when they can be followed.

    Args:
        rules: As they stand in a campaign.
        is_noisy: Mode ``sum+dp``, in which votes are weighed against the public order by how much noise is in them.
    """
    if rules.order not in ORDER_RULES:
        return f"order rule: expected one of {', '.join(ORDER_RULES)}, got {rules.order[:40]!r}"
    for name, value, most in (
        ("public votes", rules.public_votes, MAX_PUBLIC_VOTES),
        ("near tie (thousandths)", rules.near_tie_milli, MAX_NEAR_TIE_MILLI),
    ):
        if not 0 <= value <= most:
            return f"{name}: expected 0 to {most}, got {value}"
    if is_noisy and (rules.order not in (MEAN, PUBLIC) or rules.public_votes or rules.near_tie_milli):
        return (
            "mode sum+dp weighs votes against the public order by itself: leave out public votes and near ties, and "
            f"take order rule {MEAN} or {PUBLIC}"
        )
    return None
