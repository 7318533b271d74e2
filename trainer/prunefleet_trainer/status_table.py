"""Where a fleet's campaigns stand, as a table for people and as JSON for machines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prunefleet_shared.acceptance import RulingReason
from prunefleet_shared.durations import in_words
from prunefleet_shared.messages import Awaited, CampaignStatus, FleetStatus, Phase, RulingStatus
from prunefleet_trainer.operator_calls import ENDED

HONEST_BUT_CURIOUS = (
    "The coordinator runs its own certificate authority: whoever operates it could make up devices. "
    "Honest-but-curious only."
)
STALE_DENY_LIST_MS = 60_000
"""Age from which the deny-list is worth a warning: revocations made since then are not in force yet."""
MAX_SHOWN_IDS = 12
_NOTHING = "-"
_STYLES = {
    Phase.VOTING: "cyan",
    Phase.RETRAINING: "magenta",
    Phase.MEASURING: "cyan",
    Phase.ROLLING_OUT: "cyan",
    Phase.COMPLETED: "green",
    Phase.FAILED: "red",
    Phase.STOPPED: "yellow",
}
_AWAITED = {
    Awaited.DEVICES: "devices",
    Awaited.TRAINER: "the trainer's slim base",
    Awaited.NOTHING: "nothing",
    Awaited.OPERATOR: "the operator (resume or stop)",
}


def status_table(status: FleetStatus) -> RenderableType:
    """A row per campaign, then who is awaited, then what the operator should know."""
    if not status.campaigns:
        nothing = "No campaign yet: prunefleet campaign create DIR …, then prunefleet campaign start DIR"
        return Group(Text(nothing), *_notes(status))
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))  # fits 80 columns
    for column in ("campaign", "class", "phase", "level"):
        table.add_column(column, overflow="fold", min_width=8 if column == "campaign" else None)
    for column in ("try", "counted", "quorum", "time left"):
        table.add_column(column, justify="right", overflow="fold")
    for campaign in status.campaigns:
        table.add_row(*_row(campaign))
    return Group(table, *_rulings(status), *_awaited(status), *_notes(status))


def _row(campaign: CampaignStatus) -> tuple[RenderableType, ...]:
    phase = campaign.phase.name.lower().replace("_", " ") + (", paused" if campaign.is_paused else "")
    is_open = campaign.attempt > 0
    counted = f"{campaign.num_contributions}/{campaign.cohort_size}"
    return (
        campaign.campaign_id[:8],
        campaign.device_class,
        Text(phase, style=_STYLES[campaign.phase]),
        f"{campaign.level + 1}/{campaign.num_levels}",
        str(campaign.attempt) if is_open else _NOTHING,
        counted if is_open else _NOTHING,
        str(campaign.quorum),
        in_words(campaign.remaining_ms / 1000) if is_open else _NOTHING,
    )


def _rulings(status: FleetStatus) -> list[RenderableType]:
    """A line for each ruling."""
    ruled = [(campaign.campaign_id[:8], ruling) for campaign in status.campaigns for ruling in campaign.rulings]
    return [Text(""), *(_ruling_line(name, ruling) for name, ruling in ruled)] if ruled else []


def _ruling_line(name: str, ruling: RulingStatus) -> Text:
    is_promoted = ruling.reason is RulingReason.HELD
    done = "promoted" if is_promoted else "rolled back"
    by = "the rollout" if ruling.is_rollout else "its canaries"
    counts = f"{ruling.num_worse} of {ruling.num_devices} devices worse off, {ruling.max_worse} may be"
    noise = ", and noise may hide more" if ruling.reason is RulingReason.WITHIN_NOISE else ""
    words = f"{name} level {ruling.level + 1} {done} by {by}: {counts}{noise}"
    return Text(words, style="green" if is_promoted else "red")


def _awaited(status: FleetStatus) -> list[RenderableType]:
    """A line for each campaign that waits for somebody."""
    waiting = [c for c in status.campaigns if c.phase not in ENDED and c.awaited is not Awaited.NOTHING]
    return [Text(""), *(Text(_awaits(campaign)) for campaign in waiting)] if waiting else []


def _awaits(campaign: CampaignStatus) -> str:
    since = in_words(campaign.awaited_for_ms / 1000)
    words = f"{campaign.campaign_id[:8]} has waited {since} for {_AWAITED[campaign.awaited]}"
    shown = ", ".join(campaign.awaited_ids[:MAX_SHOWN_IDS])
    more = len(campaign.awaited_ids) - MAX_SHOWN_IDS
    return words + (f": {shown}" if shown else "") + (f" and {more} more" if more > 0 else "")


def _notes(status: FleetStatus) -> list[RenderableType]:
    age = in_words(status.deny_list_age_ms / 1000)
    is_stale = status.deny_list_age_ms > STALE_DENY_LIST_MS
    remedy = "; is the authority running? Revocations made since then are not in force yet." if is_stale else ""
    notes: list[RenderableType] = [
        Text(""),
        Text(f"deny-list {age} old{remedy}", style="yellow" if is_stale else "dim"),
    ]
    if status.authority_is_built_in:
        notes.append(Text(HONEST_BUT_CURIOUS, style="yellow"))
    return notes


def status_json(status: FleetStatus) -> dict[str, Any]:
    """The same for machines; enums by their names in lower case, ``level`` 0-based as on the wire."""
    return {
        "campaigns": [_campaign_json(campaign) for campaign in status.campaigns],
        "deny_list_age_ms": status.deny_list_age_ms,
        "authority_is_built_in": status.authority_is_built_in,
    }


def _campaign_json(campaign: CampaignStatus) -> dict[str, Any]:
    return {
        "campaign_id": campaign.campaign_id,
        "device_class": campaign.device_class,
        "phase": campaign.phase.name.lower(),
        "is_paused": campaign.is_paused,
        "level": campaign.level,
        "num_levels": campaign.num_levels,
        "attempt": campaign.attempt,
        "num_contributions": campaign.num_contributions,
        "quorum": campaign.quorum,
        "cohort_size": campaign.cohort_size,
        "remaining_ms": campaign.remaining_ms,
        "awaited": campaign.awaited.name.lower(),
        "awaited_for_ms": campaign.awaited_for_ms,
        "awaited_ids": list(campaign.awaited_ids),
        "rulings": [
            {**asdict(ruling), "reason": ruling.reason.name.lower(), "is_promoted": ruling.reason is RulingReason.HELD}
            for ruling in campaign.rulings
        ],
    }
