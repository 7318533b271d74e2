"""All campaigns of one coordinator: starts them, finds the one a message is for, keeps their deadlines.

At most one campaign per device class runs at a time. Each is carried out by a ``runner.CoordinatorRunner``; what is
left here is finding it. After a restart every campaign that had not ended goes on from the store; of those that have,
only ids and how they ended are kept in memory, so that a device which slept meanwhile hears the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_coordinator.admission import why_campaign_refused, why_control_rejected, why_role_rejected
from prunefleet_coordinator.changes import Changes
from prunefleet_coordinator.models import Models
from prunefleet_coordinator.runner import POLL_S, CoordinatorRunner
from prunefleet_coordinator.session import DEFER_MS
from prunefleet_coordinator.signers import Signers
from prunefleet_coordinator.state import ENDINGS
from prunefleet_coordinator.status import live_status, load_past_status
from prunefleet_coordinator.store import Blobs, Store
from prunefleet_coordinator.watch import Fact
from prunefleet_shared.campaign import PLAIN, Campaign, SlimBase
from prunefleet_shared.documents import SignedDocument, open_document, public_bytes, read_document
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
    Awaited,
    CampaignEnded,
    CampaignOffer,
    CampaignStatus,
    CheckIn,
    ComeBack,
    Control,
    ControlCampaign,
    Down,
    FetchModel,
    FleetStatus,
    GetCampaign,
    GetStatus,
    Peer,
    Phase,
    PublishSlimBase,
    Role,
    StartCampaign,
    Stored,
    SumUp,
    Up,
    UploadModel,
)
from prunefleet_shared.secure_sum.roster import Members
from prunefleet_shared.wire_limits import MAX_CAMPAIGNS

_log = logging.getLogger(__name__)
EventObserver = Callable[[str, str, Mapping[str, Fact]], None]
"""Called as ``on_event(campaign_id, kind, facts)``, the id empty where no campaign is named. Must not raise or wait."""

STORE_REST_S = 1.0
"""Between two tries to keep a deadline while the store fails."""
NO_CAMPAIGN_MS = 30_000
"""How long a device stays away while no campaign runs for it: an idle fleet must cost little, and fill no audit."""
T = TypeVar("T")


class Campaigns:
    """Implements ``messages.Service`` for the coordinator's three services.

    Args:
        store: Where campaigns stand; those that have not ended are resumed.
        blobs: Models.
        operator_keys: Whose signatures make a campaign, DER each, as known now.
        signing_key: The P-256 key of this coordinator; campaigns name it for their decisions.
        clock: Seconds on a clock that never goes back, such as ``time.monotonic``.
        new_session_id: Fresh, unguessable ids of 32 hex digits.
        poll_s: Longest time a call with nothing to say is held open; 0 answers at once.
        deny_list_age_ms: How old the deny-list is, for the status.
        authority_is_built_in: For the status: the coordinator's operator can make up devices.
        on_event: Told of every step of every campaign, and of every message turned down.
        learn_operators: Brings ``operator_keys`` up to date: an operator often joins after the coordinator.
        members: Checks devices' certificates; None will do in mode ``plain``.
        allow_plain: Carry out campaigns of mode ``plain``, in which this coordinator sees each contribution.

    Raises:
        ConfigError: The store cannot be used, or a campaign in it is not for us to carry out (the operator's to mend).
    """

    def __init__(  # noqa: PLR0913 - what one coordinator is made of, by name
        self,
        store: Store,
        blobs: Blobs,
        *,
        operator_keys: Callable[[], Sequence[bytes]],
        signing_key: ec.EllipticCurvePrivateKey,
        clock: Callable[[], float],
        new_session_id: Callable[[], str],
        poll_s: float = POLL_S,
        deny_list_age_ms: Callable[[], int] = lambda: 0,
        authority_is_built_in: bool = False,
        on_event: EventObserver | None = None,
        learn_operators: Callable[[], Awaitable[None]] | None = None,
        members: Members | None = None,
        allow_plain: bool = False,
    ) -> None:
        self._store, self._blobs = store, blobs
        self._signers = Signers(operator_keys, learn_operators, clock)
        self._signing_key = signing_key
        self._clock = clock
        self._new_session_id = new_session_id
        self._poll_s = poll_s
        self._deny_list_age_ms = deny_list_age_ms
        self._authority_is_built_in = authority_is_built_in
        self._on_event = on_event
        self._members, self._allow_plain = members, allow_plain
        self._models = Models(blobs)
        self._changes = Changes()
        self._keepers: asyncio.TaskGroup | None = None
        self._turns: dict[str, int] = {}  # by trainer: offers made to it, so that none waits behind another's
        self._past: dict[str, CampaignStatus] = {}
        self._runners: dict[str, CoordinatorRunner] = {}  # by device class: the one that runs, or ran last
        self._campaign_ids = [campaign.campaign_id for campaign in store.list_campaigns()]
        for campaign_id in self._campaign_ids:
            self._resume(campaign_id)

    # --- running -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the deadlines of all campaigns, until :meth:`end` or for ever.

        A store that fails for a while is logged and tried again; anything that escapes is a bug.
        """
        async with asyncio.TaskGroup() as keepers:
            self._keepers = keepers
            try:
                for runner in self._runners.values():
                    keepers.create_task(self._keep_deadlines(runner))
                while not self._changes.is_over:
                    await self._changes.wait(None)
            finally:
                self._keepers = None

    def end(self) -> None:
        """The server stops: answer every call that is held open, and hold none from now on."""
        self._changes.end()

    async def _keep_deadlines(self, runner: CoordinatorRunner) -> None:
        while not self._changes.is_over:
            try:
                await runner.run()
                return
            except ConfigError as error:
                _log.error("campaign %s: %s; trying again", runner.campaign.campaign_id, error)
                await asyncio.sleep(STORE_REST_S)

    def _resume(self, campaign_id: str) -> None:
        snapshot = self._store.load_snapshot(campaign_id)
        has_ended = snapshot is not None and snapshot.phase in ENDINGS
        if snapshot is not None and has_ended and not snapshot.rulings:
            return
        signed = self._store.load_document(campaign_id, "campaign", 0)
        if signed is None:
            msg = f"campaign {campaign_id}: its document is missing from the store; restore a backup"
            raise ConfigError(msg)
        try:  # what was ruled in a campaign that has ended is still to be told to devices that slept
            mode = self._carry_out(signed).campaign.privacy.mode
        except ConfigError as error:
            if not has_ended:
                raise
            _log.warning("campaign %s has ended, and its rulings are told no more: %s", campaign_id, error)
            return
        if mode == PLAIN and not self._allow_plain and not has_ended:
            raise ConfigError(f"campaign {campaign_id} is plain, and others can reach us; say --allow-plain")

    def _carry_out(self, signed: SignedDocument) -> CoordinatorRunner:
        runner = CoordinatorRunner(
            signed,
            self._signing_key,
            self._store,
            self._blobs,
            self._clock,
            self._new_session_id,
            poll_s=self._poll_s,
            changes=self._changes,
            members=self._members,
        )
        if self._on_event:
            runner.watch(partial(self._tell_of_step, runner.campaign.campaign_id))
        self._runners[runner.campaign.device_class] = runner
        if self._keepers is not None:
            self._keepers.create_task(self._keep_deadlines(runner))
        return runner

    # --- messages ------------------------------------------------------------------------------------------------

    async def handle(self, peer: Peer, message: Up) -> Down:
        """Answer ``message`` from ``peer``.

        Raises:
            RemoteProtocolError: The message was turned down (the peer's fault).
            CarrierError: The store failed; the peer may try again (the operator's to mend).
        """
        try:
            rejection = why_role_rejected(peer.role, message)
            if rejection:
                raise RemoteProtocolError(rejection)
            return await self._dispatch(peer, message)
        except RemoteProtocolError as error:
            self._tell_of_refusal(peer, message, error)
            raise
        except ConfigError as error:
            _log.error("%s of %s %s: %s", type(message).__name__, peer.role, peer.peer_id, error)
            msg = f"the coordinator cannot use its store just now: {error}"
            raise CarrierError(msg, retryable=True) from error

    async def _dispatch(self, peer: Peer, message: Up) -> Down:
        answer: Down
        match message:
            case GetCampaign(device_class, ended_campaign_id):
                answer = await self._offer_campaign(device_class, ended_campaign_id)
            case AwaitDecision(""):
                answer = await self._offer_any_decision(peer)
            case CheckIn(campaign_id=campaign_id) | AwaitDecision(campaign_id):
                answer = await self._pass_on(peer, message, campaign_id)
            case PublishSlimBase(slim_base):
                named = read_document(slim_base.payload, SlimBase)  # the runner checks the signature
                answer = await self._pass_on(peer, message, named.campaign_id)
            case ControlCampaign():
                answer = await self._control(peer, message)
            case _ if isinstance(message, SumUp):
                answer = await self._runner_of_session(message.session_id).handle(peer, message)
            case _:
                answer = await self._dispatch_rest(peer, message)
        return answer

    async def _dispatch_rest(self, peer: Peer, message: Up) -> Down:
        match message:
            case FetchModel():
                return self._models.chunk(message)
            case UploadModel():
                self._models.receive(peer.peer_id, message)
                return Stored()
            case StartCampaign(campaign):
                return await self._start(peer, campaign)
            case GetStatus():
                return self._status()
            case _:
                msg = f"a {type(message).__name__} is not for a coordinator"
                raise LocalProtocolError(msg)

    async def _offer_campaign(self, device_class: str, ended_id: str) -> Down:
        runner = await self._wait_for(lambda: self._offered_for(device_class, ended_id))
        return CampaignOffer(runner.campaign_signed) if runner else ComeBack(NO_CAMPAIGN_MS, Awaited.OPERATOR)

    async def _offer_any_decision(self, peer: Peer) -> Down:
        runner = await self._wait_for(lambda: self._retraining(self._turns.get(peer.peer_id, 0)))
        if runner is None:
            return ComeBack(DEFER_MS, Awaited.DEVICES)
        self._turns[peer.peer_id] = self._turns.get(peer.peer_id, 0) + 1
        return await runner.handle(peer, AwaitDecision(runner.campaign.campaign_id))

    async def _wait_for(self, find: Callable[[], T | None]) -> T | None:
        """What ``find`` finds, as soon as it does; None if it has not after ``poll_s``."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._poll_s
        found = find()
        while found is None and not self._changes.is_over and loop.time() < give_up_s:
            await self._changes.wait(give_up_s - loop.time())
            found = find()
        return found

    async def _pass_on(self, peer: Peer, message: CheckIn | AwaitDecision | PublishSlimBase, campaign_id: str) -> Down:
        runner = self._runner_of(campaign_id)
        if runner is not None:
            return await runner.handle(peer, message)
        ended = self._past_of(campaign_id)
        if isinstance(message, PublishSlimBase):
            raise reject(RejectReason.WRONG_DECISION, expected="a campaign that runs", remedy="await the next decision")
        return CampaignEnded(ENDINGS[ended.phase])

    async def _control(self, peer: Peer, message: ControlCampaign) -> Down:
        runner = self._runner_of(message.campaign_id)
        if runner is not None:
            return await runner.handle(peer, message)
        phase = self._past_of(message.campaign_id).phase
        if phase is Phase.STOPPED and message.control is Control.STOP:
            return Stored()
        rejection = why_control_rejected(phase)
        if rejection is None:
            msg = f"campaign {message.campaign_id} has not ended and is not carried out"
            raise LocalProtocolError(msg)
        raise RemoteProtocolError(rejection)

    # --- starting ------------------------------------------------------------------------------------------------

    async def _start(self, peer: Peer, signed: SignedDocument) -> Down:
        await self._signers.check(signed)
        campaign = open_document(signed, "campaign", Campaign, signed.public_key)
        known = self._store.load_document(campaign.campaign_id, "campaign", 0)
        if known is not None and known.payload != signed.payload:
            raise reject(RejectReason.WRONG_CAMPAIGN, expected="an id of its own", got="another campaign's")
        # What is stored need not be carried out: the store may have said that it failed when it had not.
        if campaign.campaign_id in self._campaign_ids:
            return Stored()
        self._check_startable(campaign)
        self._carry_out(signed)
        self._campaign_ids.append(campaign.campaign_id)
        self._changes.announce()
        if self._on_event:
            facts: dict[str, Fact] = {"device_class": campaign.device_class, "operator_id": peer.peer_id}
            self._on_event(campaign.campaign_id, "started", facts)
        return Stored()

    def _check_startable(self, campaign: Campaign) -> None:
        own_key = public_bytes(self._signing_key.public_key()).hex()
        refused = why_campaign_refused(campaign, own_key, allow_plain=self._allow_plain)
        if refused:
            raise RemoteProtocolError(refused)
        live = self._live_for(campaign.device_class)
        if live is not None:
            got = f"class {campaign.device_class}, for which {live.campaign.campaign_id[:12]} runs"
            remedy = "wait for its end, or stop it"
            raise reject(RejectReason.WRONG_CAMPAIGN, expected="a class of its own", got=got, remedy=remedy)
        if self._models.num_bytes(campaign.base_digest) is None:
            expected = f"the base model {campaign.base_digest[:12]} to be uploaded"
            raise reject(RejectReason.NOT_FOUND, expected=expected, remedy="upload it, then start the campaign again")

    # --- finding -------------------------------------------------------------------------------------------------

    def _live_for(self, device_class: str) -> CoordinatorRunner | None:
        runner = self._runners.get(device_class)
        return None if runner is None or runner.has_ended else runner

    def _offered_for(self, device_class: str, ended_id: str) -> CoordinatorRunner | None:
        """The campaign that runs, or the last one, if a device that has not heard its end may have to hear a ruling."""
        last = self._runners.get(device_class)
        is_told = last is None or not last.has_rulings or last.campaign.campaign_id == ended_id
        return self._live_for(device_class) or (None if is_told else last)

    def _retraining(self, turn: int) -> CoordinatorRunner | None:
        """A campaign that awaits a slim base; another one each turn, if there are several."""
        waiting = [r for _, r in sorted(self._runners.items()) if r.progress.phase is Phase.RETRAINING]
        return waiting[turn % len(waiting)] if waiting else None

    def _runner_of(self, campaign_id: str) -> CoordinatorRunner | None:
        return next((r for r in self._runners.values() if r.campaign.campaign_id == campaign_id), None)

    def _runner_of_session(self, session_id: str) -> CoordinatorRunner:
        runner = next((r for r in self._runners.values() if r.knows_session(session_id)), None)
        if runner is None:
            remedy = "check in again and contribute to the session you are invited to"
            raise reject(RejectReason.WRONG_SESSION, expected="a session that is open", remedy=remedy)
        return runner

    def _past_of(self, campaign_id: str) -> CampaignStatus:
        """A campaign that ended before the one that runs; the store is asked once."""
        if campaign_id not in self._campaign_ids:
            expected, got = "a campaign of this coordinator", campaign_id[:64]
            remedy = "fetch the campaign again"
            raise reject(RejectReason.WRONG_CAMPAIGN, expected=expected, got=got, remedy=remedy)
        if campaign_id not in self._past:
            self._past[campaign_id] = load_past_status(self._store, campaign_id)
        return self._past[campaign_id]

    # --- telling -------------------------------------------------------------------------------------------------

    def _status(self) -> FleetStatus:
        newest = reversed(self._campaign_ids[-MAX_CAMPAIGNS:])
        campaigns = tuple(self._status_of(campaign_id) for campaign_id in newest)
        return FleetStatus(campaigns, self._deny_list_age_ms(), self._authority_is_built_in)

    def _status_of(self, campaign_id: str) -> CampaignStatus:
        runner = self._runner_of(campaign_id)
        if runner is None:
            return self._past_of(campaign_id)
        runner.tick()
        return live_status(runner.campaign, runner.progress, self._clock())

    def _tell_of_step(self, campaign_id: str, kind: str, facts: Mapping[str, Fact]) -> None:
        if self._on_event and kind != "rejected":  # told of below, with all other refusals
            self._on_event(campaign_id, kind, facts)

    def _tell_of_refusal(self, peer: Peer, message: Up, error: RemoteProtocolError) -> None:
        # A coordinator that calls is its own health check, every few seconds: no news.
        if self._on_event and peer.role is not Role.COORDINATOR:
            facts: dict[str, Fact] = {"peer_id": peer.peer_id, "role": peer.role.value}
            facts |= {"message": type(message).__name__, "reason": error.rejection.reason.name}
            self._on_event(getattr(message, "campaign_id", ""), "refused", facts)
