"""From scores to widths: which channels one device would keep within a budget. Integers and numpy, no torch.

``rank_widths`` ranks the channels of all groups against each other, ``even_widths`` takes the same share of every
group. Both keep to :class:`Limits`. A fleet's widths come from the coordinator.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from prunefleet_shared.errors import ConfigError
from prunefleet_shared.layout import Layout, WidthCost
from prunefleet_shared.limits import (
    NO_LIMITS,
    Limits,
    allowed_widths,
    narrowest_widths,
    unreachable_words,
    width_units,
)
from prunefleet_shared.masks import BoolArray, FloatArray, IntArray, descending_order, keep_mask


def rank_widths(
    layout: Layout,
    table: WidthCost,
    scores_C: npt.ArrayLike,
    budget: int,
    limits: Limits = NO_LIMITS,
    *,
    start: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Widths left when the globally least salient channels go, one by one, until the cost fits ``budget``.

    With ``limits.round_to``, a group narrows when all channels of a block of that many have had their turn. When a
    coarse last step leaves room, the best of the removed blocks that still fit come back.

    Args:
        layout: The groups of the dense network.
        table: Cost of widths; assumed never to fall when a width grows. Where a measured table does, the widths still
            fit the budget, but others that fit may be wider.
        scores_C: One score per channel over all groups, comparable across groups.
        budget: Cost to stay within, in the table's unit.
        limits: What must be left.
        start: Widths after an earlier step of pruning; ``scores_C`` then covers what that left. Dense unless given.

    Raises:
        ConfigError: Not even the smallest widths fit, or ``limits`` do not fit the layout.
    """
    dense_or_left = tuple(layout.dense_widths if start is None else start)
    units = width_units(layout, limits)
    unit_of_G = _unit_of_groups(units, len(dense_or_left))
    first_of_U = [unit[0] for unit in units]
    allowed = allowed_widths(layout, limits, dense_or_left)
    wide_U = np.array([dense_or_left[index] for index in first_of_U])
    steps = _steps(np.repeat(unit_of_G, dense_or_left), scores_C, units, wide_U, [allowed[i] for i in first_of_U])

    def after(num_steps: int) -> list[int]:
        return [int(w) for w in wide_U - np.bincount(*_summed(steps[:num_steps]), minlength=len(units))]

    def fits(width_U: Sequence[int]) -> bool:
        return table.cost([width_U[unit] for unit in unit_of_G]) <= budget

    if not fits(after(len(steps))):
        raise _unreachable(table, budget, [after(len(steps))[unit] for unit in unit_of_G])
    num_steps = bisect.bisect_left(range(len(steps)), True, key=lambda taken: fits(after(taken)))
    width_U = _give_back(after(num_steps), steps[:num_steps], fits)
    return tuple(width_U[unit] for unit in unit_of_G)


_Step = tuple[int, int]
"""A unit (a group, or groups that are tied), and how many channels each group of it gives up at once."""


def _unit_of_groups(units: Sequence[Sequence[int]], num_groups: int) -> list[int]:
    unit_of_G = [0] * num_groups
    for number, unit in enumerate(units):
        for index in unit:
            unit_of_G[index] = number
    return unit_of_G


def _steps(
    unit_C: IntArray,
    scores_C: npt.ArrayLike,
    units: Sequence[Sequence[int]],
    start_U: IntArray,
    allowed_U: Sequence[tuple[int, ...]],
) -> list[_Step]:
    """In which order channels would go if there were no budget, the least salient first, down to the floors.

    Groups that are tied narrow together, when as many of their channels as there are groups have had their turn.
    """
    width_U = [int(w) for w in start_U]
    wanted_U = [width * len(unit) for width, unit in zip(width_U, units, strict=True)]
    steps = []
    for channel in descending_order(scores_C)[::-1]:
        unit = int(unit_C[channel])
        wanted_U[unit] -= 1
        wanted = -(-wanted_U[unit] // len(units[unit]))
        left = allowed_U[unit][bisect.bisect_left(allowed_U[unit], wanted)]
        if left < width_U[unit]:
            steps.append((unit, width_U[unit] - left))
            width_U[unit] = left
    return steps


def _summed(steps: Sequence[_Step]) -> tuple[IntArray, IntArray]:
    """Units and counts of steps as two arrays, as ``np.bincount`` takes them."""
    pairs = np.array(steps, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _give_back(width_U: list[int], steps: Sequence[_Step], fits: Callable[[list[int]], bool]) -> list[int]:
    """Undo what can be undone within the budget, the best first."""
    full: set[int] = set()
    for unit, num_channels in reversed(steps):
        if unit in full:
            continue  # it did not fit before, and nothing has become narrower since
        width_U[unit] += num_channels
        if not fits(width_U):
            width_U[unit] -= num_channels
            full.add(unit)
    return width_U


def even_widths(layout: Layout, table: WidthCost, budget: int, limits: Limits = NO_LIMITS) -> tuple[int, ...]:
    """The same share of every group (ranking per layer): the largest share whose cost fits ``budget``.

    Args:
        layout: The groups of the dense network.
        table: Cost of widths; assumed never to fall when a width grows.
        budget: Cost to stay within, in the table's unit.
        limits: What must be left; they win over the share.

    Raises:
        ConfigError: Not even the smallest widths fit, or ``limits`` do not fit the layout.
    """
    dense = layout.dense_widths
    allowed = allowed_widths(layout, limits)
    shares = sorted({Fraction(w, n) for options, n in zip(allowed, dense, strict=True) for w in options}, reverse=True)

    def at(share: Fraction) -> tuple[int, ...]:
        wanted = [int(share * n) for n in dense]
        return tuple(o[max(0, bisect.bisect_right(o, w) - 1)] for o, w in zip(allowed, wanted, strict=True))

    index = bisect.bisect_left(range(len(shares)), True, key=lambda i: table.cost(at(shares[i])) <= budget)
    if index == len(shares):
        raise _unreachable(table, budget, narrowest_widths(layout, limits))
    return at(shares[index])


def check_budget(layout: Layout, table: WidthCost, budget: int, limits: Limits = NO_LIMITS) -> None:
    """Refuse a budget before anything is trained for it.

    Raises:
        ConfigError: Not even the smallest widths fit, or ``limits`` do not fit the layout.
    """
    smallest = narrowest_widths(layout, limits)
    if table.cost(smallest) > budget:
        raise _unreachable(table, budget, smallest)


def _unreachable(table: WidthCost, budget: int, smallest: Sequence[int]) -> ConfigError:
    return ConfigError(unreachable_words(table, budget, smallest))


def per_cost(
    layout: Layout,
    table: WidthCost,
    scores_C: npt.ArrayLike,
    *,
    start: Sequence[int] | None = None,
    at_once: Sequence[int] | None = None,
) -> FloatArray:
    """Scores divided by what removing one channel of their group saves in the dense network.

    A channel that costs twice as much must matter twice as much to stay. Measured on the digits preset at 20 % of the
    MACs (validation seeds 101 and 102): fleet 94.5 % with, 92.6 % without; own choice 92.9 % with, 85.3 % without.

    Args:
        layout: The groups of the dense network.
        table: Cost of widths.
        scores_C: One score per channel over all groups.
        start: Widths after an earlier step of pruning, which the scores then cover. Dense unless given.
        at_once: For each group, over how many channels the saving is averaged. One unless given; a measured table
            needs more, since a single channel less may save nothing or even cost.
    """
    now = layout.dense_widths if start is None else tuple(start)
    taken = at_once or [1] * len(now)
    fewer = ([w - taken[group] * (i == group) for i, w in enumerate(now)] for group in range(len(now)))
    saved = [max(1.0, (table.cost(now) - table.cost(w)) / n) for w, n in zip(fewer, taken, strict=True)]
    per_channel: FloatArray = np.asarray(scores_C, dtype=np.float64) / np.repeat(np.array(saved), now)
    return per_channel


def keep_masks(layout: Layout, scores_C: npt.ArrayLike, widths: Sequence[int]) -> list[BoolArray]:
    """For each group, a mask of its ``widths[g]`` best channels by ``scores_C``."""
    scores = np.asarray(scores_C, dtype=np.float64)
    parts = zip(layout.slices(), widths, strict=True)
    return [keep_mask(descending_order(scores[part]), width) for part, width in parts]


def masks_by_order(order: Sequence[Sequence[int]], widths: Sequence[int]) -> list[BoolArray]:
    """For each group, a mask of the first ``widths[g]`` channels of ``order[g]``."""
    return [keep_mask(group_order, width) for group_order, width in zip(order, widths, strict=True)]
