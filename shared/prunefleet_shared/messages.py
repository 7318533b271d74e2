"""What devices, trainer, operator and coordinator say to each other, as plain frozen dataclasses in round order.

What is said to the authority is in ``authority_messages``, the stages of a private sum are in ``sum_messages``.

A carrier (memory, gRPC) moves these and nothing else. Who speaks is never in a message: it is the certificate.
No type a device fills can hold a float, an array or free text; see ``protos/prunefleet/v1`` for the same on the wire.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from prunefleet_shared.acceptance import RulingReason
from prunefleet_shared.authority_messages import AuthorityDown, AuthorityUp
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.roles import Peer, Role
from prunefleet_shared.sum_messages import Contribute, ContributionCounted, SumDown, SumUp

__all__ = [
    "Contribute",
    "ContributionCounted",
    "Peer",
    "Role",
    "SumDown",
    "SumUp",
]  # with everything below: callers find the whole vocabulary here


class SessionKind(enum.IntEnum):
    """What a session sums."""

    VOTE = 1  # graded mask and width votes, once per scoring epoch
    OUTCOME = 2  # how a decision went; where there are canaries, among them
    ROLLOUT = 3  # how a promoted decision went on devices that were no canaries of it


class Readiness(enum.IntEnum):
    """Whether a device can take part now; only reasons that do not depend on its data."""

    READY = 1
    BUSY = 2  # still working on the last invitation
    NO_MEMORY = 3
    LOW_POWER = 4
    NO_DATA = 5  # by its owner's configuration, never by what was found in its data


class Awaited(enum.IntEnum):
    """What the coordinator is waiting for when it says: come back."""

    DEVICES = 1  # contributions of the open session
    TRAINER = 2  # the slim base of the last decision
    NOTHING = 3  # this device's turn is over at this level
    OPERATOR = 4  # no campaign runs for this device class, or it is paused


class Ending(enum.IntEnum):
    """How a campaign ended."""

    COMPLETED = 1  # the schedule, or the search for the smallest network, ran to its end
    FAILED = 2  # given up: no quorum in any attempt of a round
    STOPPED = 3  # by the operator


class Control(enum.IntEnum):
    """What an operator may do with a campaign that runs."""

    PAUSE = 1  # no session is opened and nobody is invited until it is resumed; an open session may finish
    RESUME = 2
    STOP = 3  # for good; devices stop training


class Phase(enum.IntEnum):
    """What a campaign is doing."""

    VOTING = 1  # the vote session gathers contributions; once, for all levels
    RETRAINING = 2  # the decision of the level is out, the trainer's slim base is awaited
    MEASURING = 3  # the outcome session of the level gathers contributions
    COMPLETED = 4  # every level was decided and measured
    FAILED = 5  # a round ran out of attempts
    STOPPED = 6  # by the operator
    ROLLING_OUT = 7  # the smallest network that canaries hold is tried by others; their outcome is gathered


# --- up: device → coordinator --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GetCampaign:
    """Asks for the signed campaign of a device class; not for ``ended_campaign_id``, whose end is known (or empty)."""

    device_class: str
    ended_campaign_id: str = ""


@dataclass(frozen=True, slots=True)
class CheckIn:
    """Says that the device is there, what network it traced, and how many of the campaign's rulings it has heard."""

    campaign_id: str
    layout_fingerprint: str
    readiness: Readiness
    rulings_heard: int = 0
    slim_base_heard: int = 0  # with ``NO_DATA``: 1 + level of the slim base that it runs, 0 for none


@dataclass(frozen=True, slots=True)
class FetchModel:
    """Asks for a piece of a model (the base or a slim base) by digest."""

    digest: str
    offset: int


# --- up: trainer → coordinator -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AwaitDecision:
    """Asks for the decision that waits for a slim base; ``campaign_id`` may be empty: whichever campaign has one."""

    campaign_id: str


@dataclass(frozen=True, slots=True)
class UploadModel:
    """A piece of a slim base, or from an operator of a base; pieces come in order from offset 0."""

    digest: str
    offset: int
    total_bytes: int
    chunk: bytes


@dataclass(frozen=True, slots=True)
class PublishSlimBase:
    """The signed slim base, once its bytes are uploaded."""

    slim_base: SignedDocument


# --- up: operator → coordinator ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartCampaign:
    """Starts a campaign whose base model is uploaded."""

    campaign: SignedDocument


@dataclass(frozen=True, slots=True)
class ControlCampaign:
    """Pauses, resumes or stops a campaign."""

    campaign_id: str
    control: Control


@dataclass(frozen=True, slots=True)
class GetStatus:
    """Asks where every campaign stands."""


@dataclass(frozen=True, slots=True)
class Total:
    """What a closed session yields: the sum over a cohort, never one device's vector.

    Attributes:
        lanes: The sum, one integer per lane.
        num_devices: Contributions in it.
    """

    lanes: tuple[int, ...]
    num_devices: int


# --- down ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CampaignOffer:
    """The signed campaign."""

    campaign: SignedDocument


@dataclass(frozen=True, slots=True)
class Invitation:
    """Invites a device to a session.

    Attributes:
        session_id: 32 hex digits, fresh for every attempt.
        kind: What is summed.
        level: 0-based level of the schedule (0 for the vote, which covers all levels).
        attempt: 1 for the first session of this round.
        remaining_ms: Time until the deadline.
        decision: With ``OUTCOME``, the signed decision.
        slim_base: With ``OUTCOME``, the signed slim base to fine-tune.
    """

    session_id: str
    kind: SessionKind
    level: int
    attempt: int
    remaining_ms: int
    decision: SignedDocument | None = None
    slim_base: SignedDocument | None = None


@dataclass(frozen=True, slots=True)
class ComeBack:
    """Nothing for you yet: check in again after ``after_ms`` (± a quarter, at random)."""

    after_ms: int
    awaited: Awaited


@dataclass(frozen=True, slots=True)
class RulingOffer:
    """What was ruled last, for a device that has not heard it.

    Attributes:
        ruling: Signed by the coordinator.
        decision: Where the ruling names a level for all: its signed decision.
        slim_base: With it, the signed slim base to fine-tune.
    """

    ruling: SignedDocument
    decision: SignedDocument | None = None
    slim_base: SignedDocument | None = None


@dataclass(frozen=True, slots=True)
class SlimBaseOffer:
    """The network for devices without data, with the decision it was made for; both signed."""

    decision: SignedDocument
    slim_base: SignedDocument


@dataclass(frozen=True, slots=True)
class CampaignEnded:
    """The campaign is over."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class ModelChunk:
    """A piece of a model."""

    total_bytes: int
    chunk: bytes


@dataclass(frozen=True, slots=True)
class DecisionOffer:
    """The signed decision that waits for a slim base, and the campaign it belongs to.

    Attributes:
        campaign: Signed.
        decision: Signed.
        vote_total: If the campaign steers, the sum that the decision follows from.
        outcome_totals: If it has clusters, the sums of outcomes so far, the oldest first; rollouts are not among them.
    """

    campaign: SignedDocument
    decision: SignedDocument
    vote_total: Total | None = None
    outcome_totals: tuple[Total, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """The piece, document or wish is stored."""


@dataclass(frozen=True, slots=True)
class RulingStatus:
    """What a :class:`~prunefleet_shared.acceptance.Ruling` comes to, for the operator's eyes.

    Attributes:
        level: 0-based level of the schedule.
        is_rollout: Judged by a rollout; False: by the canaries.
        reason: Why; only ``HELD`` promotes.
        num_devices: Devices in the sum.
        num_worse: Of these, worse off.
        max_worse: So many may be.
    """

    level: int
    is_rollout: bool
    reason: RulingReason
    num_devices: int
    num_worse: int
    max_worse: int


@dataclass(frozen=True, slots=True)
class CampaignStatus:
    """Where one campaign stands, for the operator's eyes only.

    Attributes:
        campaign_id: Which.
        device_class: Whom it is for.
        phase: What is going on.
        is_paused: No session is opened until it is resumed.
        level: 0-based level of the schedule.
        num_levels: Levels of the schedule.
        attempt: Of the open session; 0 when none is open.
        num_contributions: Devices in its sum.
        quorum: Contributions without which it is given up.
        cohort_size: Contributions at which it closes.
        remaining_ms: Until its deadline.
        awaited: What is waited for.
        awaited_for_ms: How long already.
        awaited_ids: Invited devices that have not contributed, sorted, at most 200.
        rulings: What was ruled so far, oldest first.
    """

    campaign_id: str
    device_class: str
    phase: Phase
    is_paused: bool
    level: int
    num_levels: int
    attempt: int
    num_contributions: int
    quorum: int
    cohort_size: int
    remaining_ms: int
    awaited: Awaited
    awaited_for_ms: int
    awaited_ids: tuple[str, ...]
    rulings: tuple[RulingStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """Where every campaign stands.

    Attributes:
        campaigns: Newest first, at most 100.
        deny_list_age_ms: Since the deny-list was last fetched.
        authority_is_built_in: The coordinator's operator can make up devices.
    """

    campaigns: tuple[CampaignStatus, ...]
    deny_list_age_ms: int
    authority_is_built_in: bool


FleetUp = GetCampaign | CheckIn | SumUp | FetchModel
TrainerUp = AwaitDecision | UploadModel | PublishSlimBase
OperatorUp = StartCampaign | ControlCampaign | GetStatus
CoordinatorUp = FleetUp | TrainerUp | OperatorUp
"""What a coordinator is asked."""
CoordinatorDown = (
    CampaignOffer
    | Invitation
    | RulingOffer
    | SlimBaseOffer
    | ComeBack
    | CampaignEnded
    | SumDown
    | ModelChunk
    | DecisionOffer
    | Stored
    | FleetStatus
)
"""What a coordinator answers."""
Up = CoordinatorUp | AuthorityUp
Down = CoordinatorDown | AuthorityDown


class Link(Protocol):
    """A member's line to the coordinator or the authority: one message up, one answer down."""

    async def call(self, message: Up) -> Down:
        """Send ``message`` and return the answer.

        Raises:
            RemoteProtocolError: The coordinator turned it down, with the reason.
            CarrierError: It could not be reached; ``retryable`` says whether to try again.
        """
        ...


class Service(Protocol):
    """The other end of a :class:`Link`: coordinator and authority implement it, a carrier calls it."""

    async def handle(self, peer: Peer, message: Up) -> Down:
        """Answer ``message`` from ``peer``.

        Raises:
            RemoteProtocolError: The message was turned down; the carrier takes the reason to the peer.
        """
        ...
