"""Rounds over several cohorts: chance puts devices into them, each is summed by itself, the rule makes one total."""

import random
from dataclasses import replace

import numpy as np
import pytest

from prunefleet_coordinator.admission import why_campaign_impossible
from prunefleet_coordinator.aggregation import decide
from prunefleet_coordinator.archive import write_run
from prunefleet_coordinator.events import (
    AnnounceEnd,
    Defer,
    DeviceCheckedIn,
    Invite,
    Reject,
    Reply,
    SaveClosing,
    SumMessageReceived,
)
from prunefleet_coordinator.replay import replay
from prunefleet_coordinator.round import CampaignRound
from prunefleet_coordinator.store import MemoryStore
from prunefleet_coordinator.testing import counting_ids, random_vote, small_campaign, vote_payload
from prunefleet_shared.campaign import SUM_DP, NoiseTerms, PrivacyTerms
from prunefleet_shared.decision_rules import DecisionRules
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import RejectReason, ReplayError
from prunefleet_shared.messages import Awaited, CheckIn, Ending, Phase, Readiness
from prunefleet_shared.sum_messages import Contribute
from prunefleet_shared.testing import COORDINATOR_KEY, COORDINATOR_PUBLIC

DEVICES = [f"device-{number:02d}" for number in range(16)]


def campaign_of(count, rule="sum", **changes):
    plain = small_campaign()
    return replace(plain, cohort=replace(plain.cohort, count=count, combination=rule, **changes))


class World:
    """A round, and the answers of devices that all vote by their number."""

    def __init__(self, campaign, seed=1, snapshot=None):
        self.campaign = campaign
        self.round = CampaignRound(campaign, counting_ids(), snapshot, random_below=random.Random(seed).randrange)
        self.invited = {}

    def check_in(self, device, now_s=0.0):
        message = CheckIn(self.campaign.campaign_id, self.campaign.layout.fingerprint(), Readiness.READY)
        commands = self.round.receive(DeviceCheckedIn(device, message), now_s)
        answer = next(command for command in commands if isinstance(command, Invite | Defer))
        if isinstance(answer, Invite):
            self.invited[device] = answer
        return answer

    def contribute(self, device, now_s=0.0):
        message = Contribute(self.invited[device].session_id, vote_payload(self.campaign, DEVICES.index(device)))
        return self.round.receive(SumMessageReceived(device, message), now_s)

    def sessions(self):
        return {
            session: [device for device in self.invited if self.invited[device].session_id == session]
            for session in sorted({invite.session_id for invite in self.invited.values()})
        }


def test_chance_spreads_devices_over_the_cohorts_and_nobody_is_in_two():
    world = World(campaign_of(3))
    for device in DEVICES[:12]:
        world.check_in(device)
    sizes = sorted(len(devices) for devices in world.sessions().values())
    assert sizes == [4, 4, 4]
    orders = {tuple(placement(seed)) for seed in range(8)}
    assert len(orders) == 8, "who sits with whom follows from chance"


def placement(seed):
    world = World(campaign_of(3), seed)
    for device in DEVICES[:12]:
        world.check_in(device)
    return [world.invited[device].session_id for device in DEVICES[:12]]


@pytest.mark.parametrize("rule", ["sum", "median", "trimmed_mean"])
def test_the_round_closes_when_all_cohorts_have_and_every_device_is_in_one_sum(rule):
    world = World(campaign_of(3, rule))
    for device in DEVICES[:12]:
        world.check_in(device)
    commands = [command for device in DEVICES[:12] for command in world.contribute(device)]
    closings = [command for command in commands if isinstance(command, SaveClosing)]
    assert len(closings) == 1
    closed = closings[0].closed
    assert [len(cohort.contributors) for cohort in closed.cohorts] == [3, 3, 3]
    assert closed.total.num_devices == 9 == len(set(closed.contributors))
    for cohort in closed.cohorts:
        votes = [random_vote(world.campaign, DEVICES.index(device)) for device in cohort.contributors]
        assert np.array_equal(cohort.total.lanes, np.sum(votes, axis=0)), "a cohort's sum is exact"
    if rule == "sum":
        votes = [random_vote(world.campaign, DEVICES.index(device)) for device in closed.contributors]
        assert np.array_equal(closed.total.lanes, np.sum(votes, axis=0))
    assert world.round.snapshot.phase is Phase.RETRAINING
    assert world.round.snapshot.closed_cohorts == ()


def test_borda_decides_from_the_cohorts_own_sums_and_replays_from_them(tmp_path):
    world = World(replace(campaign_of(3), rules=DecisionRules("borda"), decision_key=COORDINATOR_PUBLIC.hex()))
    for device in DEVICES[:12]:
        world.check_in(device)
    commands = [command for device in DEVICES[:12] for command in world.contribute(device)]
    (closing,) = [command for command in commands if isinstance(command, SaveClosing)]
    totals = [cohort.total for cohort in closing.closed.cohorts]
    assert closing.decision == decide(world.campaign, closing.closed.total, 0, totals)
    assert closing.decision.prior != decide(world.campaign, closing.closed.total, 0).prior, "or this tests nothing"

    store, campaign_id = MemoryStore(), world.campaign.campaign_id
    store.save_document(campaign_id, 0, sign_document("campaign", world.campaign, COORDINATOR_KEY))
    signed = sign_document("decision", closing.decision, COORDINATOR_KEY)
    store.save_closing(closing.closed, closing.snapshot, signed)
    write_run(tmp_path, store, campaign_id)
    assert replay(tmp_path)[0].fingerprint == closing.decision.fingerprint
    (tmp_path / "level-0" / "cohorts.json").unlink()
    with pytest.raises(ReplayError, match=r"decision\.json: prior does not follow"):
        replay(tmp_path)


def test_a_cohort_that_is_summed_survives_a_restart_and_its_devices_are_not_asked_again():
    world = World(campaign_of(3))
    for device in DEVICES[:12]:
        world.check_in(device)
    first = next(iter(world.sessions().values()))
    for device in first[:3]:
        world.contribute(device)
    again = World(world.campaign, snapshot=world.round.snapshot)
    assert len(again.round.snapshot.closed_cohorts) == 1
    assert again.check_in(first[0]).awaited is Awaited.DEVICES
    for device in [device for device in DEVICES if device not in first]:
        if isinstance(again.check_in(device), Invite):
            again.contribute(device)
    closed = again.round.snapshot.closed_rounds[0]
    assert len(closed.cohorts) == 3
    assert set(first[:3]) <= set(closed.contributors)


def test_a_device_whose_cohort_failed_goes_to_a_session_opened_later():
    world = World(campaign_of(2, quorum=3), seed=3)
    for device in DEVICES[:8]:
        world.check_in(device)
    early, late = world.sessions().values()
    for device in late[:3]:
        world.contribute(device, 10.0)
    world.contribute(early[0], 10.0)
    world.round.tick(1e5)  # the other cohort's deadline, below its quorum
    invite = world.check_in(early[0], 1e5)
    assert isinstance(invite, Invite)
    assert invite.attempt == 3


def test_a_message_after_its_cohort_closed_hears_that_it_was_counted_or_late():
    world = World(campaign_of(2))
    for device in DEVICES[:8]:
        world.check_in(device)
    devices = next(iter(world.sessions().values()))
    for device in devices[:3]:
        world.contribute(device)
    reasons = [
        command.rejection.reason
        for device in (devices[0], devices[3])
        for command in world.contribute(device)
        if isinstance(command, Reject)
    ]
    assert reasons == [RejectReason.DUPLICATE, RejectReason.LATE]


def test_with_attempts_spent_more_than_half_of_the_cohorts_are_enough_and_fewer_are_not():
    for num_good, is_enough in ((2, True), (1, False)):
        world = World(campaign_of(3, quorum=3, max_attempts=1))
        for device in DEVICES[:12]:
            world.check_in(device)
        commands = []
        for number, devices in enumerate(world.sessions().values()):
            for device in devices[: 3 if number < num_good else 1]:
                commands += world.contribute(device, 1.0)
        now_s = 1e5
        for _ in range(9):  # sessions of those that remain, which fail one after the other
            commands += world.round.tick(now_s)
            answer = world.check_in(DEVICES[15], now_s) if world.round.snapshot.phase is Phase.VOTING else None
            now_s += 1e5
            if answer is None:
                break
        is_closed = any(isinstance(command, SaveClosing) for command in commands)
        assert is_closed == is_enough
        ends = [command.ending for command in commands if isinstance(command, AnnounceEnd)]
        assert ends == ([] if is_enough else [Ending.FAILED])


@pytest.mark.parametrize(("rule", "count"), [("sum", 3), ("median", 4)])
def test_a_last_cohort_does_not_close_a_round_that_has_too_few(rule, count):
    """All other sessions have failed when it closes: too few cohorts, whichever ends last."""
    world = World(campaign_of(count, rule, quorum=3, max_attempts=1))
    for device in DEVICES[: 4 * count]:
        world.check_in(device)
    last = list(world.sessions().values())[-1]
    last_session = world.round._gathering.find(world.invited[last[0]].session_id)
    last_session.deadline_s = 1e9
    now_s = 1e5
    while world.round.snapshot.attempts_failed < count:  # the others fail, and so do sessions opened in their place
        world.round.tick(now_s)
        world.check_in("device-late", now_s)
        now_s += 1e5
    commands = [command for device in last[:3] for command in world.contribute(device, now_s)]
    commands += world.round.tick(now_s + 1e5)
    assert world.round.snapshot.closed_rounds == ()
    assert [command.ending for command in commands if isinstance(command, AnnounceEnd)] == [Ending.FAILED]


def test_with_attempts_spent_a_restart_that_lost_the_open_session_opens_one_more():
    world = World(campaign_of(2, quorum=3, max_attempts=1))
    snapshot = replace(world.round.snapshot, attempts_opened=4, attempts_failed=2)
    again = World(world.campaign, snapshot=snapshot)
    for device in DEVICES[:4]:
        assert isinstance(again.check_in(device), Invite)
    assert len(again.sessions()) == 1
    commands = again.round.tick(1e6)
    assert [command.ending for command in commands if isinstance(command, AnnounceEnd)] == [Ending.FAILED]


def test_replies_come_after_the_save_of_the_last_cohort():
    world = World(campaign_of(2))
    for device in DEVICES[:8]:
        world.check_in(device)
    batches = [world.contribute(device) for device in DEVICES[:8]]
    last = next(batch for batch in batches if any(isinstance(command, SaveClosing) for command in batch))
    kinds = [type(command) for command in last]
    assert kinds.index(SaveClosing) < kinds.index(Reply)


@pytest.mark.parametrize(
    ("count", "rule", "noise", "words"),
    [
        (0, "sum", None, "1 to 1000 cohorts"),
        (2, "median", None, "3 to 1000 cohorts"),
        (3, "mean", None, "combined by one of"),
        (3, "median", NoiseTerms(4000, 6, 2, 20_000), "noisy sums can only be added up"),
    ],
)
def test_impossible_cohorts_are_refused(count, rule, noise, words):
    privacy = PrivacyTerms(SUM_DP, 3, noise) if noise else small_campaign().privacy
    why = why_campaign_impossible(replace(campaign_of(count, rule), privacy=privacy))
    assert words in why
