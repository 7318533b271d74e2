"""Several campaigns at once: who may start them, which one a message finds, what is left after a restart."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from campaigns_house import (
    CAMERA,
    DOORBELL,
    OPERATOR,
    OPERATOR_KEY,
    OPERATOR_PUBLIC,
    SLIM_MODEL,
    STRANGER_KEY,
    TRAINER,
    House,
    campaign_for,
    check_in,
    refused,
)

from prunefleet_coordinator.campaigns import NO_CAMPAIGN_MS, Campaigns
from prunefleet_coordinator.store import MemoryStore, SqlStore
from prunefleet_coordinator.testing import (
    BASE_MODEL,
    vote_payload,
)
from prunefleet_shared.campaign import SUM, CohortPolicy, PrivacyTerms
from prunefleet_shared.documents import SignedDocument, digest, public_bytes, sign_document
from prunefleet_shared.errors import CarrierError, ConfigError, RejectReason
from prunefleet_shared.messages import (
    AwaitDecision,
    Awaited,
    CampaignEnded,
    CampaignOffer,
    ComeBack,
    Contribute,
    ContributionCounted,
    Control,
    ControlCampaign,
    DecisionOffer,
    Ending,
    FetchModel,
    GetCampaign,
    GetStatus,
    Peer,
    Phase,
    PublishSlimBase,
    Readiness,
    Role,
    StartCampaign,
    Stored,
    UploadModel,
)


@pytest.fixture
def house():
    return House()


# --- starting -------------------------------------------------------------------------------------------------------


def test_a_campaign_waits_for_the_operator_then_runs_to_its_end(house):
    assert house.device(0, GetCampaign("camera")) == ComeBack(NO_CAMPAIGN_MS, Awaited.OPERATOR)
    assert house.start(CAMERA) == Stored()
    offer = house.device(0, GetCampaign("camera"))
    assert offer == CampaignOffer(sign_document("campaign", CAMERA, OPERATOR_KEY))
    house.complete(CAMERA)
    assert house.device(0, check_in(CAMERA)) == CampaignEnded(Ending.COMPLETED)
    assert house.device(0, GetCampaign("camera")) == ComeBack(NO_CAMPAIGN_MS, Awaited.OPERATOR)


def test_a_campaign_needs_an_operators_signature(house):
    house.upload(BASE_MODEL)
    with refused(RejectReason.BAD_SIGNATURE):
        house.start(CAMERA, STRANGER_KEY)
    signed = sign_document("campaign", CAMERA, OPERATOR_KEY)
    forged = SignedDocument("campaign", signed.payload.replace(b"camera", b"camerb"), signed.signature, OPERATOR_PUBLIC)
    with refused(RejectReason.BAD_SIGNATURE):
        house.say(OPERATOR, StartCampaign(forged))
    assert house.statuses() == ()


def test_a_campaign_that_shows_contributions_needs_a_coordinator_that_allows_it(house):
    house.allow_plain = False
    house.restart()
    with refused(RejectReason.WRONG_CAMPAIGN):
        house.start(CAMERA)
    assert house.start(replace(CAMERA, privacy=PrivacyTerms(SUM, 3), cohort=CohortPolicy(3, 3, 60_000))) == Stored()


def test_a_plain_campaign_is_not_resumed_where_others_can_reach_the_coordinator(house):
    house.start(CAMERA)
    house.allow_plain = False
    with pytest.raises(ConfigError, match="--allow-plain"):
        house.restart()


def test_an_operator_who_joined_later_is_learned_of_but_not_at_every_try(house):
    house.operator_keys = []
    for _ in range(3):
        with refused(RejectReason.BAD_SIGNATURE):
            house.start(CAMERA)
    assert house.num_learned == 1
    house.clock.now_s += 5

    async def learn():
        house.operator_keys = [OPERATOR_PUBLIC]

    house.learn = learn
    house.restart()
    assert house.start(CAMERA) == Stored()


def test_a_campaign_needs_its_base_and_this_coordinator(house):
    with refused(RejectReason.NOT_FOUND):
        house.say(OPERATOR, StartCampaign(sign_document("campaign", CAMERA, OPERATOR_KEY)))
    with refused(RejectReason.WRONG_CAMPAIGN):
        house.start(replace(CAMERA, decision_key=public_bytes(STRANGER_KEY.public_key()).hex()))
    with refused(RejectReason.WRONG_CAMPAIGN):
        house.start(replace(CAMERA, cohort=CohortPolicy(size=1, quorum=2, deadline_ms=1)))
    assert house.statuses() == ()
    assert house.start(CAMERA) == Stored()


def test_starting_again_changes_nothing_also_after_the_end(house):
    house.start(CAMERA)
    house.gather(CAMERA)
    assert house.start(CAMERA) == Stored()
    house.offer()
    house.control(CAMERA, Control.STOP)
    assert house.restart().start(CAMERA) == Stored()
    assert [status.phase for status in house.statuses()] == [Phase.STOPPED]


def test_one_campaign_per_class_and_one_class_per_id(house):
    house.start(CAMERA)
    with refused(RejectReason.WRONG_CAMPAIGN):
        house.start(campaign_for("camera", 2))
    with refused(RejectReason.WRONG_CAMPAIGN):
        house.start(replace(CAMERA, device_class="doorbell"))
    assert house.start(DOORBELL) == Stored()
    house.control(CAMERA, Control.STOP)
    assert house.start(campaign_for("camera", 2)) == Stored()


def test_only_operators_start_control_and_ask(house):
    house.start(CAMERA)
    for message in (StartCampaign(sign_document("campaign", CAMERA, OPERATOR_KEY)), GetStatus()):
        for peer in (TRAINER, Peer("device-1", Role.DEVICE), Peer("c", Role.COORDINATOR)):
            with refused(RejectReason.WRONG_ROLE):
                house.say(peer, message)
    with refused(RejectReason.WRONG_ROLE):
        house.device(0, ControlCampaign(CAMERA.campaign_id, Control.STOP))
    assert house.statuses()[0].phase is Phase.VOTING


# --- finding --------------------------------------------------------------------------------------------------------


def test_messages_find_their_campaign(house):
    house.start(CAMERA)
    house.start(DOORBELL)
    camera, doorbell = house.invite(CAMERA, 0), house.invite(DOORBELL, 7)
    with refused(RejectReason.NOT_INVITED):
        house.device(0, Contribute(doorbell.session_id, vote_payload(DOORBELL, 0)))
    for number, invitation in ((0, camera), (7, doorbell)):
        answer = house.device(number, Contribute(invitation.session_id, vote_payload(CAMERA, number)))
        assert answer == ContributionCounted(invitation.session_id)
    assert [status.num_contributions for status in house.statuses()] == [1, 1]
    with refused(RejectReason.WRONG_SESSION):
        house.device(0, Contribute("ee" * 16, vote_payload(CAMERA, 0)))
    with refused(RejectReason.WRONG_CAMPAIGN):
        house.device(0, check_in(campaign_for("toaster")))
    with refused(RejectReason.WRONG_CAMPAIGN):
        house.say(TRAINER, AwaitDecision("ee" * 16))


def test_the_trainer_is_offered_every_campaigns_decision_in_turn(house):
    for campaign in (CAMERA, DOORBELL):
        house.start(campaign)
        house.gather(campaign)
    both = {CAMERA.campaign_id, DOORBELL.campaign_id}
    assert {house.offer().campaign_id for _ in range(2)} == both
    assert {house.offer(peer=Peer("other", Role.TRAINER)).campaign_id for _ in range(2)} == both
    assert house.publish(house.offer(CAMERA.campaign_id)) == Stored()
    assert {house.offer().campaign_id for _ in range(3)} == {DOORBELL.campaign_id}
    house.publish(house.offer())
    assert house.say(TRAINER, AwaitDecision("")) == ComeBack(1000, Awaited.DEVICES)


def test_a_slim_base_must_be_of_the_key_that_its_campaign_names(house):
    house.start(CAMERA)
    house.gather(CAMERA)
    decision = house.offer()
    with refused(RejectReason.BAD_SIGNATURE):
        house.publish(decision, STRANGER_KEY)
    with refused(RejectReason.MALFORMED):
        house.say(TRAINER, PublishSlimBase(SignedDocument("slim_base", b"{}", b"12345678", OPERATOR_PUBLIC)))
    house.control(CAMERA, Control.STOP)
    with refused(RejectReason.WRONG_DECISION):
        house.restart().publish(decision)


def test_models_are_shared_and_uploads_do_not_mix(house):
    body, other = bytes(1000), b"\1" * 1000
    house.say(OPERATOR, UploadModel(digest(body), 0, 1000, body[:500]))
    house.say(TRAINER, UploadModel(digest(other), 0, 1000, other[:500]))
    house.say(TRAINER, UploadModel(digest(other), 500, 1000, other[500:]))
    house.say(OPERATOR, UploadModel(digest(body), 500, 1000, body[500:]))
    for peer in (TRAINER, Peer("device-1", Role.DEVICE)):
        assert house.say(peer, FetchModel(digest(other), 0)).chunk == other


def test_many_uploads_at_once_do_not_fill_the_memory(house):
    for number in range(50):
        piece = UploadModel(digest(bytes([number])), 0, 2, b"x")
        house.say(Peer(f"trainer-{number}", Role.TRAINER), piece)
    assert len(house.campaigns._models._uploads) == 4


# --- waiting, deadlines, storage ------------------------------------------------------------------------------------


def test_devices_without_a_campaign_and_the_trainer_hear_of_one_at_once():
    house = House(poll_s=30.0)
    for body in (BASE_MODEL, SLIM_MODEL):
        house.store.save_blob(body)
    campaign = replace(CAMERA, cohort=CohortPolicy(1, 1, 60_000))

    async def play():
        handle = house.campaigns.handle
        device = Peer("device-0", Role.DEVICE)
        asking = asyncio.create_task(handle(device, GetCampaign("camera")))
        training = asyncio.create_task(handle(TRAINER, AwaitDecision("")))
        await asyncio.sleep(0)
        await handle(OPERATOR, StartCampaign(sign_document("campaign", campaign, OPERATOR_KEY)))
        assert isinstance(await asyncio.wait_for(asking, 5), CampaignOffer)
        invitation = await handle(device, check_in(campaign))
        busy = asyncio.create_task(handle(device, check_in(campaign, Readiness.BUSY)))
        assert not training.done()
        await handle(device, Contribute(invitation.session_id, vote_payload(campaign, 0)))
        assert isinstance(await asyncio.wait_for(training, 5), DecisionOffer)
        assert not busy.done()
        await handle(OPERATOR, ControlCampaign(campaign.campaign_id, Control.STOP))
        assert await asyncio.wait_for(busy, 5) == CampaignEnded(Ending.STOPPED)

    asyncio.run(play())


def test_a_device_whose_turn_is_over_is_not_held():
    house = House(poll_s=30.0)
    house.store.save_blob(BASE_MODEL)
    campaign = replace(CAMERA, cohort=CohortPolicy(1, 1, 60_000, overselection_permille=1000))

    async def play():
        await house.campaigns.handle(OPERATOR, StartCampaign(sign_document("campaign", campaign, OPERATOR_KEY)))
        await house.campaigns.handle(Peer("device-0", Role.DEVICE), check_in(campaign))
        asking = house.campaigns.handle(Peer("device-1", Role.DEVICE), check_in(campaign))
        assert await asyncio.wait_for(asking, 5) == ComeBack(15_000, Awaited.NOTHING)

    asyncio.run(play())


def test_at_the_end_of_the_server_nobody_is_held():
    house = House(poll_s=30.0)

    async def play():
        running = asyncio.create_task(house.campaigns.run())
        asking = asyncio.create_task(house.campaigns.handle(Peer("d", Role.DEVICE), GetCampaign("camera")))
        await asyncio.sleep(0)
        house.campaigns.end()
        assert isinstance(await asyncio.wait_for(asking, 5), ComeBack)
        await asyncio.wait_for(running, 5)
        answer = await asyncio.wait_for(house.campaigns.handle(TRAINER, AwaitDecision("")), 5)
        assert isinstance(answer, ComeBack)

    asyncio.run(play())


@pytest.mark.parametrize("is_resumed", [False, True])
def test_run_keeps_the_deadlines_of_campaigns_old_and_new(is_resumed):
    house = House()
    house.store.save_blob(BASE_MODEL)
    campaign = replace(CAMERA, cohort=CohortPolicy(2, 2, 10, max_attempts=1))
    start = StartCampaign(sign_document("campaign", campaign, OPERATOR_KEY))

    async def play():
        if is_resumed:
            await house.campaigns.handle(OPERATOR, start)
            house.restart()
        running = asyncio.create_task(house.campaigns.run())
        await asyncio.sleep(0)
        if not is_resumed:
            await house.campaigns.handle(OPERATOR, start)
        await house.campaigns.handle(Peer("device-0", Role.DEVICE), check_in(campaign))
        house.clock.now_s += 1.0
        async with asyncio.timeout(5):
            while house.told[-1][1] != "ended":
                await asyncio.sleep(0.005)
        assert not running.done()
        house.campaigns.end()
        await running

    asyncio.run(play())
    assert house.told[-1][2]["ending"] == "failed"


class FailingStore(MemoryStore):
    """A disk that is full for as long as ``is_full``."""

    is_full = False

    def save_snapshot(self, snapshot, signed=None):
        if self.is_full:
            msg = "disk full"
            raise ConfigError(msg)
        super().save_snapshot(snapshot, signed)

    def save_campaign(self, campaign, signed):
        if self.is_full:
            msg = "disk full"
            raise ConfigError(msg)
        super().save_campaign(campaign, signed)


def test_a_full_disk_starts_stops_and_forgets_nothing():
    house = House(FailingStore())
    house.upload(BASE_MODEL)
    house.store.is_full = True
    with pytest.raises(CarrierError, match="disk full"):
        house.start(CAMERA)
    assert house.statuses() == ()
    house.store.is_full = False
    house.start(CAMERA)
    house.store.is_full = True
    with pytest.raises(CarrierError, match="disk full"):
        house.control(CAMERA, Control.STOP)
    house.store.is_full = False
    house.invite(CAMERA, 0)


def test_a_deadline_that_cannot_be_stored_is_tried_again(monkeypatch):
    monkeypatch.setattr("prunefleet_coordinator.campaigns.STORE_REST_S", 0.01)
    house = House(FailingStore())
    house.store.save_blob(BASE_MODEL)
    campaign = replace(CAMERA, cohort=CohortPolicy(2, 2, 10, max_attempts=1))

    async def play():
        running = asyncio.create_task(house.campaigns.run())
        await asyncio.sleep(0)
        await house.campaigns.handle(OPERATOR, StartCampaign(sign_document("campaign", campaign, OPERATOR_KEY)))
        await house.campaigns.handle(Peer("device-0", Role.DEVICE), check_in(campaign))
        house.store.is_full = True
        house.clock.now_s += 1.0
        await asyncio.sleep(0.05)
        house.store.is_full = False
        await asyncio.sleep(0.05)
        assert not running.done()
        answer = await house.campaigns.handle(Peer("device-0", Role.DEVICE), check_in(campaign))
        assert answer.attempt == 2  # the session was lost with the failed save
        house.campaigns.end()
        await running

    asyncio.run(play())


def test_everything_goes_on_from_the_database(tmp_path):
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with contextlib.closing(SqlStore(url)) as store:
        house = House(store)
        house.start(CAMERA)
        house.start(DOORBELL)
        house.control(DOORBELL, Control.STOP)
        house.gather(CAMERA)
        decision = house.offer()
    with contextlib.closing(SqlStore(url)) as store:
        store.check()
        house = House(store)
        assert house.offer() == decision
        assert [status.phase for status in house.statuses()] == [Phase.STOPPED, Phase.RETRAINING]


def test_a_store_of_another_coordinator_is_the_operators_to_mend(house):
    house.start(CAMERA)
    with pytest.raises(ConfigError, match="names another key for its decisions"):
        Campaigns(
            house.store,
            house.store,
            operator_keys=list,
            signing_key=STRANGER_KEY,
            clock=house.clock,
            new_session_id=house.ids,
        )
