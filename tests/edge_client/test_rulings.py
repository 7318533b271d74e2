"""What a device does with a ruling: its networks on trial, in service, removed; what it saves; whom it believes."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from round_parts import OneMessageSum, drive

from prunefleet_edge.device import Vote
from prunefleet_edge.device_state import Contribution, DeviceState
from prunefleet_edge.egress import Egress
from prunefleet_edge.events import (
    FollowRuling,
    Invited,
    OutcomeMeasured,
    Personalise,
    Rest,
    RulingFollowed,
    RulingHeard,
    SaveState,
    SendCheckIn,
    Stop,
)
from prunefleet_edge.kept_networks import Followed, KeptFolder, KeptInMemory, file_name, ruling_words
from prunefleet_edge.round import DeviceRound, Phase
from prunefleet_edge.runner import DeviceRunner
from prunefleet_edge.status import Status, StatusFile, kept_facts, read_status, status_text
from prunefleet_edge.store import MemoryDeviceStore
from prunefleet_shared.acceptance import NO_LEVEL, Acceptance, Ruling, RulingReason
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import CarrierError, RejectReason, RemoteProtocolError
from prunefleet_shared.messages import (
    Awaited,
    CampaignEnded,
    CampaignOffer,
    CheckIn,
    ComeBack,
    Ending,
    GetCampaign,
    RulingOffer,
    SessionKind,
)
from prunefleet_shared.metrics import Outcome
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    COORDINATOR_PUBLIC,
    TINY_BASE,
    TRAINER_KEY,
    Answer,
    ScriptedLink,
    SimClock,
    outcome_invitation,
    run_simulated,
    tiny_campaign,
    tiny_decision,
    tiny_slim_base,
)

TERMS = Acceptance(50, 100)
CAMPAIGN = tiny_campaign(acceptance=TERMS)
OUTCOME = bytes(CAMPAIGN.lanes_of(SessionKind.OUTCOME).packed_bytes)


def ruling_of(level: int, *held: int, number: int = 1, for_all: int = NO_LEVEL, **changes: object) -> Ruling:
    is_held = level in held
    ruling = Ruling(
        campaign_id=CAMPAIGN.campaign_id,
        number=number,
        level=level,
        decision_fingerprint="11" * 32,
        is_rollout=False,
        reason=RulingReason.HELD if is_held else RulingReason.TOO_MANY_WORSE,
        num_devices=10,
        num_worse=0 if is_held else 7,
        max_worse=1,
        margin=0,
        num_cohorts=1,
        num_cohorts_held=int(is_held),
        outcome_digest="00" * 32,
        levels_held=held,
        level_for_all=for_all,
    )
    return replace(ruling, **changes)  # type: ignore[arg-type]


# --- files ------------------------------------------------------------------------------------------------------------


def make(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(name)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


SHORT = CAMPAIGN.campaign_id[:16]
EARLIER = "level-1.safetensors"  # of a campaign before, that judged nothing
OTHERS = f"level-0-{'99' * 8}.safetensors"  # of a campaign before, that did


@pytest.mark.parametrize(
    ("before", "ruling", "after"),
    [
        ([f"trial-0-{SHORT}.safetensors"], ruling_of(0, 0), [f"level-0-{SHORT}.safetensors"]),
        ([f"trial-0-{SHORT}.safetensors"], ruling_of(0), []),
        (
            [f"level-0-{SHORT}.safetensors", f"trial-1-{SHORT}.safetensors"],
            ruling_of(1, 0),
            [f"level-0-{SHORT}.safetensors"],
        ),
        (  # promoted by canaries, rolled back in the rollout
            [f"level-0-{SHORT}.safetensors", f"level-1-{SHORT}.safetensors"],
            ruling_of(1, 0, is_rollout=True),
            [f"level-0-{SHORT}.safetensors"],
        ),
        (  # it slept through the ruling on level 0, and hears only of level 1
            [f"trial-0-{SHORT}.safetensors"],
            ruling_of(1, 0, number=2),
            [f"level-0-{SHORT}.safetensors"],
        ),
        ([], ruling_of(1), []),
    ],
)
def test_what_is_promoted_goes_into_service_and_what_is_rolled_back_goes(
    tmp_path: Path, before: list[str], ruling: Ruling, after: list[str]
) -> None:
    make(tmp_path / "kept", EARLIER, OTHERS, *before)
    kept, memory = KeptFolder(tmp_path / "kept"), KeptInMemory()
    for name in before:
        known = memory.on_trial if name.startswith("trial") else memory.in_service
        known.add((CAMPAIGN.campaign_id, int(name[6])))
    followed = kept.follow(ruling)
    assert names_in(tmp_path / "kept") == {EARLIER, OTHERS, *after}, "what was there before the campaign stays"
    assert followed == memory.follow(ruling)
    assert kept.follow(ruling) == replace(followed, rolled_back=())  # a device that died before it saved


def test_a_network_on_trial_is_not_the_one_in_service(tmp_path: Path) -> None:
    make(tmp_path / "kept", f"trial-0-{SHORT}.safetensors")
    assert kept_facts(tmp_path / "kept") is None
    KeptFolder(tmp_path / "kept").follow(ruling_of(0, 0))
    facts = kept_facts(tmp_path / "kept")
    assert facts is not None
    assert str(facts["path"]).endswith(f"level-0-{SHORT}.safetensors")


def test_a_device_that_was_never_asked_has_nothing_to_follow_with(tmp_path: Path) -> None:
    assert KeptFolder(tmp_path / "nothing").follow(ruling_of(0)) == Followed((), ())


def test_what_is_on_trial_in_another_campaign_is_dropped(tmp_path: Path) -> None:
    make(tmp_path, "trial-0-" + "99" * 8 + ".safetensors", f"trial-1-{SHORT}.safetensors", OTHERS)
    KeptFolder(tmp_path).drop_trials(CAMPAIGN.campaign_id)
    assert names_in(tmp_path) == {f"trial-1-{SHORT}.safetensors", OTHERS}


def test_only_where_decisions_are_judged_a_network_is_on_trial() -> None:
    assert file_name(CAMPAIGN, 1) == f"trial-1-{SHORT}.safetensors"
    assert file_name(tiny_campaign(), 1) == "level-1.safetensors"


def test_an_owner_is_told_what_was_ruled_and_what_is_in_service() -> None:
    words = ruling_words(ruling_of(1, 0), Followed((0,), (1,)))
    assert words == (
        "level 1 was rolled back (7 of 10 devices are worse off, 1 may be); removed here: level 1; in service: level 0"
    )
    assert ruling_words(ruling_of(0), Followed((), ())).endswith("in service: what was before this campaign")


def test_the_last_ruling_stays_in_the_status_until_there_is_another(tmp_path: Path) -> None:
    first = Status("d", "c", "starting", "", None, "", None, "", "", "", 0, (), "", 1)
    status = StatusFile(tmp_path / "status.json", first)
    for words in ("level 0 was promoted", "", "level 1 was rolled back", ""):
        status.says("checking in", campaign_id="c", level=0, resting_s=None, last_ruling=words)
    told = read_status(tmp_path / "status.json")
    assert told.last_ruling == "level 1 was rolled back"
    assert "last ruling: level 1 was rolled back" in status_text(told, None, datetime.now(UTC))


# --- the round --------------------------------------------------------------------------------------------------------


def make_round(state: DeviceState | None = None) -> DeviceRound:
    return DeviceRound(CAMPAIGN, CAMPAIGN.layout.fingerprint(), state, random.Random(1), OneMessageSum)


def check_in_of(device: DeviceRound) -> CheckIn:
    (command,) = device.tick(1e9)
    assert isinstance(command, SendCheckIn)
    return command.message


def test_a_ruling_is_followed_then_saved_then_told_at_the_next_check_in() -> None:
    device, ruling = make_round(), ruling_of(0, 0, number=3)
    assert drive(device, RulingHeard(ruling)) == [FollowRuling(ruling, None, None)]
    assert (device.phase, device.state.rulings_heard) == (Phase.FOLLOWING, 0), "not saved before it is followed"
    save, rest = drive(device, RulingFollowed())
    assert save == SaveState(DeviceState(CAMPAIGN.campaign_id, rulings_heard=3))
    assert isinstance(rest, Rest)
    assert check_in_of(device).rulings_heard == 3
    assert check_in_of(make_round(device.state)).rulings_heard == 3, "also after a restart"


DECIDED = tiny_decision(CAMPAIGN, 1)
SHIPPED = tiny_slim_base(DECIDED)[0]
FOR_ALL = ruling_of(1, 0, 1, for_all=1)


@pytest.mark.parametrize(
    ("heard", "reason"),
    [
        (RulingHeard(ruling_of(0, 0, number=2)), RejectReason.MALFORMED),  # followed already
        (RulingHeard(ruling_of(0, 0, number=1)), RejectReason.MALFORMED),  # an older one
        (RulingHeard(ruling_of(0, 0, number=17)), RejectReason.MALFORMED),
        (RulingHeard(ruling_of(2, 0, number=3)), RejectReason.MALFORMED),
        (RulingHeard(ruling_of(0, 0, 5, number=3)), RejectReason.MALFORMED),
        (RulingHeard(ruling_of(0, 0, number=3, campaign_id="00" * 16)), RejectReason.WRONG_CAMPAIGN),
        (RulingHeard(ruling_of(1, 0, number=3, for_all=1), DECIDED, SHIPPED), RejectReason.MALFORMED),
        (RulingHeard(replace(FOR_ALL, number=3)), RejectReason.MALFORMED),  # for all, without the network
        (RulingHeard(replace(FOR_ALL, number=3), DECIDED), RejectReason.MALFORMED),
        (
            RulingHeard(replace(FOR_ALL, number=3), tiny_decision(CAMPAIGN, 0), SHIPPED),
            RejectReason.WRONG_DECISION,
        ),
    ],
)
def test_a_ruling_that_contradicts_the_campaign_stops_the_device(heard: RulingHeard, reason: RejectReason) -> None:
    device = make_round(DeviceState(CAMPAIGN.campaign_id, rulings_heard=2))
    (stop,) = drive(device, heard)
    assert isinstance(stop, Stop)
    assert isinstance(stop.error, RemoteProtocolError)
    assert stop.error.rejection.reason is reason
    assert device.state.rulings_heard == 2


def test_a_ruling_in_a_campaign_that_judges_nothing_stops_the_device() -> None:
    campaign = tiny_campaign()
    device = DeviceRound(campaign, campaign.layout.fingerprint(), None, random.Random(1), OneMessageSum)
    (stop,) = drive(device, RulingHeard(ruling_of(0, 0)))
    assert isinstance(stop, Stop)
    assert stop.error is not None


def test_a_device_at_work_asks_what_was_ruled_before_it_believes_the_end() -> None:
    device = make_round()
    decision = tiny_decision(CAMPAIGN, 0)
    invited = Invited(outcome_invitation(decision), decision, tiny_slim_base(decision)[0])
    assert isinstance(drive(device, invited)[-1], Personalise)
    assert isinstance(drive(device, CampaignEnded(Ending.COMPLETED))[-1], Rest)
    assert check_in_of(device).rulings_heard == 0
    save, stop = device.receive(CampaignEnded(Ending.COMPLETED), 0.0)
    assert isinstance(save, SaveState)
    assert save.state.is_over
    assert stop == Stop(Ending.COMPLETED)


def test_what_a_canary_said_and_nobody_counted_it_says_again_in_the_rollout() -> None:
    decision = tiny_decision(CAMPAIGN, 0)
    said = Contribution(SessionKind.OUTCOME, 0, decision.fingerprint, f"{2:032x}", 3, OUTCOME.hex())
    device = make_round(DeviceState(CAMPAIGN.campaign_id, contribution=said))
    to = replace(outcome_invitation(decision, attempt=1, session=9), kind=SessionKind.ROLLOUT)
    invited = Invited(to, decision, tiny_slim_base(decision)[0])
    send = drive(device, invited)[-1]
    assert send.message.payload == OUTCOME  # type: ignore[union-attr]
    # and then never to canaries again
    again = make_round(device.state)
    back = replace(to, kind=SessionKind.OUTCOME, attempt=4, session_id=f"{10:032x}")
    assert isinstance(drive(again, replace(invited, invitation=back))[-1], Rest)


@pytest.mark.parametrize("kind", [SessionKind.OUTCOME, SessionKind.ROLLOUT])
def test_a_device_gives_one_outcome_per_decision_whoever_asks(kind: SessionKind) -> None:
    decision = tiny_decision(CAMPAIGN, 0)
    device = make_round(DeviceState(CAMPAIGN.campaign_id, spent=("outcome/0", "vote")))
    to = replace(outcome_invitation(decision), kind=kind)
    (rest,) = drive(device, Invited(to, decision, tiny_slim_base(decision)[0]))
    assert isinstance(rest, Rest)
    assert "outcome/0 is closed for this device" in rest.why


def test_an_outcome_of_a_judged_campaign_has_the_lanes_that_it_is_judged_by() -> None:
    device, decision = make_round(), tiny_decision(CAMPAIGN, 0)
    drive(device, Invited(outcome_invitation(decision), decision, tiny_slim_base(decision)[0]))
    assert drive(device, OutcomeMeasured(OUTCOME))
    assert len(OUTCOME) == 7  # 51 bits


# --- the runner -------------------------------------------------------------------------------------------------------

OFFER = CampaignOffer(sign_document("campaign", CAMPAIGN, COORDINATOR_KEY))
SLIM_MODEL = tiny_slim_base(DECIDED)[1]
ENDED = CampaignEnded(Ending.COMPLETED)


def offer_of(ruling: Ruling, *, key: object = COORDINATOR_KEY) -> RulingOffer:
    signed = sign_document("ruling", ruling, key)  # type: ignore[arg-type]
    if ruling.level_for_all == NO_LEVEL:
        return RulingOffer(signed)
    decision = sign_document("decision", DECIDED, COORDINATOR_KEY)
    return RulingOffer(signed, decision, sign_document("slim_base", SHIPPED, TRAINER_KEY))


class Work:
    def __init__(self) -> None:
        self.tried: list[int] = []

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        return campaign.layout.fingerprint()

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        raise AssertionError("nobody asked for a vote")

    async def personalise(self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes) -> Outcome:
        assert (decision, slim_base) == (DECIDED, SLIM_MODEL)
        self.tried.append(decision.level)
        return Outcome(True, True, 0.0, 0.5, 0.0)


class Bench:
    def __init__(self, script: Iterable[Answer]) -> None:
        self.link = ScriptedLink(script, (TINY_BASE, SLIM_MODEL))
        self.work, self.store, self.kept, self.clock = Work(), MemoryDeviceStore(), KeptInMemory(), SimClock()
        self.states: list[str] = []
        self.reply_slot_s = 0.0

    def run(self) -> Ending:
        runner = DeviceRunner(
            Egress(self.link, audit=lambda _record: None),
            self.work,
            self.store,
            device_class=CAMPAIGN.device_class,
            operator_keys=[COORDINATOR_PUBLIC],
            clock=self.clock,
            sleep=self.clock.sleep,
            rng=random.Random(1),
            on_state=self.states.append,
            kept=self.kept,
            reply_slot_s=self.reply_slot_s,
        )
        return run_simulated(runner.run(), self.clock)


def test_a_device_makes_the_network_for_all_and_says_nothing_of_it() -> None:
    bench = Bench([OFFER, offer_of(FOR_ALL), ENDED])
    assert bench.run() is Ending.COMPLETED
    assert (bench.work.tried, bench.kept.in_service) == ([1], {(CAMPAIGN.campaign_id, 1)})
    assert [type(message) for message in bench.link.sent] == [GetCampaign, CheckIn, CheckIn]
    state = bench.store.load(CAMPAIGN.campaign_id)
    assert state is not None
    assert (state.rulings_heard, state.is_over) == (1, True)


def test_how_long_a_device_makes_the_network_for_all_is_hidden_as_for_any_other_work() -> None:
    bench = Bench([OFFER, offer_of(FOR_ALL), ENDED])
    bench.reply_slot_s = 10.0
    bench.run()
    assert "done; waiting for the next time to answer" in bench.states


def test_a_device_that_has_the_network_for_all_does_not_make_it_again() -> None:
    bench = Bench([OFFER, offer_of(FOR_ALL), ENDED])
    bench.kept.note_trial(CAMPAIGN, 1)
    bench.run()
    assert (bench.work.tried, bench.kept.in_service) == ([], {(CAMPAIGN.campaign_id, 1)})


def test_a_device_that_dies_before_it_has_saved_hears_the_ruling_again() -> None:
    first = Bench([OFFER, offer_of(FOR_ALL), CarrierError("unplugged", retryable=False)])
    first.store.save = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = Bench([OFFER, offer_of(FOR_ALL), ENDED])
    second.kept = first.kept
    second.run()
    assert (first.work.tried, second.work.tried) == ([1], []), "it is made once"


def test_a_ruling_by_anybody_else_is_not_believed() -> None:
    bench = Bench([OFFER, offer_of(ruling_of(0), key=TRAINER_KEY)])
    bench.kept.in_service.add((CAMPAIGN.campaign_id, 0))
    with pytest.raises(RemoteProtocolError) as caught:
        bench.run()
    assert caught.value.rejection.reason is RejectReason.BAD_SIGNATURE
    assert bench.kept.in_service, "nothing was removed"


def test_a_campaign_whose_end_is_known_is_not_taken_part_in_again() -> None:
    bench = Bench([OFFER, ENDED])
    bench.run()
    other = tiny_campaign(campaign_id="ff" * 16)
    later = Bench(
        [
            OFFER,
            ComeBack(1_000, Awaited.OPERATOR),
            CampaignOffer(sign_document("campaign", other, COORDINATOR_KEY)),
            ENDED,
        ]
    )
    later.store = bench.store
    assert later.run() is Ending.COMPLETED
    asked = [message for message in later.link.sent if isinstance(message, GetCampaign)]
    assert [message.ended_campaign_id for message in asked] == ["", *[CAMPAIGN.campaign_id] * 2]
    assert [m.campaign_id for m in later.link.sent if isinstance(m, CheckIn)] == [other.campaign_id]


def test_a_coordinator_that_offers_an_ended_campaign_for_ever_is_left() -> None:
    bench = Bench([OFFER, ENDED])
    bench.run()
    later = Bench([OFFER, OFFER])
    later.store = bench.store
    with pytest.raises(RemoteProtocolError) as caught:
        later.run()
    assert caught.value.rejection.reason is RejectReason.WRONG_CAMPAIGN
