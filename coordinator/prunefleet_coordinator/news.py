"""What a device that checks in has not heard yet: the last ruling; or, without data of its own, the network to run."""

from __future__ import annotations

from prunefleet_coordinator.events import OfferRuling, OfferSlimBase
from prunefleet_coordinator.state import Snapshot
from prunefleet_shared.acceptance import NO_LEVEL
from prunefleet_shared.messages import CheckIn, Phase, Readiness


def news_for(
    device_id: str, check_in: CheckIn, snapshot: Snapshot, *, is_judged: bool
) -> OfferRuling | OfferSlimBase | None:
    """What to tell a device before anything else; None when it knows.

    Args:
        device_id: Who checked in.
        check_in: What it said.
        snapshot: Where the campaign stands.
        is_judged: Whether the campaign has an accuracy floor.
    """
    if check_in.readiness is Readiness.READY and check_in.rulings_heard < len(snapshot.rulings):
        return OfferRuling(device_id, snapshot.rulings[-1])
    if check_in.readiness is not Readiness.NO_DATA:
        return None
    level = level_to_ship(snapshot, is_judged=is_judged)
    return None if level is None or level + 1 == check_in.slim_base_heard else OfferSlimBase(device_id, level)


def level_to_ship(snapshot: Snapshot, *, is_judged: bool) -> int | None:
    """Level whose slim base devices without data run: where decisions are judged, the one for all; else the newest.

    None while there is none, and once the operator has stopped the campaign.
    """
    if snapshot.phase is Phase.STOPPED or not snapshot.slim_bases:
        return None
    if not is_judged:
        return snapshot.slim_bases[-1].level
    level = snapshot.rulings[-1].level_for_all if snapshot.rulings else NO_LEVEL
    return None if level == NO_LEVEL else level
