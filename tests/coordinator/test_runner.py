"""Commands carried out: what is stored before what is said, signed, served, waited for. Played over plain calls."""

import asyncio
import contextlib
import time

import pytest
from round_world import identity, members, seeded, sum_campaign

from prunefleet_coordinator.runner import CoordinatorRunner
from prunefleet_coordinator.store import MemoryStore
from prunefleet_coordinator.testing import (
    BASE_MODEL,
    FakeClock,
    counting_ids,
    outcome_payload,
    random_vote,
    small_campaign,
    vote_payload,
)
from prunefleet_shared.campaign import CohortPolicy, Decision, SlimBase
from prunefleet_shared.documents import digest, open_document, public_bytes, sign_document
from prunefleet_shared.errors import CarrierError, ConfigError, RejectReason, RemoteProtocolError
from prunefleet_shared.messages import (
    AwaitDecision,
    Awaited,
    CampaignEnded,
    CampaignOffer,
    CheckIn,
    ComeBack,
    Contribute,
    ContributionCounted,
    DecisionOffer,
    Ending,
    FetchModel,
    GetCampaign,
    Invitation,
    ModelChunk,
    Peer,
    PublishSlimBase,
    Readiness,
    Role,
    SessionKind,
    Stored,
    UploadModel,
)
from prunefleet_shared.private_sum import SessionFacts, SumKeys, open_device_sum
from prunefleet_shared.testing import COORDINATOR_KEY as KEY
from prunefleet_shared.testing import TRAINER_KEY
from prunefleet_shared.wire_limits import CHUNK_BYTES

CAMPAIGN = small_campaign()
SIGNED = sign_document("campaign", CAMPAIGN, KEY)
TRAINER = Peer("trainer", Role.TRAINER)
CHECK_IN = CheckIn(CAMPAIGN.campaign_id, CAMPAIGN.layout.fingerprint(), Readiness.READY)
ASK = AwaitDecision(CAMPAIGN.campaign_id)
SLIM_MODEL = bytes(range(256)) * 1500  # two pieces


class FailingStore(MemoryStore):
    """A disk that is full for as long as ``is_full``."""

    is_full = False

    def save_snapshot(self, snapshot, signed=None):
        if self.is_full:
            msg = "disk full"
            raise ConfigError(msg)
        super().save_snapshot(snapshot, signed)

    def save_closing(self, closed, snapshot, signed=None, ruling=None):
        if self.is_full:
            msg = "disk full"
            raise ConfigError(msg)
        super().save_closing(closed, snapshot, signed, ruling)


class House:
    """A coordinator with its store, and peers that speak to it one message at a time."""

    def __init__(self, poll_s=0.0):
        self.store, self.clock, self.ids = FailingStore(), FakeClock(), counting_ids()
        self.store.save_blob(BASE_MODEL)
        self.poll_s = poll_s
        self.told = []
        self.restart()

    def restart(self):
        arguments = (SIGNED, KEY, self.store, self.store, self.clock, self.ids)
        self.runner = CoordinatorRunner(*arguments, poll_s=self.poll_s)
        self.runner.watch(lambda kind, facts: self.told.append((kind, facts)))

    def say(self, peer, message):
        return asyncio.run(self.runner.handle(peer, message))

    def device(self, number, message):
        return self.say(Peer(f"device-{number}", Role.DEVICE), message)

    def gather(self, num_devices=3):
        for number in range(num_devices):
            invitation = self.device(number, CHECK_IN)
            assert isinstance(invitation, Invitation), invitation
            assert self.device(number, contribution(invitation, number)) == ContributionCounted(invitation.session_id)
        return invitation

    def upload(self, body=SLIM_MODEL):
        for offset in range(0, len(body), CHUNK_BYTES):
            piece = UploadModel(digest(body), offset, len(body), body[offset : offset + CHUNK_BYTES])
            assert self.say(TRAINER, piece) == Stored()

    def decision(self):
        offer = self.say(TRAINER, ASK)
        assert isinstance(offer, DecisionOffer), offer
        return open_document(offer.decision, "decision", Decision, SIGNED.public_key)

    def publish(self):
        self.upload()
        return self.say(TRAINER, PublishSlimBase(signed_slim_base(self.decision())))


def contribution(invitation, number):
    is_vote = invitation.kind is SessionKind.VOTE
    return Contribute(invitation.session_id, vote_payload(CAMPAIGN, number) if is_vote else outcome_payload())


def signed_slim_base(decision, key=TRAINER_KEY):
    facts = (decision.campaign_id, decision.level, decision.fingerprint, digest(SLIM_MODEL), len(SLIM_MODEL))
    return sign_document("slim_base", SlimBase(*facts), key)


@contextlib.contextmanager
def refused(reason):
    with pytest.raises(RemoteProtocolError) as caught:
        yield
    assert caught.value.rejection.reason == reason


@pytest.fixture
def house():
    return House()


def test_a_campaign_from_offer_to_end(house):
    assert house.device(0, GetCampaign("camera")) == CampaignOffer(SIGNED)
    assert house.gather().kind is SessionKind.VOTE
    for level in range(2):
        assert house.decision().level == level
        assert house.publish() == Stored()
        invitation = house.gather()
        assert open_document(invitation.decision, "decision", Decision, SIGNED.public_key).level == level
        slim_base = open_document(invitation.slim_base, "slim_base", SlimBase, public_bytes(TRAINER_KEY.public_key()))
        assert slim_base.level == level
    assert house.device(0, CHECK_IN) == CampaignEnded(Ending.COMPLETED)
    assert house.say(TRAINER, ASK) == CampaignEnded(Ending.COMPLETED)


def test_watchers_hear_the_story_and_who_is_awaited(house):
    house.gather()
    kinds = [kind for kind, _ in house.told]
    assert kinds == ["invited", "joined"] * 2 + ["invited", "session_closed", "joined", "decided"]
    assert house.told[0][1]["awaited"] == ["device-0"]
    assert house.told[-1][1]["phase"] == "retraining"


def test_models_go_down_in_pieces(house):
    house.upload()
    body = b""
    while len(body) < len(SLIM_MODEL):
        chunk = house.device(0, FetchModel(digest(SLIM_MODEL), len(body)))
        assert isinstance(chunk, ModelChunk)
        assert (chunk.total_bytes, len(chunk.chunk) <= CHUNK_BYTES) == (len(SLIM_MODEL), True)
        body += chunk.chunk
    assert body == SLIM_MODEL
    for wrong in (FetchModel("00" * 32, 0), FetchModel(digest(SLIM_MODEL), len(body)), FetchModel(digest(body), -1)):
        with refused(RejectReason.NOT_FOUND):
            house.device(0, wrong)


def test_pieces_sent_twice_are_taken_twice_without_harm(house):
    name, total = digest(SLIM_MODEL), len(SLIM_MODEL)
    first = UploadModel(name, 0, total, SLIM_MODEL[:CHUNK_BYTES])
    last = UploadModel(name, CHUNK_BYTES, total, SLIM_MODEL[CHUNK_BYTES:])
    for piece in (first, first, last, last):
        assert house.say(TRAINER, piece) == Stored()
    assert house.store.load_blob(name, 0, total).piece == SLIM_MODEL


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        (UploadModel("aa", 0, 512 * 1024 * 1024 + 1, b"x"), RejectReason.TOO_LARGE),
        (UploadModel("aa", 0, CHUNK_BYTES * 2, bytes(CHUNK_BYTES + 1)), RejectReason.TOO_LARGE),
        (UploadModel("aa", 0, 1, b"xx"), RejectReason.MALFORMED),
        (UploadModel("aa", 0, 1, b""), RejectReason.MALFORMED),
        (UploadModel("aa", 1, 2, b"x"), RejectReason.MALFORMED),  # nothing was begun
        (UploadModel("aa", 0, 1, b"x"), RejectReason.MALFORMED),  # whole, and not what the digest says
    ],
)
def test_uploads_out_of_bounds_or_out_of_order_are_turned_down(house, piece, reason):
    with refused(reason):
        house.say(TRAINER, piece)


def test_a_gap_in_an_upload_is_turned_down_and_the_upload_can_go_on(house):
    body = SLIM_MODEL
    pieces = [UploadModel(digest(body), at, len(body), body[at : at + 100_000]) for at in range(0, len(body), 100_000)]
    house.say(TRAINER, pieces[0])
    with refused(RejectReason.MALFORMED):
        house.say(TRAINER, pieces[2])
    for piece in pieces[1:]:
        assert house.say(TRAINER, piece) == Stored()
    assert house.store.load_blob(digest(body), 0, 1).total_bytes == len(body)


def test_a_slim_base_needs_the_trainers_signature_and_its_bytes(house):
    house.gather()
    decision = house.decision()
    with refused(RejectReason.NOT_FOUND):
        house.say(TRAINER, PublishSlimBase(signed_slim_base(decision)))
    house.upload()
    with refused(RejectReason.BAD_SIGNATURE):
        house.say(TRAINER, PublishSlimBase(signed_slim_base(decision, KEY)))
    assert house.say(TRAINER, PublishSlimBase(signed_slim_base(decision))) == Stored()


def test_messages_of_the_wrong_role_or_class_are_turned_down(house):
    with refused(RejectReason.WRONG_ROLE):
        house.device(0, ASK)
    with refused(RejectReason.WRONG_ROLE):
        house.say(TRAINER, CHECK_IN)
    with refused(RejectReason.WRONG_CAMPAIGN):
        house.device(0, GetCampaign("doorbell"))


def test_a_deadline_is_kept_by_the_tick(house):
    for number in range(2):
        house.device(number, contribution(house.device(number, CHECK_IN), number))
    house.clock.now_s = 60.0
    house.runner.tick()
    assert house.decision().num_devices == 2


def test_a_new_coordinator_resumes_from_the_store(house):
    house.gather()
    before = house.decision()
    house.restart()
    assert house.decision() == before
    house.publish()
    invitation = house.device(0, CHECK_IN)
    house.restart()
    with refused(RejectReason.WRONG_SESSION):
        house.device(0, contribution(invitation, 0))
    assert house.gather().attempt == 2


def test_a_sum_that_could_not_be_stored_is_not_said_until_it_is(house):
    for number in range(2):
        house.device(number, contribution(house.device(number, CHECK_IN), number))
    invitation = house.device(2, CHECK_IN)
    house.store.is_full = True
    with pytest.raises(CarrierError, match="disk full") as caught:
        house.device(2, contribution(invitation, 2))
    assert caught.value.retryable
    assert house.store.load_closed(CAMPAIGN.campaign_id, SessionKind.VOTE, 0) is None
    with pytest.raises(CarrierError, match="disk full"):
        house.say(TRAINER, ASK)
    house.store.is_full = False
    assert isinstance(house.say(TRAINER, ASK), DecisionOffer)
    assert house.decision().num_devices == 3
    assert house.store.load_closed(CAMPAIGN.campaign_id, SessionKind.VOTE, 0).total.num_devices == 3


def test_a_long_poll_ends_as_soon_as_something_changes():
    house = House(poll_s=30.0)

    async def play():
        waiting = asyncio.create_task(house.runner.handle(TRAINER, ASK))
        await asyncio.sleep(0)  # lets the trainer ask, and begin to wait, before any device speaks
        for number in range(3):
            peer = Peer(f"device-{number}", Role.DEVICE)
            invitation = await house.runner.handle(peer, CHECK_IN)
            assert not waiting.done()
            await house.runner.handle(peer, contribution(invitation, number))
        return await asyncio.wait_for(waiting, 5)

    assert isinstance(asyncio.run(play()), DecisionOffer)


def test_devices_of_a_private_sum_hear_of_each_stage_at_once_and_so_do_watchers():
    campaign = sum_campaign(cohort=CohortPolicy(3, 3, 60_000))
    store, told = MemoryStore(), []
    store.save_blob(BASE_MODEL)
    signed = sign_document("campaign", campaign, KEY)
    runner = CoordinatorRunner(signed, KEY, store, store, FakeClock(), counting_ids(), poll_s=30.0, members=members())
    runner.watch(lambda kind, facts: told.append((kind, facts)))

    async def device(number):
        peer = Peer(f"d{number}", Role.DEVICE)
        to = await runner.handle(peer, CheckIn(campaign.campaign_id, campaign.layout.fingerprint(), Readiness.READY))
        facts = SessionFacts(to.session_id, to.kind, to.level, to.attempt)
        keys = SumKeys(identity(peer.peer_id), members(), seeded(number), min_devices=3)
        end = open_device_sum(campaign, facts, random_vote(campaign, number), keys)
        message = end.start()
        while message is not None:
            message = end.receive(await runner.handle(peer, message))

    async def play():
        await asyncio.wait_for(asyncio.gather(*map(device, (1, 2, 3))), 10)  # long before a poll gives up

    asyncio.run(play())
    closed = store.load_closed(campaign.campaign_id, SessionKind.VOTE, 0)
    assert closed.contributors == ("d1", "d2", "d3")
    stages = [(facts["stage"], facts["num_awaited"]) for kind, facts in told if kind == "stage"]
    assert stages == [("shares", 3), ("vectors", 3), ("confirmations", 3), ("unmasking", 3)]
    assert [kind for kind, _ in told if kind in {"joined", "session_closed"}] == 3 * ["joined"] + ["session_closed"]


def test_a_long_poll_without_a_change_says_whom_it_waits_for():
    house = House(poll_s=0.01)
    assert house.say(TRAINER, ASK) == ComeBack(1000, Awaited.DEVICES)


def test_run_keeps_the_deadline_and_ends_with_the_campaign():
    """On the real clock: nobody speaks after the one invitation, so only ``run`` can end the campaign."""
    campaign = small_campaign(cohort=CohortPolicy(size=2, quorum=2, deadline_ms=10, max_attempts=1))
    store, told = MemoryStore(), []
    store.save_blob(BASE_MODEL)
    signed = sign_document("campaign", campaign, KEY)
    runner = CoordinatorRunner(signed, KEY, store, store, time.monotonic, counting_ids())
    runner.watch(lambda kind, facts: told.append((kind, facts)))

    async def play():
        running = asyncio.create_task(runner.run())
        await runner.handle(Peer("device-0", Role.DEVICE), CHECK_IN)
        await asyncio.wait_for(running, 5)

    asyncio.run(play())
    assert [kind for kind, _ in told] == ["invited", "session_abandoned", "ended"]
    assert told[-1][1]["ending"] == "failed"


def test_a_campaign_needs_its_key_and_its_base():
    store = MemoryStore()
    arguments = (store, store, FakeClock(), counting_ids())
    with pytest.raises(ConfigError, match="add its safetensors file"):
        CoordinatorRunner(SIGNED, KEY, *arguments)
    with pytest.raises(ConfigError, match="names another key for its decisions"):
        CoordinatorRunner(SIGNED, TRAINER_KEY, *arguments)
