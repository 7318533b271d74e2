"""From the sums of an outcome to the signed ruling on its decision, and to what the campaign does next. Pure.

``judging`` says whether the floor holds, ``search`` what to try next; a replay puts them together in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from prunefleet_coordinator.accounting import Release, why_exhausted
from prunefleet_coordinator.judging import judge
from prunefleet_coordinator.search import Act, Judged, Step, level_for_all, levels_held, next_step
from prunefleet_shared.acceptance import NO_LEVEL, Ruling, RulingReason, Search
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.messages import SessionKind, Total


@dataclass(frozen=True, slots=True)
class Trial:
    """A decision that was tried, and what it came to.

    Attributes:
        decision: What was tried.
        kind: By canaries (``OUTCOME``) or in a ``ROLLOUT``.
        totals: The sums, one per cohort.
    """

    decision: Decision
    kind: SessionKind
    totals: tuple[Total, ...]


def rule(
    campaign: Campaign, trial: Trial, before: Sequence[Ruling], released: Sequence[Release]
) -> tuple[Ruling, Step]:
    """The ruling on a trial, and what follows.

    Args:
        campaign: One with an accuracy floor.
        trial: What was tried.
        before: Rulings so far.
        released: Sums that are known, this trial's included.
    """
    finding = judge(campaign, trial.totals)
    level, is_rollout = trial.decision.level, trial.kind is SessionKind.ROLLOUT
    earlier = [Judged(ruling.level, ruling.is_rollout, ruling.is_promoted) for ruling in before]
    so_far = [*earlier, Judged(level, is_rollout, finding.reason is RulingReason.HELD)]
    step = next_act(campaign, so_far, released)
    ruling = Ruling(
        campaign_id=campaign.campaign_id,
        number=len(so_far),
        level=level,
        decision_fingerprint=trial.decision.fingerprint,
        is_rollout=is_rollout,
        levels_held=levels_held(so_far),
        level_for_all=step.level if step.act is Act.END else NO_LEVEL,
        **{field.name: getattr(finding, field.name) for field in dataclasses.fields(finding)},
    )
    return ruling, step


def next_act(campaign: Campaign, so_far: Sequence[Judged], released: Sequence[Release]) -> Step:
    """What the campaign does after the sums in ``released``, at least the vote's, and what was judged so far.

    It is the end, too, if what was to come would cost more privacy than the campaign promised.
    """
    step = _step(campaign, so_far, released[-1])
    if step.act is Act.END:
        return step
    kind = SessionKind.OUTCOME if step.act is Act.TRY else SessionKind.ROLLOUT
    if why_exhausted(campaign, released, Release(kind, step.level)) is None:
        return step
    return Step(Act.END, level_for_all(so_far, has_canaries=campaign.has_canaries))


def _step(campaign: Campaign, so_far: Sequence[Judged], last: Release) -> Step:
    terms, num_levels = campaign.acceptance, len(campaign.levels)
    if terms is not None:
        return next_step(num_levels, Search(terms.search), so_far, has_canaries=campaign.has_canaries)
    level = 0 if last.kind is SessionKind.VOTE else last.level + 1
    return Step(Act.TRY, level) if level < num_levels else Step(Act.END, NO_LEVEL)
