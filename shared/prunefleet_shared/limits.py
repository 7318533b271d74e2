"""What widths may be: what pruning must leave, and what the network that is left may cost. Plain integers.

A device's own ranking, the public baseline and the fleet's decision keep to the same :class:`Limits` and
:class:`Constraint`, so that they can be compared, and so that no side offers what another would refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunefleet_shared.errors import ConfigError
from prunefleet_shared.layout import CostTable, Layout, WidthCost, width_options


@dataclass(frozen=True, slots=True)
class Limits:
    """What pruning must leave alone. Every group keeps an eighth of its channels at least, whatever these say.

    Attributes:
        min_keep: Channels that every group keeps at least (all, where it has fewer).
        round_to: Widths are multiples of this, or the dense width; runtimes are fast at multiples of 8 or 16.
        skipped: Names of groups that are never pruned.
        tied: Names of groups of the same size that get the same width, for a runtime that wants it so.

    Raises:
        ConfigError: A number is out of range (the user's to mend).
    """

    min_keep: int = 0
    round_to: int = 1
    skipped: frozenset[str] = frozenset()
    tied: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.min_keep < 0 or self.round_to < 1:
            msg = f"limits: expected min_keep >= 0 and round_to >= 1, got {self.min_keep} and {self.round_to}"
            raise ConfigError(msg)


NO_LIMITS = Limits()
"""Nothing but the eighth of every group."""


def width_units(layout: Layout, limits: Limits) -> tuple[tuple[int, ...], ...]:
    """Indices of the groups that have one width together: a tied set, or a group by itself; by their first group.

    Raises:
        ConfigError: ``limits`` names a group that is not there, ties one twice, or ties groups of different sizes.
    """
    index_of = {group.name: index for index, group in enumerate(layout.groups)}
    tied_names = [name for names in limits.tied for name in names]
    _check_known("skipped groups", limits.skipped, index_of)
    _check_known("tied groups", tied_names, index_of)
    if len(set(tied_names)) != len(tied_names):
        msg = f"tied groups: each may be tied once, got {', '.join(tied_names)}"
        raise ConfigError(msg)
    tied = [tuple(sorted(index_of[name] for name in names)) for names in limits.tied if names]
    for unit in tied:
        sizes = [layout.groups[index].num_channels for index in unit]
        if len(set(sizes)) != 1:
            names = ", ".join(layout.groups[index].name for index in unit)
            msg = f"tied groups: {names} have {sizes} channels; only groups of the same size can have the same width"
            raise ConfigError(msg)
    alone = [(index,) for name, index in index_of.items() if name not in set(tied_names)]
    return tuple(sorted([*tied, *alone]))


def _check_known(what: str, names: Sequence[str] | frozenset[str], known: dict[str, int]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        msg = f"{what}: there is no group {', '.join(unknown)}; expected some of {', '.join(sorted(known))}"
        raise ConfigError(msg)


def allowed_widths(layout: Layout, limits: Limits, start: Sequence[int] | None = None) -> list[tuple[int, ...]]:
    """For each group, the widths it may have, ascending, the one it has now last; the same for groups that are tied.

    Args:
        layout: The groups of the dense network.
        limits: What must be left.
        start: Widths now, if some channels are gone already; dense unless given.

    Raises:
        ConfigError: ``limits`` do not fit the layout.
    """
    now_G = layout.dense_widths if start is None else start
    whole = {
        index
        for unit in width_units(layout, limits)
        if any(layout.groups[index].name in limits.skipped for index in unit)
        for index in unit
    }
    found = []
    for index, (group, now) in enumerate(zip(layout.groups, now_G, strict=True)):
        floor = max(width_options(group.num_channels)[0], limits.min_keep)
        first = -(-floor // limits.round_to) * limits.round_to
        narrower = () if index in whole else tuple(range(first, int(now), limits.round_to))
        found.append((*narrower, int(now)))
    return found


def narrowest_widths(layout: Layout, limits: Limits = NO_LIMITS) -> tuple[int, ...]:
    """The least that is left of each group: its smallest width option, within ``limits``.

    Raises:
        ConfigError: ``limits`` do not fit the layout.
    """
    return tuple(options[0] for options in allowed_widths(layout, limits))


def why_limits_broken(layout: Layout, limits: Limits, widths: Sequence[int]) -> str | None:
    """The first group whose width the limits do not allow; None when all are fine.

    Raises:
        ConfigError: ``limits`` do not fit the layout.
    """
    for group, allowed, width in zip(layout.groups, allowed_widths(layout, limits), widths, strict=True):
        if width not in allowed:
            return f"{group.name} has {width} channels; the limits allow {_in_words(allowed)}"
    for unit in width_units(layout, limits):
        if len({widths[index] for index in unit}) > 1:
            names = ", ".join(layout.groups[index].name for index in unit)
            return f"{names} are tied and have widths {[widths[index] for index in unit]}"
    return None


def _in_words(allowed: Sequence[int]) -> str:
    shown = [str(width) for width in allowed]
    return ", ".join(shown if len(shown) < 4 else [*shown[:2], "…", shown[-1]])


# --- costs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Constraint:
    """A network must cost at most ``budget`` by ``table``, in the table's unit."""

    table: CostTable
    budget: int

    def is_met(self, widths: Sequence[int]) -> bool:
        """Whether a network of these widths stays within the budget."""
        return self.table.cost(widths) <= self.budget


@dataclass(frozen=True, slots=True)
class JointCost:
    """Several constraints as one cost, which stays within the first one's budget just where all are met.

    What another table says is stretched so that its budget comes to the first one's; the dearest counts.

    Attributes:
        constraints: At least one; of several, each with a budget of at least 1.
    """

    constraints: tuple[Constraint, ...]

    @property
    def unit(self) -> str:
        """The first table's."""
        return self.constraints[0].table.unit

    def cost(self, widths: Sequence[int]) -> int:
        """Cost in :attr:`unit` of a network whose group ``i`` has ``widths[i]`` channels, rounded up."""
        first, *others = self.constraints
        stretched = [-(-other.table.cost(widths) * first.budget // other.budget) for other in others]
        return max([first.table.cost(widths), *stretched])


def why_unreachable(layout: Layout, limits: Limits, constraints: Sequence[Constraint]) -> str | None:
    """The first constraint that not even the smallest widths meet, and what to do; None when all can be met.

    Raises:
        ConfigError: ``limits`` do not fit the layout.
    """
    smallest = narrowest_widths(layout, limits)
    for constraint in constraints:
        if not constraint.is_met(smallest):
            return unreachable_words(constraint.table, constraint.budget, smallest)
    return None


def unreachable_words(table: WidthCost, budget: int, smallest: Sequence[int]) -> str:
    """That a budget cannot be met, and what to do."""
    return (
        f"a budget of {budget} {table.unit} cannot be met: the smallest widths cost {table.cost(smallest)}; "
        "allow more, or relax min_keep, round_to or the skipped groups"
    )
