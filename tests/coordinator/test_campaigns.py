"""Several campaigns at once: who may start them, which one a message finds, what is left after a restart."""

import asyncio
import contextlib
import sys
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_coordinator.campaigns import NO_CAMPAIGN_MS, Campaigns
from prunefleet_coordinator.store import MemoryStore, SqlStore
from prunefleet_coordinator.testing import (
    BASE_MODEL,
    FakeClock,
    counting_ids,
    outcome_payload,
    small_campaign,
    vote_payload,
)
from prunefleet_shared import wire
from prunefleet_shared.acceptance import Acceptance, Ruling, RulingReason
from prunefleet_shared.campaign import SUM, Campaign, CohortPolicy, Decision, Level, PrivacyTerms, SlimBase
from prunefleet_shared.documents import SignedDocument, digest, open_document, public_bytes, sign_document
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
    Control,
    ControlCampaign,
    DecisionOffer,
    Ending,
    FetchModel,
    GetCampaign,
    GetStatus,
    Invitation,
    Peer,
    Phase,
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


@pytest.fixture
def house():
    return House()


# --- judged campaigns -----------------------------------------------------------------------------------------------

JUDGED = campaign_for("camera", acceptance=Acceptance(50, 0))


def offered(house, ended_id=""):
    answer = house.device(0, GetCampaign("camera", ended_id))
    if not isinstance(answer, CampaignOffer):
        return None
    return open_document(answer.campaign, "campaign", Campaign, OPERATOR_PUBLIC)


@pytest.mark.parametrize("restarted", [False, True])
def test_an_ended_campaign_is_offered_until_a_device_has_heard_its_end(house, restarted):
    house.start(JUDGED)
    house.gather(JUDGED)
    house.publish(house.offer())
    house.gain_over_dense = -0.9
    house.gather(JUDGED)
    if restarted:
        house.restart()
    assert offered(house) == JUDGED, "a device that slept hears that it was rolled back"
    offer = house.device(0, check_in(JUDGED))
    ruling = open_document(offer.ruling, "ruling", Ruling, public_bytes(COORDINATOR_KEY.public_key()))
    assert (ruling.reason, ruling.levels_held, offer.decision) == (RulingReason.TOO_MANY_WORSE, (), None)
    heard = replace(check_in(JUDGED), rulings_heard=1)
    assert house.device(0, heard) == CampaignEnded(Ending.COMPLETED)
    assert house.device(0, GetCampaign("camera", JUDGED.campaign_id)) == ComeBack(NO_CAMPAIGN_MS, Awaited.OPERATOR)
    # The next campaign of the class comes first, for everybody.
    house.start(campaign_for("camera", 2))
    assert offered(house) == offered(house, JUDGED.campaign_id) == campaign_for("camera", 2)
    assert house.device(0, check_in(JUDGED)) is not None, "the last one still answers those that name it"


def test_the_network_for_all_comes_with_the_ruling_that_ends_the_search(house):
    one_level = replace(JUDGED, levels=JUDGED.levels[:1])
    house.start(one_level)
    house.gather(one_level)
    decision = house.offer()
    house.publish(decision)
    house.gather(one_level)
    offer = house.restart().device(7, check_in(one_level))
    assert offer.slim_base == slim_base(decision)
    coordinator = public_bytes(COORDINATOR_KEY.public_key())
    assert open_document(offer.decision, "decision", Decision, coordinator) == decision
    assert house.statuses()[0].rulings[0].reason is RulingReason.HELD


def test_a_campaign_that_judged_nothing_is_not_offered_once_it_has_ended(house):
    house.start(CAMERA)
    house.complete(CAMERA)
    assert offered(house) is None
    assert offered(house.restart()) is None


def test_an_ended_campaign_that_can_no_longer_be_told_keeps_no_coordinator_from_starting(house, monkeypatch):
    one_level = replace(JUDGED, levels=JUDGED.levels[:1])
    house.start(one_level)
    house.gather(one_level)
    house.publish(house.offer())
    house.gather(one_level)
    monkeypatch.setattr(sys.modules[__name__], "COORDINATOR_KEY", TRAINER_KEY)  # it has another key now
    assert offered(house.restart()) is None
    assert house.device(0, check_in(one_level)) == CampaignEnded(Ending.COMPLETED)


# --- several classes ------------------------------------------------------------------------------------------------


def with_levels(campaign, *permilles):
    dense = campaign.cost_table.cost(campaign.layout.dense_widths)
    return replace(campaign, levels=tuple(Level(permille, dense * permille // 1000) for permille in permilles))


def test_three_classes_run_side_by_side_each_to_its_own_decisions_within_its_own_budgets(house):
    """A phone, a camera and a microcontroller: one base, one coordinator, one trainer, three budgets."""
    phone = with_levels(campaign_for("phone"), 800, 600)
    camera = with_levels(campaign_for("camera"), 500)
    meter = with_levels(campaign_for("meter"), 300)
    for campaign in (phone, camera, meter):
        house.start(campaign)
    # Rounds are mixed: the phones wait for their second slim base while the others begin.
    house.gather(phone)
    decided = {phone.campaign_id: [house.offer(phone.campaign_id)]}
    house.publish(decided[phone.campaign_id][0])
    house.gather(phone)
    for campaign in (camera, meter):
        house.gather(campaign)
        decided[campaign.campaign_id] = [house.offer(campaign.campaign_id)]
    house.restart()
    decided[phone.campaign_id].append(house.offer(phone.campaign_id))
    for campaign in (meter, phone, camera):
        house.publish(decided[campaign.campaign_id][-1])
        house.gather(campaign)
        assert house.device(0, check_in(campaign)) == CampaignEnded(Ending.COMPLETED)
    for campaign in (phone, camera, meter):
        decisions = decided[campaign.campaign_id]
        assert [decision.level for decision in decisions] == list(range(len(campaign.levels)))
        for decision, level in zip(decisions, campaign.levels, strict=True):
            assert decision.campaign_id == campaign.campaign_id
            assert campaign.cost_table.cost(decision.widths) == decision.cost <= level.budget
    costs = [decided[campaign.campaign_id][-1].cost for campaign in (phone, camera, meter)]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == 3


def test_a_device_of_one_class_has_no_part_in_anothers_campaign(house):
    house.start(CAMERA)
    invitation = house.invite(CAMERA, 0)
    house.start(DOORBELL)
    other = house.invite(DOORBELL, 1)
    assert other.session_id != invitation.session_id
    with refused(RejectReason.NOT_INVITED):
        house.device(1, Contribute(invitation.session_id, vote_payload(CAMERA, 1)))


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


# --- control --------------------------------------------------------------------------------------------------------


def test_pause_and_resume_survive_a_restart(house):
    house.start(CAMERA)
    assert house.control(CAMERA, Control.PAUSE) == Stored()
    house.restart()
    assert house.device(0, check_in(CAMERA)) == ComeBack(5000, Awaited.OPERATOR)
    [status] = house.statuses()
    assert (status.is_paused, status.awaited) == (True, Awaited.OPERATOR)
    assert house.control(CAMERA, Control.RESUME) == Stored()
    house.invite(CAMERA, 0)


def test_a_stopped_campaign_says_so_to_everyone_also_after_a_restart(house):
    house.start(CAMERA)
    house.gather(CAMERA)
    house.publish(house.offer())
    invitation = house.invite(CAMERA, 0)
    for _ in range(2):
        assert house.control(CAMERA, Control.STOP) == Stored()
        for readiness in (Readiness.READY, Readiness.BUSY):
            assert house.device(0, check_in(CAMERA, readiness)) == CampaignEnded(Ending.STOPPED)
        assert house.say(TRAINER, AwaitDecision(CAMERA.campaign_id)) == CampaignEnded(Ending.STOPPED)
        assert house.say(TRAINER, AwaitDecision("")) == ComeBack(1000, Awaited.DEVICES)
        with pytest.raises(RemoteProtocolError) as caught:
            house.device(0, Contribute(invitation.session_id, outcome_payload()))
        assert caught.value.rejection.reason in (RejectReason.LATE, RejectReason.WRONG_SESSION)
        with refused(RejectReason.WRONG_CAMPAIGN):
            house.control(CAMERA, Control.RESUME)
        house.restart()


def test_what_does_not_run_cannot_be_controlled(house):
    with refused(RejectReason.WRONG_CAMPAIGN):
        house.control(CAMERA, Control.PAUSE)
    house.start(CAMERA)
    house.complete(CAMERA)
    for _ in range(2):
        for control in Control:
            with refused(RejectReason.WRONG_CAMPAIGN):
                house.control(CAMERA, control)
        house.restart()


# --- status ---------------------------------------------------------------------------------------------------------


def test_status_says_what_is_awaited_since_when_and_from_whom(house):
    house.start(CAMERA)
    house.start(DOORBELL)
    house.clock.now_s += 10
    house.invite(CAMERA, 0)
    house.clock.now_s += 3
    answer = house.say(OPERATOR, GetStatus())
    assert (answer.deny_list_age_ms, answer.authority_is_built_in) == (7, True)
    doorbell, camera = answer.campaigns  # newest first
    assert (doorbell.device_class, doorbell.attempt, doorbell.awaited) == ("doorbell", 0, Awaited.DEVICES)
    assert (camera.phase, camera.level, camera.num_levels, camera.attempt) == (Phase.VOTING, 0, 2, 1)
    assert (camera.num_contributions, camera.quorum, camera.cohort_size) == (0, 1, 2)
    assert (camera.remaining_ms, camera.awaited_for_ms, camera.awaited_ids) == (57_000, 3_000, ("device-0",))
    house.clock.now_s += 60
    camera = house.statuses()[1]
    assert (camera.attempt, camera.awaited, camera.awaited_ids) == (0, Awaited.DEVICES, ())


def test_status_of_many_campaigns_and_of_a_crowd_fits_the_wire(house):
    house.start(campaign_for("camera", 0))
    for number in range(1, 103):
        house.control(campaign_for("camera", number - 1), Control.STOP)
        house.start(campaign_for("camera", number))
    crowd = replace(campaign_for("doorbell"), cohort=CohortPolicy(205, 1, 60_000))
    house.start(crowd)
    for number in range(205):
        house.invite(crowd, number)
    statuses = house.restart().statuses()
    assert len(statuses) == 100
    for number in range(205):
        house.invite(crowd, number)
    crowded = house.statuses()[0]
    assert (crowded.device_class, len(crowded.awaited_ids)) == ("doorbell", 200)


def test_watchers_hear_of_starts_steps_and_refusals_once_each(house):
    house.start(CAMERA)
    house.gather(CAMERA)
    with refused(RejectReason.WRONG_SESSION):
        house.device(0, Contribute("ee" * 16, b"x"))
    invitation = house.offer() and house.publish(house.offer()) and house.invite(CAMERA, 0)
    with refused(RejectReason.NOT_INVITED):
        house.device(9, Contribute(invitation.session_id, outcome_payload()))
    with refused(RejectReason.WRONG_ROLE):
        house.say(Peer("coordinator", Role.COORDINATOR), GetStatus())  # its own health check: not worth a line
    kinds = [kind for _, kind, _ in house.told]
    assert kinds == [
        *("started", "invited", "joined", "invited", "session_closed", "joined", "decided", "refused"),
        *("slim_base_published", "invited", "refused"),
    ]
    assert {campaign_id for campaign_id, kind, _ in house.told if kind != "refused"} == {CAMERA.campaign_id}
    assert house.told[-1][2]["reason"] == "NOT_INVITED"


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
