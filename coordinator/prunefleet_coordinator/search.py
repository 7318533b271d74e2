"""What a judged campaign does next: try a level, roll one out, or end. A pure function of what was ruled so far.

Networks get smaller with their level's number. A level *holds* once it was promoted and not rolled back since. Both
searches assume that where a level misses the floor, no smaller network holds it; ``descend`` tries every level on its
way down, ``bisect`` needs at most ceil(log2(n + 1)) trials for n levels. Where there are canaries, the smallest level
that holds is rolled out to a cohort of other devices; if it is rolled back there, the search goes on above it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from prunefleet_shared.acceptance import NO_LEVEL, Search


class Act(enum.Enum):
    """What is done with a level."""

    TRY = enum.auto()
    ROLL_OUT = enum.auto()
    END = enum.auto()


@dataclass(frozen=True, slots=True)
class Step:
    """What a campaign does next.

    Attributes:
        act: What.
        level: With which level; with ``END``, the one for all devices, or -1.
    """

    act: Act
    level: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What was ruled of a level once; the part of a ``Ruling`` that the search looks at."""

    level: int
    is_rollout: bool
    is_promoted: bool


def levels_held(so_far: Sequence[Judged]) -> tuple[int, ...]:
    """Levels that were promoted and not rolled back since, rising."""
    rolled_back = {one.level for one in so_far if not one.is_promoted}
    return tuple(sorted({one.level for one in so_far if one.is_promoted} - rolled_back))


def level_for_all(so_far: Sequence[Judged], *, has_canaries: bool) -> int:
    """The smallest network that holds; where there are canaries, that a rollout has promoted, too. -1: none."""
    asked = {one.level for one in so_far if one.is_rollout or not has_canaries}
    return max((level for level in levels_held(so_far) if level in asked), default=NO_LEVEL)


def next_step(num_levels: int, search: Search, so_far: Sequence[Judged], *, has_canaries: bool) -> Step:
    """What comes next after all that was judged.

    Args:
        num_levels: Of the schedule.
        search: How levels are chosen.
        so_far: What was ruled, in any order.
        has_canaries: Whether a level that canaries hold is rolled out.
    """
    smallest_held = max(levels_held(so_far), default=NO_LEVEL)
    largest_missed = min((one.level for one in so_far if not one.is_promoted), default=num_levels)
    if largest_missed - smallest_held > 1:
        is_bisected = search is Search.BISECT
        level = (smallest_held + largest_missed) // 2 if is_bisected else smallest_held + 1
        return Step(Act.TRY, level)
    final = level_for_all(so_far, has_canaries=has_canaries)
    if final < smallest_held:
        return Step(Act.ROLL_OUT, smallest_held)
    return Step(Act.END, final)
