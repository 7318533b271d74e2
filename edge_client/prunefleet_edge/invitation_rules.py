"""What an invitation must satisfy before a device works on it; whoever breaks a rule here is the coordinator."""

from __future__ import annotations

from prunefleet_edge.events import Invited
from prunefleet_shared.campaign import Campaign, Decision
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
    if decision is None or slim_base is None:
        return Rejection(RejectReason.MALFORMED, expected="a decision and a slim base", got="an outcome without")
    if {decision.campaign_id, slim_base.campaign_id} != {campaign.campaign_id}:
        return Rejection(RejectReason.WRONG_CAMPAIGN, expected=campaign.campaign_id, got=decision.campaign_id)
    if {decision.level, slim_base.level} != {to.level} or slim_base.decision_fingerprint != decision.fingerprint:
        return Rejection(RejectReason.WRONG_DECISION, expected=f"one decision for level {to.level}", got="a mixture")
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
