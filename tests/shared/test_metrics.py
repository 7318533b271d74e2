"""Outcomes as lanes, and what their sum says."""

import numpy as np
import pytest

from prunefleet_shared.lanes import pack, unpack, why_out_of_range
from prunefleet_shared.metrics import OUTCOME_LANES, Outcome, outcome_lanes, outcome_vector, read_outcome

OUTCOMES = (
    Outcome(True, True, 0.04, 0.4, 0.01, network=0),
    Outcome(True, False, -0.3, 0.6, -0.2, network=2),
    Outcome(True, True, 0.2, 0.5, 0.03, network=2),
    Outcome(finished=False),
)


@pytest.mark.parametrize("is_judged", [False, True])
@pytest.mark.parametrize("num_networks", [1, 3, 9])
def test_a_sum_says_how_many_and_which_networks_were_kept(is_judged, num_networks):
    table = outcome_lanes(is_judged=is_judged, num_networks=num_networks)
    vectors = [outcome_vector(outcome, table) for outcome in OUTCOMES]
    for vector in vectors:
        assert why_out_of_range(table, vector) is None
        assert (unpack(table, pack(table, vector)) == vector).all()
    tally = read_outcome(np.sum(vectors, axis=0), table)
    assert (tally.tried, tally.finished, tally.accepted) == (4, 3, 2)
    assert sum(tally.accuracy_gain) == sum(tally.latency_ratio) == 3
    assert sum(tally.gain_over_dense) == (3 if is_judged else 0)
    if num_networks == 1:
        assert tally.networks == ()
    else:
        assert tally.networks == ((0, 1), (0, 0), (1, 1)) + ((0, 0),) * (num_networks - 3)


def test_a_campaign_without_clusters_says_nothing_of_networks():
    assert outcome_lanes(is_judged=False) == OUTCOME_LANES
    assert "network" not in {block.name for block in OUTCOME_LANES.blocks}
    assert (outcome_vector(OUTCOMES[1]) == outcome_vector(OUTCOMES[1], OUTCOME_LANES)).all()


def test_a_network_that_the_campaign_does_not_have_cannot_be_said():
    with pytest.raises(IndexError):
        outcome_vector(Outcome(True, True, 0.0, 1.0, network=3), outcome_lanes(is_judged=False, num_networks=3))
