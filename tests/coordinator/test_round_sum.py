"""The round in mode ``sum``, with the devices' real ends: when the roster closes, who is turned over, what fails."""

from dataclasses import replace

import numpy as np
import pytest
from round_world import DEADLINE_S, FIVE, STAGE_S, SumPlayer, sum_campaign

from prunefleet_coordinator.events import (
    AnnounceAbandoned,
    AnnounceDecision,
    AnnounceEnd,
    AnnounceJoined,
    AnnounceStage,
    Defer,
    End,
    Reject,
    Reply,
    SaveClosing,
    SaveSnapshot,
)
from prunefleet_coordinator.round import CampaignRound
from prunefleet_coordinator.testing import counting_ids, random_vote, small_campaign, vote_payload
from prunefleet_coordinator.totals import total_of
from prunefleet_shared.campaign import CohortPolicy
from prunefleet_shared.errors import LocalProtocolError, RejectReason
from prunefleet_shared.messages import Awaited, Control, Ending, Phase, SessionKind
from prunefleet_shared.private_sum import SessionFacts, open_coordinator_sum
from prunefleet_shared.secure_sum.stages import Stage
from prunefleet_shared.sum_messages import Contribute, ContributionCounted, Roster, ShareKeys

FIVE_DEVICES = ("d1", "d2", "d3", "d4", "d5")
FOUR_DEVICES = FIVE_DEVICES[:4]
LATER_STAGES = (Stage.SHARES, Stage.VECTORS, Stage.CONFIRMATIONS, Stage.UNMASKING)


@pytest.fixture
def player():
    return SumPlayer()


def of_kind(commands, *kinds):
    return [command for command in commands if isinstance(command, kinds)]


def reason(commands):
    assert isinstance(commands[-1], Reject), commands
    return commands[-1].rejection.reason


def last_closed(player):
    return player.round.snapshot.closed_rounds[-1]


def honest_sum(player, device_ids):
    return sum(random_vote(player.campaign, int(device_id[1:])) for device_id in device_ids)


def check_sum(player, *device_ids):
    """The last sum is that of exactly one vote from each of these, and only of them."""
    closed = last_closed(player)
    assert (closed.contributors, closed.total.num_devices) == (device_ids, len(device_ids))
    assert np.array_equal(closed.total.lanes, honest_sum(player, device_ids))


# --- the whole story ------------------------------------------------------------------------------------------------


def test_a_campaign_from_the_first_vote_to_the_last_outcome(player):
    commands = player.gather(*FIVE_DEVICES)
    assert [c.stage for c in of_kind(commands, AnnounceStage)] == list(LATER_STAGES)
    assert [c.device_id for c in of_kind(commands, AnnounceJoined)] == list(FIVE_DEVICES)
    check_sum(player, *FIVE_DEVICES)
    for _ in player.campaign.levels:
        player.publish()
        commands = player.gather(*FIVE_DEVICES)
    assert of_kind(commands, AnnounceEnd) == [AnnounceEnd(Ending.COMPLETED)]
    end = player.round.snapshot
    assert [closed.total.num_devices for closed in end.closed_rounds] == [5, 5, 5]
    assert player.check_in("d1") == [End("d1", Ending.COMPLETED)]


def test_mode_sum_decides_what_mode_plain_decides_from_the_same_votes(player):
    player.gather(*FIVE_DEVICES)
    plain = small_campaign(cohort=FIVE)
    facts = SessionFacts("aa", SessionKind.VOTE, 0, 1)
    cohort_sum = open_coordinator_sum(plain, facts, None)
    for number in range(1, 6):
        cohort_sum.receive(f"d{number}", Contribute("aa", vote_payload(plain, number)))
    assert last_closed(player).total == total_of(plain, SessionKind.VOTE, cohort_sum)


def test_a_sum_is_stored_before_anybody_hears_that_it_was_counted(player):
    player.play_until(Stage.UNMASKING, *FIVE_DEVICES)
    for device_id in FIVE_DEVICES[:3]:
        assert of_kind(player.say(device_id), Reply, SaveClosing) == [
            Reply(device_id, ContributionCounted(player.session_id))
        ]
    commands = player.say("d4")  # the fourth of five is enough
    assert [type(command) for command in commands] == [SaveClosing, Reply, AnnounceDecision]
    assert reason(player.say("d5")) == RejectReason.DUPLICATE  # it is in the sum, though nobody needed its shares
    check_sum(player, *FIVE_DEVICES)


def test_without_the_fleets_root_no_private_sum_is_opened():
    bare = SumPlayer()
    bare.round = CampaignRound(bare.campaign, counting_ids())
    with pytest.raises(LocalProtocolError, match="root certificate"):
        bare.check_in("d1")


# --- the roster -----------------------------------------------------------------------------------------------------


def test_the_roster_closes_when_the_cohort_is_complete(player):
    player.invite(*FIVE_DEVICES)
    assert of_kind(player.speak(*FOUR_DEVICES), Reply, AnnounceStage) == []
    assert player.round.next_deadline_s == DEADLINE_S
    player.now_s = 20.0
    commands = player.say("d5")
    assert of_kind(commands, AnnounceStage) == [AnnounceStage(player.session_id, Stage.SHARES, 5)]
    assert isinstance(of_kind(commands, Reply)[0].answer, Roster)
    assert player.round.next_deadline_s == 20.0 + STAGE_S


@pytest.mark.parametrize("present", [FOUR_DEVICES, FOUR_DEVICES[:3]])
def test_at_the_deadline_a_quorum_makes_a_roster(player, present):
    player.invite(*FIVE_DEVICES)
    player.speak(*present)
    assert player.after(DEADLINE_S) == [AnnounceStage(player.session_id, Stage.SHARES, len(present))]
    player.finish(*present)
    check_sum(player, *present)


def test_below_quorum_there_is_no_roster(player):
    player.invite(*FIVE_DEVICES)
    player.speak("d1", "d2")
    commands = player.after(DEADLINE_S)
    assert [type(command) for command in commands] == [SaveSnapshot, AnnounceAbandoned]
    assert commands[1].why == "2 devices in stage adverts, where 3 are needed"
    assert reason(player.say("d1")) == RejectReason.LATE


def test_the_campaigns_least_number_of_devices_counts_like_a_quorum():
    player = SumPlayer(sum_campaign(cohort=replace(FIVE, quorum=1)))
    player.invite("d1", "d2")
    player.speak("d1", "d2")
    assert of_kind(player.after(DEADLINE_S), AnnounceAbandoned)


def test_a_device_restarted_before_the_roster_closed_joins_with_new_keys(player):
    player.invite(*FIVE_DEVICES)
    player.speak(*FOUR_DEVICES)
    forgotten = player.devices["d2"].next
    player.invite("d2")
    assert player.devices["d2"].next != forgotten
    assert of_kind(player.say("d2"), AnnounceJoined) == []  # it has joined before
    player.say("d5")
    player.speak(*FOUR_DEVICES)
    player.finish(*FIVE_DEVICES)
    check_sum(player, *FIVE_DEVICES)


def test_a_device_restarted_after_the_roster_closed_waits_for_the_session_s_end(player):
    player.play_until(Stage.SHARES, *FIVE_DEVICES)
    assert player.check_in("d2") == [Defer("d2", 1000, Awaited.DEVICES)]
    rest = [each for each in FIVE_DEVICES if each != "d2"]
    player.speak(*rest)
    player.after(STAGE_S)
    player.finish(*rest)
    check_sum(player, *rest)
    assert player.check_in("d2") == [Defer("d2", 1000, Awaited.TRAINER)]


def test_who_was_invited_and_came_too_late_for_the_roster_is_turned_over(player):
    player.invite(*FIVE_DEVICES, "d6", "d7")
    player.speak(*FIVE_DEVICES)
    assert reason(player.say("d6")) == RejectReason.LATE
    for device_id in ("d6", "d7", "d8"):
        assert player.check_in(device_id) == [Defer(device_id, 2_500, Awaited.NOTHING, is_held=False)]
    assert player.round.progress.awaited_ids == FIVE_DEVICES


def test_a_device_that_was_not_invited_gets_into_no_stage(player):
    player.invite(*FIVE_DEVICES)
    stolen = player.devices["d1"].next
    player.devices["d9"] = player.devices["d1"]
    assert reason(player.say("d9", stolen)) == RejectReason.NOT_INVITED


def test_progress_says_who_is_awaited_in_each_stage(player):
    player.invite(*FIVE_DEVICES)
    player.say("d1")
    assert player.round.progress.awaited_ids == FIVE_DEVICES[1:]
    player.play_until(Stage.VECTORS, *FIVE_DEVICES)
    assert player.round.progress.num_contributions == 0
    player.say("d5")
    assert player.round.progress.num_contributions == 1
    assert player.round.progress.awaited_ids == FOUR_DEVICES


# --- deadlines of the stages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Stage.SHARES, Stage.VECTORS])
def test_a_stage_goes_on_at_its_deadline_with_enough(player, stage):
    player.play_until(stage, *FIVE_DEVICES)
    player.speak(*FOUR_DEVICES)
    assert player.after(STAGE_S - 0.001) == []
    (went_on,) = player.after(0.001)
    assert (went_on.stage, went_on.num_awaited) == (stage + 1, 4)
    assert player.round.next_deadline_s == player.now_s + STAGE_S
    player.finish(*FOUR_DEVICES)
    check_sum(player, *FOUR_DEVICES)
    assert reason(player.say("d5")) == RejectReason.LATE


@pytest.mark.parametrize("stage", LATER_STAGES)
def test_a_stage_in_which_too_few_spoke_ends_the_attempt(player, stage):
    player.play_until(stage, *FIVE_DEVICES)
    player.speak("d1", "d2", "d3")
    assert player.stage is stage
    commands = player.after(STAGE_S)
    assert [type(command) for command in commands] == [SaveSnapshot, AnnounceAbandoned]
    assert f"in stage {stage.name.lower()}" in commands[1].why
    assert player.round.snapshot.attempts_failed == 1
    assert reason(player.say("d4")) == RejectReason.LATE
    others = FIVE_DEVICES if stage is not Stage.UNMASKING else ("d4", "d5", "d6", "d7", "d8")
    player.gather(*others)  # whoever has given its shares away is spent
    check_sum(player, *others)
    assert player.session_attempt == 2


@pytest.mark.parametrize("stage", [Stage.CONFIRMATIONS, Stage.UNMASKING])
def test_the_last_stages_end_as_soon_as_enough_have_spoken(player, stage):
    player.play_until(stage, *FIVE_DEVICES)
    before = player.round.snapshot
    player.speak("d1", "d2", "d3")
    assert (player.stage, player.round.snapshot) == (stage, before)
    player.say("d4")
    assert player.stage is Stage.UNMASKING
    assert (player.round.snapshot.phase is Phase.RETRAINING) == (stage is Stage.UNMASKING)


# --- sums that fail -------------------------------------------------------------------------------------------------


def play_with_bad_shares(player, liar):
    """All five take part; whatever ``liar`` encrypted to its peers, none can open."""
    player.play_until(Stage.SHARES, *FIVE_DEVICES)
    honest = player.devices[liar].next
    assert isinstance(honest, ShareKeys)
    player.devices[liar].next = replace(honest, shares=bytes(len(honest.shares)))
    player.finish(*FIVE_DEVICES)


def test_a_device_with_bad_shares_is_blamed_and_not_invited_again_in_this_round(player):
    play_with_bad_shares(player, "d3")
    assert player.stage is Stage.UNMASKING
    commands = player.after(STAGE_S)
    assert [type(command) for command in commands] == [SaveSnapshot, AnnounceAbandoned]
    assert player.check_in("d3") == [Defer("d3", 60_000, Awaited.NOTHING, is_held=False)]
    player.invite("d6", "d7", "d8", "d9")  # the others have given their shares away
    assert player.check_in("d3") == [Defer("d3", 15_000, Awaited.NOTHING, is_held=False)]


def test_nobody_is_blamed_for_those_who_fell_asleep_in_the_last_stage(player):
    player.play_until(Stage.UNMASKING, *FIVE_DEVICES)
    player.speak("d1", "d2", "d3")
    player.after(STAGE_S)
    player.invite("d4", "d5")
    for spent in ("d1", "d2", "d3"):
        assert isinstance(player.check_in(spent)[-1], Defer), "it would decline"


def test_a_sum_that_honest_devices_could_not_have_made_is_thrown_away(player):
    def with_a_thousand_more(device_id, honest):
        return honest + 1000 * (np.arange(len(honest)) == 0) * (device_id == "d2")

    player.vector_of = with_a_thousand_more
    commands = player.gather(*FOUR_DEVICES, "d5")
    (abandoned,) = of_kind(commands, AnnounceAbandoned)
    assert "impossible" in abandoned.why
    assert player.round.snapshot.closed_rounds == ()
    player.vector_of = lambda _, honest: honest
    left_out = [name for name in FIVE_DEVICES if isinstance(player.check_in(name)[-1], Defer)]
    assert len(left_out) >= 4, "those whose masks came off never say it again"
    others = [name for name in (*FIVE_DEVICES, "d6", "d7", "d8", "d9") if name not in left_out][:5]
    player.gather(*others)
    check_sum(player, *others)


def test_the_campaign_fails_when_attempts_run_out_in_any_stage(player):
    for stage in (Stage.SHARES, Stage.VECTORS, Stage.UNMASKING):
        player.play_until(stage, *FIVE_DEVICES)
        commands = player.after(STAGE_S)
    assert [type(command) for command in commands] == [SaveSnapshot, AnnounceAbandoned, AnnounceEnd]
    assert player.check_in("d1") == [End("d1", Ending.FAILED)]


# --- the operator ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", LATER_STAGES)
def test_a_sum_may_finish_while_the_campaign_is_paused(player, stage):
    player.play_until(stage, *FIVE_DEVICES)
    player.control(Control.PAUSE)
    assert player.check_in("d6") == [Defer("d6", 5000, Awaited.OPERATOR)]
    player.finish(*FIVE_DEVICES)
    check_sum(player, *FIVE_DEVICES)


@pytest.mark.parametrize("stage", LATER_STAGES)
def test_a_sum_that_starves_during_a_pause_costs_no_attempt(player, stage):
    player.play_until(stage, *FIVE_DEVICES)
    player.control(Control.PAUSE)
    assert of_kind(player.after(STAGE_S), AnnounceAbandoned)
    assert player.round.snapshot.attempts_failed == 0
    assert player.check_in("d1") == [Defer("d1", 5000, Awaited.OPERATOR)]


@pytest.mark.parametrize("stage", [Stage.ADVERTS, *LATER_STAGES])
def test_stopping_drops_the_open_sum_whatever_its_stage(player, stage):
    player.play_until(stage, *FIVE_DEVICES)
    player.control(Control.STOP)
    assert player.round.next_deadline_s is None
    assert reason(player.say("d1")) == RejectReason.LATE
    assert player.check_in("d1") == [End("d1", Ending.STOPPED)]
    player.restart()
    assert reason(player.say("d1")) == RejectReason.WRONG_SESSION
    assert player.round.snapshot.closed_rounds == ()


# --- crashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Stage.ADVERTS, *LATER_STAGES])
def test_a_restart_in_any_stage_loses_the_session_and_counts_nobody_twice(player, stage):
    player.play_until(stage, *FIVE_DEVICES)
    player.speak("d1", "d2")
    left = player.devices["d3"].next
    player.restart()
    assert reason(player.say("d3", left)) == RejectReason.WRONG_SESSION
    player.gather(*FIVE_DEVICES)
    check_sum(player, *FIVE_DEVICES)
    assert (player.session_attempt, player.round.snapshot.attempts_failed) == (2, 0)


def test_after_a_restart_a_device_of_the_stored_sum_hears_that_it_was_counted(player):
    player.play_until(Stage.UNMASKING, *FIVE_DEVICES)
    late = player.devices["d5"].next
    player.speak(*FOUR_DEVICES)
    player.restart()
    assert reason(player.say("d5", late)) == RejectReason.DUPLICATE
    check_sum(player, *FIVE_DEVICES)


def test_a_cohort_of_three_needs_all_three():
    player = SumPlayer(sum_campaign(cohort=CohortPolicy(3, 3, 60_000, stage_ms=10_000)))
    player.play_until(Stage.VECTORS, "d1", "d2", "d3")
    player.speak("d1", "d2")
    assert of_kind(player.after(STAGE_S), AnnounceAbandoned)
