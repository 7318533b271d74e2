"""The device's runner against a scripted coordinator: order, verification, downloads, waits."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner_bench import (
    CAMPAIGN,
    DECISION,
    LOST,
    OFFER,
    OUTCOME_TO,
    SLIM_BASE,
    SLIM_MODEL,
    VOTE_TO,
    Bench,
    LoggedStore,
    Work,
    counted,
)

from prunefleet_edge.backoff import RetryPolicy
from prunefleet_edge.device import Vote
from prunefleet_edge.device_state import Contribution, DeviceState, Release
from prunefleet_edge.egress import EgressRecord
from prunefleet_edge.model_cache import FolderCache
from prunefleet_shared.campaign import Campaign, Decision, PrivacyTerms
from prunefleet_shared.documents import digest, sign_document
from prunefleet_shared.errors import (
    CarrierError,
    ConfigError,
    EgressError,
    InputError,
    LayoutError,
    PrunefleetError,
    RejectReason,
    RemoteProtocolError,
    reject,
)
from prunefleet_shared.lanes import unpack
from prunefleet_shared.messages import (
    Awaited,
    CampaignEnded,
    CampaignOffer,
    CheckIn,
    ComeBack,
    Down,
    Ending,
    FetchModel,
    GetCampaign,
    ModelChunk,
    Readiness,
    SessionKind,
    Stored,
    Up,
)
from prunefleet_shared.metrics import OUTCOME_LANES, Outcome, read_outcome
from prunefleet_shared.sum_messages import Contribute, ContributionCounted
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    TINY_BASE,
    TRAINER_KEY,
    Answer,
    ScriptedLink,
    SimClock,
    tiny_campaign,
)


def test_a_whole_campaign_saved_before_sent() -> None:
    bench = Bench([OFFER, VOTE_TO, counted, OUTCOME_TO, counted, CampaignEnded(Ending.COMPLETED)])
    assert bench.run() is Ending.COMPLETED
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
    assert Bench([OFFER, CampaignEnded(Ending.FAILED)]).run() is Ending.FAILED


def test_lost_answers_are_asked_for_again() -> None:
    bench = Bench(
        [
            LOST,
            LOST,
            OFFER,
            LOST,
            VOTE_TO,
            LOST,
            reject(RejectReason.DUPLICATE),
            CampaignEnded(Ending.COMPLETED),
        ]
    )
    assert bench.run() is Ending.COMPLETED
    kinds = [type(message) for message in bench.link.sent]
    assert kinds == [GetCampaign] * 3 + [CheckIn] * 2 + [Contribute, Contribute, CheckIn]
    first, second = (message for message in bench.link.sent if isinstance(message, Contribute))
    assert first == second
    assert bench.log.count("vote") == 1


def test_a_rest_is_kept_and_told() -> None:
    bench = Bench([OFFER, ComeBack(600_000, Awaited.TRAINER), CampaignEnded(Ending.COMPLETED)])
    bench.run()
    assert 450.0 <= bench.clock.now_s <= 750.0
    assert any("waiting for the slim base" in state for state in bench.states)


def test_a_restart_sends_the_stored_vote() -> None:
    first = Bench([OFFER, VOTE_TO, CarrierError("unplugged", retryable=False)])
    with pytest.raises(CarrierError, match="unplugged"):
        first.run()
    second = Bench([OFFER, VOTE_TO, counted, CampaignEnded(Ending.COMPLETED)])
    second.store = first.store
    second.run()
    assert "vote" not in second.log
    assert second.link.sent[-2] == first.link.sent[-1]


def test_a_tampered_store_says_nothing() -> None:
    bench = Bench([OFFER])
    first = Bench([OFFER, VOTE_TO, counted, CampaignEnded(Ending.COMPLETED)])
    saved: list[DeviceState] = []
    first.store.save = lambda state, _release: saved.append(state)  # type: ignore[method-assign]
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
        ([offer(privacy=PrivacyTerms("homomorphic", 1))], RejectReason.WRONG_CAMPAIGN),
        ([offer(levels=())], RejectReason.WRONG_CAMPAIGN),
        ([offer(levels=CAMPAIGN.levels * 5)], RejectReason.WRONG_CAMPAIGN),
        ([Stored()], RejectReason.MALFORMED),
        ([OFFER, Stored()], RejectReason.MALFORMED),
        ([OFFER, VOTE_TO, CampaignEnded(Ending.COMPLETED)], RejectReason.MALFORMED),
        ([OFFER, VOTE_TO, VOTE_TO], RejectReason.MALFORMED),
        ([OFFER, ContributionCounted(VOTE_TO.session_id)], RejectReason.MALFORMED),
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


def test_a_slim_base_that_was_not_retrained_is_not_downloaded_and_the_device_is_told_to_blend() -> None:
    pruned = sign_document("slim_base", replace(SLIM_BASE, is_retrained=False), TRAINER_KEY)
    script = [OFFER, replace(OUTCOME_TO, slim_base=pruned), counted, CampaignEnded(Ending.COMPLETED)]
    bench = Bench(script, [TINY_BASE])
    bench.work.slim_model = None
    assert bench.run() is Ending.COMPLETED
    assert bench.log.count("outcome") == 1


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
    bench = Bench([OFFER, *pieces, CampaignEnded(Ending.COMPLETED)], models=())
    assert bench.run() is Ending.COMPLETED
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
    bench = Bench(itertools.chain([OFFER, VOTE_TO], itertools.repeat(ComeBack(60_000, Awaited.DEVICES))))
    if attribute == "link":
        bench.link = SilentLink([])
    else:
        bench.work.prepare_vote = lambda campaign, base: asyncio.sleep(1e9)  # type: ignore[method-assign, assignment]
    with pytest.raises(error):
        bench.run()
    assert bench.clock.now_s < 9 * 24 * 3600.0


# --- while the device works ---------------------------------------------------------------------------------------


class SlowWork(Work):
    """Takes ``work_s`` for everything; ``cancelled_s`` says when it was told to stop."""

    def __init__(self, log: list[str], clock: SimClock, work_s: float) -> None:
        super().__init__(log)
        self.clock, self.work_s = clock, work_s
        self.cancelled_s: float | None = None

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        await self._take_time()
        return await super().prepare_vote(campaign, base)

    async def personalise(
        self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None
    ) -> Outcome:
        await self._take_time()
        return await super().personalise(campaign, decision, base, slim_base)

    async def _take_time(self) -> None:
        try:
            await asyncio.sleep(self.work_s)
        except asyncio.CancelledError:
            self.cancelled_s = self.clock()
            raise


def slow_bench(script: Iterable[Answer], work_s: float) -> tuple[Bench, SlowWork]:
    bench = Bench(script)
    work = SlowWork(bench.log, bench.clock, work_s)
    bench.work = work
    return bench, work


def busy_check_ins(bench: Bench) -> list[CheckIn]:
    return [m for m in bench.link.sent if isinstance(m, CheckIn) and m.readiness is Readiness.BUSY]


STOPPED = CampaignEnded(Ending.STOPPED)
STILL_ON = ComeBack(60_000, Awaited.DEVICES)


@pytest.mark.parametrize("script", [[OFFER, VOTE_TO], [OFFER, OUTCOME_TO]], ids=["voting", "personalising"])
def test_a_stop_ends_the_work_within_seconds(script: list[Answer]) -> None:
    bench, work = slow_bench([*script, STILL_ON, STOPPED], work_s=3600.0)
    assert bench.run() is Ending.STOPPED
    assert work.cancelled_s is not None
    assert work.cancelled_s <= 10.0
    assert len(busy_check_ins(bench)) == 2
    assert not any(isinstance(message, Contribute) for message in bench.link.sent)
    state = bench.store.load(CAMPAIGN.campaign_id)
    assert state is not None
    assert "vote" in state.spent


def test_whatever_else_is_answered_while_it_works_changes_nothing() -> None:
    bench, _ = slow_bench([], work_s=20.0)
    noise: list[Answer] = [LOST, reject(RejectReason.WRONG_SESSION), VOTE_TO, *[STILL_ON] * 20]
    bench.limits = replace(bench.limits, busy_retries=RetryPolicy(max_s=1.0, give_up_after_s=1e9))
    bench.link = ScriptedBusyLink([OFFER, VOTE_TO, counted, CampaignEnded(Ending.COMPLETED)], noise)
    assert bench.run() is Ending.COMPLETED
    assert len(busy_check_ins(bench)) >= 4


class ScriptedBusyLink(ScriptedLink):
    """Answers check-ins of a busy device from a script of their own."""

    def __init__(self, script: Iterable[Answer], busy: Iterable[Answer]) -> None:
        super().__init__(script, [TINY_BASE, SLIM_MODEL])
        self.busy = ScriptedLink(busy)

    async def call(self, message: Up) -> Down:
        if isinstance(message, CheckIn) and message.readiness is Readiness.BUSY:
            self.sent.append(message)
            return await self.busy.call(message)
        return await super().call(message)


def test_work_that_is_over_within_a_second_asks_nothing() -> None:
    bench, _ = slow_bench([OFFER, VOTE_TO, counted, CampaignEnded(Ending.COMPLETED)], work_s=0.9)
    bench.run()
    assert busy_check_ins(bench) == []


def test_a_decision_that_cannot_be_tried_is_reported_as_tried() -> None:
    bench = Bench([OFFER, OUTCOME_TO, counted, CampaignEnded(Ending.COMPLETED)])

    async def fail(*_args: object) -> Outcome:
        raise InputError("out of memory")

    bench.work.personalise = fail  # type: ignore[method-assign]
    assert bench.run() is Ending.COMPLETED
    (said,) = (message for message in bench.link.sent if isinstance(message, Contribute))
    tally = read_outcome(unpack(OUTCOME_LANES, said.payload))
    assert (tally.tried, tally.finished, sum(tally.accuracy_gain)) == (1, 0, 0)
    assert any("out of memory" in state for state in bench.states), "the owner is told why"


def test_a_vote_that_cannot_be_prepared_is_the_owners_to_see() -> None:
    bench = Bench([OFFER, VOTE_TO])

    async def fail(*_args: object) -> Vote:
        raise InputError("one class only")

    bench.work.prepare_vote = fail  # type: ignore[method-assign]
    with pytest.raises(InputError, match="one class only"):
        bench.run()
    assert not any(isinstance(message, Contribute) for message in bench.link.sent)


# --- what is kept on the disk -----------------------------------------------------------------------------------------


def test_a_cached_base_is_not_fetched_again_and_a_damaged_one_is(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path)
    fetches = []
    for damage in (False, False, True):
        bench = Bench([OFFER, CampaignEnded(Ending.COMPLETED)])
        bench.cache = cache
        if damage:
            (tmp_path / f"{CAMPAIGN.base_digest}.safetensors").write_bytes(b"bits that rot")
        bench.run()
        fetches.append(bench.log.count("FetchModel"))
    assert fetches[0] > 0
    assert fetches == [fetches[0], 0, fetches[0]]
    assert cache.load(CAMPAIGN.base_digest) == TINY_BASE
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.safetensors")} == {0o600}


def test_a_digest_that_is_a_path_reads_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    assert FolderCache(tmp_path / "cache").load("../secret") is None
    assert (tmp_path / "secret.safetensors").exists()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    class FullCache(FolderCache):
        def save(self, model_digest: str, model: bytes) -> None:
            raise ConfigError("no space left")

    bench = Bench([OFFER, CampaignEnded(Ending.COMPLETED)])
    bench.cache = FullCache(tmp_path)
    assert bench.run() is Ending.COMPLETED
    assert any("no space left" in state for state in bench.states)


def test_what_was_said_in_other_campaigns_is_forgotten() -> None:
    bench = Bench([OFFER, CampaignEnded(Ending.COMPLETED)])
    other = "d1" * 16
    bench.store.save(DeviceState(other, contribution=Contribution(SessionKind.VOTE, 0, "", "ab" * 16, 1, "00")))
    bench.run()
    assert bench.store.load(other) == DeviceState(other, spent=("vote",))


def test_a_campaign_against_the_owners_policy_is_left_alone() -> None:
    def refuse(campaign: Campaign, _num_released: int) -> None:
        raise ConfigError(f"{campaign.privacy.mode} is not private")

    bench = Bench([OFFER])
    bench.check_policy = refuse
    with pytest.raises(ConfigError, match="plain is not private"):
        bench.run()
    assert [type(message) for message in bench.link.sent] == [GetCampaign]


@pytest.mark.parametrize(("script", "work"), [([OFFER, VOTE_TO], "vote"), ([OFFER, OUTCOME_TO], "outcome")])
def test_what_cannot_be_saved_is_not_sent(script: list[Answer], work: str) -> None:
    class FullStore(LoggedStore):
        def save(self, state: DeviceState, release: Release | None = None) -> None:
            if state.contribution is not None:
                raise ConfigError("database or disk is full")
            super().save(state, release)

    bench = Bench(script)
    bench.store = FullStore(bench.log)
    with pytest.raises(ConfigError, match="full"):
        bench.run()
    assert work in bench.log
    assert not any(isinstance(message, Contribute) for message in bench.link.sent)


def test_an_audit_that_fails_while_the_device_works_ends_the_work() -> None:
    bench, work = slow_bench([OFFER, VOTE_TO, STILL_ON], work_s=3600.0)
    num_left = 0

    def audit(record: EgressRecord) -> None:
        nonlocal num_left
        num_left += record.kind == "CheckIn"
        if num_left == 3:
            raise ConfigError("the audit cannot be written")

    bench.audit = audit
    with pytest.raises(ConfigError, match="audit"):
        bench.run()
    assert work.cancelled_s is not None
    assert len(busy_check_ins(bench)) == 1
