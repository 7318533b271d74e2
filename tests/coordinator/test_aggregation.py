"""From a sum to a decision: orders, ties, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from prunefleet_coordinator.aggregation import channel_order, decide
from prunefleet_coordinator.testing import random_vote, small_campaign
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.documents import canonical_bytes, digest, read_document
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.layout import ChannelGroup, Layout
from prunefleet_shared.messages import Total

VECTOR = Path(__file__).parents[1] / "vectors" / "decision.json"


def total_of(*vectors):
    return Total(tuple(int(lane) for lane in np.sum(vectors, axis=0)), len(vectors))


def test_channels_come_by_descending_grade_within_each_group():
    layout = Layout((ChannelGroup("a", 3), ChannelGroup("b", 2)))
    assert channel_order(layout, [1, 9, 5, 0, 4], [(0, 1, 2), (0, 1)]) == ((1, 2, 0), (1, 0))


def test_ties_fall_to_the_public_order():
    layout = Layout((ChannelGroup("a", 4),))
    assert channel_order(layout, [5, 5, 7, 5], [(3, 0, 2, 1)]) == ((2, 3, 0, 1),)


def test_a_decision_stays_within_budget_and_names_its_facts():
    campaign = small_campaign()
    total = total_of(*(random_vote(campaign, seed) for seed in range(5)))
    for level, step in enumerate(campaign.levels):
        decision = decide(campaign, total, level)
        assert decision.cost == campaign.cost_table.cost(decision.widths) <= step.budget
        assert (decision.level, decision.num_devices) == (level, 5)
        assert [sorted(order) for order in decision.prior] == [sorted(order) for order in campaign.public_order]
        assert decision.tally_digest == digest(canonical_bytes(total.lanes))


def test_levels_decide_from_their_own_width_votes():
    campaign = small_campaign()
    total = total_of(*(random_vote(campaign, seed) for seed in range(5)))
    first, second = decide(campaign, total, 0), decide(campaign, total, 1)
    assert first.prior == second.prior
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("level", [-1, 2])
def test_a_level_outside_the_schedule_is_our_bug(level):
    campaign = small_campaign()
    with pytest.raises(LocalProtocolError, match="2 levels"):
        decide(campaign, total_of(random_vote(campaign, 1)), level)


def test_a_sum_no_devices_could_have_made_is_refused():
    campaign = small_campaign()
    honest = total_of(random_vote(campaign, 1), random_vote(campaign, 2))
    with pytest.raises(LocalProtocolError, match="grade/stem"):
        decide(campaign, Total((honest.lanes[0] + 1, *honest.lanes[1:]), 2), 0)
    with pytest.raises(LocalProtocolError, match="no device voted"):
        decide(campaign, Total((0,) * len(honest.lanes), 0), 0)


def test_the_golden_decision():
    """Any machine, any release: this campaign and this sum give this decision. A change here breaks every replay."""
    vector = json.loads(VECTOR.read_text())
    campaign = read_document(json.dumps(vector["campaign"]).encode(), Campaign)
    total = read_document(json.dumps(vector["total"]).encode(), Total)
    for expected in vector["decisions"]:
        assert json.loads(canonical_bytes(decide(campaign, total, expected["level"]))) == expected
