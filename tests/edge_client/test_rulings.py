"""What a device does when its coordinator has ruled: the round and the runner."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from round_parts import OneMessageSum, drive
from ruling_parts import CAMPAIGN, OUTCOME, ruling_of

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
from prunefleet_edge.kept_networks import KeptInMemory
from prunefleet_edge.round import DeviceRound, Phase
from prunefleet_edge.runner import DeviceRunner
from prunefleet_edge.store import MemoryDeviceStore
from prunefleet_shared.acceptance import NO_LEVEL, Ruling
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
