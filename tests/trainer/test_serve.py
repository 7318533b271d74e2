"""A trainer's life: waiting, working, being stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest
from serving_trainer import (
    LATER,
    OPERATOR_PUBLIC,
    STORED,
    TINY,
    TINY_DECISION,
    UNREACHABLE,
    Served,
    offer,
)

from prunefleet_shared.campaign import Campaign, Decision, SlimBase
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import (
    CarrierError,
    RejectReason,
    RemoteProtocolError,
    reject,
)
from prunefleet_shared.messages import (
    AwaitDecision,
    CampaignEnded,
    DecisionOffer,
    Ending,
    UploadModel,
)
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    COORDINATOR_PUBLIC,
    TRAINER_KEY,
    Answer,
    ScriptedLink,
    SimClock,
    run_simulated,
)
from prunefleet_trainer.runner import FOREIGN_REST_S, Retrained, SteeringSums, TrainerRunner
from prunefleet_trainer.serve import FATAL

# --- for ever --------------------------------------------------------------------------------------------------------


def test_an_unreachable_coordinator_is_tried_for_weeks() -> None:
    served = Served([*[UNREACHABLE] * 40_000, offer(), STORED, STORED])
    served.run()
    assert served.clock() > 8 * 24 * 3600
    assert served.trained == [TINY_DECISION]
    assert "trying again in" in served.said[0]


def test_a_reached_coordinator_is_not_hammered() -> None:
    served = Served([*[UNREACHABLE] * 20, LATER, UNREACHABLE, offer(), STORED, STORED])
    served.run()
    assert len(served.said) == 22
    assert served.said[-2].endswith("trying again in 1 s"), "success begins the waiting anew"


@pytest.mark.parametrize("reason", sorted(FATAL))
def test_a_refusal_that_will_not_mend_ends_it(reason: RejectReason) -> None:
    served = Served([LATER, reject(reason)])
    with pytest.raises(RemoteProtocolError):
        served.run()


def test_a_coordinator_with_a_wrong_certificate_ends_it() -> None:
    served = Served([CarrierError("certificate verify failed", retryable=False)])
    with pytest.raises(CarrierError):
        served.run()


def test_a_campaign_of_nobody_we_know_ends_it() -> None:
    strange = DecisionOffer(
        sign_document("campaign", TINY, COORDINATOR_KEY), sign_document("decision", TINY_DECISION, COORDINATOR_KEY)
    )
    served = Served([strange])
    with pytest.raises(RemoteProtocolError, match="BAD_SIGNATURE"):
        served.run()
    assert served.trained == []


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize(
    "failure", [UNREACHABLE, reject(RejectReason.MALFORMED), reject(RejectReason.NOT_FOUND)], ids=repr
)
def test_what_failed_half_way_is_sent_again_from_the_start(at: int, failure: Exception) -> None:
    served = Served([*[offer(), STORED, STORED][:at], failure, offer(), STORED, STORED])
    served.run()
    sent = [type(message).__name__ for message in served.link.sent]
    assert sent[-3:] == ["AwaitDecision", "UploadModel", "PublishSlimBase"]
    uploads = [message for message in served.link.sent if isinstance(message, UploadModel)]
    assert {upload.offset for upload in uploads} == {0}


def test_a_campaign_that_names_another_trainer_is_left_and_others_are_served() -> None:
    foreign = replace(TINY, campaign_id="f0" * 16, slim_base_key=COORDINATOR_PUBLIC.hex())
    theirs = offer(foreign, replace(TINY_DECISION, campaign_id=foreign.campaign_id))
    served = Served([theirs, theirs, offer(), STORED, STORED])
    served.run()
    assert served.foreign == [foreign.campaign_id] * 2
    assert served.trained == [TINY_DECISION]
    assert served.clock() == pytest.approx(2 * FOREIGN_REST_S), "it does not spin"


def test_the_only_campaign_asked_for_must_name_us() -> None:
    foreign = replace(TINY, slim_base_key=COORDINATOR_PUBLIC.hex())
    link = ScriptedLink([offer(foreign)])

    async def retrain(_campaign: Campaign, _decision: Decision, _sums: SteeringSums | None) -> Retrained:
        raise AssertionError

    runner = TrainerRunner(
        link, TINY.campaign_id, operator_keys=lambda: [OPERATOR_PUBLIC], signing_key=TRAINER_KEY, retrain=retrain
    )
    with pytest.raises(RemoteProtocolError, match="--trainer"):
        run_simulated(runner.run())


# --- stopped while it works ------------------------------------------------------------------------------------------


class Working:
    """A runner whose retraining takes a minute; ``script`` answers what is asked meanwhile."""

    def __init__(self, script: Iterable[Answer]) -> None:
        self.link = ScriptedLink(script)
        self.clock = SimClock()
        self.is_cancelled = False

    async def _retrain(self, _campaign: Campaign, _decision: Decision, _sums: SteeringSums | None) -> Retrained:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        return Retrained(b"slim")

    def step(self) -> object:
        keys = [OPERATOR_PUBLIC]
        wired = {"operator_keys": lambda: keys, "signing_key": TRAINER_KEY, "retrain": self._retrain}
        runner = TrainerRunner(self.link, "", **wired)
        return run_simulated(runner.step(), self.clock)


@pytest.mark.parametrize(
    "stop",
    [
        CampaignEnded(Ending.STOPPED),
        reject(RejectReason.WRONG_CAMPAIGN),
        offer(decision=replace(TINY_DECISION, fingerprint="1" * 64)),
    ],
    ids=["stopped", "forgotten", "another decision"],
)
def test_work_that_is_no_longer_wanted_stops_within_seconds(stop: Answer) -> None:
    working = Working([offer(), offer(), LATER, UNREACHABLE, stop])
    assert working.step() is None
    assert working.is_cancelled
    assert working.clock() <= 25
    asked = [message for message in working.link.sent if isinstance(message, AwaitDecision)]
    assert [message.campaign_id for message in asked] == ["", *[TINY.campaign_id] * 4]


def test_work_that_is_wanted_goes_on_to_its_end() -> None:
    working = Working([*[offer()] * 13, STORED, STORED])
    assert isinstance(working.step(), SlimBase)
    assert not working.is_cancelled


def test_a_trainer_that_was_revoked_stops_its_work() -> None:
    working = Working([offer(), reject(RejectReason.REVOKED)])
    with pytest.raises(RemoteProtocolError, match="REVOKED"):
        working.step()
    assert working.is_cancelled
