"""From a cohort's sum to the network's shape. Pure, integers only, the same on every machine and in every order.

Two decisions are made apart: *widths* (how many channels each group gets, see ``budget``) and the *prior* (which ones,
best first, see ``order_rules``). Which channels fill a width follows from the summed graded masks; where the fleet is
undecided, the public order (L1 norm of the base) decides. With noise (mode ``sum+dp``) both are first freed of it, as
far as can be (``fusion``).

**Margins are not part of a decision.** They are differences of tallies, and a decision goes to every device, which is
to learn the order and no more. Who has the sums works them out again (:func:`margins_milli`): the replay, the report.

Shape suffixes: ``C`` channels (of one group, or of all groups in a row), ``G`` groups, ``O`` width options.
"""

from __future__ import annotations

from collections.abc import Sequence

from prunefleet_coordinator.budget import choose_widths
from prunefleet_coordinator.fusion import fused_order, fused_width_votes
from prunefleet_coordinator.order_rules import RULES, CohortVotes, GroupVotes, abstain, margin_milli, order_by
from prunefleet_coordinator.totals import total_variances_milli, why_total_impossible
from prunefleet_shared.campaign import Campaign, Decision, decision_fingerprint
from prunefleet_shared.decision_rules import MEAN, PUBLIC
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.lanes import grade_lane, width_lane
from prunefleet_shared.layout import Layout
from prunefleet_shared.masks import NUM_MASKS
from prunefleet_shared.messages import SessionKind, Total


def channel_order(
    layout: Layout, grade_tally_C: Sequence[int], public_order: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    """For each group, its channels by descending summed grade; equal grades in the public order (rule ``mean``).

    Args:
        layout: Channel groups.
        grade_tally_C: Summed grade of every channel, group after group.
        public_order: For each group a permutation of its channels, best first.

    Returns:
        For each group a permutation of its channels, the ones to keep first.
    """
    parts = zip(layout.slices(), public_order, strict=True)
    return tuple(order_by(RULES[MEAN], GroupVotes(grade_tally_C[part], 1, public)) for part, public in parts)


def decide(campaign: Campaign, vote_total: Total, level: int, cohorts: Sequence[Total] = ()) -> Decision:
    """The decision of one level, as it follows from a cohort's votes.

    Args:
        campaign: What was asked.
        vote_total: The sum over the vote session, at least one device; of several cohorts, what they come to.
        level: 0-based index into the campaign's schedule.
        cohorts: The sums of the round's cohorts, where there are several; only order rule ``borda`` looks at them.

    Raises:
        ConfigError: The level's budget cannot be met at all (the campaign's fault).
        LocalProtocolError: No honest cohort could have made this sum (our bug, or a tampered file in a replay).
    """
    why = _why_undecidable(campaign, vote_total, level)
    if why:
        msg = f"campaign {campaign.campaign_id}, level {level}: {why}"
        raise LocalProtocolError(msg)
    votes_GO = _width_votes(campaign, vote_total, level)
    widths = choose_widths(campaign.layout, campaign.constraints(level), votes_GO, campaign.limits)
    prior = _prior(campaign, vote_total, widths, cohorts)
    return Decision(
        campaign_id=campaign.campaign_id,
        level=level,
        widths=widths,
        prior=prior,
        cost=campaign.cost_table.cost(widths),
        num_devices=vote_total.num_devices,
        tally_digest=digest(canonical_bytes(vote_total.lanes)),
        fingerprint=decision_fingerprint(campaign, level, vote_total.lanes, widths, prior),
    )


def margins_milli(campaign: Campaign, vote_total: Total, decision: Decision) -> tuple[int | None, ...]:
    """For each group, by how much the votes prefer the last kept channel to the first one left out.

    See :func:`~prunefleet_coordinator.order_rules.margin_milli`. In mode ``sum+dp`` that is with the noise.
    """
    votes_G = group_votes(campaign, vote_total)
    groups = zip(decision.prior, votes_G, decision.widths, strict=True)
    return tuple(margin_milli(order, votes, width) for order, votes, width in groups)


def group_votes(campaign: Campaign, vote_total: Total, cohorts: Sequence[Total] = ()) -> list[GroupVotes]:
    """What an order rule is told of each channel group of a campaign, in layout order."""
    tally_G = _grades(campaign, vote_total)
    of_cohorts = [(_grades(campaign, cohort), cohort.num_devices) for cohort in cohorts]
    return [
        GroupVotes(
            tally_G[index],
            vote_total.num_devices,
            public,
            campaign.rules.public_votes,
            NUM_MASKS if campaign.privacy.noise is None else 1,
            [CohortVotes(tallies[index], num_devices) for tallies, num_devices in of_cohorts],
        )
        for index, public in enumerate(campaign.public_order)
    ]


def _grades(campaign: Campaign, total: Total) -> list[list[int]]:
    parts = campaign.vote_lanes.split(total.lanes)
    return [[int(grade) for grade in parts[grade_lane(group.name)]] for group in campaign.layout.groups]


def _prior(
    campaign: Campaign, vote_total: Total, widths: Sequence[int], cohorts: Sequence[Total]
) -> tuple[tuple[int, ...], ...]:
    rules = campaign.rules
    if campaign.privacy.noise is not None:
        return campaign.public_order if rules.order == PUBLIC else _order_from_noise(campaign, vote_total)
    orders = []
    for votes, width in zip(group_votes(campaign, vote_total, cohorts), widths, strict=True):
        order = order_by(RULES[rules.order], votes)
        orders.append(abstain(order, votes, width, rules.near_tie_milli))
    return tuple(orders)


def _order_from_noise(campaign: Campaign, vote_total: Total) -> tuple[tuple[int, ...], ...]:
    grades_C = [grade for tally_C in _grades(campaign, vote_total) for grade in tally_C]
    noise = _noise_milli(campaign, vote_total, grade_lane(campaign.layout.groups[0].name))
    return fused_order(campaign.layout, grades_C, vote_total.num_devices, noise, campaign.public_order)


def _width_votes(campaign: Campaign, vote_total: Total, level: int) -> list[list[int]]:
    """Votes per group and option of a level: of devices, freed of noise, and of the public evidence."""
    parts = campaign.vote_lanes.split(vote_total.lanes)
    groups = campaign.layout.groups
    votes_GO = [[int(votes) for votes in parts[width_lane(level, group.name)]] for group in groups]
    if campaign.privacy.noise is not None:
        noise = _noise_milli(campaign, vote_total, width_lane(level, groups[0].name))
        return fused_width_votes(votes_GO, vote_total.num_devices, noise)
    if campaign.rules.public_votes:
        for votes_O, option in zip(votes_GO, campaign.public_options[level], strict=True):
            votes_O[option] += campaign.rules.public_votes
    return votes_GO


def _noise_milli(campaign: Campaign, vote_total: Total, lane: str) -> int:
    """Variance of the noise in each value of a block, in thousandths."""
    noise = campaign.vote_lanes.split(total_variances_milli(campaign, campaign.vote_lanes, vote_total))
    return int(noise[lane][0])


def _why_undecidable(campaign: Campaign, vote_total: Total, level: int) -> str | None:
    if not 0 <= level < len(campaign.levels):
        return f"the schedule has {len(campaign.levels)} levels"
    if vote_total.num_devices < 1:
        return "no device voted"
    return why_total_impossible(campaign, SessionKind.VOTE, vote_total)
