"""Every transition of a judged campaign as a scenario: who tries what, what is ruled, what devices hear of it."""

import itertools
from dataclasses import replace

import pytest
from judged_player import BAD, COHORT, JudgedPlayer, judged_campaign

from prunefleet_coordinator.events import AnnounceEnd, AnnounceRuling, Defer, End, Invite, OfferRuling
from prunefleet_coordinator.ruling import next_act
from prunefleet_coordinator.search import Act, Judged, Step
from prunefleet_coordinator.state import NEXT_PHASE
from prunefleet_shared.acceptance import NO_LEVEL, RulingReason
from prunefleet_shared.campaign import SUM_DP, NoiseTerms, PrivacyTerms
from prunefleet_shared.messages import Awaited, Control, Ending, Phase, Readiness, SessionKind

ALL, NONE = 99, 0


def player_of(num_levels, search, canaries, num_held, num_rolled_out=ALL, **options):
    campaign = judged_campaign(num_levels, search, canary_size=3 if canaries else 0)
    holds = lambda level, is_rollout: level < (num_rolled_out if is_rollout else num_held)  # noqa: E731
    return JudgedPlayer(campaign, holds, **options)


SCENARIOS = [
    # levels, search, canaries?, levels that hold among canaries, in a rollout; the story, and the level for all
    (1, "descend", False, ALL, ALL, "vote, retrain 0, try 0, completed", 0),
    (1, "descend", False, NONE, ALL, "vote, retrain 0, try 0, completed", NO_LEVEL),
    (2, "descend", False, ALL, ALL, "vote, retrain 0, try 0, retrain 1, try 1, completed", 1),
    (3, "descend", False, 1, ALL, "vote, retrain 0, try 0, retrain 1, try 1, completed", 0),
    (2, "descend", False, NONE, ALL, "vote, retrain 0, try 0, completed", NO_LEVEL),
    (1, "descend", True, ALL, ALL, "vote, retrain 0, try 0, roll out 0, completed", 0),
    (1, "descend", True, NONE, ALL, "vote, retrain 0, try 0, completed", NO_LEVEL),
    (1, "descend", True, ALL, NONE, "vote, retrain 0, try 0, roll out 0, completed", NO_LEVEL),
    (2, "descend", True, 1, ALL, "vote, retrain 0, try 0, retrain 1, try 1, roll out 0, completed", 0),
    (2, "descend", True, ALL, 1, "vote, retrain 0, try 0, retrain 1, try 1, roll out 1, roll out 0, completed", 0),
    (3, "bisect", False, ALL, ALL, "vote, retrain 1, try 1, retrain 2, try 2, completed", 2),
    (3, "bisect", False, 1, ALL, "vote, retrain 1, try 1, retrain 0, try 0, completed", 0),
    (3, "bisect", False, NONE, ALL, "vote, retrain 1, try 1, retrain 0, try 0, completed", NO_LEVEL),
    (3, "bisect", True, 2, ALL, "vote, retrain 1, try 1, retrain 2, try 2, roll out 1, completed", 1),
    # rolled back in the rollout, the search goes on above: level 0 was never tried
    (3, "bisect", True, ALL, 1, "vote, retrain 1, try 1, retrain 2, try 2, roll out 2, roll out 1, retrain 0, try 0, "
     "roll out 0, completed", 0),
]  # fmt: skip


@pytest.mark.parametrize("restarts_always", [False, True])
@pytest.mark.parametrize(("levels", "search", "canaries", "held", "rolled_out", "story", "for_all"), SCENARIOS)
def test_a_campaign_takes_this_way(levels, search, canaries, held, rolled_out, story, for_all, restarts_always):
    player = player_of(levels, search, canaries, held, rolled_out, restarts_always=restarts_always)
    assert player.play() == story
    last = player.rulings[-1]
    assert last.level_for_all == for_all
    assert [ruling.number for ruling in player.rulings] == list(range(1, len(player.rulings) + 1))
    assert all(ruling.level_for_all == NO_LEVEL for ruling in player.rulings[:-1])
    assert for_all == NO_LEVEL or for_all in last.levels_held
    assert player.announced[-1] == AnnounceEnd(Ending.COMPLETED)


def test_the_scenarios_take_every_way_there_is_between_judged_phases():
    told = {Phase.RETRAINING: "retrain", Phase.MEASURING: "try", Phase.ROLLING_OUT: "roll out"}
    told |= {Phase.VOTING: "vote", Phase.COMPLETED: "completed"}
    possible = {(told[a], told[b]) for (a, _), b in NEXT_PHASE.items() if a in told and b in told}
    taken = set()
    for *_, story, _ in SCENARIOS:
        parts = [part.rstrip("0123456789 ") for part in story.split(", ")]
        taken |= set(itertools.pairwise(parts))
    assert taken == possible


# --- nobody is asked twice --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts_always", [False, True])
def test_no_device_is_in_two_sums_of_the_same_decision(restarts_always):
    player = player_of(3, "bisect", True, ALL, 1, restarts_always=restarts_always)
    player.play()
    asked = [
        (closed.level, name)
        for closed in player.round.snapshot.closed_rounds
        if closed.kind is not SessionKind.VOTE
        for name in closed.contributors
    ]
    assert len(asked) == len(set(asked))
    assert len(player.released) == len(set(player.released)), "a round was summed twice"


@pytest.mark.parametrize("restarted", [False, True])
def test_a_canary_gets_no_place_in_the_rollout_of_its_decision(restarted):
    player = player_of(1, "descend", True, ALL)
    player.gather()
    player.publish()
    canaries = player.gather()
    assert (player.where, len(canaries)) == ("roll out 0", 3)
    if restarted:
        player.restart()
    assert isinstance(player.check_in(canaries[0]), OfferRuling)
    assert player.check_in(canaries[0]) == Defer(canaries[0], 60_000, Awaited.NOTHING, is_held=False)
    invitation = player.check_in_again("d900")
    assert (invitation.kind, invitation.level, invitation.attempt) == (SessionKind.ROLLOUT, 0, 1)
    assert isinstance(player.check_in(canaries[1]), OfferRuling)
    assert player.check_in(canaries[1]).awaited is Awaited.NOTHING


def test_canaries_are_as_many_as_the_terms_say_and_the_rollout_is_a_cohort():
    player = JudgedPlayer(judged_campaign(1, canary_size=2, canary_count=3))
    player.gather()
    player.publish()
    assert len(player.gather()) == 6
    assert [len(cohort.contributors) for cohort in player.round.snapshot.closed_rounds[1].cohorts] == [2, 2, 2]
    assert len(player.gather()) == COHORT.size


def test_the_quorum_of_canaries_is_as_large_a_part_of_them():
    canaries = judged_campaign(1, canary_size=2).cohort_of(SessionKind.OUTCOME)
    assert (canaries.size, canaries.quorum) == (2, 2)  # 3 of 4, rounded up
    assert judged_campaign(1, canary_size=2).cohort_of(SessionKind.ROLLOUT) == COHORT
    assert judged_campaign(1).cohort_of(SessionKind.OUTCOME) == COHORT


# --- what devices hear ----------------------------------------------------------------------------------------------


def test_a_device_hears_the_last_ruling_before_anything_else_and_once():
    player = player_of(2, "descend", False, 1)
    player.gather()
    player.publish()
    first = player.gather()
    offer = player.check_in(first[0])
    assert (offer.ruling.level, offer.ruling.reason) == (0, RulingReason.HELD)
    assert player.check_in(first[0]) == Defer(first[0], 1000, Awaited.TRAINER)
    player.publish()
    player.gather()
    assert player.round.has_ended
    # It slept through the last ruling, and hears it although the campaign has ended.
    offer = player.restart().check_in(first[0])
    assert (offer.ruling.number, offer.ruling.reason) == (2, RulingReason.TOO_MANY_WORSE)
    assert (offer.ruling.levels_held, offer.ruling.level_for_all) == ((0,), 0)
    assert player.check_in(first[0]) == End(first[0], Ending.COMPLETED)
    # A device that was never there hears the last ruling only.
    assert player.check_in("d900").ruling.number == 2


def test_a_device_at_work_hears_nothing_but_the_end():
    player = player_of(1, "descend", False, ALL)
    player.gather()
    player.publish()
    player.gather()
    assert player.check_in("d0", Readiness.BUSY) == End("d0", Ending.COMPLETED)


def test_a_ruling_is_stored_with_the_sum_it_follows_from_before_it_is_told():
    player = player_of(1, "descend", True, ALL)
    player.gather()
    player.publish()
    player.gather()
    closing = player.closings[-1]
    assert (closing.ruling, closing.decision) == (player.rulings[-1], None)
    assert closing.snapshot.rulings == (closing.ruling,)
    assert player.announced[-1] == AnnounceRuling(closing.ruling)


# --- pause, resume, stop, fail ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["vote", "retrain 0", "try 0", "roll out 0"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_judged_campaign_is_paused_resumed_and_stopped_in_every_phase(at, restarted):
    player = player_of(1, "descend", True, ALL)
    while player.where != at:
        player.step()
    player.control(Control.PAUSE)
    if restarted:
        player.restart()
    if at != "retrain 0":
        answer = player.check_in_again("d900")
        assert (type(answer), answer.awaited) == (Defer, Awaited.OPERATOR)
    player.control(Control.RESUME)
    assert player.where == at
    if at != "retrain 0":
        assert isinstance(player.check_in_again("d900"), Invite)
    num_rulings = len(player.rulings)
    player.control(Control.STOP)
    if restarted:
        player.restart()
    assert (player.where, len(player.rulings)) == ("stopped", num_rulings)
    assert player.check_in_again("d901") == End("d901", Ending.STOPPED)


@pytest.mark.parametrize(("at", "size"), [("vote", 4), ("try 0", 3), ("roll out 0", 4)])
def test_a_round_without_a_quorum_in_any_attempt_fails_the_campaign_and_promotes_nothing_for_all(at, size):
    player = player_of(1, "descend", True, ALL)
    while player.where != at:
        player.step()
    for _ in range(player.campaign.cohort.max_attempts):
        assert isinstance(player.check_in_again(f"d{900 + size}"), Invite)
        player.now_s += 61
        player.do()
    assert player.where == "failed"
    assert all(ruling.level_for_all == NO_LEVEL for ruling in player.rulings)


def test_a_round_of_outcomes_below_the_cohorts_size_is_ruled_on_by_whoever_spoke():
    player = player_of(1, "descend", False, ALL)
    player.gather()
    player.publish()
    for number in range(3):
        player.contribute(player.check_in_again(f"d{800 + number}"))
    player.now_s += 61
    player.do()
    assert (player.where, player.rulings[0].num_devices) == ("completed", 3)


# --- the rulings themselves -------------------------------------------------------------------------------------------


def test_one_device_too_many_that_is_worse_off_rolls_a_decision_back():
    player = JudgedPlayer(judged_campaign(1, max_worse_permille=250))
    player.gather()
    player.publish()
    player.contribute(player.check_in_again("d700"), BAD)
    player.gather()
    assert (player.rulings[0].num_worse, player.rulings[0].max_worse, player.rulings[0].is_promoted) == (1, 1, True)
    player = JudgedPlayer(judged_campaign(1, max_worse_permille=249))
    player.gather()
    player.publish()
    player.contribute(player.check_in_again("d700"), BAD)
    player.gather()
    assert (player.rulings[0].num_worse, player.rulings[0].max_worse, player.rulings[0].is_promoted) == (1, 0, False)


def test_a_campaign_that_judges_nothing_goes_on_whatever_the_outcome():
    assert judged_campaign(2).lanes_of(SessionKind.OUTCOME).num_lanes == 51
    campaign = replace(judged_campaign(2), acceptance=None)
    assert campaign.lanes_of(SessionKind.OUTCOME).num_lanes == 35  # and is not asked for what it does not judge by
    player = JudgedPlayer(campaign, lambda _level, _is_rollout: False)
    assert player.play() == "vote, retrain 0, try 0, retrain 1, try 1, completed"
    assert player.rulings == ()


def test_the_budget_of_privacy_ends_a_judged_campaign_too():
    """Two outcome sums are paid for: the level that canaries hold is not rolled out, and so is for nobody else."""
    noise = NoiseTerms(90_000, 6, 2, 900)
    campaign = judged_campaign(2, canary_size=4, privacy=PrivacyTerms(SUM_DP, 3, noise))
    player = JudgedPlayer(judged_campaign(1))
    player.gather()
    released = [*player.released, *(replace(player.released[0], kind=SessionKind.OUTCOME, level=n) for n in (0, 1))]
    so_far = [Judged(0, False, True), Judged(1, False, True)]
    assert next_act(campaign, so_far, released) == Step(Act.END, NO_LEVEL)
    paid_for_more = replace(campaign, privacy=PrivacyTerms(SUM_DP, 3, replace(noise, num_outcomes=4)))
    assert next_act(paid_for_more, so_far, released) == Step(Act.ROLL_OUT, 1)
