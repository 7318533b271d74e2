"""What an invitation or a ruling must satisfy before a device acts on it; whoever breaks a rule is the coordinator."""

from __future__ import annotations

from prunefleet_edge.events import Invited, RulingHeard, SlimBaseHeard
from prunefleet_shared.acceptance import MAX_RULINGS, NO_LEVEL
from prunefleet_shared.campaign import Campaign, Decision, SlimBase
from prunefleet_shared.errors import Rejection, RejectReason
from prunefleet_shared.limits import why_limits_broken
from prunefleet_shared.messages import SessionKind


def why_invitation_wrong(campaign: Campaign, invited: Invited) -> Rejection | None:
    """The rule an invitation breaks, whose fault is the coordinator's; None if it is as it should be."""
    to, decision, slim_base = invited.invitation, invited.decision, invited.slim_base
    if not 0 <= to.level < len(campaign.levels) or to.attempt < 1:
        return Rejection(RejectReason.MALFORMED, expected=f"one of {len(campaign.levels)} levels", got=f"{to.level}")
    if to.kind is SessionKind.VOTE:
        return None
    return _why_documents_wrong(campaign, to.level, decision, slim_base)


def why_ruling_wrong(campaign: Campaign, heard: RulingHeard, rulings_heard: int) -> Rejection | None:
    """The rule an offer of a ruling breaks; None if it is as it should be.

    Args:
        campaign: The verified campaign.
        heard: What was offered, signatures checked.
        rulings_heard: Number of the last ruling that was followed: what is older is not followed again.
    """
    ruling, levels = heard.ruling, range(len(campaign.levels))
    if campaign.acceptance is None or ruling.campaign_id != campaign.campaign_id:
        return Rejection(RejectReason.WRONG_CAMPAIGN, expected="a ruling of this campaign", got="another's")
    if not rulings_heard < ruling.number <= MAX_RULINGS:
        expected = f"a ruling after number {rulings_heard}"
        return Rejection(RejectReason.MALFORMED, expected=expected, got=f"number {ruling.number}")
    if not {ruling.level, *ruling.levels_held} <= set(levels):
        return Rejection(RejectReason.MALFORMED, expected=f"levels among {len(levels)}", got="others")
    if ruling.level_for_all == NO_LEVEL:
        return None
    if ruling.level_for_all not in ruling.levels_held:
        return Rejection(RejectReason.MALFORMED, expected="a level for all that holds", got=f"{ruling.level_for_all}")
    return _why_documents_wrong(campaign, ruling.level_for_all, heard.decision, heard.slim_base)


def why_slim_base_wrong(campaign: Campaign, heard: SlimBaseHeard) -> Rejection | None:
    """The rule an offer to a device without data breaks; None if it is as it should be."""
    level = heard.decision.level
    if not 0 <= level < len(campaign.levels):
        return Rejection(RejectReason.MALFORMED, expected=f"one of {len(campaign.levels)} levels", got=f"{level}")
    return _why_documents_wrong(campaign, level, heard.decision, heard.slim_base)


def _why_documents_wrong(
    campaign: Campaign, level: int, decision: Decision | None, slim_base: SlimBase | None
) -> Rejection | None:
    if decision is None or slim_base is None:
        return Rejection(RejectReason.MALFORMED, expected="a decision and a slim base", got="none")
    if {decision.campaign_id, slim_base.campaign_id} != {campaign.campaign_id}:
        return Rejection(RejectReason.WRONG_CAMPAIGN, expected=campaign.campaign_id, got=decision.campaign_id)
    if {decision.level, slim_base.level} != {level} or slim_base.decision_fingerprint != decision.fingerprint:
        return Rejection(RejectReason.WRONG_DECISION, expected=f"one decision for level {level}", got="a mixture")
    why = why_decision_impossible(campaign, decision)
    return Rejection(RejectReason.WRONG_DECISION, expected="the signed campaign's terms", got=why) if why else None


def why_decision_impossible(campaign: Campaign, decision: Decision) -> str | None:
    """How a decision contradicts the campaign it was made for; None if it does not."""
    dense = campaign.layout.dense_widths
    if len(decision.widths) != len(dense) or len(decision.prior) != len(dense):
        return f"{len(decision.widths)} widths and {len(decision.prior)} orders for {len(dense)} groups"
    for group, width, order in zip(campaign.layout.groups, decision.widths, decision.prior, strict=True):
        if not 1 <= width <= group.num_channels or sorted(order) != list(range(group.num_channels)):
            return f"widths or order of {group.name} do not fit its {group.num_channels} channels"
    cost = campaign.cost_table.cost(decision.widths)
    if cost != decision.cost:
        return f"cost {decision.cost}, recomputed {cost} {campaign.cost_table.unit}"
    for constraint in campaign.constraints(decision.level):
        if not constraint.is_met(decision.widths):
            spent, unit = constraint.table.cost(decision.widths), constraint.table.unit
            return f"cost {spent}, budget {constraint.budget} {unit}"
    return why_limits_broken(campaign.layout, campaign.limits, decision.widths)
