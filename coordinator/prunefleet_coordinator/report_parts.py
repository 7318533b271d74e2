"""From a campaign's documents and sums to the parts of its report: pure functions, the same for a simulation's fleet.

Nothing here takes what one device said: agreement is read from the cohort's sum alone, as a coordinator under the
private sum could. ``seed`` is the simulation's repetition; a real campaign has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunefleet_coordinator.aggregation import margins_milli
from prunefleet_coordinator.report_model import (
    Contribution,
    ContributionPart,
    DecisionRecord,
    GroupTally,
    NetworkCount,
    Round,
    RoundOutcome,
    RulingReasonName,
    RulingRecord,
    SessionName,
    Setting,
)
from prunefleet_shared.acceptance import Ruling, RulingReason
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.lanes import LaneBlock, LaneTable, grade_lane, width_lane
from prunefleet_shared.layout import NUM_WIDTH_OPTIONS
from prunefleet_shared.masks import NUM_MASKS, IntArray, grades_by_rank, half_mask
from prunefleet_shared.messages import SessionKind, Total
from prunefleet_shared.metrics import NUM_BINS, OutcomeTally

_MEANINGS = {
    "grade": "Graded mask: in how many of 7 nested masks each channel survives (0 to 7); with noise, in one.",
    "lift": "Lift mask: the same, by how much more its images use a channel than public images do.",
    "width": f"Width votes: for every group and level, one of {NUM_WIDTH_OPTIONS} widths.",
    "tried": "Tried the decision: yes or no.",
    "finished": "Finished fine-tuning: yes or no.",
    "accepted": "Kept the fleet's network: yes or no.",
    "accuracy_gain": f"Accuracy gained over its own choice: one of {NUM_BINS} bins.",
    "gain_over_dense": f"Accuracy of the network it kept over its dense copy's: one of {NUM_BINS} bins.",
    "network": "Which of the slim base's networks it tried, and whether it kept it: one of so many lanes.",
    "latency_ratio": f"Latency against the dense network: one of {NUM_BINS} bins.",
}


def setting_of(campaign: Campaign, preset: str | None = None, *, is_retrained: bool | None = None) -> Setting:
    """What the campaign asks for."""
    return Setting(
        preset=preset,
        is_retrained=is_retrained,
        model=campaign.model,
        device_class=campaign.device_class,
        privacy_mode=campaign.privacy.mode,
        layout_fingerprint=campaign.layout.fingerprint(),
        cost_unit=campaign.cost_table.unit,
        num_groups=len(campaign.layout.groups),
        num_channels=campaign.layout.num_channels,
        order_rule=campaign.rules.order,
        public_votes=campaign.rules.public_votes,
        near_tie_milli=campaign.rules.near_tie_milli,
        gate_alternative=campaign.gate.alternative,
    )


def contribution_of(campaign: Campaign) -> Contribution:
    """What one device contributes over the whole campaign, in words, numbers and bits."""
    outcome_lanes = campaign.lanes_of(SessionKind.OUTCOME)
    return Contribution(
        vote_bytes=campaign.vote_lanes.packed_bytes,
        outcome_bytes=outcome_lanes.packed_bytes,
        num_outcomes=len(campaign.levels),
        parts=_parts("vote", campaign.vote_lanes.blocks) + _parts("outcome", outcome_lanes.blocks),
    )


def _parts(session: SessionName, blocks: Sequence[LaneBlock]) -> list[ContributionPart]:
    by_kind: dict[str, list[LaneBlock]] = {}
    for block in blocks:
        by_kind.setdefault(block.name.split("/")[0], []).append(block)
    return [
        ContributionPart(
            session=session,
            meaning=_MEANINGS[kind],
            num_lanes=sum(block.length for block in alike),
            num_bits=sum(block.length * block.value_bits for block in alike),
        )
        for kind, alike in by_kind.items()
    ]


def round_of(
    campaign: Campaign, level: int, vote_total: Total, outcome: OutcomeTally | None, seed: int | None = None
) -> Round:
    """A decided level: how far the votes agreed, and how it went.

    Args:
        campaign: The campaign.
        level: 0-based.
        vote_total: The votes' sum, of at least one device.
        outcome: The outcomes' sum; None while its session is not closed.
        seed: The repetition, in a simulation.
    """
    return Round(
        seed=seed,
        level=level,
        level_permille=campaign.levels[level].permille,
        vote_agreement=width_agreement(campaign, vote_total, level),
        channel_agreement=channel_agreement(campaign, vote_total),
        gate_accept_rate=_accept_rate(outcome) if outcome else None,
        outcome=_outcome(outcome) if outcome else None,
    )


def _accept_rate(outcome: OutcomeTally) -> float | None:
    if outcome.finished <= 0:
        return None
    return min(1.0, max(0.0, outcome.accepted / outcome.finished))


def _outcome(outcome: OutcomeTally) -> RoundOutcome:
    return RoundOutcome(
        tried=max(0, outcome.tried),  # with noise, counts may come out below 0
        finished=max(0, outcome.finished),
        accepted=max(0, outcome.accepted),
        accuracy_gain=[max(0, count) for count in outcome.accuracy_gain],
        latency_ratio=[max(0, count) for count in outcome.latency_ratio],
        gain_over_dense=[max(0, count) for count in outcome.gain_over_dense] or None,
        networks=[NetworkCount(rejected=max(0, no), kept=max(0, yes)) for no, yes in outcome.networks] or None,
    )


def ruling_record(ruling: Ruling) -> RulingRecord:
    """What was ruled of a decision."""
    reason: dict[RulingReason, RulingReasonName] = {
        RulingReason.HELD: "held",
        RulingReason.TOO_MANY_WORSE: "too_many_worse",
        RulingReason.WITHIN_NOISE: "within_noise",
    }
    return RulingRecord(
        is_rollout=ruling.is_rollout,
        is_promoted=ruling.is_promoted,
        reason=reason[ruling.reason],
        num_devices=ruling.num_devices,
        num_worse=ruling.num_worse,
        max_worse=ruling.max_worse,
    )


def decision_record(
    campaign: Campaign, vote_total: Total, decision: Decision, signed: SignedDocument, seed: int | None = None
) -> DecisionRecord:
    """A decision made from ``vote_total`` with what it takes to check it; ``signed`` is what it was read from."""
    return DecisionRecord(
        seed=seed,
        level=decision.level,
        fingerprint=decision.fingerprint,
        signature=signed.signature.hex(),
        public_key=signed.public_key.hex(),
        widths=list(decision.widths),
        prior=[list(order) for order in decision.prior],
        cost=decision.cost,
        budget=campaign.levels[decision.level].budget,
        margins_milli=list(margins_milli(campaign, vote_total, decision)),
    )


def group_tallies(campaign: Campaign, vote_total: Total, seed: int | None = None) -> list[GroupTally]:
    """The summed grades of every channel group, in layout order; a noisy mask's single bit counts as all seven."""
    blocks, scale = _vote_blocks(campaign, vote_total), NUM_MASKS if campaign.privacy.noise else 1
    return [
        GroupTally(
            seed=seed,
            group=group.name,
            num_channels=group.num_channels,
            num_devices=vote_total.num_devices,
            grade_tally=[scale * int(n) for n in blocks[grade_lane(group.name)]],
        )
        for group in campaign.layout.groups
    ]


def width_agreement(campaign: Campaign, vote_total: Total, level: int) -> float:
    """How far the devices voted for the same widths at ``level``: 1 = all alike.

    The mean over groups of the largest share of devices that chose one option; 1/8 at least.
    """
    blocks = _vote_blocks(campaign, vote_total)
    largest = [int(blocks[width_lane(level, group.name)].max()) for group in campaign.layout.groups]
    return min(1.0, float(np.mean(largest)) / vote_total.num_devices)


def channel_agreement(campaign: Campaign, vote_total: Total) -> float:
    """How far the devices rank channels alike: 1 = same grades everywhere, about 1/devices by chance alone.

    Kendall's coefficient of concordance W = Var(sum of grades) / (n² Var(one device's grades)) in each group, averaged
    by group size (M. G. Kendall & B. Babington Smith, "The problem of m rankings", Ann. Math. Statist. 10, 1939). Every
    device hands out the same grades, so the denominator is known without seeing any. Groups of one channel rank
    nothing and are left out; with no other group the answer is 1. Noise makes devices look more alike than they are.
    """
    blocks = _vote_blocks(campaign, vote_total)
    ranked = [group for group in campaign.layout.groups if np.var(grades_by_rank(group.num_channels)) > 0]
    if not ranked:
        return 1.0
    grades = [grades_by_rank(group.num_channels) for group in ranked]
    if campaign.privacy.noise:
        grades = [half_mask(grades_C) for grades_C in grades]
    concordance = [
        _kendall_w(blocks[grade_lane(group.name)], vote_total.num_devices, grades_C)
        for group, grades_C in zip(ranked, grades, strict=True)
    ]
    return min(1.0, float(np.average(concordance, weights=[group.num_channels for group in ranked])))


def _kendall_w(tally_C: IntArray, num_devices: int, grades_C: IntArray) -> float:
    return float(np.var(tally_C) / (num_devices**2 * np.var(grades_C)))


def _vote_blocks(campaign: Campaign, vote_total: Total) -> dict[str, IntArray]:
    return campaign.vote_lanes.split(_without_overshoot(campaign.vote_lanes, vote_total))


def _without_overshoot(table: LaneTable, total: Total) -> IntArray:
    """A total as counts can be shown: noise may have taken some below 0, or above what all devices could say."""
    most_L = np.repeat([block.clip for block in table.blocks], [block.length for block in table.blocks])
    return np.clip(np.asarray(total.lanes, dtype=np.int64), 0, most_L * total.num_devices)
