"""From a cohort's sum to the network's shape. Pure, integers only, the same on every machine and in every order.

Two decisions are made apart: *widths* (how many channels each group gets, see ``budget``) and the *prior* (which ones,
best first). Which channels fill a width follows from the summed graded masks; where the fleet is undecided, the public
order (L1 norm of the base) decides. With noise (mode ``sum+dp``) both are first freed of it, as far as can be
(``fusion``).

Shape suffixes: ``C`` channels (of one group, or of all groups in a row), ``G`` groups, ``O`` width options.
"""

from __future__ import annotations

from collections.abc import Sequence

from prunefleet_coordinator.budget import choose_widths
from prunefleet_coordinator.fusion import fused_order, fused_width_votes
from prunefleet_coordinator.totals import total_variances_milli, why_total_impossible
from prunefleet_shared.campaign import Campaign, Decision, decision_fingerprint
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.lanes import grade_lane, width_lane
from prunefleet_shared.layout import Layout
from prunefleet_shared.messages import SessionKind, Total


def channel_order(
    layout: Layout, grade_tally_C: Sequence[int], public_order: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    """For each group, its channels by descending summed grade; equal grades in the public order.

    Args:
        layout: Channel groups.
        grade_tally_C: Summed grade of every channel, group after group.
        public_order: For each group a permutation of its channels, best first.

    Returns:
        For each group a permutation of its channels, the ones to keep first.
    """
    orders = []
    for part, public in zip(layout.slices(), public_order, strict=True):
        grades = grade_tally_C[part]
        # sorted() is stable: channels of equal grade stay in the order they come in, which is the public one.
        orders.append(tuple(sorted(public, key=lambda channel, grades=grades: -grades[channel])))  # type: ignore[misc]
    return tuple(orders)


def decide(campaign: Campaign, vote_total: Total, level: int) -> Decision:
    """The decision of one level, as it follows from a cohort's votes.

    Args:
        campaign: What was asked.
        vote_total: The sum over the vote session, at least one device.
        level: 0-based index into the campaign's schedule.

    Raises:
        ConfigError: The level's budget cannot be met at all (the campaign's fault).
        LocalProtocolError: No honest cohort could have made this sum (our bug, or a tampered file in a replay).
    """
    why = _why_undecidable(campaign, vote_total, level)
    if why:
        msg = f"campaign {campaign.campaign_id}, level {level}: {why}"
        raise LocalProtocolError(msg)
    parts = campaign.vote_lanes.split(vote_total.lanes)
    groups = campaign.layout.groups
    grades_C = [int(grade) for group in groups for grade in parts[grade_lane(group.name)]]
    votes_GO = [[int(votes) for votes in parts[width_lane(level, group.name)]] for group in groups]
    budget = campaign.levels[level].budget
    if campaign.privacy.noise is None:
        prior = channel_order(campaign.layout, grades_C, campaign.public_order)
    else:
        noise = campaign.vote_lanes.split(total_variances_milli(campaign, campaign.vote_lanes, vote_total))
        grade_noise, width_noise = (
            int(noise[lane][0]) for lane in (grade_lane(groups[0].name), width_lane(level, groups[0].name))
        )
        num_devices = vote_total.num_devices
        prior = fused_order(campaign.layout, grades_C, num_devices, grade_noise, campaign.public_order)
        votes_GO = fused_width_votes(votes_GO, num_devices, width_noise)
    widths = choose_widths(campaign.layout, campaign.cost_table, votes_GO, budget)
    return Decision(
        campaign_id=campaign.campaign_id,
        level=level,
        widths=widths,
        prior=prior,
        cost=campaign.cost_table.cost(widths),
        num_devices=vote_total.num_devices,
        tally_digest=digest(canonical_bytes(vote_total.lanes)),
        fingerprint=decision_fingerprint(campaign.layout, vote_total.lanes, widths, prior, budget),
    )


def _why_undecidable(campaign: Campaign, vote_total: Total, level: int) -> str | None:
    if not 0 <= level < len(campaign.levels):
        return f"the schedule has {len(campaign.levels)} levels"
    if vote_total.num_devices < 1:
        return "no device voted"
    return why_total_impossible(campaign, SessionKind.VOTE, vote_total)
