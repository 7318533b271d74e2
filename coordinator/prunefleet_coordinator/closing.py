"""What follows from a round whose cohorts are all summed: total, ruling, next decision, next phase. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prunefleet_coordinator.accounting import Release, why_exhausted
from prunefleet_coordinator.aggregation import decide
from prunefleet_coordinator.events import AnnounceDecision, AnnounceEnd, AnnounceRuling, Command, SaveClosing
from prunefleet_coordinator.judging import Finding, judge
from prunefleet_coordinator.search import Act, Judged, Step, judged, level_for_all, levels_held, next_step
from prunefleet_coordinator.state import ClosedRound, Happening, Snapshot
from prunefleet_coordinator.totals import combined_total
from prunefleet_shared.acceptance import NO_LEVEL, Ruling, RulingReason, Search
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.messages import Ending, Phase, SessionKind
from prunefleet_shared.private_sum import Total


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
    finding = None
    if campaign.acceptance is not None and closed.kind is not SessionKind.VOTE:
        finding = judge(campaign, totals_of(closed))
    so_far = [judged(ruling) for ruling in snapshot.rulings]
    if finding is not None:
        so_far.append(_judged(closed, finding))
    step = _within_budget(campaign, rounds, _step(campaign, closed, so_far), so_far)
    ruling = make_ruling(campaign, snapshot, closed, finding, step) if finding else None
    after = replace(after, rulings=(*after.rulings, *([ruling] if ruling else [])))
    return _carried_on(campaign, Closing(closed, after, None, ruling), step)


def totals_of(closed: ClosedRound) -> tuple[Total, ...]:
    """The sums of a round's cohorts, one for each."""
    return tuple(cohort.total for cohort in closed.cohorts) or (closed.total,)


def make_ruling(campaign: Campaign, before: Snapshot, closed: ClosedRound, finding: Finding, step: Step) -> Ruling:
    """The ruling that ``finding`` comes to.

    Args:
        campaign: One with an accuracy floor.
        before: The campaign before it, at the level judged.
        closed: The round judged.
        finding: What its sums come to.
        step: What the campaign does next.

    Raises:
        LocalProtocolError: The level judged was never decided (our bug, or a tampered file in a replay).
    """
    decision = before.decision
    if decision is None:
        msg = f"campaign {campaign.campaign_id}: level {before.level} is judged and was never decided"
        raise LocalProtocolError(msg)
    so_far = [*(judged(ruling) for ruling in before.rulings), _judged(closed, finding)]
    return Ruling(
        campaign_id=campaign.campaign_id,
        number=len(so_far),
        level=closed.level,
        decision_fingerprint=decision.fingerprint,
        is_rollout=closed.kind is SessionKind.ROLLOUT,
        levels_held=levels_held(so_far),
        level_for_all=step.level if step.act is Act.END else NO_LEVEL,
        **{field.name: getattr(finding, field.name) for field in dataclasses.fields(finding)},
    )


def _judged(closed: ClosedRound, finding: Finding) -> Judged:
    return Judged(closed.level, closed.kind is SessionKind.ROLLOUT, finding.reason is RulingReason.HELD)


def _step(campaign: Campaign, closed: ClosedRound, so_far: Sequence[Judged]) -> Step:
    terms, num_levels = campaign.acceptance, len(campaign.levels)
    if terms is not None:
        return next_step(num_levels, Search(terms.search), so_far, has_canaries=campaign.has_canaries)
    level = 0 if closed.kind is SessionKind.VOTE else closed.level + 1
    return Step(Act.TRY, level) if level < num_levels else Step(Act.END, NO_LEVEL)


def _within_budget(campaign: Campaign, rounds: Sequence[ClosedRound], step: Step, so_far: Sequence[Judged]) -> Step:
    """``step``, or the end if its outcomes would cost more privacy than the campaign promised."""
    if step.act is Act.END:
        return step
    kind = SessionKind.OUTCOME if step.act is Act.TRY else SessionKind.ROLLOUT
    released = [Release(closed.kind, closed.level) for closed in rounds]
    if why_exhausted(campaign, released, Release(kind, step.level)) is None:
        return step
    return Step(Act.END, level_for_all(so_far, has_canaries=campaign.has_canaries))


def _carried_on(campaign: Campaign, closing: Closing, step: Step) -> Closing:
    after = closing.snapshot
    match step.act:
        case Act.END:
            return replace(closing, snapshot=after.moved_by(Happening.LAST_SUM_CLOSED))
        case Act.ROLL_OUT:
            after = replace(after, level=step.level)
            return replace(closing, snapshot=after.moved_by(Happening.SEARCH_ENDED))
        case Act.TRY:
            decision = decide(campaign, after.closed_rounds[0].total, step.level)
            after = replace(after, level=step.level, decisions=(*after.decisions, decision))
            return replace(closing, snapshot=after.moved_by(Happening.SUM_CLOSED), decision=decision)


def _closed_round(campaign: Campaign, snapshot: Snapshot) -> ClosedRound:
    kind, cohorts = snapshot.kind, snapshot.closed_cohorts
    total = combined_total(campaign, kind, [cohort.total for cohort in cohorts])
    contributors = tuple(sorted(name for cohort in cohorts for name in cohort.contributors))
    several = cohorts if len(cohorts) > 1 else ()
    return ClosedRound(kind, snapshot.level, cohorts[-1].session_id, total, contributors, several)
