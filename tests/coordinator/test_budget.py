"""Widths under a budget: what a width is worth, and the one path all budgets choose from."""

import pytest

from prunefleet_coordinator.budget import LOG_STEPS, choose_widths, log_steps, width_path, width_value
from prunefleet_shared.errors import ConfigError, LocalProtocolError
from prunefleet_shared.layout import ChannelGroup, CostTable, CostTerm, Layout

LAYOUT = Layout((ChannelGroup("a", 8), ChannelGroup("b", 16)))
TABLE = CostTable("macs", (CostTerm(10, (0,)), CostTerm(3, (0, 1)), CostTerm(2, (1, 1))))
ALL_WANT_ALL = [[0] * 7 + [4]] * 2


def test_log_steps_is_the_exact_floor():
    assert [log_steps(width) for width in (1, 2, 4, 8)] == [0, LOG_STEPS, 2 * LOG_STEPS, 3 * LOG_STEPS]
    assert 2 ** log_steps(3) <= 3**LOG_STEPS < 2 ** (log_steps(3) + 1)


def test_halving_a_wish_costs_the_same_whatever_its_size():
    wants_16, wants_8 = [0] * 7 + [1], [0, 0, 0, 1, 0, 0, 0, 0]
    assert width_value(16, wants_16, 8) == width_value(16, wants_8, 4) == -LOG_STEPS


def test_more_than_was_asked_is_worth_nothing():
    wants_4_of_16 = [0, 3, 0, 0, 0, 0, 0, 0]
    assert [width_value(16, wants_4_of_16, width) for width in (4, 5, 16)] == [0, 0, 0]


def test_a_large_budget_gives_the_largest_voted_widths_and_no_more():
    tally = [[0, 1, 0, 2, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0, 0]]
    assert choose_widths(LAYOUT, TABLE, tally, 10**9) == (4, 2)


def test_the_path_falls_one_channel_at_a_time_to_one_channel_each_and_prices_itself_exactly():
    points = list(width_path(LAYOUT, TABLE, ALL_WANT_ALL))
    assert points[0][1] == (8, 16)
    assert points[-1][1] == (1, 1)
    assert len(points) == 1 + 7 + 15
    assert [cost for cost, _ in points] == [TABLE.cost(widths) for _, widths in points]


def test_each_budget_gets_the_first_point_of_the_path_it_can_pay():
    points = list(width_path(LAYOUT, TABLE, ALL_WANT_ALL))
    for budget in range(points[-1][0], points[0][0] + 1):
        first = next(widths for cost, widths in points if cost <= budget)
        assert choose_widths(LAYOUT, TABLE, ALL_WANT_ALL, budget) == first


def test_of_equal_steps_the_lowest_group_gives_way():
    twins = Layout((ChannelGroup("a", 8), ChannelGroup("b", 8)))
    table = CostTable("parameters", (CostTerm(1, (0,)), CostTerm(1, (1,))))
    assert choose_widths(twins, table, ALL_WANT_ALL, 15) == (7, 8)
    assert choose_widths(twins, table, ALL_WANT_ALL, 14) == (7, 7)


def test_the_group_fewer_devices_need_gives_way_first():
    twins = Layout((ChannelGroup("a", 8), ChannelGroup("b", 8)))
    table = CostTable("parameters", (CostTerm(1, (0,)), CostTerm(1, (1,))))
    a_is_wanted = [[0] * 7 + [9], [8] + [0] * 6 + [1]]
    widths = choose_widths(twins, table, a_is_wanted, 12)
    assert widths[0] > widths[1]


def test_channels_that_cost_nothing_are_kept_and_end_no_path():
    table = CostTable("macs", (CostTerm(5, (0,)), CostTerm(0, (1,))))
    assert choose_widths(LAYOUT, table, ALL_WANT_ALL, 5) == (1, 16)
    assert [widths for _, widths in width_path(LAYOUT, table, ALL_WANT_ALL)][-1] == (1, 16)


def test_a_budget_below_the_narrowest_network_says_what_it_would_cost():
    with pytest.raises(ConfigError, match=r"budget of 14 macs cannot be met.*costs 15"):
        choose_widths(LAYOUT, TABLE, ALL_WANT_ALL, 14)


def test_a_group_without_a_vote_is_our_bug():
    with pytest.raises(LocalProtocolError, match="width of b"):
        choose_widths(LAYOUT, TABLE, [[1] * 8, [0] * 8], 100)
