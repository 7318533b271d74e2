"""What can happen to a campaign (past tense) and what its round orders (imperative), as frozen dataclasses.

The runner carries commands out in the order given. ``Save`` commands come before whatever depends on them, so that
nothing is announced that a crash could take back.
"""

from __future__ import annotations

from dataclasses import dataclass

from prunefleet_coordinator.state import ClosedRound, Snapshot
from prunefleet_shared.acceptance import Ruling
from prunefleet_shared.campaign import Decision, SlimBase
from prunefleet_shared.errors import Rejection
from prunefleet_shared.messages import Awaited, CheckIn, Control, Ending, SessionKind, SumDown, SumUp
from prunefleet_shared.secure_sum.stages import Stage

# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceCheckedIn:
    """A device said that it is there."""

    device_id: str
    check_in: CheckIn


@dataclass(frozen=True, slots=True)
class SumMessageReceived:
    """A device sent a message of a private sum."""

    device_id: str
    message: SumUp


@dataclass(frozen=True, slots=True)
class TrainerAsked:
    """The trainer asked for the decision that waits for a slim base."""

    trainer_id: str
    campaign_id: str


@dataclass(frozen=True, slots=True)
class SlimBasePublished:
    """The trainer published a slim base; its signature and its bytes were checked by the runner."""

    trainer_id: str
    slim_base: SlimBase


@dataclass(frozen=True, slots=True)
class OperatorControlled:
    """The operator paused, resumed or stopped the campaign."""

    operator_id: str
    control: Control


Event = DeviceCheckedIn | SumMessageReceived | TrainerAsked | SlimBasePublished | OperatorControlled

# --- commands: save --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SaveSnapshot:
    """Store the snapshot: a session was opened or given up, or the operator paused, resumed or stopped the campaign."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class SaveClosing:
    """Store a round's sum, the snapshot after it, the decision it led to and what was ruled, in one transaction."""

    closed: ClosedRound
    snapshot: Snapshot
    decision: Decision | None
    ruling: Ruling | None = None


@dataclass(frozen=True, slots=True)
class SaveSlimBase:
    """Store the slim base and the snapshot after it, in one transaction."""

    slim_base: SlimBase
    snapshot: Snapshot


Save = SaveSnapshot | SaveClosing | SaveSlimBase

# --- commands: answer the peer that spoke ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Invite:
    """Invite the device; the runner attaches the signed decision and slim base of an outcome's level."""

    device_id: str
    session_id: str
    kind: SessionKind
    level: int
    attempt: int
    remaining_ms: int


@dataclass(frozen=True, slots=True)
class Defer:
    """Tell the peer to come back.

    Attributes:
        peer_id: Whom.
        after_ms: How long to stay away.
        awaited: What is waited for.
        is_held: The call may be held open until something changes; not for those whose turn is over, of whom there may
            be a whole fleet.
    """

    peer_id: str
    after_ms: int
    awaited: Awaited
    is_held: bool = True


@dataclass(frozen=True, slots=True)
class End:
    """Tell the peer that the campaign is over."""

    peer_id: str
    ending: Ending


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the device's message of a private sum."""

    device_id: str
    answer: SumDown


@dataclass(frozen=True, slots=True)
class Reject:
    """Turn the peer's message down."""

    peer_id: str
    rejection: Rejection


@dataclass(frozen=True, slots=True)
class OfferDecision:
    """Give the trainer the signed decision of ``level``."""

    peer_id: str
    level: int


@dataclass(frozen=True, slots=True)
class OfferRuling:
    """Tell the device what was ruled last; the runner attaches the network that is for all, if there is one."""

    peer_id: str
    ruling: Ruling


@dataclass(frozen=True, slots=True)
class OfferSlimBase:
    """Give a device without data the network of a level; the runner attaches decision and slim base."""

    peer_id: str
    level: int


@dataclass(frozen=True, slots=True)
class AcceptSlimBase:
    """Tell the trainer that its slim base is stored."""

    peer_id: str
    level: int


@dataclass(frozen=True, slots=True)
class AcceptControl:
    """Tell the operator that the campaign is as wished."""

    peer_id: str
    control: Control


Answer = (
    Invite | Defer | End | Reply | Reject | OfferDecision | OfferRuling | OfferSlimBase | AcceptSlimBase | AcceptControl
)

# --- commands: tell whoever watches ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnnounceJoined:
    """A device has begun to contribute: in mode ``plain`` it is counted, else it is on the roster to be."""

    device_id: str
    session_id: str


@dataclass(frozen=True, slots=True)
class AnnounceStage:
    """A private sum goes on to ``stage``; devices that wait for that can be answered."""

    session_id: str
    stage: Stage
    num_awaited: int


@dataclass(frozen=True, slots=True)
class AnnounceDecision:
    """A decision was made and is stored."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class AnnounceRuling:
    """A decision was promoted or rolled back; the ruling is stored."""

    ruling: Ruling


@dataclass(frozen=True, slots=True)
class AnnounceAbandoned:
    """A session yielded no sum, and ``why``; its contributions are gone, its devices may contribute to the next."""

    session_id: str
    attempt: int
    num_contributions: int
    quorum: int
    why: str


@dataclass(frozen=True, slots=True)
class AnnounceEnd:
    """The campaign is over."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class AnnouncePaused:
    """The operator paused the campaign."""

    operator_id: str


@dataclass(frozen=True, slots=True)
class AnnounceResumed:
    """The operator resumed the campaign."""

    operator_id: str


Announcement = (
    AnnounceJoined
    | AnnounceStage
    | AnnounceDecision
    | AnnounceRuling
    | AnnounceAbandoned
    | AnnounceEnd
    | AnnouncePaused
    | AnnounceResumed
)
Command = Save | Answer | Announcement
