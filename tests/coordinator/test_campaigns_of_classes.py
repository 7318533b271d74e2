"""Campaigns that are judged, and campaigns of several classes side by side."""

from dataclasses import replace

import campaigns_house
import pytest
from campaigns_house import CAMERA, DOORBELL, OPERATOR_PUBLIC, House, campaign_for, check_in, refused, slim_base

from prunefleet_coordinator.campaigns import NO_CAMPAIGN_MS
from prunefleet_coordinator.testing import (
    vote_payload,
)
from prunefleet_shared.acceptance import Acceptance, Ruling, RulingReason
from prunefleet_shared.campaign import Campaign, Decision, Level
from prunefleet_shared.documents import open_document, public_bytes
from prunefleet_shared.errors import RejectReason
from prunefleet_shared.messages import (
    Awaited,
    CampaignEnded,
    CampaignOffer,
    ComeBack,
    Contribute,
    Ending,
    GetCampaign,
)
from prunefleet_shared.testing import COORDINATOR_KEY, TRAINER_KEY


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
    monkeypatch.setattr(campaigns_house, "COORDINATOR_KEY", TRAINER_KEY)  # it has another key now
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
