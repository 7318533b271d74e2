"""Widths under budgets: how many channels each group gets, from the devices' width votes. Integers only, pure.

Every device votes, for each group, for the width it would give that group. What a width ``w`` is worth to a device that
asked for ``a`` is ``log(min(w, a) / a)``: nothing is lost when the wish is met, halving it costs the same whatever its
size, and more than was asked is worth nothing. (A plain "does it suffice?" would not do: once a wish is missed, missing
it by a mile costs no more, so the knapsack squeezes one group to a single channel for the price of one vote.) The
value is concave in the width, so giving up channels step by step, cheapest first, is the right direction at each step.

A **path** starts at the largest voted widths and takes the step where the least value is lost per cost saved, again and
again, down to the narrowest widths that the limits allow. A step is one channel of a group, or a block of
``round_to``, or as many of each group that is tied. The path does not depend on any budget; a budget picks the first
point that it can pay. So no decision is ever over budget, and a larger budget never gives less value: both by
construction.

**Several cost tables at once** (MACs and parameters, MACs and bytes for training). Going towards whichever budget is
most exceeded would make the path depend on the budgets, and more money could then buy less. Instead there are several
paths, each fixed: one per table, which saves its cost alone, and one that saves all costs together, each relative to
its dense network. On each, the first point that meets *every* budget is a candidate; the one of most value wins (of
equal ones the joint path's, then the earlier table's). The maximum of values that never fall with a budget does not
fall either.

Shape suffixes: ``G`` groups, ``O`` width options. A *tally* ``option_tally_GO[g][o]`` says how many devices voted for
option ``o`` (``layout.width_options``) in group ``g``. A *unit* is a group, or groups that are tied.

Source: the greedy rule for separable concave knapsacks, Fox, "Discrete optimization via marginal analysis",
Management Science 13(3), 1966; exact there for a separable cost, a heuristic for our bilinear one.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterator, Sequence

from prunefleet_shared.errors import ConfigError, LocalProtocolError
from prunefleet_shared.layout import CostTable, CostTerm, Layout, width_options
from prunefleet_shared.limits import NO_LIMITS, Constraint, Limits, allowed_widths, why_unreachable, width_units

LOG_STEPS = 4096
"""Steps per factor of two. Coarser is not good enough: with 64, a channel more or less of 512 is 0 or 1 step (0.18 in
truth); with 4096 it is 11 or 12, and 2 or 3 at 2,048 channels, the widest group of ResNet-50."""


@functools.cache
def log_steps(width: int) -> int:
    """``floor(LOG_STEPS * log2(width))``, exactly and on every machine, for ``width`` >= 1."""
    return int((width**LOG_STEPS).bit_length() - 1)


def width_value(num_channels: int, option_tally_O: Sequence[int], width: int) -> int:
    """What ``width`` channels of one group are worth to those who voted; 0 at best, else negative.

    Args:
        num_channels: Size of the group.
        option_tally_O: Votes for each of its width options.
        width: Channels given, 1..``num_channels``.

    Returns:
        The sum over devices of ``LOG_STEPS * log2(min(width, asked) / asked)``, each logarithm rounded down.
    """
    options = width_options(num_channels)
    return sum(
        votes * (log_steps(min(width, asked)) - log_steps(asked))
        for asked, votes in zip(options, option_tally_O, strict=True)
    )


def choose_widths(
    layout: Layout,
    constraints: Sequence[Constraint],
    option_tally_GO: Sequence[Sequence[int]],
    limits: Limits = NO_LIMITS,
) -> tuple[int, ...]:
    """The widths of all groups: the best first point of a path that meets every constraint.

    Args:
        layout: Channel groups.
        constraints: Cost tables (coefficients are not negative) and what may be spent in each; at least one.
        option_tally_GO: Votes per group and option; at least one vote in every group.
        limits: What must be left.

    Returns:
        One width per group, as the limits allow; never wider than the limits round the largest width voted for.

    Raises:
        ConfigError: Not even the narrowest network meets all constraints, or the limits do not fit the layout (the
            campaign's fault).
        LocalProtocolError: A group without a vote (our bug: a quorum has at least one device).
    """
    best: tuple[int, tuple[int, ...]] | None = None
    for direction in _directions(layout, [constraint.table for constraint in constraints]):
        points = width_path(layout, direction, option_tally_GO, limits)
        widths = next((w for _, w in points if all(constraint.is_met(w) for constraint in constraints)), None)
        if widths is None:
            continue  # this table leaves alone what another would have to save
        value = total_value(layout, option_tally_GO, widths)
        if best is None or value > best[0]:
            best = value, widths
    if best is None:
        raise ConfigError(why_unreachable(layout, limits, constraints) or "the budgets cannot be met together")
    return best[1]


def total_value(layout: Layout, option_tally_GO: Sequence[Sequence[int]], widths: Sequence[int]) -> int:
    """What the widths of all groups are worth to those who voted (:func:`width_value`); 0 at best."""
    parts = zip(layout.groups, option_tally_GO, widths, strict=True)
    return sum(width_value(group.num_channels, tally_O, width) for group, tally_O, width in parts)


def _directions(layout: Layout, tables: Sequence[CostTable]) -> list[CostTable]:
    """The costs to save along each path: of several tables, all of them relative to dense, then each alone."""
    if len(tables) == 1:
        return list(tables)
    dense = [max(1, table.cost(layout.dense_widths)) for table in tables]
    scale = math.prod(dense)
    terms = [
        CostTerm(scale // whole * term.coefficient, term.groups)
        for table, whole in zip(tables, dense, strict=True)
        for term in table.terms
    ]
    return [CostTable("joint", tuple(terms)), *tables]


def width_path(
    layout: Layout, cost_table: CostTable, option_tally_GO: Sequence[Sequence[int]], limits: Limits = NO_LIMITS
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Every point of the path that saves ``cost_table``, as (cost, widths), from the widest down; cost falls each time.

    Raises:
        ConfigError: The limits do not fit the layout.
        LocalProtocolError: A group without a vote.
    """
    path = _Path(layout, cost_table, option_tally_GO, limits)
    yield path.cost, tuple(path.widths)
    while (unit := path.cheapest_unit()) is not None:
        path.narrow(unit)
        yield path.cost, tuple(path.widths)


class _Path:
    """Where the path stands, with the value lost and the cost saved by the next step of every unit.

    Only the units that share a cost term with the one just narrowed change what they save, so a step looks at a few
    terms rather than at the whole table: 60 groups of 512 channels take one to two seconds.
    """

    def __init__(
        self, layout: Layout, cost_table: CostTable, option_tally_GO: Sequence[Sequence[int]], limits: Limits
    ) -> None:
        self._options = [width_options(group.num_channels) for group in layout.groups]
        self._tally = option_tally_GO
        self._units = width_units(layout, limits)
        allowed = allowed_widths(layout, limits)
        self._allowed = [allowed[unit[0]] for unit in self._units]
        wanted = [
            _largest_voted(group.name, options, tally_O)
            for group, options, tally_O in zip(layout.groups, self._options, option_tally_GO, strict=True)
        ]
        self._place = [
            bisect.bisect_left(widths, max(wanted[group] for group in unit))
            for unit, widths in zip(self._units, self._allowed, strict=True)
        ]
        self.widths = [0] * len(layout.groups)
        for number, unit in enumerate(self._units):
            for group in unit:
                self.widths[group] = self._allowed[number][self._place[number]]
        self.cost = cost_table.cost(self.widths)
        self._terms_of = _terms_by_unit(cost_table, self._units)
        self._lost = [self._value_lost(unit) for unit in range(len(self._units))]
        self._saved = [self._cost_saved(unit) for unit in range(len(self._units))]

    def cheapest_unit(self) -> int | None:
        """The unit whose next step loses least value per cost saved; None when no step saves anything.

        Fractions are compared by cross multiplication; of equal ones the unit with the lowest group index wins.
        """
        lost, saved = self._lost, self._saved
        best: int | None = None
        for unit, place in enumerate(self._place):
            if place == 0 or saved[unit] <= 0:
                continue
            if best is None or lost[unit] * saved[best] < lost[best] * saved[unit]:
                best = unit
        return best

    def narrow(self, unit: int) -> None:
        """Take one step in ``unit``."""
        self.cost -= self._saved[unit]
        self._place[unit] -= 1
        for group in self._units[unit]:
            self.widths[group] = self._allowed[unit][self._place[unit]]
        self._lost[unit] = self._value_lost(unit)
        for other in {unit}.union(*(units for _, _, units in self._terms_of[unit])):
            self._saved[other] = self._cost_saved(other)

    def _next(self, unit: int) -> int:
        return self._allowed[unit][max(0, self._place[unit] - 1)]

    def _value_lost(self, unit: int) -> int:
        width = self.widths[self._units[unit][0]]
        return sum(self._value(group, width) - self._value(group, self._next(unit)) for group in self._units[unit])

    def _value(self, group: int, width: int) -> int:
        return width_value(self._options[group][-1], self._tally[group], width)

    def _cost_saved(self, unit: int) -> int:
        saved, members, narrower = 0, self._units[unit], self._next(unit)
        for coefficient, groups, _ in self._terms_of[unit]:
            now = then = coefficient
            for group in groups:
                now *= self.widths[group]
                then *= narrower if group in members else self.widths[group]
            saved += now - then
        return saved


def _largest_voted(group_name: str, options: Sequence[int], tally_O: Sequence[int]) -> int:
    voted = [asked for asked, votes in zip(options, tally_O, strict=True) if votes > 0]
    if not voted:
        msg = f"no device voted for a width of {group_name}"
        raise LocalProtocolError(msg)
    return max(voted)


_Term = tuple[int, tuple[int, ...], frozenset[int]]
"""A coefficient, the groups it is multiplied by, and their units."""


def _terms_by_unit(cost_table: CostTable, units: Sequence[Sequence[int]]) -> list[list[_Term]]:
    unit_of = {group: number for number, unit in enumerate(units) for group in unit}
    terms: list[list[_Term]] = [[] for _ in units]
    for term in cost_table.terms:
        touched = frozenset(unit_of[group] for group in term.groups)
        for unit in touched:
            terms[unit].append((term.coefficient, term.groups, touched))
    return terms
