"""Carries out what the round orders: stores, signs, answers, waits. The coordinator's end of every link.

The order is the round's: *save before send*. A save that fails is treated like a crash: the round starts again from
what is stored, and the peer is told to try again. Rules live in ``admission`` and ``round``, not here.

One runner serves one campaign in one event loop; :meth:`CoordinatorRunner.handle` may be called for many peers at
once, because nothing between a message and its answer waits, except a long poll that has nothing in its hands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import assert_never

from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_coordinator.admission import why_role_rejected
from prunefleet_coordinator.changes import Changes
from prunefleet_coordinator.events import (
    AcceptControl,
    AcceptSlimBase,
    AnnounceAbandoned,
    AnnounceDecision,
    AnnounceEnd,
    AnnounceJoined,
    Announcement,
    AnnouncePaused,
    AnnounceResumed,
    AnnounceRuling,
    AnnounceStage,
    Answer,
    Command,
    Defer,
    DeviceCheckedIn,
    End,
    Event,
    Invite,
    OfferDecision,
    OfferRuling,
    OfferSlimBase,
    OperatorControlled,
    Reject,
    Reply,
    Save,
    SaveClosing,
    SaveSlimBase,
    SaveSnapshot,
    SlimBasePublished,
    SumMessageReceived,
    TrainerAsked,
)
from prunefleet_coordinator.models import Models
from prunefleet_coordinator.offers import Offers
from prunefleet_coordinator.round import CampaignRound
from prunefleet_coordinator.state import Progress
from prunefleet_coordinator.store import Blobs, Store, StoredCampaign
from prunefleet_coordinator.watch import Observer, describe
from prunefleet_shared.campaign import Campaign, SlimBase
from prunefleet_shared.documents import SignedDocument, open_document, public_bytes, sign_document
from prunefleet_shared.errors import (
    CarrierError,
    ConfigError,
    LocalProtocolError,
    RejectReason,
    RemoteProtocolError,
    reject,
)
from prunefleet_shared.messages import (
    AwaitDecision,
    CampaignEnded,
    CampaignOffer,
    CheckIn,
    ComeBack,
    ControlCampaign,
    Down,
    FetchModel,
    GetCampaign,
    Peer,
    PublishSlimBase,
    Stored,
    SumUp,
    Up,
    UploadModel,
)
from prunefleet_shared.secure_sum.roster import Members

POLL_S = 5.0
"""How long a call is held open while there is nothing to say; well below the idle timeouts of home routers."""


class CoordinatorRunner:
    """Implements ``messages.Service`` for one campaign.

    Args:
        campaign_signed: The campaign; that its signer is an operator, the caller has checked.
        signing_key: The P-256 key that the campaign names for its decisions.
        store: Where the campaign stands; resumed from if it has begun.
        blobs: The base model must be in it, slim bases come into it.
        clock: Seconds on a clock that never goes back, such as ``time.monotonic``.
        new_session_id: Fresh, unguessable ids of 32 hex digits, such as ``lambda: secrets.token_hex(16)``.
        poll_s: Longest time a call with nothing to say is held open; 0 answers at once.
        changes: Shared by the campaigns of one coordinator; None for one of its own.
        members: Checks devices' certificates; None will do in mode ``plain``.

    Raises:
        ConfigError: Campaign, key, store or base model do not go together (the operator's to mend).
    """

    def __init__(  # noqa: PLR0913 - what one campaign is carried out with, by name
        self,
        campaign_signed: SignedDocument,
        signing_key: ec.EllipticCurvePrivateKey,
        store: Store,
        blobs: Blobs,
        clock: Callable[[], float],
        new_session_id: Callable[[], str],
        *,
        poll_s: float = POLL_S,
        changes: Changes | None = None,
        members: Members | None = None,
    ) -> None:
        self._campaign_signed = campaign_signed
        self._campaign = _open_campaign(campaign_signed, signing_key)
        self._signing_key = signing_key
        self._store = store
        self._offers = Offers(store, self._campaign.campaign_id)
        self._clock = clock
        self._new_session_id = new_session_id
        self._poll_s = poll_s
        self._observers: list[Observer] = []
        self._models = Models(blobs)
        self._changes = changes or Changes()
        self._members = members
        self._unsaved: list[Command] = []
        self._live_round: CampaignRound | None = self._resumed()
        if self._models.num_bytes(self._campaign.base_digest) is None:
            msg = (
                f"the base model {self._campaign.base_digest[:12]} is not in the store; add its safetensors file first"
            )
            raise ConfigError(msg)
        store.save_campaign(StoredCampaign(self._campaign.campaign_id, self._campaign.device_class), campaign_signed)

    @property
    def campaign(self) -> Campaign:
        """What is carried out."""
        return self._campaign

    @property
    def campaign_signed(self) -> SignedDocument:
        """The same, as it was signed."""
        return self._campaign_signed

    @property
    def progress(self) -> Progress:
        """Where the campaign stands."""
        return self._round.progress

    @property
    def has_ended(self) -> bool:
        """True once the campaign is completed, failed or stopped."""
        return self._round.has_ended

    @property
    def has_rulings(self) -> bool:
        """Whether anything was promoted or rolled back."""
        return bool(self._round.snapshot.rulings)

    def knows_session(self, session_id: str) -> bool:
        """Whether this campaign opened the session, as far as it still knows."""
        return self._round.knows_session(session_id)

    def watch(self, observer: Observer) -> None:
        """Tell ``observer`` of every step from now on; see ``watch`` for what it is told."""
        self._observers.append(observer)

    async def run(self) -> None:
        """Keep deadlines until the campaign has ended, or the coordinator stops.

        Raises:
            ConfigError: The store failed (the operator's to mend; a new process resumes from what is stored).
        """
        while not (self.has_ended or self._changes.is_over):
            deadline_s = self._round.next_deadline_s
            await self._changes.wait(None if deadline_s is None else max(0.0, deadline_s - self._clock()))
            self.tick()

    def tick(self) -> None:
        """Close or give up a session whose deadline has passed. ``run`` calls it in time."""
        self._carry_out_unsaved()
        self._carry_out(self._round.tick(self._clock()))

    async def handle(self, peer: Peer, message: Up) -> Down:
        """Answer ``message`` from ``peer``.

        Raises:
            RemoteProtocolError: The message was turned down (the peer's fault).
            CarrierError: The store failed; the peer may try again (the operator's to mend).
        """
        rejection = why_role_rejected(peer.role, message)
        if rejection:
            raise RemoteProtocolError(rejection)
        try:
            return await self._dispatch(peer, message)
        except ConfigError as error:
            msg = f"the coordinator cannot use its store just now: {error}"
            raise CarrierError(msg, retryable=True) from error

    async def _dispatch(self, peer: Peer, message: Up) -> Down:
        answer: Down
        match message:
            case CheckIn():
                answer = await self._long_poll(DeviceCheckedIn(peer.peer_id, message))
            case AwaitDecision():
                answer = await self._long_poll(TrainerAsked(peer.peer_id, message.campaign_id))
            case ControlCampaign():
                answer = self._answer_to(OperatorControlled(peer.peer_id, message.control))
            case PublishSlimBase():
                answer = self._publish(peer.peer_id, message.slim_base)
            case GetCampaign():
                answer = self._campaign_offer(message)
            case FetchModel():
                answer = self._models.chunk(message)
            case UploadModel():
                self._models.receive(peer.peer_id, message)
                answer = Stored()
            case _ if isinstance(message, SumUp):
                answer = await self._long_poll(SumMessageReceived(peer.peer_id, message))
            case _:
                msg = f"a {type(message).__name__} is for whoever runs the campaigns"
                raise LocalProtocolError(msg)
        return answer

    async def _long_poll(self, event: Event) -> Down:
        """Answer ``event``; a peer with nothing to do hears so only after ``poll_s`` without a change for it."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._poll_s
        answer = self._receive(event)
        while isinstance(answer, Defer) and answer.is_held and not self._changes.is_over:
            remaining_s = give_up_s - loop.time()
            if remaining_s <= 0:
                break
            await self._changes.wait(remaining_s)
            answer = self._receive(event)
        return self._message(answer)

    def _answer_to(self, event: Event, signed: SignedDocument | None = None) -> Down:
        return self._message(self._receive(event, signed))

    def _receive(self, event: Event, signed: SignedDocument | None = None) -> Answer:
        self._carry_out_unsaved()
        answer = self._carry_out(self._round.receive(event, self._clock()), signed)
        if answer is None:
            msg = f"the round did not answer {type(event).__name__}"
            raise LocalProtocolError(msg)
        return answer

    def _carry_out(self, commands: Sequence[Command], signed: SignedDocument | None = None) -> Answer | None:
        """Save and tell, in order; returns the one command that answers the peer."""
        answer: Answer | None = None
        for position, command in enumerate(commands):
            match command:
                case SaveClosing():
                    # Devices whose masks are off never say it again; nobody was told yet, so it can be saved later.
                    self._unsaved = [left for left in commands[position:] if isinstance(left, Save | Announcement)]
                    self._save(command, signed)
                    self._unsaved = []
                case SaveSnapshot() | SaveSlimBase():
                    self._save(command, signed)
                case AnnounceStage():
                    self._changes.announce()
                case AnnounceJoined() | AnnounceDecision() | AnnounceRuling() | AnnounceAbandoned() | AnnounceEnd():
                    pass  # they are for whoever watches
                case AnnouncePaused() | AnnounceResumed():
                    pass
                case _:
                    answer = command
            self._tell(command)
        return answer

    def _carry_out_unsaved(self) -> None:
        """Try again to store the sum of a closed session, where that has failed."""
        if not self._unsaved:
            return
        pending, stored = self._unsaved, self._store.load_snapshot(self._campaign.campaign_id)
        closing = pending[0]
        if isinstance(closing, SaveClosing) and stored == closing.snapshot:  # it was written; only the answer was lost
            self._unsaved, pending = [], pending[1:]
            self._tell(closing)
            self._changes.announce()
        self._carry_out(pending)

    def _save(self, command: Save, signed: SignedDocument | None) -> None:
        try:
            match command:
                case SaveSnapshot():
                    self._store.save_snapshot(command.snapshot)
                case SaveClosing(decision=decision, ruling=ruling):
                    signed = sign_document("decision", decision, self._signing_key) if decision else None
                    ruled = sign_document("ruling", ruling, self._signing_key) if ruling else None
                    self._store.save_closing(command.closed, command.snapshot, signed, ruled)
                case SaveSlimBase():
                    self._store.save_snapshot(command.snapshot, signed)
                case _:
                    assert_never(command)
        except ConfigError:
            if not isinstance(command, SaveClosing):
                self._live_round = None  # it is ahead of the store now: as after a crash, the store is right
            raise
        self._changes.announce()

    def _message(self, command: Answer) -> Down:
        answer: Down
        match command:
            case Invite():
                answer = self._offers.invitation(command)
            case Defer():
                answer = ComeBack(command.after_ms, command.awaited)
            case End():
                answer = CampaignEnded(command.ending)
            case Reply():
                answer = command.answer
            case OfferDecision():
                answer = self._offers.decision_offer(self._campaign_signed, command.level, self._campaign)
            case OfferRuling():
                answer = self._offers.ruling_offer(command.ruling)
            case OfferSlimBase(level=level):
                answer = self._offers.slim_base_offer(level)
            case AcceptSlimBase() | AcceptControl():
                answer = Stored()
            case Reject():
                raise RemoteProtocolError(command.rejection)
            case _:
                assert_never(command)
        return answer

    def _campaign_offer(self, message: GetCampaign) -> CampaignOffer:
        if message.device_class != self._campaign.device_class:
            got = message.device_class[:64]
            raise reject(RejectReason.WRONG_CAMPAIGN, expected=f"device class {self._campaign.device_class}", got=got)
        return CampaignOffer(self._campaign_signed)

    def _publish(self, trainer_id: str, signed: SignedDocument) -> Down:
        slim_base = open_document(signed, "slim_base", SlimBase, bytes.fromhex(self._campaign.slim_base_key))
        if self._models.num_bytes(slim_base.model_digest) != slim_base.model_bytes:
            expected = f"an uploaded model of {slim_base.model_bytes} bytes"
            raise reject(RejectReason.NOT_FOUND, expected=expected, remedy="upload the model, then publish it again")
        return self._answer_to(SlimBasePublished(trainer_id, slim_base), signed)

    @property
    def _round(self) -> CampaignRound:
        """The machine; resumed once more if the last one got ahead of the store."""
        if self._live_round is None:
            self._live_round = self._resumed()
        return self._live_round

    def _resumed(self) -> CampaignRound:
        snapshot = self._store.load_snapshot(self._campaign.campaign_id)
        return CampaignRound(self._campaign, self._new_session_id, snapshot, self._members)

    def _tell(self, command: Command) -> None:
        told = describe(command, self._round.progress) if self._observers else None
        if told is None:
            return
        for observe in self._observers:
            observe(*told)


def _open_campaign(signed: SignedDocument, signing_key: ec.EllipticCurvePrivateKey) -> Campaign:
    try:
        campaign = open_document(signed, "campaign", Campaign, signed.public_key)
    except RemoteProtocolError as error:
        msg = f"the campaign cannot be run: {error}"
        raise ConfigError(msg) from None
    if bytes.fromhex(campaign.decision_key) != public_bytes(signing_key.public_key()):
        msg = "the campaign names another key for its decisions than this coordinator's; make a campaign for this one"
        raise ConfigError(msg)
    return campaign
