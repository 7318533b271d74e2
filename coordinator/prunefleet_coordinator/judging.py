"""Whether a decision holds the accuracy floor, from the sums of its outcome. Pure, in integers, the same in a replay.

Without noise and with three cohorts or more, the decision holds if more than half of the cohorts hold the floor, each
by itself: that is the median of their shares of devices worse off, and a few cohorts with liars in them do not move it.
With fewer cohorts, and with noise, all devices are looked at together.

**Noise** may make devices worse off seem fewer than they are. What it hides is bounded: the count must stay below the
limit by :data:`MARGIN_SIGMAS` standard deviations of its noise. So a decision just beyond the limit is promoted by
chance once in about 700; a good one may be rolled back because too few devices were asked to be sure. Whatever a device
did not say counts against the decision: not finished, or no bin at all.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from prunefleet_coordinator.totals import total_variances_milli
from prunefleet_shared.acceptance import Acceptance, RulingReason
from prunefleet_shared.campaign import MIN_ROBUST_COHORTS, Campaign
from prunefleet_shared.documents import canonical_bytes
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.messages import SessionKind, Total
from prunefleet_shared.metrics import GAIN_EDGES, JUDGED_OUTCOME_LANES

MARGIN_SIGMAS = 3
_WORSE_BINS = {-round(1000 * edge): number + 1 for number, edge in enumerate(GAIN_EDGES) if edge < 0}
"""By the loss allowed, in thousandths: how many of the lowest bins hold larger losses."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the sums of one outcome come to; the fields are those of a ``Ruling``."""

    reason: RulingReason
    num_devices: int
    num_worse: int
    max_worse: int
    margin: int
    num_cohorts: int
    num_cohorts_held: int
    outcome_digest: str


def judge(campaign: Campaign, totals: Sequence[Total]) -> Finding:
    """Judge a decision by the sums of its outcome.

    Args:
        campaign: One with an accuracy floor.
        totals: One per cohort, in any order, at least one.

    Raises:
        LocalProtocolError: The campaign has no floor, or there is no cohort (our bug).
    """
    terms = campaign.acceptance
    if terms is None or not totals:
        msg = f"campaign {campaign.campaign_id}: nothing to judge by, or {len(totals)} cohorts to judge"
        raise LocalProtocolError(msg)
    num_devices = sum(total.num_devices for total in totals)
    num_worse = sum(num_worse_in(terms, total) for total in totals)
    max_worse = max_worse_of(terms, num_devices)
    margin = sum_margin(campaign, terms, totals)
    is_noisy = campaign.privacy.noise is not None
    held = 0 if is_noisy else sum(_is_held(terms, total) for total in totals)
    is_by_cohorts = not is_noisy and len(totals) >= MIN_ROBUST_COHORTS
    is_few_enough = 2 * held > len(totals) if is_by_cohorts else num_worse <= max_worse
    reason = RulingReason.HELD if is_few_enough else RulingReason.TOO_MANY_WORSE
    if is_few_enough and not is_by_cohorts and num_worse + margin > max_worse:
        reason = RulingReason.WITHIN_NOISE
    return Finding(reason, num_devices, num_worse, max_worse, margin, len(totals), held, _digest(totals))


def num_worse_in(terms: Acceptance, total: Total) -> int:
    """Devices of a sum that are worse off: all that do not say that they have lost no more than they may."""
    return total.num_devices - sum(total.lanes[lane] for lane in _good_lanes(terms))


def max_worse_of(terms: Acceptance, num_devices: int) -> int:
    """How many of ``num_devices`` may be worse off, rounded down."""
    return terms.max_worse_permille * num_devices // 1000


def sum_margin(campaign: Campaign, terms: Acceptance, totals: Sequence[Total]) -> int:
    """Devices worse off that noise may hide in the sum of ``totals``, rounded up; 0 without noise."""
    variance_milli = 0
    for total in totals:
        variances_milli = total_variances_milli(campaign, campaign.lanes_of(SessionKind.OUTCOME), total)
        variance_milli += sum(variances_milli[lane] for lane in _good_lanes(terms))
    return _ceil_sqrt(-(-(MARGIN_SIGMAS**2) * variance_milli // 1000))


def _is_held(terms: Acceptance, total: Total) -> bool:
    return num_worse_in(terms, total) <= max_worse_of(terms, total.num_devices)


def _good_lanes(terms: Acceptance) -> range:
    end = JUDGED_OUTCOME_LANES.num_lanes  # what clusters add comes behind
    first = end - JUDGED_OUTCOME_LANES.blocks[-1].length
    return range(first + _WORSE_BINS[terms.max_loss_permille], end)


def _ceil_sqrt(value: int) -> int:
    root = math.isqrt(value)
    return root if root * root == value else root + 1


def _digest(totals: Sequence[Total]) -> str:
    facts = sorted(canonical_bytes(total) for total in totals)
    return hashlib.sha256(b"\n".join(facts)).hexdigest()
