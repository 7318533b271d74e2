"""From scores to widths: which channels one device would keep within a budget. Integers and numpy, no torch.

``rank_widths`` ranks the channels of all groups against each other, ``even_widths`` takes the same share of every
group. Both keep to :class:`Limits`. A fleet's widths come from the coordinator.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from prunefleet_shared.errors import ConfigError
from prunefleet_shared.layout import Layout, WidthCost, width_options
from prunefleet_shared.masks import BoolArray, FloatArray, IntArray, descending_order, keep_mask


@dataclass(frozen=True, slots=True)
class Limits:
    """What pruning must leave alone. Every group keeps an eighth of its channels at least, whatever these say.

    Attributes:
        min_keep: Channels that every group keeps at least (all, where it has fewer).
        round_to: Widths are multiples of this, or the dense width; runtimes are fast at multiples of 8 or 16.
        skipped: Names of groups that are never pruned.

    Raises:
        ConfigError: A number is out of range (the user's to mend).
    """

    min_keep: int = 0
    round_to: int = 1
    skipped: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.min_keep < 0 or self.round_to < 1:
            msg = f"limits: expected min_keep >= 0 and round_to >= 1, got {self.min_keep} and {self.round_to}"
            raise ConfigError(msg)


NO_LIMITS = Limits()
"""Nothing but the eighth of every group."""


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
        ConfigError: Not even the smallest widths fit, or ``limits`` names a group that is not there.
    """
    widths = np.array(layout.dense_widths if start is None else start)
    allowed = _allowed_widths(layout, limits, widths)
    steps = _steps(scores_C, widths, allowed)

    def after(num_steps: int) -> list[int]:
        return [int(w) for w in widths - np.bincount(*_summed(steps[:num_steps]), minlength=len(widths))]

    def fits(num_steps: int) -> bool:
        return table.cost(after(num_steps)) <= budget

    if not fits(len(steps)):
        raise _unreachable(table, budget, after(len(steps)))
    num_steps = bisect.bisect_left(range(len(steps)), True, key=fits)
    return _give_back(after(num_steps), steps[:num_steps], lambda tried: table.cost(tried) <= budget)


_Step = tuple[int, int]
"""A group, and how many of its channels go at once."""


def _steps(scores_C: npt.ArrayLike, start: IntArray, allowed: list[tuple[int, ...]]) -> list[_Step]:
    """In which order channels would go if there were no budget, the least salient first, down to the floors."""
    group_C = np.repeat(np.arange(len(start)), start)
    widths, wanted = [int(w) for w in start], [int(w) for w in start]
    steps = []
    for channel in descending_order(scores_C)[::-1]:
        group = int(group_C[channel])
        wanted[group] -= 1
        left = allowed[group][bisect.bisect_left(allowed[group], wanted[group])]
        if left < widths[group]:
            steps.append((group, widths[group] - left))
            widths[group] = left
    return steps


def _summed(steps: Sequence[_Step]) -> tuple[IntArray, IntArray]:
    """Groups and counts of steps as two arrays, as ``np.bincount`` takes them."""
    pairs = np.array(steps, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _give_back(widths: list[int], steps: Sequence[_Step], fits: Callable[[list[int]], bool]) -> tuple[int, ...]:
    """Undo what can be undone within the budget, the best first."""
    full: set[int] = set()
    for group, num_channels in reversed(steps):
        if group in full:
            continue  # it did not fit before, and nothing has become narrower since
        widths[group] += num_channels
        if not fits(widths):
            widths[group] -= num_channels
            full.add(group)
    return tuple(widths)


def even_widths(layout: Layout, table: WidthCost, budget: int, limits: Limits = NO_LIMITS) -> tuple[int, ...]:
    """The same share of every group (ranking per layer): the largest share whose cost fits ``budget``.

    Args:
        layout: The groups of the dense network.
        table: Cost of widths; assumed never to fall when a width grows.
        budget: Cost to stay within, in the table's unit.
        limits: What must be left; they win over the share.

    Raises:
        ConfigError: Not even the smallest widths fit, or ``limits`` names a group that is not there.
    """
    dense = layout.dense_widths
    allowed = _allowed_widths(layout, limits, dense)
    shares = sorted({Fraction(w, n) for options, n in zip(allowed, dense, strict=True) for w in options}, reverse=True)

    def at(share: Fraction) -> tuple[int, ...]:
        wanted = [int(share * n) for n in dense]
        return tuple(o[max(0, bisect.bisect_right(o, w) - 1)] for o, w in zip(allowed, wanted, strict=True))

    index = bisect.bisect_left(range(len(shares)), True, key=lambda i: table.cost(at(shares[i])) <= budget)
    if index == len(shares):
        raise _unreachable(table, budget, narrowest_widths(layout, limits))
    return at(shares[index])


def narrowest_widths(layout: Layout, limits: Limits = NO_LIMITS) -> tuple[int, ...]:
    """The least that a device's own ranking leaves of each group: its smallest width option, within ``limits``.

    Raises:
        ConfigError: ``limits`` names a group that is not there.
    """
    return tuple(options[0] for options in _allowed_widths(layout, limits, layout.dense_widths))


def check_budget(layout: Layout, table: WidthCost, budget: int, limits: Limits = NO_LIMITS) -> None:
    """Refuse a budget before anything is trained for it.

    Raises:
        ConfigError: Not even the smallest widths fit, or ``limits`` names a group that is not there.
    """
    smallest = narrowest_widths(layout, limits)
    if table.cost(smallest) > budget:
        raise _unreachable(table, budget, smallest)


def _allowed_widths(layout: Layout, limits: Limits, start: Sequence[int] | IntArray) -> list[tuple[int, ...]]:
    """For each group, the widths it may have, ascending, the one it has now last."""
    names = {group.name for group in layout.groups}
    unknown = sorted(limits.skipped - names)
    if unknown:
        msg = f"skipped groups: there is no group {', '.join(unknown)}; expected some of {', '.join(sorted(names))}"
        raise ConfigError(msg)
    found = []
    for group, now in zip(layout.groups, start, strict=True):
        floor = max(width_options(group.num_channels)[0], limits.min_keep)
        first = -(-floor // limits.round_to) * limits.round_to
        narrower = () if group.name in limits.skipped else tuple(range(first, int(now), limits.round_to))
        found.append((*narrower, int(now)))
    return found


def _unreachable(table: WidthCost, budget: int, smallest: Sequence[int]) -> ConfigError:
    return ConfigError(
        f"a budget of {budget} {table.unit} cannot be met: the smallest widths cost {table.cost(smallest)}; "
        "allow more, or relax min_keep, round_to or the skipped groups"
    )


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
