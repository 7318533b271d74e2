"""What holds for every cohort: order does not matter, and a unanimous fleet gets what it voted for."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prunefleet_coordinator.aggregation import decide
from prunefleet_coordinator.testing import random_vote, small_campaign, vote_payload, vote_vector
from prunefleet_coordinator.totals import total_of
from prunefleet_shared.campaign import CohortPolicy, Level
from prunefleet_shared.lanes import pack
from prunefleet_shared.layout import option_for_width, width_options
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import SessionKind
from prunefleet_shared.private_sum import SessionFacts, open_coordinator_sum
from prunefleet_shared.sum_messages import Contribute

CAMPAIGN = small_campaign()
SEEDS = st.lists(st.integers(0, 10**6), min_size=1, max_size=8)


def summed(payloads, campaign=CAMPAIGN):
    cohort = CohortPolicy(size=len(payloads), quorum=1, deadline_ms=1)
    facts = SessionFacts("aa", SessionKind.VOTE, 0, 1)
    cohort_sum = open_coordinator_sum(replace(campaign, cohort=cohort), facts, None)
    for device, payload in payloads:
        cohort_sum.receive(f"device-{device}", Contribute("aa", payload))
    return total_of(campaign, SessionKind.VOTE, cohort_sum)


@given(SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(seeds, rng):
    payloads = [(device, vote_payload(CAMPAIGN, seed)) for device, seed in enumerate(seeds)]
    shuffled = rng.sample(payloads, len(payloads))
    one, other = summed(payloads), summed(shuffled)
    assert one == other
    assert decide(CAMPAIGN, one, 1) == decide(CAMPAIGN, other, 1)


@given(SEEDS)
def test_the_sum_counts_every_device_once(seeds):
    total = summed([(device, vote_payload(CAMPAIGN, seed)) for device, seed in enumerate(seeds)])
    expected = np.sum([random_vote(CAMPAIGN, seed) for seed in seeds], axis=0)
    assert total.lanes == tuple(expected)
    assert total.num_devices == len(seeds)


@given(st.data(), st.integers(1, 6))
@settings(max_examples=50)
def test_a_unanimous_fleet_gets_the_widths_and_the_channels_it_voted_for(data, num_devices):
    groups = CAMPAIGN.layout.groups
    scores = data.draw(st.permutations(range(CAMPAIGN.layout.num_channels)))
    widths = [data.draw(st.integers(1, group.num_channels)) for group in groups]
    campaign = replace(CAMPAIGN, levels=(Level(1000, CAMPAIGN.cost_table.cost(CAMPAIGN.layout.dense_widths)),))
    vote = pack(campaign.vote_lanes, vote_vector(campaign, scores, [widths]))
    decision = decide(campaign, summed([(device, vote) for device in range(num_devices)], campaign), 0)

    voted = [
        width_options(g.num_channels)[option_for_width(w, g.num_channels)] for g, w in zip(groups, widths, strict=True)
    ]
    assert decision.widths == tuple(voted)
    grades = grade_layout(campaign.layout, scores)
    for part, order in zip(campaign.layout.slices(), decision.prior, strict=True):
        assert [int(grades[part][channel]) for channel in order] == sorted(grades[part].tolist(), reverse=True)
