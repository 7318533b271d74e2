"""What a device's round can hear (events, past tense) and order (commands, imperative); ``round`` connects the two."""

from __future__ import annotations

from dataclasses import dataclass

from prunefleet_edge.device_state import DeviceState, Release
from prunefleet_shared.acceptance import Ruling
from prunefleet_shared.campaign import Decision, SlimBase
from prunefleet_shared.errors import PrunefleetError, Rejection
from prunefleet_shared.messages import Awaited, CampaignEnded, CheckIn, Ending, Invitation, SumDown, SumUp

# --- events: what happened ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Invited:
    """The coordinator invited this device; for an outcome, with both documents verified and read."""

    invitation: Invitation
    decision: Decision | None = None
    slim_base: SlimBase | None = None


@dataclass(frozen=True, slots=True)
class RulingHeard:
    """The coordinator told what was ruled last; all documents verified and read."""

    ruling: Ruling
    decision: Decision | None = None
    slim_base: SlimBase | None = None


@dataclass(frozen=True, slots=True)
class RulingFollowed:
    """The networks of this device are as the last ruling wants them."""


@dataclass(frozen=True, slots=True)
class SlimBaseHeard:
    """The coordinator offered a network for devices without data; both documents are verified and read."""

    decision: Decision
    slim_base: SlimBase


@dataclass(frozen=True, slots=True)
class SlimBaseKept:
    """The slim base that was heard of is on the disk."""


@dataclass(frozen=True, slots=True)
class ToldToComeBack:
    """The coordinator had nothing for this device: check in again after about ``after_s`` seconds."""

    after_s: float
    awaited: Awaited


@dataclass(frozen=True, slots=True)
class VotePrepared:
    """The vote is ready, sealed."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class OutcomeMeasured:
    """The decision was tried; its outcome is ready, sealed."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class SumAnswered:
    """The coordinator answered the last message of a private sum."""

    answer: SumDown


@dataclass(frozen=True, slots=True)
class Refused:
    """The coordinator turned the last message down."""

    rejection: Rejection


@dataclass(frozen=True, slots=True)
class LinkFailed:
    """The last message may or may not have arrived: no answer came."""

    message: str
    retryable: bool


Event = (
    Invited
    | RulingHeard
    | SlimBaseHeard
    | SlimBaseKept
    | RulingFollowed
    | ToldToComeBack
    | CampaignEnded
    | SumAnswered
    | VotePrepared
    | OutcomeMeasured
    | Refused
    | LinkFailed
)


# --- commands: what to do, in order ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SaveState:
    """Write ``state`` to disk, durably, before carrying out the next command; with it what is about to be released."""

    state: DeviceState
    release: Release | None = None


@dataclass(frozen=True, slots=True)
class SendCheckIn:
    """Check in, and report the answer."""

    message: CheckIn


@dataclass(frozen=True, slots=True)
class PrepareVote:
    """Score the channels on private data, seal the vote, report :class:`VotePrepared`."""


@dataclass(frozen=True, slots=True)
class Personalise:
    """Download the slim base, try it on private data, seal the outcome, report :class:`OutcomeMeasured`."""

    decision: Decision
    slim_base: SlimBase


@dataclass(frozen=True, slots=True)
class FollowRuling:
    """Put into service what was promoted, remove what was rolled back, and make the network for all unless it is there.

    Report :class:`RulingFollowed`.
    """

    ruling: Ruling
    decision: Decision | None
    slim_base: SlimBase | None


@dataclass(frozen=True, slots=True)
class KeepSlimBase:
    """Download the slim base and keep it as it is, durably; report :class:`SlimBaseKept`."""

    decision: Decision
    slim_base: SlimBase


@dataclass(frozen=True, slots=True)
class SendToSum:
    """Send a message of a private sum, and report the answer."""

    message: SumUp


@dataclass(frozen=True, slots=True)
class Rest:
    """Do nothing for ``delay_s`` seconds, then tick; ``why`` is for the owner to read."""

    delay_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The device's part in this campaign is over: it ended, or ``error`` is why."""

    ending: Ending | None
    error: PrunefleetError | None = None


Command = SaveState | SendCheckIn | PrepareVote | Personalise | FollowRuling | KeepSlimBase | SendToSum | Rest | Stop
