"""Order rules: from one group's summed grades to the order of its channels. Plain integers in and out, pure.

A rule is a function from :class:`GroupVotes` to one score per channel, higher = keep first; equal scores fall to the
public order. So every rule can be called, and compared, without a campaign.

**Public evidence as pseudo-devices.** The public order (L1 norm of the base) may count as ``public_votes`` devices n0:
``score = tally + n0 * public grade``. Both are in the same unit, grades of one device, so n0 public votes weigh as much
as n0 devices, however many nested masks a grade is made of. A public grade is the one a device with this order would
give, *before it is rounded*: a device must round to 0..7, public knowledge need not, and so a large n0 gives the public
order itself rather than eight heaps of equals. With n0 = 0 nothing is added.

**Once per device.** A tally is a sum in which every device counts once, by grades that are the same for all devices.
Nothing here adds up two tallies of the same devices; several cohorts are different devices.

Shape suffixes: ``C`` channels of one group, ``K`` cohorts.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prunefleet_shared.decision_rules import BORDA, MAJORITY, MEAN, PUBLIC
from prunefleet_shared.masks import NUM_MASKS


@dataclass(frozen=True, slots=True)
class CohortVotes:
    """What one cohort said of a group: summed grades per channel, and how many devices they are from (>= 1)."""

    tally_C: Sequence[int]
    num_devices: int


@dataclass(frozen=True, slots=True)
class GroupVotes:
    """All that an order rule is told of one channel group.

    Attributes:
        tally_C: Summed grade of each channel: the round's total.
        num_devices: Devices in it, at least 1.
        public_order: A permutation of the channels, best first.
        public_votes: As how many devices the public order counts, at least 0.
        top_grade: A device's highest grade: 7, or 1 where a mask has one bit.
        cohorts: The sums of the round's cohorts, where there are several; else empty.
    """

    tally_C: Sequence[int]
    num_devices: int
    public_order: Sequence[int]
    public_votes: int = 0
    top_grade: int = NUM_MASKS
    cohorts: Sequence[CohortVotes] = ()

    @property
    def unit(self) -> int:
        """What one grade is in :attr:`fused_grades`: public grades are exact in this many parts of a grade."""
        return 2 * max(1, len(self.public_order))

    @property
    def device_say(self) -> int:
        """The largest lead that one device can give one channel over another, in the unit of :attr:`fused_grades`."""
        return self.top_grade * self.unit

    @property
    def public_grades(self) -> list[int]:
        """Grade of each channel by the public order, not rounded: ``(top + 1) * (share of channels behind it) - 1/2``.

        Rounded to a whole number it is the grade a device with this order gives.
        """
        num, grades = len(self.public_order), [0] * len(self.public_order)
        for rank, channel in enumerate(self.public_order):
            grades[channel] = (self.top_grade + 1) * (2 * (num - rank) - 1) - num
        return grades

    @property
    def fused_grades(self) -> list[int]:
        """Summed grades of devices and pseudo-devices, in parts of a grade (:attr:`unit`)."""
        parts = zip(self.tally_C, self.public_grades, strict=True)
        return [self.unit * tally + self.public_votes * public for tally, public in parts]


OrderRule = Callable[[GroupVotes], Sequence[int]]
"""One score per channel; higher = keep first."""


def mean(votes: GroupVotes) -> list[int]:
    """Summed grades, all devices alike. (Their mean, but for a factor that changes no order.)"""
    return votes.fused_grades


def majority(votes: GroupVotes) -> list[int]:
    """1 for channels that survive in more than half of all nested masks of all devices, -1 in fewer, 0 in just half.

    With one mask per device this is the majority vote (as in signSGD with majority vote, Bernstein et al., ICML 2018).
    With seven it is the majority of *masks*: a sum of grades does not say which masks a channel was in, so a device
    that is sure of a channel speaks seven times for it, one in doubt for and against. How large a majority is does not
    count; among equals the public order decides.
    """
    half = votes.top_grade * votes.unit * (votes.num_devices + votes.public_votes)
    return [(2 * fused > half) - (2 * fused < half) for fused in votes.fused_grades]


def borda(votes: GroupVotes) -> list[int]:
    """Places of the channels in each cohort, added up: how far ahead a channel is in its cohort's sum does not count.

    In a cohort a channel has a point for each channel it beats, and loses one for each it is beaten by; points count
    times the cohort's devices, and public votes are shared out among cohorts in the same way. Over one cohort this is
    :func:`mean`. (Borda 1781; over devices' own rankings FRL, Mozaffari et al., USENIX Security 2023: a private sum
    shows no device's own.)
    """
    if len(votes.cohorts) < 2:
        return mean(votes)
    num_devices, public_grades = sum(cohort.num_devices for cohort in votes.cohorts), votes.public_grades
    scores = [0] * len(public_grades)
    for cohort in votes.cohorts:
        # tally + n0 * (this cohort's share of all devices) * public grade, times the number of all devices
        public_weight = votes.public_votes * cohort.num_devices
        parts = zip(cohort.tally_C, public_grades, strict=True)
        fused_grades = [num_devices * votes.unit * tally + public_weight * grade for tally, grade in parts]
        for channel, points in enumerate(_points(fused_grades)):
            scores[channel] += cohort.num_devices * points
    return scores


def _points(fused_grades: Sequence[int]) -> list[int]:
    """For each channel, how many it beats less how many beat it."""
    ascending = sorted(fused_grades)
    num = len(ascending)
    return [bisect.bisect_left(ascending, own) + bisect.bisect_right(ascending, own) - num for own in fused_grades]


def public(votes: GroupVotes) -> list[int]:
    """The public order as it is: the fleet decides widths only."""
    return votes.public_grades


RULES: Mapping[str, OrderRule] = {MEAN: mean, MAJORITY: majority, BORDA: borda, PUBLIC: public}
"""By their names in a campaign (``decision_rules.ORDER_RULES``)."""


def order_by(rule: OrderRule, votes: GroupVotes) -> tuple[int, ...]:
    """The group's channels, the ones to keep first; equal scores in the public order."""
    scores = rule(votes)
    # sorted() is stable: channels of equal score stay in the order they come in, which is the public one.
    return tuple(sorted(votes.public_order, key=lambda channel: -scores[channel]))


# --- how sure a cut is -----------------------------------------------------------------------------------------------


def margin_milli(order: Sequence[int], votes: GroupVotes, width: int) -> int | None:
    """By how much the grades prefer the last kept channel to the first one left out; None where none is left out.

    In thousandths of one device's largest possible say, rounded down: below 1000, one device more could turn the two
    around. Negative where the order does not follow the summed grades: under another rule than ``mean``, or where a
    near tie was left to the public order.
    """
    if width >= len(order):
        return None
    fused_grades = votes.fused_grades
    return 1000 * (fused_grades[order[width - 1]] - fused_grades[order[width]]) // votes.device_say


def abstain(order: Sequence[int], votes: GroupVotes, width: int, near_tie_milli: int) -> tuple[int, ...]:
    """``order`` with the channels around the cut in the public order, where the grades hardly tell them apart.

    The **near tie** is the run of channels on both sides of the cut: kept ones that lead the first one left out by less
    than ``near_tie_milli``, and left-out ones that trail the last kept one by less. There is none when even these two
    are further apart. Votes near the boundary are the cheapest to turn, by chance or by intent (VEM, arXiv
    2503.08976, 2025).

    Args:
        order: The channels, the ones to keep first.
        votes: What it follows from.
        width: How many are kept, at least 1.
        near_tie_milli: In thousandths of one device's largest possible say; 0 changes nothing.
    """
    if near_tie_milli == 0 or width >= len(order):
        return tuple(order)
    fused_grades, limit = votes.fused_grades, near_tie_milli * votes.device_say
    last_kept, first_left = fused_grades[order[width - 1]], fused_grades[order[width]]
    low = high = width
    while low > 0 and 1000 * (fused_grades[order[low - 1]] - first_left) < limit:
        low -= 1
    while high < len(order) and 1000 * (last_kept - fused_grades[order[high]]) < limit:
        high += 1
    place = {channel: rank for rank, channel in enumerate(votes.public_order)}
    near = sorted(order[low:high], key=place.__getitem__)
    return (*order[:low], *near, *order[high:])
