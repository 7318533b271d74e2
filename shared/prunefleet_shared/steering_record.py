"""The trainer's record of how a slim base was steered: enough to find out again, from the fleet's sum, what it found.

It tells the fleet's mixture of classes, so it stays with the operator; a slim base names only its digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.lanes import lift_lane
from prunefleet_shared.masks import IntArray
from prunefleet_shared.messages import Total
from prunefleet_shared.mixture import Mixture, fit_mixture


@dataclass(frozen=True, slots=True)
class SteeringRecord:
    """What was fitted to what.

    Attributes:
        campaign_id: The campaign.
        level: Of the decision.
        decision_fingerprint: The decision whose slim base was steered.
        tally_digest: SHA-256 (hex) over the vote's sum, as in the decision.
        kinds: For each kind of public image, which class of the network's it is.
        profiles: For each kind its lift mask, one grade per channel.
        mixture: What the fleet seems to see.
    """

    campaign_id: str
    level: int
    decision_fingerprint: str
    tally_digest: str
    kinds: tuple[int, ...]
    profiles: tuple[tuple[int, ...], ...]
    mixture: Mixture


def make_record(
    campaign: Campaign,
    decision: Decision,
    vote_total: Total,
    kinds: Sequence[int],
    profiles_KC: Sequence[Sequence[int]] | IntArray,
) -> SteeringRecord:
    """Fit the profiles to the lift masks of a vote's sum.

    Raises:
        LocalProtocolError: The total is not the one that the decision follows from, the campaign does not steer, or
            profiles do not fit its layout.
    """
    tally_digest = digest(canonical_bytes(vote_total.lanes))
    if campaign.steering is None or tally_digest != decision.tally_digest:
        wanted = "a campaign that steers" if campaign.steering is None else f"the sum {decision.tally_digest[:12]}"
        msg = f"decision {decision.fingerprint[:12]}: steering needs {wanted}, got {tally_digest[:12]}"
        raise LocalProtocolError(msg)
    blocks, parts = campaign.vote_lanes.blocks, campaign.vote_lanes.split(vote_total.lanes)
    names = [lift_lane(group.name) for group in campaign.layout.groups]
    tally_C = [int(lane) for name in names for lane in parts[name]]
    clip = next(block.clip for block in blocks if block.name == names[0])
    mixture = fit_mixture(campaign.layout, profiles_KC, tally_C, vote_total.num_devices, clip)
    rows = tuple(tuple(int(grade) for grade in row) for row in profiles_KC)
    level, fingerprint = decision.level, decision.fingerprint
    return SteeringRecord(campaign.campaign_id, level, fingerprint, tally_digest, tuple(kinds), rows, mixture)


def record_digest(record: SteeringRecord) -> str:
    """SHA-256 (hex) of the record's canonical JSON."""
    return digest(canonical_bytes(record))


def why_record_wrong(campaign: Campaign, decision: Decision, vote_total: Total, record: SteeringRecord) -> str | None:
    """Why a record does not follow from the sum; None if it does."""
    try:
        expected = make_record(campaign, decision, vote_total, record.kinds, record.profiles)
    except (LocalProtocolError, ValueError) as error:  # ValueError: profiles of different lengths
        return str(error)
    if len(record.kinds) != len(record.profiles):
        return f"it names {len(record.kinds)} kinds and has {len(record.profiles)} profiles"
    return None if expected == record else "the mixture that it states is not the one that follows from the sum"


NUM_TOLD = 10
"""Kinds that are named to people."""


def in_words(record: SteeringRecord) -> str:
    """What an operator is told: which classes the fleet seems to see, and how far to believe it."""
    mixture = record.mixture
    explained = f"{_percent(mixture.explained_ppm)} of the sum explained, {_percent(mixture.by_chance_ppm)} by chance"
    if not mixture.is_confident:
        return f"the sum does not tell what the fleet sees ({explained}); public images are drawn alike"
    shares = sorted(zip(mixture.weights_ppm, record.kinds, strict=True), key=lambda pair: (-pair[0], pair[1]))
    seen = [(weight, kind) for weight, kind in shares if weight]
    told = ", ".join(f"{kind} ({_percent(weight)})" for weight, kind in seen[:NUM_TOLD])
    num_kinds = len(record.kinds)
    return f"the fleet seems to see {len(seen)} of {num_kinds} classes of public images: {told} first ({explained})"


def _percent(ppm: int) -> str:
    return f"{ppm / 10_000:.0f} %"
