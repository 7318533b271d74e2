"""What holds for every ranking, whatever the network, its costs, scores, budget and limits."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prunefleet_edge.ranking import even_widths, keep_masks, per_cost, rank_widths
from prunefleet_shared.layout import ChannelGroup, CostTable, CostTerm, Layout, width_options
from prunefleet_shared.limits import Limits, narrowest_widths

EXAMPLES = 150


@st.composite
def problems(draw: st.DrawFn) -> tuple[Layout, CostTable, np.ndarray, Limits]:
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    if are_tied := draw(st.booleans()):
        sizes.append(sizes[0])
    layout = Layout(tuple(ChannelGroup(f"g{index}", size) for index, size in enumerate(sizes)))
    group = st.integers(0, len(sizes) - 1)
    pairs = draw(st.lists(st.tuples(st.integers(1, 50), st.lists(group, max_size=2)), min_size=1, max_size=8))
    table = CostTable("macs", tuple(CostTerm(c, tuple(sorted(groups))) for c, groups in pairs))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    scores = rng.exponential(size=layout.num_channels)
    if draw(st.booleans()):
        scores = np.round(scores, 1)  # ties
    skipped = draw(st.sets(st.sampled_from(layout.groups), max_size=2))
    limits = Limits(
        draw(st.integers(0, 12)),
        draw(st.sampled_from([1, 2, 3, 8, 16])),
        frozenset(g.name for g in skipped),
        (("g0", f"g{len(sizes) - 1}"),) if are_tied else (),
    )
    return layout, table, scores, limits


def budgets(layout: Layout, table: CostTable, limits: Limits) -> st.SearchStrategy[int]:
    return st.integers(table.cost(narrowest_widths(layout, limits)), table.cost(layout.dense_widths) + 5)


def is_within(layout: Layout, widths: tuple[int, ...], limits: Limits) -> bool:
    """Group by group, in the words of the options."""
    for group, width in zip(layout.groups, widths, strict=True):
        dense = group.num_channels
        if width == dense:
            continue
        if group.name in limits.skipped or width % limits.round_to or width > dense:
            return False
        if width < max(limits.min_keep, width_options(dense)[0]):
            return False
    width_of = {group.name: width for group, width in zip(layout.groups, widths, strict=True)}
    return all(len({width_of[name] for name in names}) == 1 for names in limits.tied)


@given(problems(), st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_widths_are_within_limits_and_budget(problem, data):
    layout, table, scores, limits = problem
    budget = data.draw(budgets(layout, table, limits))
    for widths in (rank_widths(layout, table, scores, budget, limits), even_widths(layout, table, budget, limits)):
        assert is_within(layout, widths, limits)
        assert table.cost(widths) <= budget
    assert is_within(layout, narrowest_widths(layout, limits), limits)


@given(problems(), st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_larger_budget_is_never_spent_less(problem, data):
    layout, table, scores, limits = problem
    small, large = sorted(data.draw(st.tuples(*[budgets(layout, table, limits)] * 2)))
    for rank in (
        lambda budget: rank_widths(layout, table, scores, budget, limits),
        lambda budget: even_widths(layout, table, budget, limits),
    ):
        assert table.cost(rank(small)) <= table.cost(rank(large))
    narrow, wide = (even_widths(layout, table, budget, limits) for budget in (small, large))
    assert all(a <= b for a, b in zip(narrow, wide, strict=True))


@given(problems(), st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_the_order_of_channels_within_a_group_does_not_matter(problem, data):
    layout, table, scores, limits = problem
    budget = data.draw(budgets(layout, table, limits))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    orders = [rng.permutation(group.num_channels) for group in layout.groups]
    shuffled = np.concatenate([scores[part][order] for part, order in zip(layout.slices(), orders, strict=True)])
    widths = rank_widths(layout, table, scores, budget, limits)
    assert rank_widths(layout, table, shuffled, budget, limits) == widths
    one, other = (rank_widths(layout, table, per_cost(layout, table, s), budget, limits) for s in (scores, shuffled))
    assert one == other
    masks, others = keep_masks(layout, scores, widths), keep_masks(layout, shuffled, widths)
    for part, mask, other, order in zip(layout.slices(), masks, others, orders, strict=True):
        assert sorted(scores[part][mask]) == sorted(scores[part][order][other])


@given(problems(), st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_steps_never_give_back_what_an_earlier_one_removed(problem, data):
    layout, table, scores, limits = problem
    small, large = sorted(data.draw(st.tuples(*[budgets(layout, table, limits)] * 2)))
    first = rank_widths(layout, table, scores, large, limits)
    masks = keep_masks(layout, scores, first)
    left = np.concatenate([scores[part][mask] for part, mask in zip(layout.slices(), masks, strict=True)])
    second = rank_widths(layout, table, left[::-1], small, limits, start=first)
    assert all(b <= a for a, b in zip(first, second, strict=True))
    assert is_within(layout, second, limits)
    assert table.cost(second) <= small
