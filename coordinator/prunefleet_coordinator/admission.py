"""Why a message is turned down: pure predicates, one rule per line, None when all is well.

A rejection names the rule, what would have been right and what to do; never data values. The rules of a contribution's
inside (length, ranges) belong to the lane table, and who was already counted to the private sum.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_coordinator.combination import MIN_COHORTS, CombinationRule
from prunefleet_coordinator.session import OpenSession
from prunefleet_coordinator.state import ENDINGS, ClosedCohort, ClosedRound
from prunefleet_shared.acceptance import why_acceptance_impossible
from prunefleet_shared.campaign import (
    PLAIN,
    PRIVACY_MODES,
    SUM_DP,
    Campaign,
    CohortPolicy,
    Decision,
    PrivacyTerms,
    SlimBase,
)
from prunefleet_shared.decision_rules import why_rules_impossible
from prunefleet_shared.documents import public_bytes
from prunefleet_shared.errors import ConfigError, Rejection, RejectReason
from prunefleet_shared.layout import MAX_LEVELS, NUM_WIDTH_OPTIONS
from prunefleet_shared.limits import why_unreachable
from prunefleet_shared.messages import CheckIn, Phase, Role, SessionKind, SumUp, Up
from prunefleet_shared.noise_terms import why_noise_impossible
from prunefleet_shared.steering_terms import why_steering_impossible
from prunefleet_shared.wire_limits import MAX_ATTEMPT
from prunefleet_shared.wire_methods import method_of

MIN_DEVICES_IN_SUM = 3
"""A sum over two tells each the other's vector."""
MAX_ROSTER = 1000
"""Devices of a private sum: what each sends and computes grows with their number."""
MAX_COHORTS = 1000
MAX_COST_TABLES = 8
MAX_STAGE_MS = 24 * 3600 * 1000
MAX_COHORT = 10_000
"""Names of a session's devices are kept in memory while it is open."""
MAX_DEADLINE_MS = 7 * 24 * 3600 * 1000
OVERSELECTION_PERMILLE = range(1000, 3001)
_CAMPAIGN_ID, _DIGEST = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")
_DEVICE_CLASS = re.compile(r"[a-z0-9-]{1,32}")
_CHECK_IN_AGAIN = "check in again and contribute to the session you are invited to"


def why_role_rejected(role: Role, message: Up) -> Rejection | None:
    """The certificate's role must be the one this message belongs to."""
    roles = method_of(message).roles
    return None if role in roles else Rejection(RejectReason.WRONG_ROLE, f"a {' or '.join(sorted(roles))}", f"a {role}")


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


def why_sum_message_rejected(
    device_id: str,
    message: SumUp,
    session: OpenSession | None,
    closed: Sequence[ClosedRound | ClosedCohort],
    abandoned_ids: Collection[str],
) -> Rejection | None:
    """A message of a sum must be for the open session, from a device that was invited to it.

    A device whose answer was lost sends again, perhaps after the closing: it then hears ``DUPLICATE`` if it was
    counted and ``LATE`` if not, never that the session is unknown.
    """
    session_id = message.session_id
    if session is not None and session_id == session.session_id:
        return None if device_id in session.invited else _not_invited()
    for known in closed:
        if session_id == known.session_id:
            return _duplicate() if device_id in known.contributors else _late()
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


def why_control_rejected(phase: Phase) -> Rejection | None:
    """A campaign that has ended can no longer be paused, resumed or stopped."""
    if phase not in ENDINGS:
        return None
    return Rejection(RejectReason.WRONG_CAMPAIGN, "a campaign that runs", f"one that is {phase.name.lower()}")


def why_campaign_refused(campaign: Campaign, own_key: str, *, allow_plain: bool) -> Rejection | None:
    """A campaign must be possible, private enough, and name this coordinator's key (DER, in hex) for its decisions."""
    why = why_campaign_impossible(campaign)
    if why:
        return Rejection(RejectReason.WRONG_CAMPAIGN, "a campaign that can be carried out", why)
    if campaign.privacy.mode == PLAIN and not allow_plain:
        expected = "a campaign in which this coordinator learns only sums: other machines can reach it"
        remedy = "create it with --privacy sum, or start the coordinator with --allow-plain"
        return Rejection(RejectReason.WRONG_CAMPAIGN, expected, "mode plain", remedy)
    if campaign.decision_key != own_key:
        expected = "a campaign that names this coordinator's key for its decisions"
        return Rejection(RejectReason.WRONG_CAMPAIGN, expected, remedy="create it with --coordinator")
    return None


def why_campaign_impossible(campaign: Campaign) -> str | None:
    """The first reason for which this campaign could never be carried out; None when it can."""
    return (
        _why_names_impossible(campaign)
        or _why_network_impossible(campaign)
        or _why_schedule_impossible(campaign)
        or _why_cohort_impossible(campaign)
        or _why_acceptance_impossible(campaign)
        or _why_privacy_impossible(campaign)
        or _why_decisions_impossible(campaign)
    )


def _why_names_impossible(campaign: Campaign) -> str | None:
    if not _CAMPAIGN_ID.fullmatch(campaign.campaign_id) or not _DIGEST.fullmatch(campaign.base_digest):
        return "a campaign's id is 32 hex digits, its base's digest 64"
    if not _DEVICE_CLASS.fullmatch(campaign.device_class):
        return f"a device class is 1 to 32 of a-z 0-9 -, got {campaign.device_class[:40]!r}"
    for name, key in (("decision_key", campaign.decision_key), ("slim_base_key", campaign.slim_base_key)):
        if not _is_public_key(key):
            return f"{name} must be a P-256 public key, DER in lower-case hex; got {len(key)} characters that are none"
    return None


def _is_public_key(text: str) -> bool:
    try:
        key = serialization.load_der_public_key(bytes.fromhex(text))
    except (ValueError, UnsupportedAlgorithm):
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return False
    return public_bytes(key).hex() == text  # one key has one spelling: elsewhere it is compared as text


def _why_schedule_impossible(campaign: Campaign) -> str | None:
    if not 1 <= len(campaign.levels) <= MAX_LEVELS:
        return f"a schedule has 1 to {MAX_LEVELS} levels, this one has {len(campaign.levels)}"
    if any(not 1 <= level.permille <= 1000 for level in campaign.levels):
        return f"a level keeps 1 to 1000 thousandths, got {[level.permille for level in campaign.levels]}"
    return _why_budgets_impossible(campaign)


def _why_budgets_impossible(campaign: Campaign) -> str | None:
    if any(len(level.further_budgets) != len(campaign.further_tables) for level in campaign.levels):
        return f"each level needs a budget for each of the {len(campaign.further_tables)} further cost tables"
    for budgets in zip(*([level.budget, *level.further_budgets] for level in campaign.levels), strict=True):
        if list(budgets) != sorted(budgets, reverse=True):
            return f"budgets must not grow from level to level, got {list(budgets)}"
        if budgets[-1] < 1:
            return f"a budget is at least 1, got {list(budgets)}"
    try:
        return why_unreachable(campaign.layout, campaign.limits, campaign.constraints(-1))
    except ConfigError as error:
        return str(error)


def _why_cohort_impossible(campaign: Campaign) -> str | None:
    cohort = campaign.cohort
    if not 1 <= cohort.size <= MAX_COHORT:
        return f"a cohort has 1 to {MAX_COHORT} devices, this one {cohort.size}"
    if not 1 <= cohort.quorum <= cohort.size:
        return f"a quorum must be 1 to the cohort's size of {cohort.size}, got {cohort.quorum}"
    if not 1 <= cohort.max_attempts <= MAX_ATTEMPT:
        return f"a round has 1 to {MAX_ATTEMPT} attempts, this one {cohort.max_attempts}"
    if cohort.overselection_permille not in OVERSELECTION_PERMILLE:
        return f"overselection is 1000 to 3000 devices for each 1000 needed, got {cohort.overselection_permille}"
    return _why_times_impossible(cohort) or _why_cohorts_impossible(campaign)


def _why_cohorts_impossible(campaign: Campaign) -> str | None:
    count, rule = campaign.cohort.count, campaign.cohort.combination
    rules = [known.value for known in CombinationRule]
    if rule not in rules:
        return f"cohorts are combined by one of {', '.join(rules)}, got {rule[:40]!r}"
    fewest = 1 if rule == CombinationRule.SUM else MIN_COHORTS
    if not fewest <= count <= MAX_COHORTS:
        return f"a round by rule {rule} is over {fewest} to {MAX_COHORTS} cohorts, this one over {count}"
    if campaign.privacy.noise is not None and rule != CombinationRule.SUM:
        return f"noisy sums can only be added up, got rule {rule}"
    return None


def _why_times_impossible(cohort: CohortPolicy) -> str | None:
    if not 1 <= cohort.deadline_ms <= MAX_DEADLINE_MS:
        return f"a deadline is 1 ms to 7 days, got {cohort.deadline_ms} ms"
    if not 1 <= cohort.stage_ms <= MAX_STAGE_MS:
        return f"a stage takes 1 ms to 24 hours, got {cohort.stage_ms} ms"
    return None


def _why_acceptance_impossible(campaign: Campaign) -> str | None:
    terms = campaign.acceptance
    if terms is None:
        return None
    if terms.canary_size and terms.canary_count > MAX_COHORTS:
        return f"canaries are in 1 to {MAX_COHORTS} cohorts, got {terms.canary_count}"
    return why_acceptance_impossible(terms, campaign.cohort.size)


def _why_privacy_impossible(campaign: Campaign) -> str | None:
    privacy, cohort = campaign.privacy, campaign.cohort
    if privacy.mode not in PRIVACY_MODES:
        return f"privacy mode must be one of {', '.join(PRIVACY_MODES)}, got {privacy.mode[:40]!r}"
    if (privacy.noise is not None) != (privacy.mode == SUM_DP):
        return f"noise belongs to mode {SUM_DP}, and to no other; got mode {privacy.mode}"
    canaries = campaign.cohort_of(SessionKind.OUTCOME)
    rosters = () if privacy.mode == PLAIN else (cohort, canaries)
    why = next((why for roster in rosters if (why := _why_roster_impossible(privacy, roster))), None)
    return why or why_noise_impossible(campaign)


def _why_roster_impossible(privacy: PrivacyTerms, cohort: CohortPolicy) -> str | None:
    if cohort.size > MAX_ROSTER:
        return f"a private sum takes at most {MAX_ROSTER} devices, the cohort has {cohort.size}"
    if not MIN_DEVICES_IN_SUM <= privacy.min_devices <= cohort.size:
        return f"a sum is over {MIN_DEVICES_IN_SUM} to {cohort.size} devices (the cohort), got {privacy.min_devices}"
    return None


def _why_decisions_impossible(campaign: Campaign) -> str | None:
    shape = [len(options) for options in campaign.public_options]
    wanted = [len(campaign.layout.groups)] * len(campaign.levels)
    if shape != wanted and (shape or campaign.rules.public_votes):
        return f"public options: expected one for each group and level, {wanted}, got {shape}"
    if any(option not in range(NUM_WIDTH_OPTIONS) for options in campaign.public_options for option in options):
        return f"public options are 0 to {NUM_WIDTH_OPTIONS - 1}, got {campaign.public_options}"
    return why_rules_impossible(campaign.rules, is_noisy=campaign.privacy.noise is not None)


def _why_network_impossible(campaign: Campaign) -> str | None:
    groups, orders = campaign.layout.groups, campaign.public_order
    names = {group.name for group in groups}
    if not groups or len(names) != len(groups) or min(group.num_channels for group in groups) < 1:
        return "a layout needs groups with names of their own and at least one channel each"
    if [sorted(order) for order in orders] != [list(range(group.num_channels)) for group in groups]:
        return "the public order must list every channel of every group once"
    tables = (campaign.cost_table, *campaign.further_tables)
    units = [table.unit for table in tables]
    if len(set(units)) != len(units) or len(units) > MAX_COST_TABLES:
        return f"a campaign has 1 to {MAX_COST_TABLES} cost tables, each in a unit of its own, got {', '.join(units)}"
    for term in (term for table in tables for term in table.terms):
        if term.coefficient < 0 or len(term.groups) > 2 or not set(term.groups) <= set(range(len(groups))):
            return f"cost terms need a coefficient of at least 0 and at most two of the groups, got {term}"
    return why_steering_impossible(campaign.layout, campaign.steering)


def _not_invited() -> Rejection:
    return Rejection(RejectReason.NOT_INVITED, remedy="check in and wait for an invitation")


def _duplicate() -> Rejection:
    return Rejection(RejectReason.DUPLICATE, remedy="nothing to do: the first contribution is in the sum")


def _late() -> Rejection:
    return Rejection(RejectReason.LATE, remedy=_CHECK_IN_AGAIN)


def _unknown_session(session: OpenSession | None) -> Rejection:
    expected = f"session {session.session_id[:12]}" if session else "no session open"
    return Rejection(RejectReason.WRONG_SESSION, expected, remedy=_CHECK_IN_AGAIN)
