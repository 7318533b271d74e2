"""Why a message is turned down: pure predicates, one rule per line, None when all is well.

A rejection names the rule, what would have been right and what to do; never data values. The rules of a contribution's
inside (length, ranges) belong to the lane table, and who was already counted to the private sum.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from prunefleet_coordinator.session import OpenSession
from prunefleet_coordinator.state import ClosedRound
from prunefleet_shared.campaign import Campaign, Decision, SlimBase
from prunefleet_shared.errors import Rejection, RejectReason
from prunefleet_shared.layout import MAX_LEVELS
from prunefleet_shared.messages import (
    CheckIn,
    Role,
    Up,
)
from prunefleet_shared.private_sum import PLAIN
from prunefleet_shared.wire_methods import method_of

PRIVACY_MODES = (PLAIN,)
_CHECK_IN_AGAIN = "check in again and contribute to the session you are invited to"


def why_role_rejected(role: Role, message: Up) -> Rejection | None:
    """The certificate's role must be the one this message belongs to."""
    expected = method_of(message).role
    return None if role is expected else Rejection(RejectReason.WRONG_ROLE, f"a {expected}", f"a {role}")


def why_campaign_id_rejected(campaign_id: str, named_id: str) -> Rejection | None:
    """A message must name the campaign that runs."""
    if named_id == campaign_id:
        return None
    return Rejection(RejectReason.WRONG_CAMPAIGN, campaign_id, named_id[:64], "fetch the campaign again")


def why_check_in_rejected(campaign_id: str, layout_fingerprint: str, check_in: CheckIn) -> Rejection | None:
    """A device must mean this campaign and have traced its network."""
    wrong_campaign = why_campaign_id_rejected(campaign_id, check_in.campaign_id)
    if wrong_campaign or check_in.layout_fingerprint == layout_fingerprint:
        return wrong_campaign
    return Rejection(
        RejectReason.WRONG_LAYOUT,
        layout_fingerprint[:12],
        check_in.layout_fingerprint[:12],
        "trace the campaign's base model again; if it repeats, update the client",
    )


def why_contribution_rejected(
    device_id: str,
    session_id: str,
    session: OpenSession | None,
    closed_rounds: Sequence[ClosedRound],
    abandoned_ids: Collection[str],
) -> Rejection | None:
    """A contribution must be for the open session, from a device that was invited to it.

    A device whose answer was lost sends again, perhaps after the closing: it then hears ``DUPLICATE`` if it was
    counted and ``LATE`` if not, never that the session is unknown.
    """
    if session is not None and session_id == session.session_id:
        return None if device_id in session.invited else _not_invited()
    for closed in closed_rounds:
        if session_id == closed.session_id:
            return _duplicate() if device_id in closed.contributors else _late()
    return _late() if session_id in abandoned_ids else _unknown_session(session)


def why_slim_base_rejected(campaign_id: str, awaiting: Decision | None, slim_base: SlimBase) -> Rejection | None:
    """A slim base must answer the one decision that waits for it."""
    wrong_campaign = why_campaign_id_rejected(campaign_id, slim_base.campaign_id)
    if wrong_campaign:
        return wrong_campaign
    if awaiting is None:
        return Rejection(RejectReason.WRONG_DECISION, "none now", f"level {slim_base.level}", "await the next decision")
    expected = (awaiting.level, awaiting.fingerprint)
    if (slim_base.level, slim_base.decision_fingerprint) == expected:
        return None
    return Rejection(
        RejectReason.WRONG_DECISION,
        f"level {awaiting.level}, decision {awaiting.fingerprint[:12]}",
        f"level {slim_base.level}, decision {slim_base.decision_fingerprint[:12]}",
        "await the decision again and retrain for it",
    )


def why_campaign_impossible(campaign: Campaign) -> str | None:
    """The first reason for which this campaign could never be carried out; None when it can."""
    return _why_network_impossible(campaign) or _why_schedule_impossible(campaign) or _why_cohort_impossible(campaign)


def _why_schedule_impossible(campaign: Campaign) -> str | None:
    budgets = [level.budget for level in campaign.levels]
    narrowest = campaign.cost_table.cost([1] * len(campaign.layout.groups))
    if not 1 <= len(budgets) <= MAX_LEVELS:
        return f"a schedule has 1 to {MAX_LEVELS} levels, this one has {len(budgets)}"
    if budgets != sorted(budgets, reverse=True):
        return f"budgets must not grow from level to level, got {budgets}"
    if budgets[-1] < narrowest:
        unit = campaign.cost_table.unit
        return f"the budget of {budgets[-1]} {unit} cannot be met: one channel in each group costs {narrowest}"
    return None


def _why_cohort_impossible(campaign: Campaign) -> str | None:
    cohort = campaign.cohort
    if not 1 <= cohort.quorum <= cohort.size:
        return f"a quorum must be 1 to the cohort's size of {cohort.size}, got {cohort.quorum}"
    if cohort.deadline_ms < 1 or cohort.max_attempts < 1:
        return f"deadline and attempts must be at least 1, got {cohort.deadline_ms} ms and {cohort.max_attempts}"
    if campaign.privacy_mode not in PRIVACY_MODES:
        return f"privacy mode must be one of {', '.join(PRIVACY_MODES)}, got {campaign.privacy_mode}"
    return None


def _why_network_impossible(campaign: Campaign) -> str | None:
    groups, orders = campaign.layout.groups, campaign.public_order
    names = {group.name for group in groups}
    if not groups or len(names) != len(groups) or min(group.num_channels for group in groups) < 1:
        return "a layout needs groups with names of their own and at least one channel each"
    if [sorted(order) for order in orders] != [list(range(group.num_channels)) for group in groups]:
        return "the public order must list every channel of every group once"
    for term in campaign.cost_table.terms:
        if term.coefficient < 0 or len(term.groups) > 2 or not set(term.groups) <= set(range(len(groups))):
            return f"cost terms need a coefficient of at least 0 and at most two of the groups, got {term}"
    return None


def _not_invited() -> Rejection:
    return Rejection(RejectReason.NOT_INVITED, remedy="check in and wait for an invitation")


def _duplicate() -> Rejection:
    return Rejection(RejectReason.DUPLICATE, remedy="nothing to do: the first contribution is in the sum")


def _late() -> Rejection:
    return Rejection(RejectReason.LATE, remedy=_CHECK_IN_AGAIN)


def _unknown_session(session: OpenSession | None) -> Rejection:
    expected = f"session {session.session_id[:12]}" if session else "no session open"
    return Rejection(RejectReason.WRONG_SESSION, expected, remedy=_CHECK_IN_AGAIN)
