"""A device without data: takes the networks that are offered, keeps them as they are, and says nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import test_device_process as process
import test_work_retraining as parts
from runner_bench import CAMPAIGN, DECISION, LOST, OFFER, OUTCOME_TO, SLIM_BASE, SLIM_MODEL, VOTE_TO, Bench

from prunefleet_edge.audit import read_audit
from prunefleet_edge.campaign_networks import load_networks
from prunefleet_edge.consumer_round import ConsumerRound
from prunefleet_edge.device_process import DeviceProcess
from prunefleet_edge.device_state import DeviceState
from prunefleet_edge.events import (
    CampaignEnded,
    KeepSlimBase,
    OutcomeMeasured,
    SendCheckIn,
    SlimBaseHeard,
    SlimBaseKept,
    VotePrepared,
)
from prunefleet_edge.models import example_input
from prunefleet_edge.network_file import load_kept, read_kept_info
from prunefleet_edge.state_folder import StateFolder
from prunefleet_edge.status import kept_facts, read_status, status_text
from prunefleet_edge.work_process import NO_DATA, Worker, WorkSetup
from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import LayoutError, LocalProtocolError, RejectReason, RemoteProtocolError
from prunefleet_shared.messages import Awaited, CheckIn, ComeBack, Ending, Readiness, SlimBaseOffer
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    TRAINER_KEY,
    Answer,
    tiny_decision,
    tiny_slim_base,
)

SHIPPED = SlimBaseOffer(
    sign_document("decision", DECISION, COORDINATOR_KEY), sign_document("slim_base", SLIM_BASE, TRAINER_KEY)
)
ENDED = CampaignEnded(Ending.COMPLETED)


class Keeper:
    def __init__(self, log: list[str]) -> None:
        self.log, self.kept = log, list[tuple[int, bytes]]()

    async def keep_slim_base(self, campaign: Campaign, decision: Decision, slim_base: bytes) -> None:
        self.log.append("keep")
        self.kept.append((decision.level, slim_base))


class ConsumerBench(Bench):
    """The bench of a device with data, whose work must never be asked for."""

    def __init__(self, script: Iterable[Answer]) -> None:
        super().__init__(script)
        self.consumer = self.keeper = Keeper(self.log)


def test_it_keeps_what_it_is_offered_before_it_says_so() -> None:
    bench = ConsumerBench([OFFER, ComeBack(1000, Awaited.DEVICES), SHIPPED, LOST, ENDED])
    assert bench.run() is Ending.COMPLETED
    assert bench.keeper.kept == [(0, SLIM_MODEL)]
    assert [step for step in bench.log if step not in {"GetCampaign", "FetchModel"}] == [
        *["CheckIn", "CheckIn", "keep", "save", "CheckIn", "CheckIn", "save"]
    ]
    said = [message for message in bench.link.sent if isinstance(message, CheckIn)]
    assert {message.readiness for message in said} == {Readiness.NO_DATA}
    assert [message.slim_base_heard for message in said] == [0, 0, 1, 1]
    state = bench.store.load(CAMPAIGN.campaign_id)
    assert state == DeviceState(CAMPAIGN.campaign_id, slim_base_heard=1)


def test_after_a_restart_it_does_not_ask_for_what_it_has() -> None:
    first, second = ConsumerBench([OFFER, SHIPPED, ENDED]), ConsumerBench([OFFER, ENDED])
    first.run()
    second.store = first.store
    second.run()
    (said,) = (message for message in second.link.sent if isinstance(message, CheckIn))
    assert said.slim_base_heard == 1
    assert second.keeper.kept == []


FORGED = replace(SHIPPED, slim_base=sign_document("slim_base", SLIM_BASE, COORDINATOR_KEY))
OTHERS = replace(SHIPPED, decision=sign_document("decision", replace(DECISION, campaign_id="00" * 16), COORDINATOR_KEY))
MIXED = replace(
    SHIPPED, decision=sign_document("decision", tiny_decision(CAMPAIGN, 1), COORDINATOR_KEY)
)  # a slim base of another level
BEYOND = SlimBaseOffer(
    sign_document("decision", replace(DECISION, level=7), COORDINATOR_KEY),
    sign_document("slim_base", replace(SLIM_BASE, level=7), TRAINER_KEY),
)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (VOTE_TO, RejectReason.MALFORMED),
        (OUTCOME_TO, RejectReason.MALFORMED),
        (FORGED, RejectReason.BAD_SIGNATURE),
        (OTHERS, RejectReason.WRONG_CAMPAIGN),
        (MIXED, RejectReason.WRONG_DECISION),
        (BEYOND, RejectReason.MALFORMED),
    ],
)
def test_what_it_must_not_be_offered_stops_it(answer: Answer, reason: RejectReason) -> None:
    bench = ConsumerBench([OFFER, answer])
    with pytest.raises(RemoteProtocolError) as caught:
        bench.run()
    assert caught.value.rejection.reason is reason
    assert bench.keeper.kept == []
    assert "vote" not in bench.log


def test_a_device_with_data_takes_no_network_without_a_session() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Bench([OFFER, SHIPPED]).run()
    assert caught.value.rejection.reason is RejectReason.MALFORMED


def waiting() -> ConsumerRound:
    consumer = ConsumerRound(CAMPAIGN, CAMPAIGN.layout.fingerprint(), None, random.Random(1))
    assert isinstance(consumer.tick(0.0)[0], SendCheckIn)
    return consumer


@pytest.mark.parametrize("event", [VotePrepared(b""), OutcomeMeasured(b""), SlimBaseKept()])
def test_what_it_did_not_wait_for_is_a_bug(event: VotePrepared | OutcomeMeasured | SlimBaseKept) -> None:
    consumer = waiting()
    with pytest.raises(LocalProtocolError):
        consumer.receive(event, 0.0)
    assert consumer.receive(SlimBaseHeard(DECISION, SLIM_BASE), 0.0) == [KeepSlimBase(DECISION, SLIM_BASE)]
    assert consumer.tick(1.0) == [], "it keeps what it was offered before it speaks again"


def test_another_network_than_the_campaigns_is_refused() -> None:
    with pytest.raises(LayoutError):
        ConsumerRound(CAMPAIGN, "00" * 32, None, random.Random(1))


def test_the_end_of_a_judged_campaign_is_remembered() -> None:
    judged = replace(CAMPAIGN, acceptance=Acceptance(50, 0))
    consumer = ConsumerRound(judged, judged.layout.fingerprint(), None, random.Random(1))
    consumer.tick(0.0)
    consumer.receive(ENDED, 0.0)
    assert consumer.state.is_over


# --- with torch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acceptance", [None, Acceptance(50, 0)])
def test_the_worker_keeps_the_network_as_it_came(tmp_path: Path, acceptance: Acceptance | None) -> None:
    campaign = replace(parts.CAMPAIGN, acceptance=acceptance)
    worker = Worker(WorkSetup(NO_DATA, "c", "digits", 1, 1, None, tmp_path))
    assert worker.trace(campaign, parts.BASE) == (campaign.layout.fingerprint(), ())
    for _ in range(2):
        worker.keep_slim_base(campaign, parts.DECISION, parts.SLIM_BASE)
    (path,) = tmp_path.glob("level-0*.safetensors")
    assert parts.same(load_kept(path), load_networks(campaign, parts.DECISION, parts.SLIM_BASE)[0])
    info = read_kept_info(path)
    assert (info.is_fleets, info.is_fine_tuned, info.cost) == (True, False, parts.DECISION.cost)


def test_weights_of_another_network_are_not_kept(tmp_path: Path) -> None:
    worker = Worker(WorkSetup(NO_DATA, "c", "digits", 1, 1, None, tmp_path))
    _, other = tiny_slim_base(DECISION)
    with pytest.raises(Exception, match="slim base"):
        worker.keep_slim_base(parts.CAMPAIGN, parts.DECISION, other)
    assert list(tmp_path.iterdir()) == []


def test_a_consumers_process_beside_a_device_with_data(tmp_path: Path) -> None:
    """Over mutual TLS: one device votes, the other has no data; both end with a network."""
    consumer, voter = tmp_path / "consumer", tmp_path / "voter"
    rng = process.np.random.default_rng(4)
    data = f"npz:{tmp_path / 'data.npz'}"
    process.np.savez(
        tmp_path / "data.npz", x=rng.integers(0, 256, (24, 8, 8, 1), dtype="uint8"), y=process.np.arange(24) % 4
    )

    async def play() -> None:
        async with process.site(consumer, voter):
            one = DeviceProcess(StateFolder(consumer), process.options(NO_DATA), lambda _words: None).run()
            other = DeviceProcess(StateFolder(voter), process.options(data), lambda _words: None).run()
            assert await process.asyncio.gather(one, other) == [Ending.COMPLETED] * 2

    process.asyncio.run(play())
    assert {entry.kind for entry in read_audit(consumer)} == {"GetCampaign", "FetchModel", "CheckIn"}
    folder = StateFolder(consumer)
    facts = kept_facts(folder.kept)
    assert facts is not None
    assert (facts["level"], facts["is_fine_tuned"]) == (0, False)
    said = status_text(read_status(folder.status), facts, process.datetime.now(process.UTC))
    assert "the fleet's, as it was shipped" in said
    assert load_kept(folder.kept / "level-0.safetensors")(example_input(process.SPEC)).shape == (2, 4)
