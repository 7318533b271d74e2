"""What follows from a round whose cohorts are all summed: total, ruling, next decision, next phase. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from prunefleet_coordinator.accounting import Release
from prunefleet_coordinator.aggregation import decide
from prunefleet_coordinator.events import AnnounceDecision, AnnounceEnd, AnnounceRuling, Command, SaveClosing
from prunefleet_coordinator.ruling import Trial, next_act, rule
from prunefleet_coordinator.search import Act, Step
from prunefleet_coordinator.state import ClosedRound, Happening, Snapshot
from prunefleet_coordinator.totals import combined_total
from prunefleet_shared.acceptance import Ruling
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.messages import Ending, Phase, Total


@dataclass(frozen=True, slots=True)
class Closing:
    """A round's end.

    Attributes:
        closed: The round.
        snapshot: The campaign after it.
        decision: What it led to; None when none is needed: the campaign is completed, or rolls a level out.
        ruling: What was ruled of the decision tried; None for the vote, and where nothing is judged.
    """

    closed: ClosedRound
    snapshot: Snapshot
    decision: Decision | None
    ruling: Ruling | None = None

    @property
    def commands(self) -> list[Command]:
        """Store it, then tell."""
        save = SaveClosing(self.closed, self.snapshot, self.decision, self.ruling)
        ruled = [AnnounceRuling(self.ruling)] if self.ruling else []
        decided = [AnnounceDecision(self.decision)] if self.decision else []
        ended = [AnnounceEnd(Ending.COMPLETED)] if self.snapshot.phase is Phase.COMPLETED else []
        return [save, *ruled, *decided, *ended]


def close_round(campaign: Campaign, snapshot: Snapshot) -> Closing:
    """Close the round at hand with the cohorts that ``snapshot`` has, at least one.

    A round of outcomes leads to the decision of the next level, from the stored votes, or to a rollout; the campaign is
    completed when there is nothing more to try, or when the budget of privacy does not cover it.
    """
    closed = _closed_round(campaign, snapshot)
    rounds = (*snapshot.closed_rounds, closed)
    after = replace(snapshot, closed_rounds=rounds, closed_cohorts=(), attempts_opened=0, attempts_failed=0)
    released = [Release(known.kind, known.level) for known in rounds]
    if campaign.acceptance is None or snapshot.decision is None:
        return _carried_on(campaign, Closing(closed, after, None), next_act(campaign, (), released))
    trial = Trial(snapshot.decision, closed.kind, totals_of(closed))
    ruling, step = rule(campaign, trial, snapshot.rulings, released)
    after = replace(after, rulings=(*after.rulings, ruling))
    return _carried_on(campaign, Closing(closed, after, None, ruling), step)


def totals_of(closed: ClosedRound) -> tuple[Total, ...]:
    """The sums of a round's cohorts, one for each."""
    return tuple(cohort.total for cohort in closed.cohorts) or (closed.total,)


def _carried_on(campaign: Campaign, closing: Closing, step: Step) -> Closing:
    after = replace(closing.snapshot, level=closing.snapshot.level if step.act is Act.END else step.level)
    match step.act:
        case Act.END:
            return replace(closing, snapshot=after.moved_by(Happening.LAST_SUM_CLOSED))
        case Act.ROLL_OUT:
            return replace(closing, snapshot=after.moved_by(Happening.SEARCH_ENDED))
        case Act.TRY:
            vote = after.closed_rounds[0]
            decision = decide(campaign, vote.total, step.level, [cohort.total for cohort in vote.cohorts])
            after = replace(after, decisions=(*after.decisions, decision)).moved_by(Happening.SUM_CLOSED)
            return replace(closing, snapshot=after, decision=decision)


def _closed_round(campaign: Campaign, snapshot: Snapshot) -> ClosedRound:
    kind, cohorts = snapshot.kind, snapshot.closed_cohorts
    total = combined_total(campaign, kind, [cohort.total for cohort in cohorts])
    contributors = tuple(sorted(name for cohort in cohorts for name in cohort.contributors))
    several = cohorts if len(cohorts) > 1 else ()
    return ClosedRound(kind, snapshot.level, cohorts[-1].session_id, total, contributors, several)
