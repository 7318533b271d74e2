"""The device's runner against a scripted coordinator: order, verification, downloads, waits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prunefleet_edge.device import Vote
from prunefleet_edge.device_state import DeviceState
from prunefleet_edge.egress import Egress
from prunefleet_edge.runner import DeviceRunner
from prunefleet_edge.store import MemoryDeviceStore
from prunefleet_edge.verified_link import LinkLimits
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.documents import digest, sign_document
from prunefleet_shared.errors import (
    CarrierError,
    EgressError,
    InputError,
    LayoutError,
    PrunefleetError,
    RejectReason,
    RemoteProtocolError,
    reject,
)
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import (
    Awaited,
    CampaignEnded,
    CampaignOffer,
    CheckIn,
    ComeBack,
    Contribute,
    ContributionCounted,
    Down,
    FetchModel,
    GetCampaign,
    ModelChunk,
    SessionKind,
    Stored,
    Up,
)
from prunefleet_shared.metrics import Outcome
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    COORDINATOR_PUBLIC,
    TINY_BASE,
    TRAINER_KEY,
    TRAINER_PUBLIC,
    Answer,
    ScriptedLink,
    SimClock,
    invitation,
    outcome_invitation,
    run_simulated,
    tiny_campaign,
    tiny_decision,
    tiny_slim_base,
)

CAMPAIGN = tiny_campaign()
DECISION = tiny_decision(CAMPAIGN)
SLIM_BASE, SLIM_MODEL = tiny_slim_base(DECISION)
OFFER = CampaignOffer(sign_document("campaign", CAMPAIGN, COORDINATOR_KEY))
VOTE_TO = invitation(SessionKind.VOTE, session=1)
OUTCOME_TO = outcome_invitation(DECISION, session=2)
LOST = CarrierError("cut", retryable=True)


def counted(message: Up) -> Down:
    assert isinstance(message, Contribute)
    return ContributionCounted(message.session_id)


class Work:
    """Votes at random, finds every decision good; ``log`` says in which order it was asked."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.fingerprint = CAMPAIGN.layout.fingerprint()

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        assert base == TINY_BASE
        return self.fingerprint

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        self.log.append("vote")
        grades_C = grade_layout(campaign.layout, np.random.default_rng(1).random(campaign.layout.num_channels))
        return Vote(grades_C, np.zeros((len(campaign.levels), len(campaign.layout.groups)), dtype=np.int64))

    async def personalise(self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes) -> Outcome:
        assert (decision, slim_base) == (DECISION, SLIM_MODEL)
        self.log.append("outcome")
        return Outcome(finished=True, accepted=True, accuracy_gain=0.1, latency_ratio=0.5)


class LoggedStore(MemoryDeviceStore):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def save(self, state: DeviceState) -> None:
        self.log.append("save")
        super().save(state)


class Bench:
    """A device and its scripted coordinator; ``log`` has work, saves and messages in order."""

    def __init__(self, script: Iterable[Answer], models: Iterable[bytes] = (TINY_BASE, SLIM_MODEL)) -> None:
        self.log: list[str] = []
        self.states: list[str] = []
        self.clock = SimClock()
        self.link = ScriptedLink(script, models)
        self.work = Work(self.log)
        self.store = LoggedStore(self.log)
        self.limits = LinkLimits()

    def run(self) -> bool:
        runner = DeviceRunner(
            Egress(self.link, audit=lambda record: self.log.append(record.kind)),
            self.work,
            self.store,
            device_class="camera",
            coordinator_key=COORDINATOR_PUBLIC,
            trainer_key=TRAINER_PUBLIC,
            clock=self.clock,
            sleep=self.clock.sleep,
            rng=random.Random(1),
            on_state=self.states.append,
            limits=self.limits,
        )
        return run_simulated(runner.run(), self.clock)


def test_a_whole_campaign_saved_before_sent() -> None:
    bench = Bench([OFFER, VOTE_TO, counted, OUTCOME_TO, counted, CampaignEnded(completed=True)])
    assert bench.run() is True
    story = [step for step in bench.log if step not in {"GetCampaign", "FetchModel"}]
    vote = ["CheckIn", "vote", "save", "Contribute"]
    outcome = ["CheckIn", "save", "outcome", "save", "Contribute"]
    assert story == [*vote, *outcome, "CheckIn", "save"]
    assert bench.store.load(CAMPAIGN.campaign_id) == DeviceState(
        CAMPAIGN.campaign_id, ("outcome/0", "outcome/1", "vote")
    )
    assert "preparing the vote" in bench.states
    assert bench.states[-1] == "campaign completed"


def test_a_campaign_given_up_is_no_error() -> None:
    assert Bench([OFFER, CampaignEnded(completed=False)]).run() is False


def test_lost_answers_are_asked_for_again() -> None:
    bench = Bench(
        [LOST, LOST, OFFER, LOST, VOTE_TO, LOST, VOTE_TO, reject(RejectReason.DUPLICATE), CampaignEnded(True)]
    )
    assert bench.run() is True
    kinds = [type(message) for message in bench.link.sent]
    assert kinds == [GetCampaign] * 3 + [CheckIn] * 2 + [Contribute, CheckIn, Contribute, CheckIn]
    first, second = (message for message in bench.link.sent if isinstance(message, Contribute))
    assert first == second
    assert bench.log.count("vote") == 1


def test_a_rest_is_kept_and_told() -> None:
    bench = Bench([OFFER, ComeBack(600_000, Awaited.TRAINER), CampaignEnded(completed=True)])
    bench.run()
    assert 450.0 <= bench.clock.now_s <= 750.0
    assert any("waiting for the slim base" in state for state in bench.states)


def test_a_restart_sends_the_stored_vote() -> None:
    first = Bench([OFFER, VOTE_TO, CarrierError("unplugged", retryable=False)])
    with pytest.raises(CarrierError, match="unplugged"):
        first.run()
    second = Bench([OFFER, VOTE_TO, counted, CampaignEnded(completed=True)])
    second.store = first.store
    second.run()
    assert "vote" not in second.log
    assert second.link.sent[-2] == first.link.sent[-1]


def test_a_tampered_store_says_nothing() -> None:
    bench = Bench([OFFER])
    first = Bench([OFFER, VOTE_TO, counted, CampaignEnded(completed=True)])
    saved: list[DeviceState] = []
    first.store.save = saved.append  # type: ignore[method-assign]
    first.run()
    said = saved[0].contribution
    assert said is not None
    bench.store.save(replace(saved[0], contribution=replace(said, payload_hex="ff" * len(said.payload))))
    with pytest.raises(EgressError, match="stored vote"):
        bench.run()
    assert len(bench.link.sent) == 1


FORGED_DECISION = replace(OUTCOME_TO, decision=sign_document("decision", DECISION, TRAINER_KEY))
FORGED_SLIM_BASE = replace(OUTCOME_TO, slim_base=sign_document("slim_base", SLIM_BASE, COORDINATOR_KEY))
OTHER_KIND = replace(OUTCOME_TO, decision=sign_document("slim_base", DECISION, COORDINATOR_KEY))
FORGED_OFFER = CampaignOffer(sign_document("campaign", CAMPAIGN, TRAINER_KEY))


def offer(**changes: Any) -> CampaignOffer:
    return CampaignOffer(sign_document("campaign", tiny_campaign(**changes), COORDINATOR_KEY))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([FORGED_OFFER], RejectReason.BAD_SIGNATURE),
        ([OFFER, FORGED_DECISION], RejectReason.BAD_SIGNATURE),
        ([OFFER, FORGED_SLIM_BASE], RejectReason.BAD_SIGNATURE),
        ([OFFER, OTHER_KIND], RejectReason.BAD_SIGNATURE),
        ([offer(device_class="doorbell")], RejectReason.WRONG_CAMPAIGN),
        ([offer(privacy_mode="sum")], RejectReason.WRONG_CAMPAIGN),
        ([offer(levels=())], RejectReason.WRONG_CAMPAIGN),
        ([offer(levels=CAMPAIGN.levels * 5)], RejectReason.WRONG_CAMPAIGN),
        ([Stored()], RejectReason.MALFORMED),
        ([OFFER, Stored()], RejectReason.MALFORMED),
        ([OFFER, VOTE_TO, CampaignEnded(completed=True)], RejectReason.MALFORMED),
        ([OFFER, reject(RejectReason.WRONG_LAYOUT)], RejectReason.WRONG_LAYOUT),
        ([reject(RejectReason.STRANGER)], RejectReason.STRANGER),
    ],
)
def test_what_does_not_hold_stops_the_device(script: list[Answer], reason: RejectReason) -> None:
    bench = Bench(script)
    with pytest.raises(RemoteProtocolError) as caught:
        bench.run()
    assert caught.value.rejection.reason is reason
    assert "outcome" not in bench.log


@pytest.mark.parametrize(
    "pieces",
    [
        [ModelChunk(4, b"")],
        [ModelChunk(4, b"toolong")],
        [ModelChunk(4, b"ab"), ModelChunk(5, b"cd")],
        [ModelChunk(1 << 40, b"ab")],
        [ModelChunk(0, b"")],
        [ModelChunk(4, b"ab"), ModelChunk(4, b"cd")],  # the right size, another digest
        [ContributionCounted("00" * 16)],
    ],
)
def test_a_wrong_model_stops_the_device(pieces: list[Answer]) -> None:
    with pytest.raises(RemoteProtocolError, match="MALFORMED"):
        Bench([OFFER, *pieces], models=()).run()


def test_a_slim_base_of_another_size_than_signed_stops_the_device() -> None:
    lied = sign_document("slim_base", replace(SLIM_BASE, model_bytes=SLIM_BASE.model_bytes + 1), TRAINER_KEY)
    with pytest.raises(RemoteProtocolError, match="MALFORMED"):
        Bench([OFFER, replace(OUTCOME_TO, slim_base=lied)]).run()


def test_models_come_in_pieces_and_a_lost_piece_is_fetched_again() -> None:
    half = len(TINY_BASE) // 2
    pieces: list[Answer] = [
        ModelChunk(len(TINY_BASE), TINY_BASE[:half]),
        LOST,
        ModelChunk(len(TINY_BASE), TINY_BASE[half:]),
    ]
    bench = Bench([OFFER, *pieces, CampaignEnded(completed=True)], models=())
    assert bench.run() is True
    offsets = [message.offset for message in bench.link.sent if isinstance(message, FetchModel)]
    assert offsets == [0, half, half]
    assert digest(TINY_BASE) == CAMPAIGN.base_digest


def test_another_network_stops_the_device_before_it_checks_in() -> None:
    bench = Bench([OFFER])
    bench.work.fingerprint = "0" * 64
    with pytest.raises(LayoutError, match="traced"):
        bench.run()
    assert len(bench.link.sent) == 1


class SilentLink(ScriptedLink):
    async def call(self, message: Up) -> Down:
        await asyncio.sleep(1e9)
        raise AssertionError


@pytest.mark.parametrize(("attribute", "error"), [("link", CarrierError), ("work", InputError)])
def test_nothing_waits_for_ever(attribute: str, error: type[PrunefleetError]) -> None:
    bench = Bench([OFFER, VOTE_TO])
    if attribute == "link":
        bench.link = SilentLink([])
    else:
        bench.work.prepare_vote = lambda campaign, base: asyncio.sleep(1e9)  # type: ignore[method-assign, assignment]
    with pytest.raises(error):
        bench.run()
    assert bench.clock.now_s < 9 * 24 * 3600.0
