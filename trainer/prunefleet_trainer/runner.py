"""The trainer's life: wait for a decision, prune and (with public data) retrain, sign, publish, wait for the next.

The work itself (``retrain``) is passed in, so that it can run in another process. While it runs, the coordinator is
asked now and then whether its result is still wanted, so that stopping a campaign stops the trainer too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_shared.campaign import Campaign, Decision, SlimBase
from prunefleet_shared.documents import SignedDocument, digest, open_document, public_bytes, sign_document
from prunefleet_shared.errors import CarrierError, LocalProtocolError, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.messages import (
    AwaitDecision,
    CampaignEnded,
    ComeBack,
    DecisionOffer,
    Ending,
    Link,
    PublishSlimBase,
    Total,
)
from prunefleet_trainer.model_transfer import upload_model


@dataclass(frozen=True, slots=True)
class Retrained:
    """What came of retraining.

    Attributes:
        model: The slim base, safetensors.
        steering_digest: Of the record of how it was steered (``steering_record``); empty if it was not.
        is_retrained: False where there were no public data: the base is only pruned.
    """

    model: bytes
    steering_digest: str = ""
    is_retrained: bool = True


@dataclass(frozen=True, slots=True)
class SteeringSums:
    """What a slim base is steered by.

    Attributes:
        vote: The sum that the decision follows from.
        outcomes: In a campaign with clusters, the sums of outcomes so far, the oldest first.
    """

    vote: Total
    outcomes: tuple[Total, ...] = ()


Retrain = Callable[[Campaign, Decision, SteeringSums | None], Awaitable[Retrained]]
"""Makes a slim base for a decision, steered by the fleet's sums where there are some."""
WATCH_S = 5.0
"""Time between two questions whether the work is still wanted."""
FOREIGN_REST_S = 10.0
"""Rest after an offer that is another trainer's to answer, so that it does not spin."""


class TrainerRunner:
    """Serves one campaign until it ends, or all campaigns for ever.

    Args:
        link: The line to the coordinator, with a trainer's certificate.
        campaign_id: The campaign to serve; empty for all.
        operator_keys: Whose signatures make a campaign as known now, DER each; it names who signs its decisions.
        signing_key: Signs slim bases; campaigns that name another are left to their trainer.
        retrain: Prunes the base to a decision and retrains it; cancelled when the result is no longer wanted.
        sleep: Waits for some seconds.
        on_foreign: Told of a campaign that names another trainer, each time it is offered.
    """

    def __init__(
        self,
        link: Link,
        campaign_id: str,
        *,
        operator_keys: Callable[[], Sequence[bytes]],
        signing_key: ec.EllipticCurvePrivateKey,
        retrain: Retrain,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_foreign: Callable[[Campaign], None] | None = None,
    ) -> None:
        self._link = link
        self._campaign_id = campaign_id
        self._operator_keys = operator_keys
        self._signing_key = signing_key
        self._retrain = retrain
        self._sleep = sleep
        self._on_foreign = on_foreign

    async def run(self) -> Ending:
        """Work until the campaign ends.

        Returns:
            How it ended; never when it serves all.

        Raises:
            RemoteProtocolError: A campaign or decision does not verify, or the coordinator refused us.
            CarrierError: It cannot be reached.
        """
        while True:
            happened = await self.step()
            if isinstance(happened, Ending):
                return happened

    async def step(self) -> Ending | SlimBase | None:
        """Ask once, and do what the answer asks for.

        Returns:
            How the campaign ended, the slim base that was published, or None when there was nothing to publish.

        Raises:
            RemoteProtocolError: As :meth:`run`.
            CarrierError: As :meth:`run`.
        """
        match await self._link.call(AwaitDecision(self._campaign_id)):
            case CampaignEnded(ending):
                return ending
            case ComeBack(after_ms, _):
                await self._sleep(after_ms / 1000)
                return None
            case DecisionOffer(campaign, decision, vote_total, outcome_totals):
                sums = SteeringSums(vote_total, outcome_totals) if vote_total else None
                return await self._answer(*self._opened(campaign, decision), sums)
            case answer:
                msg = f"AwaitDecision was answered by a {type(answer).__name__}"
                raise LocalProtocolError(msg)

    def _opened(self, campaign_signed: SignedDocument, decision_signed: SignedDocument) -> tuple[Campaign, Decision]:
        if campaign_signed.public_key not in self._operator_keys():
            expected, got = f"one of {len(self._operator_keys())} operators", digest(campaign_signed.public_key)[:12]
            remedy = "join again if the fleet has a new operator"
            raise reject(RejectReason.BAD_SIGNATURE, expected=expected, got=f"key {got}", remedy=remedy)
        campaign = open_document(campaign_signed, "campaign", Campaign, campaign_signed.public_key)
        decision = open_document(decision_signed, "decision", Decision, bytes.fromhex(campaign.decision_key))
        if decision.campaign_id != campaign.campaign_id or self._campaign_id not in ("", campaign.campaign_id):
            raise reject(RejectReason.WRONG_CAMPAIGN, expected=self._campaign_id or campaign.campaign_id)
        return campaign, decision

    async def _answer(self, campaign: Campaign, decision: Decision, sums: SteeringSums | None) -> SlimBase | None:
        if campaign.slim_base_key != public_bytes(self._signing_key.public_key()).hex():
            if self._campaign_id:
                expected, got = "a campaign that names our key", "one that names another trainer's"
                raise reject(RejectReason.WRONG_CAMPAIGN, expected=expected, got=got, remedy="create it with --trainer")
            if self._on_foreign:
                self._on_foreign(campaign)
            await self._sleep(FOREIGN_REST_S)
            return None
        retrained = await self._retrained(campaign, decision, sums)
        return None if retrained is None else await self._publish(decision, retrained)

    async def _retrained(self, campaign: Campaign, decision: Decision, sums: SteeringSums | None) -> Retrained | None:
        """The slim base; None when it is no longer wanted."""
        work = asyncio.ensure_future(self._retrain(campaign, decision, sums))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=WATCH_S)
                if not work.done() and not await self._is_wanted(decision):
                    return None
            return work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)  # until a child process, say, has ended

    async def _is_wanted(self, decision: Decision) -> bool:
        try:
            answer = await self._link.call(AwaitDecision(decision.campaign_id))
        except CarrierError:
            return True  # nobody has said otherwise
        except RemoteProtocolError as error:
            if error.rejection.reason is RejectReason.WRONG_CAMPAIGN:
                return False
            raise
        if isinstance(answer, DecisionOffer):
            return self._opened(answer.campaign, answer.decision)[1] == decision
        return isinstance(answer, ComeBack)

    async def _publish(self, decision: Decision, retrained: Retrained) -> SlimBase:
        name = await upload_model(self._link, retrained.model)
        slim_base = SlimBase(
            decision.campaign_id,
            decision.level,
            decision.fingerprint,
            name,
            len(retrained.model),
            retrained.steering_digest,
            retrained.is_retrained,
        )
        await self._link.call(PublishSlimBase(sign_document("slim_base", slim_base, self._signing_key)))
        return slim_base
