"""When a decision is good enough: the operator's terms, and what the coordinator rules by them. Signed, in integers.

A device is *worse off* when the network it kept has lost more accuracy against its own dense copy, on its gate split,
than the terms allow; a device that did not finish counts as worse off, too. The floor holds as long as few enough are.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from prunefleet_shared.layout import MAX_LEVELS
from prunefleet_shared.metrics import GAIN_EDGES

LOSSES_PERMILLE = tuple(sorted(-round(1000 * edge) for edge in GAIN_EDGES if edge < 0))
"""Losses of accuracy, in thousandths, that a sum of histograms can tell apart: 5, 20, 50, 100, 150, 200 and 300."""
MAX_RULINGS = 2 * MAX_LEVELS
"""A level is tried by canaries once, and rolled out once."""
NO_LEVEL = -1


class Search(enum.StrEnum):
    """How the smallest network that holds the floor is looked for."""

    DESCEND = "descend"  # level by level, until one misses the floor
    BISECT = "bisect"  # by halves; assumes that where a level misses the floor, no smaller one holds it


@dataclass(frozen=True, slots=True)
class Acceptance:
    """By what a campaign's decisions are judged.

    Attributes:
        max_loss_permille: Accuracy that a device may lose, in thousandths: one of :data:`LOSSES_PERMILLE`.
        max_worse_permille: Devices of each 1000 in a sum that may be worse off; 0 to 999.
        search: One of :class:`Search`, by its value.
        canary_size: Contributions at which a session of canaries closes, at most the cohort's size; 0: there are no
            canaries apart, the round's own cohorts are the first to try a decision, and the only ones to be asked.
        canary_count: Cohorts of canaries for each decision.
    """

    max_loss_permille: int
    max_worse_permille: int
    search: str = Search.DESCEND.value
    canary_size: int = 0
    canary_count: int = 1


class RulingReason(enum.IntEnum):
    """Why a decision was promoted or rolled back."""

    HELD = 1  # promoted: few enough devices are worse off
    TOO_MANY_WORSE = 2  # rolled back: too many are, or in half of three cohorts or more
    WITHIN_NOISE = 3  # rolled back: it may be only noise that they seem to be few enough


@dataclass(frozen=True, slots=True)
class Ruling:
    """What an outcome's sum says of a decision, signed by the coordinator; the last one is all a device must know.

    Attributes:
        campaign_id: The campaign.
        number: Of this campaign's rulings, from 1.
        level: The decision's level, 0-based.
        decision_fingerprint: The decision judged.
        is_rollout: Judged by a rollout; False: by the canaries.
        reason: Why; only ``HELD`` promotes.
        num_devices: Devices in the sum, over all cohorts.
        num_worse: Of these, worse off; with noise, as it came out.
        max_worse: So many may be, of ``num_devices``.
        margin: How much of ``num_worse`` noise may hide, in devices; 0 without.
        num_cohorts: Cohorts in the round.
        num_cohorts_held: Of these, cohorts that hold the floor by themselves; with noise, 0: they are not looked at.
        outcome_digest: SHA-256 (hex) over the sums judged, cohort by cohort.
        levels_held: Levels promoted and not rolled back since, this ruling included; rising.
        level_for_all: Level of the network that every device of the class is to have, once there is one; else -1.
    """

    campaign_id: str
    number: int
    level: int
    decision_fingerprint: str
    is_rollout: bool
    reason: RulingReason
    num_devices: int
    num_worse: int
    max_worse: int
    margin: int
    num_cohorts: int
    num_cohorts_held: int
    outcome_digest: str
    levels_held: tuple[int, ...]
    level_for_all: int = NO_LEVEL

    @property
    def is_promoted(self) -> bool:
        """Whether the decision holds the floor."""
        return self.reason is RulingReason.HELD


def why_acceptance_impossible(terms: Acceptance, cohort_size: int) -> str | None:
    """The first reason for which nothing could be judged by these terms; None if all is well."""
    if terms.max_loss_permille not in LOSSES_PERMILLE:
        known = ", ".join(map(str, LOSSES_PERMILLE))
        return f"a device may lose one of {known} thousandths of accuracy, got {terms.max_loss_permille}"
    if not 0 <= terms.max_worse_permille < 1000:
        return f"0 to 999 of 1000 devices may be worse off, got {terms.max_worse_permille}"
    searches = [search.value for search in Search]
    if terms.search not in searches:
        return f"a search is one of {', '.join(searches)}, got {terms.search[:40]!r}"
    if not 0 <= terms.canary_size <= cohort_size or terms.canary_count < 1:
        return f"canaries are 0 to {cohort_size} (the cohort), got {terms.canary_size} in {terms.canary_count} cohorts"
    return None
