"""Writes ``tests/vectors/decision.json``: campaigns, made-up votes, and the decisions that follow from them.

python tests/coordinator/golden_decisions.py
"""

import json
from pathlib import Path

import numpy as np

from prunefleet_coordinator.aggregation import decide, margins_milli
from prunefleet_coordinator.testing import random_vote, small_campaign
from prunefleet_coordinator.totals import combined_total
from prunefleet_shared.campaign import Campaign, CohortPolicy, Level
from prunefleet_shared.decision_rules import DecisionRules
from prunefleet_shared.documents import canonical_bytes, read_document
from prunefleet_shared.layout import CostTable, CostTerm
from prunefleet_shared.limits import Limits
from prunefleet_shared.messages import SessionKind, Total

VECTOR = Path(__file__).parents[1] / "vectors" / "decision.json"
ABOUT = (
    "Campaigns, the cohorts' sums of made-up votes, and the decisions that follow, with their margins in thousandths"
)
PUBLIC_OPTIONS = ((5, 6, 7), (2, 3, 7))
PARAMETERS = CostTable("parameters", (CostTerm(9, (0, 1)), CostTerm(4, (1, 2)), CostTerm(3, (2,))))
CASES = {
    "as in any campaign that says nothing else": (small_campaign(), [7]),
    "public evidence counts as two devices, near ties are left to it": (
        small_campaign(rules=DecisionRules("mean", 2, 1000), public_options=PUBLIC_OPTIONS),
        [7],
    ),
    "places in three cohorts, added up": (
        small_campaign(
            rules=DecisionRules("borda", 1), public_options=PUBLIC_OPTIONS, cohort=CohortPolicy(3, 2, 60_000, count=3)
        ),
        [3, 2, 3],
    ),
    "two budgets at once, multiples of 4, a floor and a group left whole": (
        small_campaign(
            further_tables=(PARAMETERS,),
            levels=(Level(600, 1700, (1400,)), Level(300, 1700, (800,))),
            limits=Limits(3, 4, frozenset({"head"})),
        ),
        [6],
    ),
    "the majority of masks": (small_campaign(rules=DecisionRules("majority")), [5]),
    "the public order": (small_campaign(rules=DecisionRules("public")), [5]),
}


def decisions_of(campaign: Campaign, cohorts: list[Total]) -> list[dict]:
    """Every level's decision and its margins, as plain JSON."""
    total = combined_total(campaign, SessionKind.VOTE, cohorts)
    made = [decide(campaign, total, level, cohorts) for level in range(len(campaign.levels))]
    return [
        {**json.loads(canonical_bytes(decision)), "margins_milli": list(margins_milli(campaign, total, decision))}
        for decision in made
    ]


def read_case(case: dict) -> tuple[Campaign, list[Total]]:
    """A campaign and its cohorts from the file."""
    campaign = read_document(json.dumps(case["campaign"]).encode(), Campaign)
    return campaign, [read_document(json.dumps(total).encode(), Total) for total in case["cohorts"]]


def _cohorts(campaign: Campaign, sizes: list[int]) -> list[Total]:
    seeds = iter(range(sum(sizes)))
    votes = [[random_vote(campaign, next(seeds)) for _ in range(size)] for size in sizes]
    return [Total(tuple(int(lane) for lane in np.sum(vote, axis=0)), len(vote)) for vote in votes]


def _case(name: str, campaign: Campaign, sizes: list[int]) -> str:
    cohorts = _cohorts(campaign, sizes)
    parts = {
        "name": json.dumps(name),
        "campaign": canonical_bytes(campaign).decode(),
        "cohorts": canonical_bytes(cohorts).decode(),
        "decisions": canonical_bytes(decisions_of(campaign, cohorts)).decode(),
    }
    return "  {" + ",\n   ".join(f'"{key}": {text}' for key, text in parts.items()) + "}"


if __name__ == "__main__":
    cases = ",\n".join(_case(name, campaign, sizes) for name, (campaign, sizes) in CASES.items())
    VECTOR.write_text(f'{{"about": {json.dumps(ABOUT)},\n "cases": [\n{cases}\n]}}\n', encoding="utf-8")
