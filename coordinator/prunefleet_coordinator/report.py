"""The report of a real campaign: what its signed documents and its sums say, and nothing about any one device."""

from __future__ import annotations

import platform
from importlib.metadata import version

from prunefleet_coordinator.report_model import FleetFacts, PhaseName, Report, Round
from prunefleet_coordinator.report_parts import (
    contribution_of,
    decision_record,
    group_tallies,
    round_of,
    ruling_record,
    setting_of,
)
from prunefleet_coordinator.state import Snapshot
from prunefleet_coordinator.store import Store
from prunefleet_shared import __version__
from prunefleet_shared.campaign import PLAIN, Campaign, Decision
from prunefleet_shared.documents import SignedDocument, open_document
from prunefleet_shared.errors import ConfigError, RemoteProtocolError
from prunefleet_shared.messages import Phase, SessionKind, Total
from prunefleet_shared.metrics import read_outcome

HONEST_BUT_CURIOUS = (
    "Honest-but-curious only: the coordinator ran its own authority, so its operator could have made up devices."
)
_PLAIN_NOTE = "Not private: in privacy mode plain the coordinator saw each contribution while it added it up."
_PHASES: dict[Phase, PhaseName] = {
    Phase.VOTING: "voting",
    Phase.RETRAINING: "retraining",
    Phase.MEASURING: "measuring",
    Phase.ROLLING_OUT: "rolling_out",
    Phase.COMPLETED: "completed",
    Phase.FAILED: "failed",
    Phase.STOPPED: "stopped",
}


def campaign_report(store: Store, campaign_id: str, *, is_authority_built_in: bool, replay_command: str) -> Report:
    """Everything a coordinator can say of a campaign.

    Args:
        store: The coordinator's.
        campaign_id: A campaign in it.
        is_authority_built_in: The coordinator is the fleet's authority, too.
        replay_command: What recomputes the decisions.

    Raises:
        ConfigError: The store has no such campaign, cannot be read, or is damaged (the operator's to mend).
    """
    # The snapshot first: whatever it names was stored before it, also while a server goes on writing.
    snapshot = store.load_snapshot(campaign_id) or Snapshot(campaign_id)
    campaign = _campaign(store, campaign_id)
    vote = store.load_closed(campaign_id, SessionKind.VOTE, 0)
    total = vote.total if vote and snapshot.decisions else None
    return Report(
        run_id=campaign_id,
        replay_command=replay_command,
        notes=_notes(campaign, is_authority_built_in=is_authority_built_in),
        versions=_versions(),
        setting=setting_of(campaign),
        fleet=_fleet(campaign, snapshot, total, is_authority_built_in=is_authority_built_in),
        contribution=contribution_of(campaign),
        rounds=[_round(store, campaign, snapshot, total, decision) for decision in snapshot.decisions] if total else [],
        decisions=[
            decision_record(campaign, total, decision, _signed(store, campaign_id, decision.level))
            for decision in snapshot.decisions
            if total
        ],
        topology=group_tallies(campaign, total) if total else [],
    )


def _campaign(store: Store, campaign_id: str) -> Campaign:
    signed = store.load_document(campaign_id, "campaign", 0)
    if signed is None:
        msg = f"the store has no campaign {campaign_id}; see `prunefleet campaign status`"
        raise ConfigError(msg)
    try:
        return open_document(signed, "campaign", Campaign, signed.public_key)
    except RemoteProtocolError as error:
        msg = f"the store's campaign {campaign_id} is damaged: {error}; restore a backup"
        raise ConfigError(msg) from None


def _signed(store: Store, campaign_id: str, level: int) -> SignedDocument:
    signed = store.load_document(campaign_id, "decision", level)
    if signed is None:
        msg = f"campaign {campaign_id}: the decision of level {level} is missing from the store; restore a backup"
        raise ConfigError(msg)
    return signed


def _round(store: Store, campaign: Campaign, snapshot: Snapshot, vote_total: Total, decision: Decision) -> Round:
    closed = store.load_closed(campaign.campaign_id, SessionKind.OUTCOME, decision.level)
    outcome = read_outcome(closed.total.lanes, campaign.lanes_of(SessionKind.OUTCOME)) if closed else None
    rulings = [ruling_record(ruling) for ruling in snapshot.rulings if ruling.level == decision.level]
    told = round_of(campaign, decision.level, vote_total, outcome)
    return told.model_copy(update={"rulings": rulings}) if campaign.acceptance else told


def _fleet(
    campaign: Campaign, snapshot: Snapshot, vote_total: Total | None, *, is_authority_built_in: bool
) -> FleetFacts:
    cohort = campaign.cohort
    return FleetFacts(
        campaign_id=campaign.campaign_id,
        phase=_PHASES[snapshot.phase],
        is_paused=snapshot.is_paused,
        num_levels=len(campaign.levels),
        num_voters=vote_total.num_devices if vote_total else 0,
        cohort_size=cohort.size,
        quorum=cohort.quorum,
        max_attempts=cohort.max_attempts,
        deadline_s=cohort.deadline_ms / 1000,
        is_authority_built_in=is_authority_built_in,
    )


def _notes(campaign: Campaign, *, is_authority_built_in: bool) -> list[str]:
    notes = [_PLAIN_NOTE] if campaign.privacy.mode == PLAIN else []
    return [*notes, HONEST_BUT_CURIOUS] if is_authority_built_in else notes


def _versions() -> dict[str, str]:
    libraries = {name: version(name) for name in ("numpy", "grpcio", "cryptography", "sqlalchemy")}
    return {"prunefleet": __version__, "python": platform.python_version(), **libraries}
