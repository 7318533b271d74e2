"""What devices, trainer and coordinator say to each other, as plain frozen dataclasses in the order of a round.

A carrier (memory, gRPC) moves these and nothing else. Who speaks is never in a message: it is the certificate.
No type a device fills can hold a float, an array or free text; see ``protos/prunefleet/v1`` for the same on the wire.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from prunefleet_shared.documents import SignedDocument


class SessionKind(enum.IntEnum):
    """What a session sums."""

    VOTE = 1  # graded mask and width votes, once per scoring epoch
    OUTCOME = 2  # how a decision went


class Readiness(enum.IntEnum):
    """Whether a device can take part now; only reasons that do not depend on its data."""

    READY = 1
    BUSY = 2  # still working on the last invitation
    NO_MEMORY = 3
    LOW_POWER = 4


class Awaited(enum.IntEnum):
    """What the coordinator is waiting for when it says: come back."""

    DEVICES = 1  # contributions of the open session
    TRAINER = 2  # the slim base of the last decision
    NOTHING = 3  # this device's turn is over at this level


# --- up: device → coordinator --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GetCampaign:
    """Asks for the signed campaign of a device class."""

    device_class: str


@dataclass(frozen=True, slots=True)
class CheckIn:
    """Says that the device is there and what network it traced."""

    campaign_id: str
    layout_fingerprint: str
    readiness: Readiness


@dataclass(frozen=True, slots=True)
class Contribute:
    """One stage of a private sum, from a device. ``payload`` has the one length that the stage prescribes."""

    session_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class FetchModel:
    """Asks for a piece of a model (the base or a slim base) by digest."""

    digest: str
    offset: int


# --- up: trainer → coordinator -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AwaitDecision:
    """Asks for the decision that waits for a slim base."""

    campaign_id: str


@dataclass(frozen=True, slots=True)
class UploadModel:
    """A piece of a slim base; pieces come in order from offset 0."""

    digest: str
    offset: int
    total_bytes: int
    chunk: bytes


@dataclass(frozen=True, slots=True)
class PublishSlimBase:
    """The signed slim base, once its bytes are uploaded."""

    slim_base: SignedDocument


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
class CampaignEnded:
    """The campaign is over."""

    completed: bool


@dataclass(frozen=True, slots=True)
class ContributionCounted:
    """The contribution is in the sum (or this stage of it was taken)."""

    session_id: str


@dataclass(frozen=True, slots=True)
class ModelChunk:
    """A piece of a model."""

    total_bytes: int
    chunk: bytes


@dataclass(frozen=True, slots=True)
class DecisionOffer:
    """The signed decision that waits for a slim base."""

    decision: SignedDocument


@dataclass(frozen=True, slots=True)
class Stored:
    """The trainer's piece or document is stored."""


Up = GetCampaign | CheckIn | Contribute | FetchModel | AwaitDecision | UploadModel | PublishSlimBase
Down = CampaignOffer | Invitation | ComeBack | CampaignEnded | ContributionCounted | ModelChunk | DecisionOffer | Stored


class Link(Protocol):
    """A device's (or trainer's) line to the coordinator: one message up, one answer down."""

    async def call(self, message: Up) -> Down:
        """Send ``message`` and return the answer.

        Raises:
            RemoteProtocolError: The coordinator turned it down, with the reason.
            CarrierError: It could not be reached; ``retryable`` says whether to try again.
        """
        ...


class Role(enum.StrEnum):
    """What a certificate allows."""

    DEVICE = "device"
    TRAINER = "trainer"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is speaking, as the certificate says.

    Attributes:
        peer_id: Name in the certificate, such as ``device-03``.
        role: What it may do.
    """

    peer_id: str
    role: Role


class Service(Protocol):
    """The coordinator's end of a :class:`Link`: the runner implements it, a carrier calls it."""

    async def handle(self, peer: Peer, message: Up) -> Down:
        """Answer ``message`` from ``peer``.

        Raises:
            RemoteProtocolError: The message was turned down; the carrier takes the reason to the peer.
        """
        ...
