"""What the tests of rulings on a device share."""

from __future__ import annotations

from dataclasses import replace

from prunefleet_shared.acceptance import NO_LEVEL, Acceptance, Ruling, RulingReason
from prunefleet_shared.messages import (
    SessionKind,
)
from prunefleet_shared.testing import (
    tiny_campaign,
)

TERMS = Acceptance(50, 100)
CAMPAIGN = tiny_campaign(acceptance=TERMS)
OUTCOME = bytes(CAMPAIGN.lanes_of(SessionKind.OUTCOME).packed_bytes)


def ruling_of(level: int, *held: int, number: int = 1, for_all: int = NO_LEVEL, **changes: object) -> Ruling:
    is_held = level in held
    ruling = Ruling(
        campaign_id=CAMPAIGN.campaign_id,
        number=number,
        level=level,
        decision_fingerprint="11" * 32,
        is_rollout=False,
        reason=RulingReason.HELD if is_held else RulingReason.TOO_MANY_WORSE,
        num_devices=10,
        num_worse=0 if is_held else 7,
        max_worse=1,
        margin=0,
        num_cohorts=1,
        num_cohorts_held=int(is_held),
        outcome_digest="00" * 32,
        levels_held=held,
        level_for_all=for_all,
    )
    return replace(ruling, **changes)  # type: ignore[arg-type]
