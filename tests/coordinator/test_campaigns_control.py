"""What an operator may do with campaigns, and what is told of them."""

from dataclasses import replace

import pytest
from campaigns_house import CAMERA, DOORBELL, OPERATOR, TRAINER, House, campaign_for, check_in, refused

from prunefleet_coordinator.testing import (
    outcome_payload,
)
from prunefleet_shared.campaign import CohortPolicy
from prunefleet_shared.errors import RejectReason, RemoteProtocolError
from prunefleet_shared.messages import (
    AwaitDecision,
    Awaited,
    CampaignEnded,
    ComeBack,
    Contribute,
    Control,
    Ending,
    GetStatus,
    Peer,
    Phase,
    Readiness,
    Role,
    Stored,
)


@pytest.fixture
def house():
    return House()


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
