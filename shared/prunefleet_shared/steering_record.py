"""The trainer's record of how a slim base was steered: enough to find out again, from the fleet's sum, what it found.

It tells the fleet's mixture of classes, so it stays with the operator; a slim base names only its digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.clusters import Cluster, Kinds, clusters_of, regrouped
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.lanes import lift_lane
from prunefleet_shared.masks import IntArray
from prunefleet_shared.messages import SessionKind, Total
from prunefleet_shared.metrics import read_outcome
from prunefleet_shared.mixture import PPM, Mixture, fit_mixture, shares_ppm
from prunefleet_shared.steering_terms import SteeringTerms

WHOLE_PPM = 333_333
"""This much of what is drawn for a cluster, in parts per million, is drawn as for the whole fleet: a device may see
classes of other clusters, too (ADR 25 has what it is worth)."""


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
        clusters: Parts of the mixture that get a network of their own, as indices into ``kinds``; none where all share
            one, or the fit is not believed.
        outcome_digests: SHA-256 (hex) over each sum of outcomes that clusters were regrouped by, the oldest first.
    """

    campaign_id: str
    level: int
    decision_fingerprint: str
    tally_digest: str
    kinds: tuple[int, ...]
    profiles: tuple[tuple[int, ...], ...]
    mixture: Mixture
    clusters: tuple[Cluster, ...] = ()
    outcome_digests: tuple[str, ...] = ()

    @property
    def network_weights_ppm(self) -> tuple[tuple[int, ...], ...]:
        """For each network of the slim base the share of each kind: first the one for all, then one per cluster."""
        return (self.mixture.weights_ppm, *(self._cluster_weights_ppm(cluster) for cluster in self.clusters))

    def _cluster_weights_ppm(self, cluster: Cluster) -> tuple[int, ...]:
        weights = self.mixture.weights_ppm
        part = shares_ppm([weight if kind in cluster else 0 for kind, weight in enumerate(weights)])
        return shares_ppm([(PPM - WHOLE_PPM) * own + WHOLE_PPM * all_ for own, all_ in zip(part, weights, strict=True)])


def make_record(
    campaign: Campaign,
    decision: Decision,
    vote_total: Total,
    kinds: Sequence[int],
    profiles_KC: Sequence[Sequence[int]] | IntArray,
    outcomes: Sequence[Total] = (),
) -> SteeringRecord:
    """Fit the profiles to the lift masks of a vote's sum, and cut the mixture into the campaign's clusters.

    Args:
        campaign: One that steers.
        decision: Whose slim base is steered.
        vote_total: The sum that it follows from.
        kinds: For each kind, which class of the network's it is.
        profiles_KC: For each kind its lift mask.
        outcomes: The sums of outcomes so far, the oldest first; clusters are regrouped by them.

    Raises:
        LocalProtocolError: The total is not the one that the decision follows from, the campaign does not steer, or
            profiles do not fit its layout.
    """
    tally_digest = total_digest(vote_total)
    if campaign.steering is None or tally_digest != decision.tally_digest:
        wanted = "a campaign that steers" if campaign.steering is None else f"the sum {decision.tally_digest[:12]}"
        msg = f"decision {decision.fingerprint[:12]}: steering needs {wanted}, got {tally_digest[:12]}"
        raise LocalProtocolError(msg)
    blocks, parts = campaign.vote_lanes.blocks, campaign.vote_lanes.split(vote_total.lanes)
    names = [lift_lane(group.name) for group in campaign.layout.groups]
    tally_C = [int(lane) for name in names for lane in parts[name]]
    clip = next(block.clip for block in blocks if block.name == names[0])
    mixture = fit_mixture(campaign.layout, profiles_KC, tally_C, vote_total.num_devices, clip)
    is_cut = campaign.num_networks > 1 and mixture.is_confident
    return SteeringRecord(
        campaign_id=campaign.campaign_id,
        level=decision.level,
        decision_fingerprint=decision.fingerprint,
        tally_digest=tally_digest,
        kinds=tuple(kinds),
        profiles=tuple(tuple(int(grade) for grade in row) for row in profiles_KC),
        mixture=mixture,
        clusters=_clusters(campaign, campaign.steering, Kinds(profiles_KC, mixture.weights_ppm, clip), outcomes)
        if is_cut
        else (),
        outcome_digests=tuple(total_digest(total) for total in outcomes) if is_cut else (),
    )


def _clusters(campaign: Campaign, terms: SteeringTerms, kinds: Kinds, outcomes: Sequence[Total]) -> tuple[Cluster, ...]:
    clusters, table = clusters_of(kinds, terms.num_clusters), campaign.lanes_of(SessionKind.OUTCOME)
    for total in outcomes:
        networks = read_outcome(total.lanes, table).networks[1 : 1 + len(clusters)]
        clusters = regrouped(kinds, clusters, [num_kept for _, num_kept in networks])
    return clusters


def total_digest(total: Total) -> str:
    """SHA-256 (hex) over a sum's lanes."""
    return digest(canonical_bytes(total.lanes))


def record_digest(record: SteeringRecord) -> str:
    """SHA-256 (hex) of the record's canonical JSON."""
    return digest(canonical_bytes(record))


def why_record_wrong(
    campaign: Campaign, decision: Decision, vote_total: Total, record: SteeringRecord, outcomes: Sequence[Total] = ()
) -> str | None:
    """Why a record does not follow from the sums; None if it does. ``outcomes``: all of the campaign, in any order."""
    stored = {total_digest(total): total for total in outcomes}
    if not set(record.outcome_digests) <= stored.keys():
        return "it regroups clusters by a sum of outcomes that is not stored"
    used = [stored[known] for known in record.outcome_digests]
    try:
        expected = make_record(campaign, decision, vote_total, record.kinds, record.profiles, used)
    except (LocalProtocolError, ValueError) as error:  # ValueError: profiles of different lengths
        return str(error)
    if len(record.kinds) != len(record.profiles):
        return f"it names {len(record.kinds)} kinds and has {len(record.profiles)} profiles"
    if expected.mixture != record.mixture:
        return "the mixture that it states is not the one that follows from the sum"
    return None if expected == record else "the clusters that it states are not those that follow from the sums"


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
    parts = f", in clusters of {', '.join(str(len(part)) for part in record.clusters)}" if record.clusters else ""
    of_all = f"{len(seen)} of {len(record.kinds)} classes of public images{parts}"
    return f"the fleet seems to see {of_all}: {told} first ({explained})"


def _percent(ppm: int) -> str:
    return f"{ppm / 10_000:.0f} %"
