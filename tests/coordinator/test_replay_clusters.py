"""A campaign with clusters: what the trainer is offered, how outcomes change clusters, and that it replays."""

import json
from dataclasses import replace

import numpy as np
import pytest

from prunefleet_coordinator.admission import why_campaign_impossible
from prunefleet_coordinator.aggregation import decide
from prunefleet_coordinator.archive import STEERING_FILE, write_run
from prunefleet_coordinator.offers import Offers
from prunefleet_coordinator.replay import replay
from prunefleet_coordinator.report_parts import contribution_of
from prunefleet_coordinator.state import ClosedRound, Snapshot
from prunefleet_coordinator.store import MemoryStore
from prunefleet_coordinator.testing import random_vote, small_campaign
from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.campaign import SlimBase
from prunefleet_shared.document_file import write_document
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import ReplayError
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import Phase, SessionKind, Total
from prunefleet_shared.metrics import Outcome, outcome_vector
from prunefleet_shared.steering_record import make_record, record_digest
from prunefleet_shared.steering_terms import SteeringTerms
from prunefleet_shared.testing import COORDINATOR_KEY as KEY
from prunefleet_shared.testing import TRAINER_KEY

NUM_DEVICES, NUM_KINDS = 12, 12
LAYOUT = small_campaign().layout
CAMPAIGN = small_campaign(steering=SteeringTerms((1,) * LAYOUT.num_channels, (1,) * LAYOUT.num_channels, 3))
SIGNED = sign_document("campaign", CAMPAIGN, KEY)
RNG = np.random.default_rng(4)
MIDDLES = RNG.normal(size=(3, LAYOUT.num_channels)).repeat(2, axis=0)
PROFILES = np.stack(
    [
        grade_layout(LAYOUT, row)
        for row in np.vstack(
            [3 * MIDDLES + RNG.normal(size=MIDDLES.shape), 3 * RNG.normal(size=(6, LAYOUT.num_channels))]
        )
    ]
)
"""Kinds 0 to 5 come in pairs, and the fleet sees them; 6 to 11 it does not."""


def vote_total():
    """Each device sees one of the first six kinds."""
    votes = [random_vote(CAMPAIGN, seed) for seed in range(NUM_DEVICES)]
    table, total = CAMPAIGN.vote_lanes, np.sum(votes, axis=0)
    start = sum(block.length for block in table.blocks if block.name.startswith("grade/"))
    total[start : start + LAYOUT.num_channels] = 2 * PROFILES[:6].sum(axis=0)
    return Total(tuple(int(lane) for lane in total), NUM_DEVICES)


def outcome_total(*kept):
    table = CAMPAIGN.lanes_of(SessionKind.OUTCOME)
    outcomes = [Outcome(True, True, 0.0, 0.5, network=network) for network, num in enumerate(kept) for _ in range(num)]
    total = np.sum([outcome_vector(outcome, table) for outcome in outcomes], axis=0)
    return Total(tuple(int(lane) for lane in total), len(outcomes))


VOTE = ClosedRound(SessionKind.VOTE, 0, "aa", vote_total(), ("d1", "d2"))
OUTCOME = ClosedRound(SessionKind.OUTCOME, 0, "bb", outcome_total(0, 1, 11, 0), ("d1",))
DECISIONS = tuple(decide(CAMPAIGN, VOTE.total, level) for level in range(2))


def record_of(level, *outcomes):
    return make_record(CAMPAIGN, DECISIONS[level], VOTE.total, range(NUM_KINDS), PROFILES, outcomes)


def stored_run(*records):
    """A store in which both levels were decided and retrained, and the first was tried."""
    store = MemoryStore()
    first = Snapshot(CAMPAIGN.campaign_id, Phase.RETRAINING, 0, closed_rounds=(VOTE,), decisions=DECISIONS[:1])
    second = replace(first, level=1, closed_rounds=(VOTE, OUTCOME), decisions=DECISIONS)
    store.save_document(CAMPAIGN.campaign_id, 0, SIGNED)
    store.save_closing(VOTE, first, sign_document("decision", DECISIONS[0], KEY))
    store.save_closing(OUTCOME, second, sign_document("decision", DECISIONS[1], KEY))
    for level, record in enumerate(records):
        fingerprint = DECISIONS[level].fingerprint
        slim_base = SlimBase(CAMPAIGN.campaign_id, level, fingerprint, "00" * 32, 5, record_digest(record))
        store.save_snapshot(second, sign_document("slim_base", slim_base, TRAINER_KEY))
    return store


def written_run(folder, *records):
    write_run(folder, stored_run(*records), CAMPAIGN.campaign_id)
    for level, record in enumerate(records):
        write_document(folder / f"level-{level}" / STEERING_FILE, record)
    return folder


def test_the_trainer_is_offered_the_sums_that_it_regroups_by():
    offers = Offers(stored_run(), CAMPAIGN.campaign_id)
    offer = offers.decision_offer(SIGNED, 1, CAMPAIGN)
    assert (offer.vote_total, offer.outcome_totals) == (VOTE.total, (OUTCOME.total,))
    alone = replace(CAMPAIGN, steering=replace(CAMPAIGN.steering, num_clusters=1))
    assert offers.decision_offer(SIGNED, 1, alone).outcome_totals == ()
    silent = replace(CAMPAIGN, steering=None)
    assert offers.decision_offer(SIGNED, 1, silent).vote_total is None


def test_what_devices_keep_changes_the_clusters():
    first, second = record_of(0), record_of(1, OUTCOME.total)
    assert first.mixture == second.mixture
    assert sorted(first.clusters) == [(0, 1), (2, 3), (4, 5)]
    kept = first.clusters[1]  # eleven of twelve devices kept its network
    assert kept not in second.clusters
    assert {(kind,) for kind in kept} < set(second.clusters)


def test_a_run_with_clusters_replays(tmp_path):
    run = written_run(tmp_path / "run", record_of(0), record_of(1, OUTCOME.total))
    assert [level.level for level in replay(run)] == [0, 1]


def test_clusters_that_do_not_follow_are_found(tmp_path):
    forged = replace(record_of(0), clusters=((0, 2), (1, 3), (4, 5)))
    with pytest.raises(ReplayError, match=r"level-0/steering.json: the clusters that it states are not those"):
        replay(written_run(tmp_path / "run", forged))


def test_a_sum_of_outcomes_that_is_not_there_is_found(tmp_path):
    run = written_run(tmp_path / "run", record_of(0), record_of(1, OUTCOME.total))
    path = run / "level-0" / "outcome.json"
    stored = json.loads(path.read_text())
    stored["lanes"][-3] -= 1
    stored["lanes"][-5] += 1
    path.write_text(json.dumps(stored))
    with pytest.raises(ReplayError, match=r"level-1/steering.json: it regroups clusters by a sum .* not stored"):
        replay(run)


@pytest.mark.parametrize("number", [0, 9])
def test_a_campaign_has_one_to_eight_clusters(number):
    campaign = replace(CAMPAIGN, steering=replace(CAMPAIGN.steering, num_clusters=number))
    assert why_campaign_impossible(CAMPAIGN) is None
    assert why_campaign_impossible(campaign) == f"a campaign has 1 to 8 clusters, this one {number}"


def test_everything_that_a_device_contributes_has_a_meaning():
    judged = replace(CAMPAIGN, acceptance=Acceptance(50, 0))
    parts = contribution_of(judged).parts
    blocks = [*judged.vote_lanes.blocks, *judged.lanes_of(SessionKind.OUTCOME).blocks]
    assert sum(part.num_lanes for part in parts) == sum(block.length for block in blocks)
    assert len({part.meaning for part in parts}) == len({block.name.split("/")[0] for block in blocks}) == len(parts)
