"""Where campaigns stand, for the operator: what is awaited, since when, from whom (ids only)."""

from __future__ import annotations

from prunefleet_coordinator.state import Progress
from prunefleet_coordinator.store import Store
from prunefleet_shared.acceptance import Ruling
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.documents import open_document
from prunefleet_shared.errors import ConfigError, RemoteProtocolError
from prunefleet_shared.messages import Awaited, CampaignStatus, RulingStatus
from prunefleet_shared.wire_limits import MAX_AWAITED_IDS


def live_status(campaign: Campaign, progress: Progress, now_s: float) -> CampaignStatus:
    """A campaign that this process carries out.

    Args:
        campaign: Which.
        progress: Where it stands.
        now_s: On the round's clock.
    """
    remaining_s = 0.0 if progress.deadline_s is None else max(0.0, progress.deadline_s - now_s)
    return CampaignStatus(
        campaign_id=campaign.campaign_id,
        device_class=campaign.device_class,
        phase=progress.phase,
        is_paused=progress.is_paused,
        level=progress.level,
        num_levels=len(campaign.levels),
        attempt=progress.attempt,
        num_contributions=progress.num_contributions,
        quorum=campaign.cohort_of(progress.kind).quorum,
        cohort_size=campaign.cohort_of(progress.kind).size,
        remaining_ms=int(remaining_s * 1000),
        awaited=progress.awaited,
        awaited_for_ms=int(max(0.0, now_s - progress.since_s) * 1000),
        awaited_ids=progress.awaited_ids[:MAX_AWAITED_IDS],
        rulings=tuple(_ruling_status(ruling) for ruling in progress.rulings),
    )


def load_past_status(store: Store, campaign_id: str) -> CampaignStatus:
    """A campaign that has ended, as the store has it.

    Raises:
        ConfigError: The store cannot be read, or is damaged (the operator's to mend).
    """
    snapshot, signed = store.load_snapshot(campaign_id), store.load_document(campaign_id, "campaign", 0)
    if snapshot is None or signed is None:
        msg = f"campaign {campaign_id} is missing from the store; restore a backup"
        raise ConfigError(msg)
    try:
        campaign = open_document(signed, "campaign", Campaign, signed.public_key)
    except RemoteProtocolError as error:
        msg = f"the store's campaign {campaign_id} is damaged: {error}; restore a backup"
        raise ConfigError(msg) from None
    return CampaignStatus(
        campaign_id=campaign.campaign_id,
        device_class=campaign.device_class,
        phase=snapshot.phase,
        is_paused=False,
        level=snapshot.level,
        num_levels=len(campaign.levels),
        attempt=0,
        num_contributions=0,
        quorum=campaign.cohort.quorum,
        cohort_size=campaign.cohort.size,
        remaining_ms=0,
        awaited=Awaited.NOTHING,
        awaited_for_ms=0,
        awaited_ids=(),
        rulings=tuple(_ruling_status(ruling) for ruling in snapshot.rulings),
    )


def _ruling_status(ruling: Ruling) -> RulingStatus:
    return RulingStatus(
        ruling.level, ruling.is_rollout, ruling.reason, ruling.num_devices, ruling.num_worse, ruling.max_worse
    )
