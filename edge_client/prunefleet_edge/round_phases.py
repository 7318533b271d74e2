"""What a device's round can be doing, what it may hear meanwhile, and in which words it waits."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from prunefleet_edge.events import (
    Event,
    Invited,
    LinkFailed,
    OutcomeMeasured,
    Refused,
    RulingFollowed,
    RulingHeard,
    SumAnswered,
    ToldToComeBack,
    VotePrepared,
)
from prunefleet_shared.errors import RejectReason
from prunefleet_shared.messages import Awaited, CampaignEnded


class Phase(enum.Enum):
    """What the device is doing."""

    RESTING = "resting"  # until next_wakeup_s; then it checks in
    CHECKING_IN = "checking in"  # a check-in is under way
    VOTING = "voting"  # the vote is being prepared
    PERSONALISING = "personalising"  # a decision is being tried
    FOLLOWING = "following a ruling"  # networks are put into service, removed or made
    SUMMING = "summing"  # a message of a private sum is under way
    AWAITING_STAGE = "awaiting the next stage"  # until next_wakeup_s; then it says the same again
    STOPPED = "stopped"  # for good


ACCEPTED_EVENTS: Mapping[Phase, tuple[type[Event], ...]] = {
    Phase.RESTING: (),
    Phase.CHECKING_IN: (Invited, RulingHeard, ToldToComeBack, CampaignEnded, Refused, LinkFailed),
    Phase.VOTING: (VotePrepared, CampaignEnded),
    Phase.PERSONALISING: (OutcomeMeasured, CampaignEnded),
    Phase.FOLLOWING: (RulingFollowed,),
    Phase.SUMMING: (SumAnswered, ToldToComeBack, Refused, LinkFailed),
    Phase.AWAITING_STAGE: (),
    Phase.STOPPED: (),
}
"""Which event may come in which phase; any other is a bug of the runner."""

CHECK_IN_AGAIN = frozenset({RejectReason.LATE, RejectReason.WRONG_SESSION, RejectReason.NOT_INVITED})
"""Refusals that only say: this session went on without you. Any other but DUPLICATE stops the device."""

WAITING_FOR: Mapping[Awaited, str] = {
    Awaited.DEVICES: "waiting for other devices",
    Awaited.TRAINER: "waiting for the slim base",
    Awaited.NOTHING: "waiting for the next level",
    Awaited.OPERATOR: "paused by the operator",
}
