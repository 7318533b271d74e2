"""What of a network can be pruned, and what each width costs: plain integers, no framework.

A :class:`Layout` lists the *channel groups* of a network: sets of channels that only go together (a residual stream,
a convolution with its depthwise follower). The device traces it from its model; the campaign carries it; both compare
fingerprints before a vote counts. A :class:`CostTable` turns one width per group into MACs or parameters, exactly.

>>> layout = Layout((ChannelGroup("conv1", 16), ChannelGroup("conv2", 32)))
>>> layout.num_channels
48
>>> table = CostTable("macs", (CostTerm(27, (0,)), CostTerm(9, (0, 1))))
>>> table.cost((16, 32))
5040
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prunefleet_shared.documents import canonical_bytes
from prunefleet_shared.errors import LayoutError

MAX_LEVELS = 8
"""Levels of a schedule, at most: one vote carries a width vote for each."""
NUM_WIDTH_OPTIONS = 8
"""Widths a device can vote for in each group: eighths of the group, so that a vote costs one of 8 lanes."""


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that are kept or removed together across layers.

    Attributes:
        name: The first layer, in module order, that produces these channels.
        num_channels: How many there are (for a grouped convolution: how many can be removed independently).
    """

    name: str
    num_channels: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The channel groups of one network, in module order."""

    groups: tuple[ChannelGroup, ...]

    @property
    def num_channels(self) -> int:
        """Prunable channels of all groups."""
        return sum(group.num_channels for group in self.groups)

    @property
    def dense_widths(self) -> tuple[int, ...]:
        """The width of every group in the unpruned network."""
        return tuple(group.num_channels for group in self.groups)

    def slices(self) -> Iterator[slice]:
        """For every group, where its channels lie in a vector over all channels."""
        start = 0
        for group in self.groups:
            yield slice(start, start + group.num_channels)
            start += group.num_channels

    def fingerprint(self) -> str:
        """SHA-256 (hex) over names and sizes in order."""
        return hashlib.sha256(canonical_bytes(self)).hexdigest()


class WidthCost(Protocol):
    """What any choice of widths costs; :class:`CostTable` exactly, a device's measured profile by prediction."""

    @property
    def unit(self) -> str:
        """What is counted: ``"macs"``, ``"parameters"``, ``"training_bytes"``, ``"ns"``."""

    def cost(self, widths: Sequence[int]) -> int:
        """Cost in ``unit`` of a network whose group ``i`` has ``widths[i]`` channels."""


@dataclass(frozen=True, slots=True)
class CostTerm:
    """``coefficient`` × the product of the widths of ``groups`` (none, one, or two group indices)."""

    coefficient: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CostTable:
    """Cost of any choice of widths, as a sum of :class:`CostTerm`; exact for convolutions and linear layers.

    Attributes:
        unit: ``"macs"`` (multiply-accumulates per sample) or ``"parameters"``.
        terms: The summands.
    """

    unit: str
    terms: tuple[CostTerm, ...]

    def cost(self, widths: Sequence[int]) -> int:
        """Cost in ``unit`` of a network whose group ``i`` has ``widths[i]`` channels."""
        total = 0
        for term in self.terms:
            product = term.coefficient
            for group in term.groups:
                product *= widths[group]
            total += product
        return total


def width_options(num_channels: int) -> tuple[int, ...]:
    """The :data:`NUM_WIDTH_OPTIONS` widths a device may vote for, smallest first, each at least 1 channel."""
    n = NUM_WIDTH_OPTIONS
    return tuple(max(1, (num_channels * k + n - 1) // n) for k in range(1, n + 1))


def option_for_width(width: int, num_channels: int) -> int:
    """Index of the smallest option that gives at least ``width`` channels.

    Raises:
        LayoutError: ``width`` is not in 1..``num_channels`` (a bug in the caller's ranking).
    """
    if not 1 <= width <= num_channels:
        msg = f"width {width} is outside 1..{num_channels}"
        raise LayoutError(msg)
    return next(i for i, option in enumerate(width_options(num_channels)) if option >= width)
