"""Devices without data: they are offered networks and invited to nothing."""

import pytest
from judged_player import JudgedPlayer, judged_campaign

from prunefleet_coordinator.events import Defer, DeviceCheckedIn, End, OfferSlimBase
from prunefleet_coordinator.session import DEFER_MS
from prunefleet_coordinator.testing import small_campaign
from prunefleet_shared.messages import Awaited, CheckIn, Control, Ending, Readiness


def consume(player, heard=0, device_id="consumer"):
    """What a device without data is answered."""
    campaign = player.campaign
    check_in = CheckIn(campaign.campaign_id, campaign.layout.fingerprint(), Readiness.NO_DATA, slim_base_heard=heard)
    return player.do(DeviceCheckedIn(device_id, check_in))[-1]


@pytest.mark.parametrize("restarted", [False, True])
def test_it_is_offered_each_slim_base_once_and_never_a_session(restarted):
    player = JudgedPlayer(small_campaign())
    assert isinstance(consume(player), Defer)
    player.gather()
    assert consume(player) == Defer("consumer", DEFER_MS, Awaited.TRAINER)
    player.publish()
    if restarted:
        player.restart()
    assert consume(player) == OfferSlimBase("consumer", 0)
    assert consume(player) == OfferSlimBase("consumer", 0), "until it says that it has it"
    assert isinstance(consume(player, 1), Defer)
    player.gather()
    assert isinstance(consume(player, 1), Defer), "a decision is no network yet"
    player.publish()
    assert consume(player, 1) == consume(player) == OfferSlimBase("consumer", 1)
    player.gather()
    assert consume(player, 1) == OfferSlimBase("consumer", 1), "the campaign has ended, but it slept"
    assert consume(player, 2) == End("consumer", Ending.COMPLETED)
    assert not any("consumer" in closed.contributors for closed in player.round.snapshot.closed_rounds)


def test_it_takes_no_place_in_a_cohort():
    player = JudgedPlayer(small_campaign())
    for number in range(50):
        assert isinstance(consume(player, device_id=f"c{number}"), Defer)
    assert player.round.next_deadline_s is None, "no session was opened for it"
    player.gather()


def test_a_campaign_that_was_stopped_ships_nothing_more():
    player = JudgedPlayer(small_campaign())
    player.gather()
    player.publish()
    player.control(Control.STOP)
    assert consume(player) == End("consumer", Ending.STOPPED)


def test_where_decisions_are_judged_only_the_network_for_all_is_shipped():
    player = JudgedPlayer(judged_campaign(), lambda level, _is_rollout: level == 0)
    player.gather()
    player.publish()
    assert isinstance(consume(player), Defer), "nobody has judged it yet"
    player.gather()
    assert isinstance(consume(player), Defer), "promoted, but the search goes on"
    player.publish()
    player.gather()
    assert player.round.snapshot.rulings[-1].level_for_all == 0
    assert consume(player) == OfferSlimBase("consumer", 0), "the second level was rolled back"
    assert consume(player, 1) == End("consumer", Ending.COMPLETED)
