"""Clusters from end to end on a small network: two kinds of devices, a network for each, and what outcomes change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_steering import BASE, NUM_DEVICES, PUBLIC, SPEC, campaign_of, samples

from prunefleet_coordinator.aggregation import decide
from prunefleet_edge.egress import vote_vector
from prunefleet_edge.models.weights import split_networks
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.work import WorkOptions, personalise, prepare_vote
from prunefleet_shared.campaign import Decision
from prunefleet_shared.document_file import read_document_file
from prunefleet_shared.documents import canonical_bytes
from prunefleet_shared.lanes import why_out_of_range
from prunefleet_shared.messages import SessionKind, Total
from prunefleet_shared.metrics import Outcome, outcome_vector
from prunefleet_shared.mixture import PPM
from prunefleet_shared.steering_record import SteeringRecord, why_record_wrong
from prunefleet_trainer.campaign_files import describe_base
from prunefleet_trainer.retrain_job import RetrainOrder, retrain
from prunefleet_trainer.steering import Steering, steer

FILES = describe_base(SPEC, BASE, PUBLIC, num_clusters=2)
CAMPAIGN = campaign_of(FILES)
KINDS = ((1, 4), (1, 3))


@pytest.fixture(scope="module")
def total() -> Total:
    options = WorkOptions(Recipe(epochs=1, learning_rate=0.01), seed=1)
    own = [samples(KINDS[device % 2], 6, seed=10 + device) for device in range(NUM_DEVICES)]
    votes = [vote_vector(CAMPAIGN, prepare_vote(CAMPAIGN, FILES.weights, data, options)) for data in own]
    return Total(tuple(int(lane) for lane in np.sum(votes, axis=0)), NUM_DEVICES)


@pytest.fixture(scope="module")
def decision(total: Total) -> Decision:
    return decide(CAMPAIGN, total, 0)


def steered(decision: Decision, total: Total, *outcomes: Total) -> Steering:
    found = steer(CAMPAIGN, decision, total, FILES.weights, PUBLIC, (), outcomes)
    assert found is not None
    return found


def outcomes(*kept: int) -> Total:
    """Devices that kept each network, the one for all first."""
    table = CAMPAIGN.lanes_of(SessionKind.OUTCOME)
    vectors = [
        outcome_vector(Outcome(True, True, 0.0, 0.5, network=network), table)
        for network, num in enumerate(kept)
        for _ in range(num)
    ]
    return Total(tuple(int(lane) for lane in np.sum(vectors, axis=0)), len(vectors))


def test_each_cluster_gets_a_draw_of_its_own_beside_that_of_all(decision: Decision, total: Total) -> None:
    found = steered(decision, total)
    assert found.record.mixture.is_confident
    assert len(found.record.clusters) == 2
    assert len(found.draws) == 3
    for weights_N, shares in zip(found.draws, found.record.network_weights_ppm, strict=True):
        drawn = [float(weights_N[PUBLIC.labels == label].sum()) for label in range(6)]
        assert drawn == pytest.approx([(3 * share / PPM + 1 / 6) / 4 for share in shares])
    assert not torch.equal(found.draws[1], found.draws[2])


def test_without_clusters_there_is_one_draw(decision: Decision, total: Total) -> None:
    alone = campaign_of()
    found = steer(alone, decide(alone, total, 0), total, FILES.weights, PUBLIC)
    assert found is not None
    assert (found.record.clusters, len(found.draws)) == ((), 1)
    assert torch.equal(found.draws[0], steered(decision, total).draws[0])


def test_a_fit_that_is_not_believed_is_not_cut(total: Total) -> None:
    table = CAMPAIGN.vote_lanes
    parts = table.split(total.lanes)
    even = np.concatenate([np.roll(part, 3) if name.startswith("lift") else part for name, part in parts.items()])
    unlike = Total(tuple(int(lane) for lane in even), NUM_DEVICES)
    found = steered(decide(CAMPAIGN, unlike, 0), unlike, outcomes(1, 1, 1))
    assert not found.record.mixture.is_confident
    assert (found.record.clusters, found.record.outcome_digests, len(found.draws)) == ((), (), 1)


def test_a_record_must_follow_from_the_outcomes_that_are_stored(decision: Decision, total: Total) -> None:
    first, second = outcomes(1, 9, 0), outcomes(2, 3, 3)
    record = steered(decision, total, first, second).record
    assert why_record_wrong(CAMPAIGN, decision, total, record, [second, first]) is None
    assert "is not stored" in (why_record_wrong(CAMPAIGN, decision, total, record, [first]) or "")
    forged = replace(record, clusters=record.clusters[::-1])
    assert "the clusters that it states" in (why_record_wrong(CAMPAIGN, decision, total, forged, [first, second]) or "")


def test_the_trainer_ships_a_network_for_each_cluster_in_one_file(
    tmp_path: Path, decision: Decision, total: Total, capfd: pytest.CaptureFixture[str]
) -> None:
    public, base, record = tmp_path / "public.npz", tmp_path / "base", tmp_path / "steering.json"
    images = (255 * PUBLIC.images).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.savez(public, x=images, y=PUBLIC.labels.numpy())
    base.write_bytes(FILES.weights)
    order = RetrainOrder(
        canonical_bytes(CAMPAIGN).decode(),
        canonical_bytes(decision).decode(),
        str(base),
        f"npz:{public}",
        "auto",
        1,
        1,
        str(tmp_path / "cache"),
        vote_total=canonical_bytes(total).decode(),
        outcome_totals=(canonical_bytes(outcomes(2, 1, 1)).decode(),),
        steering_record=str(record),
    )
    slim_base = retrain(order).read_bytes()
    assert "network 3 of 3: epoch 1 of 1" in capfd.readouterr().err
    stated = read_document_file(record, SteeringRecord)
    assert why_record_wrong(CAMPAIGN, decision, total, stated, [outcomes(2, 1, 1)]) is None
    networks = split_networks(slim_base, "slim base")
    assert len(set(networks)) == len(networks) == 3
    own = samples(KINDS[0], 6, seed=40)
    kept = personalise(
        CAMPAIGN, decision, FILES.weights, slim_base, own, WorkOptions(Recipe(epochs=1, learning_rate=0.01), seed=1)
    )
    assert kept.outcome.network in range(3)
    table = CAMPAIGN.lanes_of(SessionKind.OUTCOME)
    assert why_out_of_range(table, outcome_vector(kept.outcome, table)) is None
