"""The device's runner in a campaign of mode sum, with real keys: what is on the disk before what is said."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from sum_fleet import CAMPAIGN, COHORT_SIZE, FACTS, MIN_DEVICES, STAGES, Others, identity, members, name_of

from prunefleet_edge.device import Vote
from prunefleet_edge.device_state import DeviceState, Release
from prunefleet_edge.egress import Egress
from prunefleet_edge.events import VotePrepared
from prunefleet_edge.runner import DeviceRunner, SumMembership
from prunefleet_edge.store import MemoryDeviceStore
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import ConfigError, LocalProtocolError, RejectReason, RemoteProtocolError
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import (
    Awaited,
    CampaignEnded,
    CampaignOffer,
    ComeBack,
    Down,
    Ending,
    SessionKind,
    SumUp,
    Up,
)
from prunefleet_shared.metrics import Outcome, read_outcome
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    COORDINATOR_PUBLIC,
    TINY_BASE,
    Answer,
    ScriptedLink,
    SimClock,
    invitation,
    outcome_invitation,
    run_simulated,
    tiny_decision,
    tiny_slim_base,
)

FINGERPRINT = CAMPAIGN.layout.fingerprint()
DECISION = tiny_decision(CAMPAIGN)
OFFER = CampaignOffer(sign_document("campaign", CAMPAIGN, COORDINATOR_KEY))
VOTE_TO, OUTCOME_TO = invitation(SessionKind.VOTE, session=1), outcome_invitation(DECISION, session=2)
DONE = CampaignEnded(Ending.COMPLETED)
EVERYBODY = frozenset(name_of(number) for number in range(COHORT_SIZE))


class SumLink(ScriptedLink):
    """A script for everything but sums; these are answered by the others, each message only when it is said again."""

    def __init__(self, script: Iterable[Answer]) -> None:
        super().__init__(script, [TINY_BASE, tiny_slim_base(DECISION)[1]])
        facts = replace(FACTS, session_id=VOTE_TO.session_id)
        outcome = replace(facts, session_id=OUTCOME_TO.session_id, kind=SessionKind.OUTCOME, decision=DECISION)
        self.others = {each.session_id: Others(each) for each in (facts, outcome)}

    async def call(self, message: Up) -> Down:
        if not isinstance(message, SumUp):
            return await super().call(message)
        is_new = message not in self.sent
        self.sent.append(message)
        answer = None if is_new else self.others[message.session_id].answer(message)
        return answer or ComeBack(1000, Awaited.DEVICES)


class Work:
    """Votes at random; finishes no outcome."""

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        return FINGERPRINT

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        grades_C = grade_layout(campaign.layout, np.random.default_rng(1).random(campaign.layout.num_channels))
        return Vote(grades_C, np.zeros((len(campaign.levels), len(campaign.layout.groups)), dtype=np.int64))

    async def personalise(
        self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None
    ) -> Outcome:
        return Outcome(finished=True, accepted=True, accuracy_gain=0.1, latency_ratio=0.5)


class LoggedStore(MemoryDeviceStore):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def save(self, state: DeviceState, release: Release | None = None) -> None:
        self.log.append("save" if release is None else "save with release")
        super().save(state, release)


class Bench:
    """Device 0 and its others; ``log`` has saves and messages in order, ``asked`` what the policy was asked."""

    def __init__(self, script: Iterable[Answer]) -> None:
        self.log: list[str] = []
        self.asked: list[int] = []
        self.link = SumLink(script)
        self.store = LoggedStore(self.log)
        self.membership: SumMembership | None = SumMembership(
            lambda: identity(0), members(), MIN_DEVICES, random.Random(7).randbytes
        )

    def run(self) -> Ending:
        clock = SimClock()
        runner = DeviceRunner(
            Egress(self.link, audit=lambda record: self.log.append(record.kind)),
            Work(),
            self.store,
            device_class="camera",
            operator_keys=[COORDINATOR_PUBLIC],
            clock=clock,
            sleep=clock.sleep,
            rng=random.Random(1),
            on_state=lambda _words: None,
            check_policy=lambda _campaign, num_released: self.asked.append(num_released),
            membership=self.membership,
        )
        return run_simulated(runner.run(), clock)

    @property
    def story(self) -> list[str]:
        """``log`` without downloads, and what was said twice in a row said once."""
        told = [step for step in self.log if step not in {"GetCampaign", "FetchModel"}]
        return [step for before, step in zip(["", *told], told, strict=False) if step != before]


@pytest.mark.parametrize("work_s", [0.0, 0.5, 4.0, 9.9, 10.0, 25.0])
def test_when_a_device_answers_does_not_tell_how_long_it_worked(work_s: float) -> None:
    """Everything that takes up to a slot is answered within the same two slots, at a time that chance draws."""
    clock, slot_s = SimClock(), 10.0
    runner = DeviceRunner(
        Egress(ScriptedLink([]), audit=lambda _record: None),
        Work(),
        MemoryDeviceStore(),
        device_class="camera",
        operator_keys=[COORDINATOR_PUBLIC],
        clock=clock,
        sleep=clock.sleep,
        rng=random.Random(5),
        on_state=lambda _words: None,
        reply_slot_s=slot_s,
    )

    async def work() -> VotePrepared:
        await clock.sleep(work_s)
        return VotePrepared(b"")

    run_simulated(runner._in_slot(work()), clock)
    jitter_s = random.Random(5).uniform(0.0, slot_s)
    assert clock() == pytest.approx(math.ceil(work_s / slot_s) * slot_s + jitter_s)


def before(*devices: str) -> Release:
    return Release(tuple(sorted(devices)))


def test_a_whole_campaign_spent_and_released_on_the_disk_before_masks_come_off() -> None:
    bench = Bench([OFFER, VOTE_TO, OUTCOME_TO, DONE])
    assert bench.run() is Ending.COMPLETED
    stages, again = STAGES[:-1], [stage for stage in STAGES[:-1] if stage != "FetchCertificates"]
    vote = ["CheckIn", "save", *stages, "save with release", "Unmask"]
    outcome = ["CheckIn", "save", *again, "save", "Unmask"]
    assert bench.story == [*vote, *outcome, "CheckIn", "save"], "certificates that are known are not fetched again"
    assert bench.store.releases() == (EVERYBODY,)
    tally = read_outcome(bench.link.others[OUTCOME_TO.session_id].coordinator.close())
    assert (tally.tried, tally.finished, tally.accepted) == (COHORT_SIZE, 1, 1)


def test_a_release_that_cannot_be_saved_leaves_the_masks_on() -> None:
    class FullStore(LoggedStore):
        def save(self, state: DeviceState, release: Release | None = None) -> None:
            if release is not None:
                raise ConfigError("database or disk is full")
            super().save(state, release)

    bench = Bench([OFFER, VOTE_TO])
    bench.store = FullStore(bench.log)
    with pytest.raises(ConfigError, match="full"):
        bench.run()
    assert bench.story[-1] == "ConfirmSurvivors"


def test_a_vote_whose_sum_is_too_alike_an_earlier_one_is_not_confirmed() -> None:
    bench = Bench([OFFER, VOTE_TO])
    bench.store.save(DeviceState("d1" * 16, spent=("vote",)), before("device-0", "device-1", "device-2", "device-9"))
    with pytest.raises(RemoteProtocolError) as caught:
        bench.run()
    assert caught.value.rejection.reason is RejectReason.TOO_ALIKE
    assert bench.story[-1] == "Contribute"


def test_a_vote_beside_a_sum_of_enough_others_is_fine() -> None:
    bench = Bench([OFFER, VOTE_TO, DONE])
    bench.store.save(DeviceState("d1" * 16, spent=("vote",)), before("device-0", "device-7", "device-8", "device-9"))
    assert bench.run() is Ending.COMPLETED
    assert bench.asked == [1]


def test_an_outcome_is_no_vote_and_may_be_summed_over_others() -> None:
    bench = Bench([OFFER, OUTCOME_TO, DONE])
    bench.store.save(DeviceState("d1" * 16, spent=("vote",)), before("device-0", "device-1", "device-2"))
    assert bench.run() is Ending.COMPLETED
    assert bench.store.releases() == (frozenset({"device-0", "device-1", "device-2"}),)


def test_the_owner_wants_more_devices_than_the_campaign() -> None:
    bench = Bench([OFFER, VOTE_TO])
    assert bench.membership is not None
    bench.membership = replace(bench.membership, min_devices=COHORT_SIZE + 1)
    with pytest.raises(RemoteProtocolError) as caught:
        bench.run()
    assert caught.value.rejection.reason is RejectReason.BAD_ROSTER
    assert bench.story[-1] == "Advertise"


def test_without_a_certificate_there_is_no_sum_and_nothing_is_said() -> None:
    bench = Bench([OFFER, VOTE_TO])
    bench.membership = None
    with pytest.raises(LocalProtocolError, match="needs a certificate"):
        bench.run()
    assert bench.story == ["CheckIn"]


def test_a_campaign_voted_in_asks_for_no_other_vote_after_a_restart() -> None:
    """Or a device whose owner allows one vote would leave the campaign in which it has cast it."""
    first = Bench([OFFER, VOTE_TO, DONE])
    first.run()
    again = Bench([OFFER, DONE])
    again.store = first.store
    again.run()
    assert first.asked + again.asked == [0, 0]
    assert len(first.store.releases()) == 1
