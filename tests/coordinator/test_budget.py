"""Widths under a budget: what a width is worth, and the one path all budgets choose from."""

import pytest

from prunefleet_coordinator.budget import LOG_STEPS, choose_widths, log_steps, total_value, width_path, width_value
from prunefleet_shared.errors import ConfigError, LocalProtocolError
from prunefleet_shared.layout import ChannelGroup, CostTable, CostTerm, Layout
from prunefleet_shared.limits import Constraint, Limits, narrowest_widths

LAYOUT = Layout((ChannelGroup("a", 8), ChannelGroup("b", 16)))
TABLE = CostTable("macs", (CostTerm(10, (0,)), CostTerm(3, (0, 1)), CostTerm(2, (1, 1))))
ALL_WANT_ALL = [[0] * 7 + [4]] * 2


def within(budget, table=TABLE):
    return [Constraint(table, budget)]


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
    assert choose_widths(LAYOUT, within(10**9), tally) == (4, 2)


def test_the_path_falls_one_channel_at_a_time_to_an_eighth_each_and_prices_itself_exactly():
    points = list(width_path(LAYOUT, TABLE, ALL_WANT_ALL))
    assert points[0][1] == (8, 16)
    assert points[-1][1] == narrowest_widths(LAYOUT) == (1, 2)
    assert len(points) == 1 + 7 + 14
    assert [cost for cost, _ in points] == [TABLE.cost(widths) for _, widths in points]


def test_each_budget_gets_the_first_point_of_the_path_it_can_pay():
    points = list(width_path(LAYOUT, TABLE, ALL_WANT_ALL))
    for budget in range(points[-1][0], points[0][0] + 1):
        first = next(widths for cost, widths in points if cost <= budget)
        assert choose_widths(LAYOUT, within(budget), ALL_WANT_ALL) == first


def test_of_equal_steps_the_lowest_group_gives_way():
    twins = Layout((ChannelGroup("a", 8), ChannelGroup("b", 8)))
    table = CostTable("parameters", (CostTerm(1, (0,)), CostTerm(1, (1,))))
    assert choose_widths(twins, within(15, table), ALL_WANT_ALL) == (7, 8)
    assert choose_widths(twins, within(14, table), ALL_WANT_ALL) == (7, 7)


def test_the_group_fewer_devices_need_gives_way_first():
    twins = Layout((ChannelGroup("a", 8), ChannelGroup("b", 8)))
    table = CostTable("parameters", (CostTerm(1, (0,)), CostTerm(1, (1,))))
    a_is_wanted = [[0] * 7 + [9], [8] + [0] * 6 + [1]]
    widths = choose_widths(twins, within(12, table), a_is_wanted)
    assert widths[0] > widths[1]


def test_channels_that_cost_nothing_are_kept_and_end_no_path():
    table = CostTable("macs", (CostTerm(5, (0,)), CostTerm(0, (1,))))
    assert choose_widths(LAYOUT, within(5, table), ALL_WANT_ALL) == (1, 16)
    assert [widths for _, widths in width_path(LAYOUT, table, ALL_WANT_ALL)][-1] == (1, 16)


def test_a_budget_below_the_narrowest_network_says_what_it_would_cost():
    with pytest.raises(ConfigError, match=r"budget of 23 macs cannot be met: the smallest widths cost 24; allow more"):
        choose_widths(LAYOUT, within(23), ALL_WANT_ALL)


def test_a_group_without_a_vote_is_our_bug():
    with pytest.raises(LocalProtocolError, match="width of b"):
        choose_widths(LAYOUT, within(100), [[1] * 8, [0] * 8])


# --- limits ----------------------------------------------------------------------------------------------------------

TWINS = Layout((ChannelGroup("a", 16), ChannelGroup("b", 16), ChannelGroup("c", 16)))
A_IS_WANTED = [[0] * 7 + [9], [6, 0, 0, 0, 0, 0, 0, 3], [3, 0, 0, 0, 0, 0, 0, 6]]
PRICED = CostTable("parameters", (CostTerm(5, (0,)), CostTerm(5, (1,)), CostTerm(5, (2,))))


def test_rounded_widths_are_multiples_or_dense_and_start_at_the_next_one_above_the_largest_vote():
    layout = Layout((ChannelGroup("a", 12), ChannelGroup("b", 16)))
    votes = [[0, 0, 0, 0, 0, 0, 3, 0], [0, 0, 1, 0, 0, 0, 0, 0]]  # 11 of 12, and 6 of 16
    points = [widths for _, widths in width_path(layout, TABLE, votes, Limits(round_to=8))]
    assert points == [(12, 8), (8, 8)]


def test_least_widths_and_skipped_groups_stay():
    limits = Limits(min_keep=5, skipped=frozenset({"b"}))
    assert [widths for _, widths in width_path(TWINS, PRICED, A_IS_WANTED, limits)][-1] == (5, 16, 5)
    with pytest.raises(ConfigError, match=r"cannot be met: the smallest widths cost 130; .* skipped groups"):
        choose_widths(TWINS, within(129, PRICED), A_IS_WANTED, limits)


def test_groups_that_are_tied_narrow_together_and_both_their_votes_count():
    tied = Limits(tied=(("c", "a"),))
    for _, widths in width_path(TWINS, PRICED, A_IS_WANTED, tied):
        assert widths[0] == widths[2]
    alone = choose_widths(TWINS, within(150, PRICED), A_IS_WANTED)
    together = choose_widths(TWINS, within(150, PRICED), A_IS_WANTED, tied)
    assert alone[0] > alone[2]
    assert alone[0] >= together[0] >= alone[2]


def test_tied_groups_that_share_a_cost_term_are_priced_exactly():
    table = CostTable("macs", (CostTerm(3, (0, 1)), CostTerm(2, (1, 1)), CostTerm(7, (0, 2))))
    for cost, widths in width_path(TWINS, table, A_IS_WANTED, Limits(tied=(("a", "b"),))):
        assert cost == table.cost(widths)


# --- several tables --------------------------------------------------------------------------------------------------


def test_two_tables_are_both_met_and_neither_alone_says_how():
    macs = CostTable("macs", (CostTerm(9, (0,)), CostTerm(1, (1,))))
    parameters = CostTable("parameters", (CostTerm(1, (0,)), CostTerm(9, (1,))))
    both = [Constraint(macs, 60), Constraint(parameters, 80)]
    widths = choose_widths(LAYOUT, both, ALL_WANT_ALL)
    assert all(constraint.is_met(widths) for constraint in both)
    alone = [choose_widths(LAYOUT, [constraint], ALL_WANT_ALL) for constraint in both]
    assert not both[1].is_met(alone[0])
    assert not both[0].is_met(alone[1])


def test_a_table_that_does_not_bind_costs_nothing():
    """The path of the other table is among the candidates."""
    parameters = CostTable("parameters", (CostTerm(1, (0,)), CostTerm(9, (1,))))
    for budget in range(24, TABLE.cost((8, 16)), 40):
        wide = [Constraint(TABLE, budget), Constraint(parameters, 10**6)]
        got, alone = (choose_widths(LAYOUT, constraints, ALL_WANT_ALL) for constraints in (wide, wide[:1]))
        assert total_value(LAYOUT, ALL_WANT_ALL, got) >= total_value(LAYOUT, ALL_WANT_ALL, alone)


def test_a_table_that_leaves_a_group_alone_is_no_dead_end():
    only_a, only_b = (CostTable(unit, (CostTerm(1, (group,)),)) for unit, group in (("macs", 0), ("ns", 1)))
    assert choose_widths(LAYOUT, [Constraint(only_a, 3), Constraint(only_b, 5)], ALL_WANT_ALL) == (3, 5)


def test_the_constraint_that_cannot_be_met_is_named():
    tight = [Constraint(TABLE, 10**6), Constraint(CostTable("training_bytes", (CostTerm(1, (1,)),)), 1)]
    with pytest.raises(ConfigError, match="a budget of 1 training_bytes cannot be met: the smallest widths cost 2"):
        choose_widths(LAYOUT, tight, ALL_WANT_ALL)
