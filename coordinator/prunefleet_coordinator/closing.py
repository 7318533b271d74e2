"""What follows from a round whose cohorts are all summed: its total, the next decision, the next phase. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prunefleet_coordinator.accounting import Release, why_exhausted
from prunefleet_coordinator.aggregation import decide
from prunefleet_coordinator.state import ClosedRound, Happening, Snapshot
from prunefleet_coordinator.totals import combined_total
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.messages import SessionKind


@dataclass(frozen=True, slots=True)
class Closing:
    """A round's end.

    Attributes:
        closed: The round.
        snapshot: The campaign after it.
        decision: What it led to; None when the campaign is completed.
    """

    closed: ClosedRound
    snapshot: Snapshot
    decision: Decision | None


def close_round(campaign: Campaign, snapshot: Snapshot) -> Closing:
    """Close the round at hand with the cohorts that ``snapshot`` has, at least one.

    A round of outcomes leads to the decision of the next level, from the stored votes; the campaign is completed when
    there is none, or when the budget of privacy does not cover its outcomes.
    """
    closed = _closed_round(campaign, snapshot)
    rounds = (*snapshot.closed_rounds, closed)
    after = replace(snapshot, closed_rounds=rounds, closed_cohorts=(), attempts_opened=0, attempts_failed=0)
    level = 0 if closed.kind is SessionKind.VOTE else closed.level + 1
    if level == len(campaign.levels) or _is_budget_spent(campaign, rounds, level):
        return Closing(closed, after.moved_by(Happening.LAST_SUM_CLOSED), None)
    decision = decide(campaign, rounds[0].total, level, [cohort.total for cohort in rounds[0].cohorts])
    after = replace(after, level=level, decisions=(*after.decisions, decision))
    return Closing(closed, after.moved_by(Happening.SUM_CLOSED), decision)


def _closed_round(campaign: Campaign, snapshot: Snapshot) -> ClosedRound:
    kind, cohorts = snapshot.kind, snapshot.closed_cohorts
    total = combined_total(campaign, kind, [cohort.total for cohort in cohorts])
    contributors = tuple(sorted(name for cohort in cohorts for name in cohort.contributors))
    several = cohorts if len(cohorts) > 1 else ()
    return ClosedRound(kind, snapshot.level, cohorts[-1].session_id, total, contributors, several)


def _is_budget_spent(campaign: Campaign, rounds: Sequence[ClosedRound], level: int) -> bool:
    """Whether the outcome of ``level`` would cost more privacy than the campaign promised."""
    released = [Release(closed.kind, closed.level) for closed in rounds]
    return why_exhausted(campaign, released, Release(SessionKind.OUTCOME, level)) is not None
