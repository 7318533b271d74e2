"""Widths under a budget: how many channels each group gets, from the devices' width votes. Integers only, pure.

Every device votes, for each group, for the width it would give that group. What a width ``w`` is worth to a device that
asked for ``a`` is ``log(min(w, a) / a)``: nothing is lost when the wish is met, halving it costs the same whatever its
size, and more than was asked is worth nothing. (A plain "does it suffice?" would not do: once a wish is missed, missing
it by a mile costs no more, so the knapsack squeezes one group to a single channel for the price of one vote.) The
value is concave in the width, so giving up channels one at a time, cheapest first, is the right direction at each step.

There is one **path**, whatever the budget: from the largest voted widths, take a channel where the least value is lost
per cost saved, again and again, down to one channel each. A budget picks the first point of the path that it can pay.
So no decision is ever over budget, and a larger budget never gives less value: both by construction.

Shape suffixes: ``G`` groups, ``O`` width options. A *tally* ``option_tally_GO[g][o]`` says how many devices voted for
option ``o`` (``layout.width_options``) in group ``g``.

Source: the greedy rule for separable concave knapsacks, Fox, "Discrete optimization via marginal analysis",
Management Science 13(3), 1966; exact there for a separable cost, a heuristic for our bilinear one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from prunefleet_shared.errors import ConfigError, LocalProtocolError
from prunefleet_shared.layout import CostTable, Layout, width_options

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
    layout: Layout, cost_table: CostTable, option_tally_GO: Sequence[Sequence[int]], budget: int
) -> tuple[int, ...]:
    """The widths of all groups: the first point of the path that costs at most ``budget``.

    Args:
        layout: Channel groups.
        cost_table: Cost of any widths; coefficients are not negative.
        option_tally_GO: Votes per group and option; at least one vote in every group.
        budget: What may be spent, in the cost table's unit.

    Returns:
        One width per group, each 1..its channels, never above the largest width voted for.

    Raises:
        ConfigError: Even the narrowest network costs more than ``budget`` (the campaign's fault).
        LocalProtocolError: A group without a vote (our bug: a quorum has at least one device).
    """
    cost = 0
    for cost, widths in width_path(layout, cost_table, option_tally_GO):
        if cost <= budget:
            return widths
    msg = (
        f"the budget of {budget} {cost_table.unit} cannot be met: the narrowest network, one channel in each of "
        f"{len(layout.groups)} groups, costs {cost}; raise the budget"
    )
    raise ConfigError(msg)


def width_path(
    layout: Layout, cost_table: CostTable, option_tally_GO: Sequence[Sequence[int]]
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Every point of the path as (cost, widths), from the largest voted widths down; cost falls at each step."""
    path = _Path(layout, cost_table, option_tally_GO)
    yield path.cost, tuple(path.widths)
    while (group := path.cheapest_group()) is not None:
        path.narrow(group)
        yield path.cost, tuple(path.widths)


class _Path:
    """Where the path stands, with the value lost and the cost saved by the next channel of every group.

    Only the groups that share a cost term with the one just narrowed change what they save, so a step looks at a few
    terms rather than at the whole table: 60 groups of 512 channels take about a second.
    """

    def __init__(self, layout: Layout, cost_table: CostTable, option_tally_GO: Sequence[Sequence[int]]) -> None:
        self._options = [width_options(group.num_channels) for group in layout.groups]
        self._tally = option_tally_GO
        self.widths = [
            _largest_voted(group.name, options, tally_O)
            for group, options, tally_O in zip(layout.groups, self._options, option_tally_GO, strict=True)
        ]
        self.cost = cost_table.cost(self.widths)
        self._terms_of = _terms_by_group(cost_table, len(layout.groups))
        self._lost = [self._value_lost(group) for group in range(len(self.widths))]
        self._saved = [self._cost_saved(group) for group in range(len(self.widths))]

    def cheapest_group(self) -> int | None:
        """The group whose next channel loses least value per cost saved; None when no step saves anything.

        Fractions are compared by cross multiplication; of equal ones the lowest group index wins.
        """
        lost, saved = self._lost, self._saved
        best: int | None = None
        for group, width in enumerate(self.widths):
            if width == 1 or saved[group] <= 0:
                continue
            if best is None or lost[group] * saved[best] < lost[best] * saved[group]:
                best = group
        return best

    def narrow(self, group: int) -> None:
        """Take one channel from ``group``."""
        self.cost -= self._saved[group]
        self.widths[group] -= 1
        self._lost[group] = self._value_lost(group)
        touched = {other for _, pair in self._terms_of[group] for other in pair}
        for other in touched | {group}:
            self._saved[other] = self._cost_saved(other)

    def _value_lost(self, group: int) -> int:
        width = self.widths[group]
        if width == 1:
            return 0
        wishes = zip(self._options[group], self._tally[group], strict=True)
        hurt = sum(votes for asked, votes in wishes if asked >= width)
        return hurt * (log_steps(width) - log_steps(width - 1))

    def _cost_saved(self, group: int) -> int:
        width, saved = self.widths[group], 0
        for coefficient, pair in self._terms_of[group]:
            if pair == (group, group):
                saved += coefficient * (2 * width - 1)  # w² - (w - 1)²
            elif len(pair) == 2:
                saved += coefficient * self.widths[pair[0] if pair[1] == group else pair[1]]
            else:
                saved += coefficient
        return saved


def _largest_voted(group_name: str, options: Sequence[int], tally_O: Sequence[int]) -> int:
    voted = [asked for asked, votes in zip(options, tally_O, strict=True) if votes > 0]
    if not voted:
        msg = f"no device voted for a width of {group_name}"
        raise LocalProtocolError(msg)
    return max(voted)


def _terms_by_group(cost_table: CostTable, num_groups: int) -> list[list[tuple[int, tuple[int, ...]]]]:
    terms: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in range(num_groups)]
    for term in cost_table.terms:
        for group in set(term.groups):
            terms[group].append((term.coefficient, term.groups))
    return terms
