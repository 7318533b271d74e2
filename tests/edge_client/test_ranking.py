"""From scores to widths and masks: global and per-layer ranking, and their limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.ranking import check_budget, even_widths, keep_masks, masks_by_order, per_cost, rank_widths
from prunefleet_edge.tracing import cost_table, trace
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.layout import ChannelGroup, CostTable, CostTerm, Layout, width_options
from prunefleet_shared.limits import Limits, narrowest_widths

torch.set_num_threads(1)
LAYOUT = Layout((ChannelGroup("a", 8), ChannelGroup("b", 16), ChannelGroup("c", 3)))
TABLE = CostTable(
    "macs", (CostTerm(27, (0,)), CostTerm(9, (0, 1)), CostTerm(4, (1, 2)), CostTerm(10, (2,)), CostTerm(5))
)
DENSE, FLOORS = LAYOUT.dense_widths, tuple(width_options(n)[0] for n in LAYOUT.dense_widths)

# fmt: off
WIDTHS_BEFORE = (
    (0, 1519, (8, 15, 3)), (1, 1177, (7, 12, 3)), (2, 938, (5, 13, 3)),
    (3, 358, (2, 10, 2)), (4, 1418, (7, 15, 3)), (5, 536, (4, 9, 2)),
    (6, 398, (4, 6, 2)), (7, 474, (4, 8, 1)), (8, 1576, (8, 16, 2)),
    (9, 1206, (8, 12, 2)), (10, 1346, (6, 16, 3)), (11, 1422, (6, 16, 3)),
    (12, 325, (3, 7, 1)), (13, 498, (5, 6, 2)), (14, 108, (1, 5, 1)),
    (15, 176, (1, 7, 2)), (16, 988, (6, 12, 2)), (17, 1054, (7, 11, 3)),
    (18, 1329, (8, 12, 3)), (19, 114, (2, 2, 1)), (20, 1140, (6, 14, 3)),
    (21, 1041, (5, 15, 3)), (22, 547, (3, 11, 3)), (23, 1256, (7, 14, 2)),
    (24, 683, (4, 11, 3)), (25, 315, (2, 9, 2)), (26, 1295, (7, 14, 3)),
    (27, 404, (2, 12, 2)), (28, 1419, (7, 15, 3)), (29, 331, (2, 11, 1)),
    (30, 678, (4, 12, 2)), (31, 947, (4, 16, 3)), (32, 217, (2, 6, 1)),
    (33, 762, (7, 7, 3)), (34, 1525, (8, 16, 2)), (35, 1213, (7, 13, 3)),
)
"""(seed, budget, widths) as ``rank_widths`` gave them when it knew no limits; scores of every third seed have ties."""
RESNET20_BEFORE = (
    ("parameters", 0, 0.5, (12, 9, 13, 9, 26, 23, 23, 27, 44, 46, 40, 43)),
    ("parameters", 0, 0.2, (7, 7, 7, 4, 18, 11, 16, 15, 27, 31, 27, 26)),
    ("parameters", 0, 0.1, (5, 5, 5, 3, 15, 9, 11, 8, 18, 22, 18, 16)),
    ("parameters", 1, 0.5, (11, 14, 13, 10, 23, 25, 27, 27, 45, 40, 46, 47)),
    ("parameters", 1, 0.2, (6, 11, 9, 5, 11, 13, 21, 16, 28, 27, 27, 31)),
    ("parameters", 1, 0.1, (3, 7, 4, 3, 9, 7, 13, 8, 13, 23, 18, 23)),
    ("parameters", 2, 0.5, (12, 13, 15, 14, 22, 24, 27, 22, 43, 44, 46, 40)),
    ("parameters", 2, 0.2, (7, 8, 10, 7, 14, 18, 18, 17, 26, 24, 32, 24)),
    ("parameters", 2, 0.1, (5, 7, 9, 4, 12, 13, 16, 11, 16, 16, 22, 16)),
    ("macs", 0, 0.9, (13, 16, 16, 16, 31, 31, 31, 32, 64, 62, 63, 64)),
    ("macs", 0, 0.2, (7, 7, 7, 4, 19, 12, 16, 17, 28, 33, 30, 28)),
    ("macs", 2, 0.9, (16, 16, 16, 16, 29, 29, 31, 31, 60, 60, 57, 52)),
    ("macs", 2, 0.2, (6, 8, 9, 6, 14, 17, 18, 14, 25, 24, 32, 24)),
)
# fmt: on


def random_scores(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).exponential(size=LAYOUT.num_channels)


# --- widths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_widths_meet_any_budget_that_can_be_met_and_keep_the_floors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    budget = int(rng.integers(TABLE.cost(FLOORS), TABLE.cost(DENSE) + 1))
    widths = rank_widths(LAYOUT, TABLE, random_scores(seed), budget)
    assert TABLE.cost(widths) <= budget
    assert all(floor <= w <= dense for floor, w, dense in zip(FLOORS, widths, DENSE, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_was_removed_would_still_fit(seed: int) -> None:
    budget = int(np.random.default_rng(seed).integers(TABLE.cost(FLOORS), TABLE.cost(DENSE)))
    widths = rank_widths(LAYOUT, TABLE, random_scores(seed), budget)
    for group, (width, dense) in enumerate(zip(widths, DENSE, strict=True)):
        if width < dense:
            one_more = [w + (i == group) for i, w in enumerate(widths)]
            assert TABLE.cost(one_more) > budget


def test_a_budget_for_everything_removes_nothing() -> None:
    assert rank_widths(LAYOUT, TABLE, random_scores(0), TABLE.cost(DENSE)) == DENSE


def test_the_smallest_budget_leaves_the_floors() -> None:
    assert rank_widths(LAYOUT, TABLE, random_scores(0), TABLE.cost(FLOORS)) == FLOORS


@pytest.mark.parametrize("budget", [0, TABLE.cost(FLOORS) - 1])
def test_a_budget_below_the_floors_is_refused_with_what_they_cost(budget: int) -> None:
    words = f"a budget of {budget} macs cannot be met: the smallest widths cost {TABLE.cost(FLOORS)}"
    with pytest.raises(ConfigError, match=words):
        rank_widths(LAYOUT, TABLE, random_scores(0), budget)


def test_the_least_salient_channels_of_all_groups_go_first() -> None:
    layout = Layout((ChannelGroup("a", 4), ChannelGroup("b", 4)))
    table = CostTable("macs", (CostTerm(1, (0,)), CostTerm(1, (1,))))
    scores = [0.9, 0.8, 0.7, 0.1, 0.6, 0.5, 0.2, 0.3]
    assert [rank_widths(layout, table, scores, budget) for budget in (8, 7, 6, 5, 4)] == [
        (4, 4),
        (3, 4),
        (3, 3),
        (3, 2),
        (3, 1),  # 0.5 goes, and 0.6 stays: it is the floor of its group
    ]
    assert rank_widths(layout, table, scores, 2) == (1, 1)


def test_a_coarse_last_step_gives_back_what_fits_best_first() -> None:
    layout = Layout((ChannelGroup("cheap", 8), ChannelGroup("dear", 2)))
    table = CostTable("macs", (CostTerm(1, (0,)), CostTerm(10, (1,))))
    scores = [0.9, 0.8, 0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 0.7, 0.2]
    # Six cheap ones (0.1..0.15) go, 20 + 2 > 17, then a dear one (0.2): 12. Five of the six fit again.
    assert rank_widths(layout, table, scores, 17) == (7, 1)


def test_of_two_that_would_fit_again_the_better_one_comes_back() -> None:
    layout = Layout((ChannelGroup("a", 4), ChannelGroup("b", 4), ChannelGroup("dear", 2)))
    table = CostTable("macs", (CostTerm(2, (0,)), CostTerm(2, (1,)), CostTerm(10, (2,))))
    scores = [0.9, 0.8, 0.7, 0.2, 0.9, 0.8, 0.7, 0.1, 0.95, 0.3]
    # 0.1, 0.2 and 0.3 go: 36, 34, 32, 22. There is room for 2 more, and 0.2 is better than 0.1.
    assert rank_widths(layout, table, scores, 24) == (4, 3, 1)


def test_widths_do_not_depend_on_the_scale_of_the_scores() -> None:
    scores, budget = random_scores(4), TABLE.cost(DENSE) // 2
    assert rank_widths(LAYOUT, TABLE, scores, budget) == rank_widths(LAYOUT, TABLE, scores * 1e-9, budget)


def test_equal_scores_are_settled_the_same_way_every_time() -> None:
    budget = TABLE.cost(DENSE) // 2
    flat = [1.0] * LAYOUT.num_channels
    widths = rank_widths(LAYOUT, TABLE, flat, budget)
    assert TABLE.cost(widths) <= budget
    assert widths[0] == 8, "the last channels go first"
    assert rank_widths(LAYOUT, TABLE, np.float32(flat), budget) == widths


# --- scores per cost -------------------------------------------------------------------------------------------------


def test_scores_per_cost_divide_by_what_a_channel_saves() -> None:
    scores = random_scores(1)
    found = per_cost(LAYOUT, TABLE, scores)
    saved = [27 + 9 * 16, 9 * 8 + 4 * 3, 4 * 16 + 10]
    expected = [score / saved[0 if i < 8 else 1 if i < 24 else 2] for i, score in enumerate(scores)]
    np.testing.assert_allclose(found, expected)


def test_a_group_that_costs_nothing_keeps_its_scores() -> None:
    table = CostTable("macs", (CostTerm(27, (0,)), CostTerm(3)))
    scores = random_scores(1)
    np.testing.assert_allclose(per_cost(LAYOUT, table, scores)[8:], scores[8:])


# --- masks -----------------------------------------------------------------------------------------------------------


def test_masks_keep_the_best_of_each_group() -> None:
    scores = random_scores(2)
    masks = keep_masks(LAYOUT, scores, (3, 16, 1))
    assert [int(mask.sum()) for mask in masks] == [3, 16, 1]
    for part, mask in zip(LAYOUT.slices(), masks, strict=True):
        kept, gone = scores[part][mask], scores[part][~mask]
        assert gone.size == 0 or kept.min() >= gone.max()


def test_masks_by_order_keep_the_first() -> None:
    masks = masks_by_order([[2, 0, 1], [1, 0]], [2, 1])
    assert [mask.tolist() for mask in masks] == [[True, False, True], [False, True]]


@pytest.mark.parametrize("widths", [(3, 16), (3, 16, 1, 1)])
def test_masks_need_one_width_per_group(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="zip"):
        keep_masks(LAYOUT, random_scores(0), widths)
    with pytest.raises(ValueError, match="zip"):
        masks_by_order([range(8), range(16), range(3)], widths)


# --- what must not change --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "budget", "widths"), WIDTHS_BEFORE)
def test_widths_without_limits_are_what_they_always_were(seed: int, budget: int, widths: tuple[int, ...]) -> None:
    scores = random_scores(seed)
    scores = scores if seed % 3 else np.round(scores, 1)
    assert rank_widths(LAYOUT, TABLE, scores, budget) == widths
    assert rank_widths(LAYOUT, TABLE, scores, budget, Limits()) == widths


def test_widths_of_a_real_network_are_what_they_always_were() -> None:
    spec = parse_spec("resnet20/3x32x32/100")
    model, example = build(spec), example_input(spec)
    traced = trace(model, example)
    layout = traced.layout
    tables = {unit: cost_table(model, example, traced, unit) for unit in ("macs", "parameters")}
    for unit, seed, ratio, widths in RESNET20_BEFORE:
        scores = np.random.default_rng(seed).exponential(size=layout.num_channels)
        scores = np.round(scores, 1) if seed == 2 else scores
        budget = int(tables[unit].cost(layout.dense_widths) * ratio)
        assert rank_widths(layout, tables[unit], scores, budget) == widths


# --- limits ----------------------------------------------------------------------------------------------------------


def slow_widths(scores: np.ndarray, budget: int, limits: Limits, start: tuple[int, ...] = DENSE) -> tuple[int, ...]:
    """One channel at a time, the whole cost each time, then everything that was removed tried again from the end."""
    groups = [g for g, width in enumerate(start) for _ in range(width)]
    wanted, widths = list(start), list(start)
    history: list[tuple[int, int]] = []

    def rounded(group: int) -> int:
        floor = max(FLOORS[group], limits.min_keep)
        if LAYOUT.groups[group].name in limits.skipped:
            return start[group]
        width = wanted[group]
        while width < floor or width % limits.round_to:
            width += 1
        return min(width, start[group])

    for channel in sorted(range(len(groups)), key=lambda c: (-scores[c], c))[::-1]:
        if TABLE.cost(widths) <= budget:
            break
        group = groups[channel]
        wanted[group] -= 1
        if rounded(group) < widths[group]:
            history.append((group, widths[group] - rounded(group)))
            widths[group] = rounded(group)
    for group, num in reversed(history):
        wider = [w + num * (g == group) for g, w in enumerate(widths)]
        is_allowed = wider[group] % limits.round_to == 0 or wider[group] == start[group]
        if is_allowed and TABLE.cost(wider) <= budget:
            widths = wider
    return tuple(widths)


LIMITS = (
    Limits(),
    Limits(min_keep=4),
    Limits(round_to=4),
    Limits(round_to=3, min_keep=2),
    Limits(skipped=frozenset({"b"})),
    Limits(4, 2, frozenset({"a", "c"})),
)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("seed", range(15))
def test_limited_widths_are_those_of_the_slow_way(limits: Limits, seed: int) -> None:
    least = TABLE.cost(narrowest_widths(LAYOUT, limits))
    budget = int(np.random.default_rng(seed).integers(least, TABLE.cost(DENSE) + 1))
    assert rank_widths(LAYOUT, TABLE, random_scores(seed), budget, limits) == slow_widths(
        random_scores(seed), budget, limits
    )


@pytest.mark.parametrize("limits", LIMITS[:4])
@pytest.mark.parametrize("seed", range(8))
def test_a_later_step_goes_on_from_the_widths_of_the_one_before(limits: Limits, seed: int) -> None:
    start = (6, 10, 3)
    scores = random_scores(seed)[: sum(start)]
    floors = [min(w, f) for w, f in zip(start, narrowest_widths(LAYOUT, limits), strict=True)]
    budget = int(np.random.default_rng(seed).integers(TABLE.cost(floors), TABLE.cost(start) + 1))
    widths = rank_widths(LAYOUT, TABLE, scores, budget, limits, start=start)
    assert widths == slow_widths(scores, budget, limits, start)
    assert all(w <= before for w, before in zip(widths, start, strict=True))


def test_the_narrowest_widths_keep_to_the_limits() -> None:
    assert narrowest_widths(LAYOUT) == (1, 2, 1)
    assert narrowest_widths(LAYOUT, Limits(min_keep=5)) == (5, 5, 3)
    assert narrowest_widths(LAYOUT, Limits(round_to=8)) == (8, 8, 3)
    assert narrowest_widths(LAYOUT, Limits(round_to=4, min_keep=5)) == (8, 8, 3)
    assert narrowest_widths(LAYOUT, Limits(skipped=frozenset({"b"}))) == (1, 16, 1)


def test_rounded_widths_are_multiples_or_dense() -> None:
    scores = random_scores(3)
    for budget in range(TABLE.cost(narrowest_widths(LAYOUT, Limits(round_to=4))), TABLE.cost(DENSE) + 1, 37):
        widths = rank_widths(LAYOUT, TABLE, scores, budget, Limits(round_to=4))
        assert all(w % 4 == 0 or w == dense for w, dense in zip(widths, DENSE, strict=True))


def test_a_block_goes_when_its_last_channel_has_its_turn() -> None:
    layout = Layout((ChannelGroup("a", 4), ChannelGroup("b", 4)))
    table = CostTable("macs", (CostTerm(1, (0,)), CostTerm(1, (1,))))
    # a's worst two are 0.1 and 0.7, b's 0.2 and 0.3: b's block is complete first.
    scores = [0.9, 0.8, 0.7, 0.1, 0.6, 0.5, 0.3, 0.2]
    assert rank_widths(layout, table, scores, 6, Limits(round_to=2)) == (4, 2)
    assert rank_widths(layout, table, scores, 7, Limits(round_to=2)) == (4, 2)
    assert rank_widths(layout, table, scores, 7) == (3, 4)


@pytest.mark.parametrize("rank", ["global", "even", "check"])
def test_a_budget_beyond_the_limits_is_refused_with_what_can_be_reached(rank: str) -> None:
    limits = Limits(min_keep=4, skipped=frozenset({"b"}))
    least = TABLE.cost((4, 16, 3))
    words = rf"a budget of {least - 1} macs cannot be met: .* cost {least}; allow more, or relax min_keep, round_to or"
    ask = {
        "global": lambda: rank_widths(LAYOUT, TABLE, random_scores(0), least - 1, limits),
        "even": lambda: even_widths(LAYOUT, TABLE, least - 1, limits),
        "check": lambda: check_budget(LAYOUT, TABLE, least - 1, limits),
    }
    with pytest.raises(ConfigError, match=words):
        ask[rank]()
    check_budget(LAYOUT, TABLE, least, limits)


def test_a_group_that_is_not_there_cannot_be_skipped() -> None:
    limits = Limits(skipped=frozenset({"a", "conv9"}))
    for ask in (
        lambda: rank_widths(LAYOUT, TABLE, random_scores(0), 9999, limits),
        lambda: even_widths(LAYOUT, TABLE, 9999, limits),
        lambda: narrowest_widths(LAYOUT, limits),
    ):
        with pytest.raises(ConfigError, match="there is no group conv9; expected some of a, b, c"):
            ask()


@pytest.mark.parametrize(("min_keep", "round_to"), [(-1, 1), (0, 0), (0, -8)])
def test_limits_out_of_range_are_refused(min_keep: int, round_to: int) -> None:
    with pytest.raises(ConfigError, match=f"min_keep >= 0 and round_to >= 1, got {min_keep} and {round_to}"):
        Limits(min_keep, round_to)


class Stairs:
    """A measured table: odd widths are slower than the even ones above them."""

    unit = "ns"

    def cost(self, widths):
        return sum(10 * w + (25 if w % 2 else 0) for w in widths)


@pytest.mark.parametrize("budget", range(65, 420, 17))
def test_a_table_that_is_not_monotone_is_kept_to_all_the_same(budget: int) -> None:
    if budget >= Stairs().cost(FLOORS):
        assert Stairs().cost(rank_widths(LAYOUT, Stairs(), random_scores(1), budget)) <= budget
        assert Stairs().cost(even_widths(LAYOUT, Stairs(), budget)) <= budget


def test_ranking_a_large_network_asks_for_few_costs() -> None:
    layout = Layout(tuple(ChannelGroup(f"g{i}", 500) for i in range(20)))

    class Counted:
        unit, asked = "macs", 0

        def cost(self, widths):
            self.asked += 1
            return sum(widths)

    for rank in (
        lambda table: rank_widths(layout, table, np.random.default_rng(0).random(10_000), 2_000),
        lambda table: even_widths(layout, table, 2_000),
    ):
        table = Counted()
        rank(table)
        assert table.asked < 60


# --- the same share of every group -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", LIMITS)
def test_even_widths_are_the_largest_share_that_fits(limits: Limits) -> None:
    """Tried share by share in steps of 1/48, which holds all shares of groups of 8, 16 and 3."""
    least = TABLE.cost(narrowest_widths(LAYOUT, limits))

    def at(share48: int) -> list[int]:
        widths = []
        for group, dense, floor in zip(LAYOUT.groups, DENSE, narrowest_widths(LAYOUT, limits), strict=True):
            fits = [w for w in range(floor, dense) if w % limits.round_to == 0 and 48 * w <= share48 * dense]
            is_whole = share48 == 48 or group.name in limits.skipped or floor == dense
            widths.append(dense if is_whole else max([floor, *fits]))
        return widths

    for budget in range(least, TABLE.cost(DENSE) + 1, 61):
        expected = next(at(share) for share in range(48, -1, -1) if TABLE.cost(at(share)) <= budget)
        assert even_widths(LAYOUT, TABLE, budget, limits) == tuple(expected)


def test_even_widths_of_a_half() -> None:
    table = CostTable("macs", (CostTerm(1, (0,)), CostTerm(1, (1,)), CostTerm(1, (2,))))
    assert even_widths(LAYOUT, table, 4 + 8 + 1) == (4, 8, 1)
    assert even_widths(LAYOUT, table, 27) == DENSE


# --- per cost, later -------------------------------------------------------------------------------------------------


def test_scores_per_cost_of_a_later_step_count_what_a_channel_saves_now() -> None:
    start = (5, 10, 2)
    scores = random_scores(1)[: sum(start)]
    saved = [27 + 9 * 10, 9 * 5 + 4 * 2, 4 * 10 + 10]
    expected = [score / saved[0 if i < 5 else 1 if i < 15 else 2] for i, score in enumerate(scores)]
    np.testing.assert_allclose(per_cost(LAYOUT, TABLE, scores, start=start), expected)


def test_savings_can_be_averaged_over_several_channels() -> None:
    table = Stairs()
    scores = random_scores(1)
    found = scores / per_cost(LAYOUT, table, scores, at_once=[4, 8, 2])
    np.testing.assert_allclose(found, [10.0] * 24 + [10.0] * 3)
    one_by_one = scores / per_cost(LAYOUT, table, scores)
    np.testing.assert_allclose(one_by_one, [1.0] * 24 + [35.0] * 3)
