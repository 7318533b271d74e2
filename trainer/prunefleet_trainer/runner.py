"""The trainer's life: wait for a decision, prune and retrain, sign, publish, wait for the next.

The work itself (``retrain``) is passed in, so that it can run in another process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_shared.campaign import Campaign, Decision, SlimBase
from prunefleet_shared.documents import digest, open_document, sign_document
from prunefleet_shared.errors import LocalProtocolError, RejectReason, reject
from prunefleet_shared.messages import (
    AwaitDecision,
    CampaignEnded,
    ComeBack,
    DecisionOffer,
    Link,
    PublishSlimBase,
    UploadModel,
)
from prunefleet_shared.wire_limits import CHUNK_BYTES

Retrain = Callable[[Decision], Awaitable[bytes]]


class TrainerRunner:
    """Serves one campaign until it ends.

    Args:
        link: The line to the coordinator, with a trainer's certificate.
        campaign: The campaign, already verified.
        campaign_key: DER public key that signs its decisions.
        signing_key: Signs slim bases.
        retrain: Prunes the base to a decision, retrains it, and returns safetensors bytes.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        link: Link,
        campaign: Campaign,
        *,
        campaign_key: bytes,
        signing_key: ec.EllipticCurvePrivateKey,
        retrain: Retrain,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._link = link
        self._campaign = campaign
        self._campaign_key = campaign_key
        self._signing_key = signing_key
        self._retrain = retrain
        self._sleep = sleep

    async def run(self) -> bool:
        """Work until the campaign ends.

        Returns:
            True when it was completed.

        Raises:
            RemoteProtocolError: A decision does not verify, or the coordinator refused us.
            CarrierError: It cannot be reached.
        """
        while True:
            match await self._link.call(AwaitDecision(self._campaign.campaign_id)):
                case CampaignEnded(completed):
                    return completed
                case ComeBack(after_ms, _):
                    await self._sleep(after_ms / 1000)
                case DecisionOffer(signed):
                    decision = open_document(signed, "decision", Decision, self._campaign_key)
                    if decision.campaign_id != self._campaign.campaign_id:
                        raise reject(RejectReason.WRONG_CAMPAIGN, expected=self._campaign.campaign_id)
                    await self._publish(decision, await self._retrain(decision))
                case answer:
                    msg = f"AwaitDecision was answered by a {type(answer).__name__}"
                    raise LocalProtocolError(msg)

    async def _publish(self, decision: Decision, model: bytes) -> None:
        name = digest(model)
        for offset in range(0, len(model), CHUNK_BYTES):
            await self._link.call(UploadModel(name, offset, len(model), model[offset : offset + CHUNK_BYTES]))
        campaign_id, level = decision.campaign_id, decision.level
        slim_base = SlimBase(campaign_id, level, decision.fingerprint, name, len(model))
        await self._link.call(PublishSlimBase(sign_document("slim_base", slim_base, self._signing_key)))
