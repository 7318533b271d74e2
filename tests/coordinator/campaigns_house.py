"""A coordinator of campaigns with its store, and peers that speak to it, for tests."""

import asyncio
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_coordinator.campaigns import Campaigns
from prunefleet_coordinator.store import MemoryStore
from prunefleet_coordinator.testing import (
    BASE_MODEL,
    FakeClock,
    counting_ids,
    outcome_payload,
    small_campaign,
    vote_payload,
)
from prunefleet_shared import wire
from prunefleet_shared.campaign import CohortPolicy, Decision, SlimBase
from prunefleet_shared.documents import digest, open_document, public_bytes, sign_document
from prunefleet_shared.errors import RemoteProtocolError
from prunefleet_shared.messages import (
    AwaitDecision,
    CheckIn,
    Contribute,
    ContributionCounted,
    ControlCampaign,
    DecisionOffer,
    GetStatus,
    Invitation,
    Peer,
    PublishSlimBase,
    Readiness,
    Role,
    SessionKind,
    StartCampaign,
    Stored,
    UploadModel,
)
from prunefleet_shared.testing import COORDINATOR_KEY, TRAINER_KEY

OPERATOR_KEY = ec.derive_private_key(17, ec.SECP256R1())
OPERATOR_PUBLIC = public_bytes(OPERATOR_KEY.public_key())
STRANGER_KEY = ec.derive_private_key(19, ec.SECP256R1())
OPERATOR, TRAINER = Peer("boss", Role.OPERATOR), Peer("trainer", Role.TRAINER)
SLIM_MODEL = b"a slim model"
COHORT = CohortPolicy(size=2, quorum=1, deadline_ms=60_000)


def campaign_for(device_class, number=1, **changes):
    return small_campaign(
        campaign_id=digest(f"{device_class} {number}".encode())[:32],
        device_class=device_class,
        cohort=COHORT,
        **changes,
    )


CAMERA, DOORBELL = campaign_for("camera"), campaign_for("doorbell")


class House:
    """A coordinator of campaigns with its store, and peers that speak to it one message at a time."""

    def __init__(self, store=None, poll_s=0.0):
        self.store = store or MemoryStore()
        self.clock, self.ids, self.poll_s = FakeClock(1000.0), counting_ids(), poll_s
        self.operator_keys, self.num_learned, self.told = [OPERATOR_PUBLIC], 0, []
        self.allow_plain, self.gain_over_dense = True, 0.0
        self.restart()

    def restart(self):
        self.campaigns = Campaigns(
            self.store,
            self.store,
            operator_keys=lambda: self.operator_keys,
            signing_key=COORDINATOR_KEY,
            clock=self.clock,
            new_session_id=self.ids,
            poll_s=self.poll_s,
            deny_list_age_ms=lambda: 7,
            authority_is_built_in=True,
            on_event=lambda *told: self.told.append(told),
            learn_operators=self.learn,
            allow_plain=self.allow_plain,
        )
        return self

    async def learn(self):
        self.num_learned += 1

    def say(self, peer, message):
        answer = asyncio.run(self.campaigns.handle(peer, message))
        method = wire.method_of(message).path
        assert wire.decode_down(method, wire.encode_down(method, answer)) == answer  # it goes over the wire
        return answer

    def device(self, number, message):
        return self.say(Peer(f"device-{number}", Role.DEVICE), message)

    def upload(self, body, peer=OPERATOR):
        assert self.say(peer, UploadModel(digest(body), 0, len(body), body)) == Stored()

    def start(self, campaign, key=OPERATOR_KEY):
        self.upload(BASE_MODEL)
        return self.say(OPERATOR, StartCampaign(sign_document("campaign", campaign, key)))

    def control(self, campaign, control):
        return self.say(OPERATOR, ControlCampaign(campaign.campaign_id, control))

    def invite(self, campaign, number):
        invitation = self.device(number, check_in(campaign))
        assert isinstance(invitation, Invitation), invitation
        return invitation

    def gather(self, campaign):
        for number in range(2):
            invitation = self.invite(campaign, number)
            gain = None if campaign.acceptance is None else self.gain_over_dense
            is_vote = invitation.kind is SessionKind.VOTE
            payload = vote_payload(campaign, number) if is_vote else outcome_payload(gain_over_dense=gain)
            answer = self.device(number, Contribute(invitation.session_id, payload))
            assert answer == ContributionCounted(invitation.session_id)

    def offer(self, campaign_id="", peer=TRAINER):
        offer = self.say(peer, AwaitDecision(campaign_id))
        assert isinstance(offer, DecisionOffer), offer
        return open_document(offer.decision, "decision", Decision, public_bytes(COORDINATOR_KEY.public_key()))

    def publish(self, decision, key=TRAINER_KEY):
        self.upload(SLIM_MODEL, TRAINER)
        return self.say(TRAINER, PublishSlimBase(slim_base(decision, key)))

    def complete(self, campaign):
        self.gather(campaign)
        for _ in campaign.levels:
            self.publish(self.offer(campaign.campaign_id))
            self.gather(campaign)

    def statuses(self):
        return self.say(OPERATOR, GetStatus()).campaigns


def check_in(campaign, readiness=Readiness.READY):
    return CheckIn(campaign.campaign_id, campaign.layout.fingerprint(), readiness)


def slim_base(decision, key=TRAINER_KEY):
    facts = (decision.campaign_id, decision.level, decision.fingerprint, digest(SLIM_MODEL), len(SLIM_MODEL))
    return sign_document("slim_base", SlimBase(*facts), key)


@contextlib.contextmanager
def refused(reason):
    with pytest.raises(RemoteProtocolError) as caught:
        yield
    assert caught.value.rejection.reason == reason
