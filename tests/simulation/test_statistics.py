"""Statistics against slow, obvious computations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prunefleet_coordinator.report_parts import channel_agreement, width_agreement
from prunefleet_shared.campaign import Campaign, CohortPolicy, Level, PrivacyTerms
from prunefleet_shared.lanes import grade_lane, width_lane
from prunefleet_shared.layout import NUM_WIDTH_OPTIONS, ChannelGroup, CostTable, CostTerm, Layout
from prunefleet_shared.masks import grade_channels
from prunefleet_shared.messages import Total
from prunefleet_simulation.statistics import bootstrap_mean, paired_difference, worst_decile


def _campaign(*sizes: int) -> Campaign:
    layout = Layout(tuple(ChannelGroup(f"g{i}", size) for i, size in enumerate(sizes)))
    table = CostTable("macs", (CostTerm(1, (0,)),))
    policy = CohortPolicy(size=9, quorum=1, deadline_ms=1000)
    return Campaign(
        "0" * 32,
        "c",
        PrivacyTerms("plain", 1),
        "m",
        "0" * 64,
        layout,
        table,
        (Level(500, 9),),
        ((0,),),
        policy,
        "00",
        "00",
    )


def _total(campaign: Campaign, votes: list[dict[str, np.ndarray]]) -> Total:
    lanes = sum(np.concatenate([vote[block.name] for block in campaign.vote_lanes.blocks]) for vote in votes)
    return Total(tuple(int(n) for n in lanes), len(votes))


def _vote(campaign: Campaign, scores: list[list[float]], options: list[int]) -> dict[str, np.ndarray]:
    vote = {}
    for group, score, option in zip(campaign.layout.groups, scores, options, strict=True):
        vote[grade_lane(group.name)] = grade_channels(score)
        vote[width_lane(0, group.name)] = np.eye(NUM_WIDTH_OPTIONS, dtype=np.int64)[option]
    return vote


def test_interval_agrees_with_one_resample_at_a_time() -> None:
    rng = np.random.default_rng(5)
    seeds = [rng.normal(0.1, 0.05, size=9), rng.normal(0.2, 0.05, size=14)]
    means = []
    for _ in range(4000):
        means.append(np.mean([np.mean([seed[rng.integers(len(seed))] for _ in seed]) for seed in seeds]))
    interval = bootstrap_mean(seeds)
    assert interval.mean == pytest.approx(np.mean([sum(seed) / len(seed) for seed in seeds]))
    assert interval.ci95_low == pytest.approx(sorted(means)[100], abs=0.003)
    assert interval.ci95_high == pytest.approx(sorted(means)[3900], abs=0.003)


def test_interval_covers_every_outcome_of_two_devices() -> None:
    # Two devices at 0 and 1 resample to 0, ½, ½, 1 with equal chance: the 2.5 % and 97.5 % quantiles are 0 and 1.
    assert set(map(np.mean, itertools.product((0, 1), repeat=2))) == {0, 0.5, 1}
    interval = bootstrap_mean([np.array([0.0, 1.0])])
    assert (interval.mean, interval.ci95_low, interval.ci95_high) == (0.5, 0.0, 1.0)


def test_same_numbers_give_the_same_interval() -> None:
    values = [np.linspace(0, 1, 7)]
    assert bootstrap_mean(values) == bootstrap_mean(values)


def test_seeds_weigh_alike_however_many_devices_they_have() -> None:
    assert bootstrap_mean([np.zeros(1), np.ones(99)]).mean == 0.5


@pytest.mark.parametrize("values", [[], [np.array([])]])
def test_nothing_has_no_mean(values: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean(values)


def test_share_worse_counts_losses_beyond_half_a_point() -> None:
    theirs = np.full(4, 0.7)
    ours = theirs - [0.0051, 0.005, 0.004, -0.2]  # only the first loses more than half a point
    assert paired_difference([ours], [theirs]).share_worse == 0.25


def test_pairing_is_by_device() -> None:
    difference = paired_difference([np.array([0.5, 0.9])], [np.array([0.4, 0.8])])
    assert difference.interval.ci95_low == pytest.approx(0.1)
    assert difference.interval.ci95_high == pytest.approx(0.1)
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([np.zeros(2), np.zeros(2)], [np.zeros(2)])


def test_worst_decile_takes_at_least_one_device() -> None:
    assert worst_decile([np.array([0.9, 0.2, 0.5])]) == 0.2
    twenty = np.arange(20) / 20
    assert worst_decile([twenty, twenty + 0.05]) == pytest.approx((0.025 + 0.075) / 2)


def test_width_agreement_is_the_largest_share() -> None:
    campaign = _campaign(16, 16)
    scores = [list(range(16)), list(range(16))]
    options = [[0, 5], [0, 5], [0, 6], [7, 7]]  # 3 of 4 alike in the first group, 2 of 4 in the second
    total = _total(campaign, [_vote(campaign, scores, option) for option in options])
    assert width_agreement(campaign, total, 0) == pytest.approx((3 / 4 + 2 / 4) / 2)


def test_unanimous_channels_have_concordance_one() -> None:
    campaign = _campaign(16, 1)
    total = _total(campaign, [_vote(campaign, [list(range(16)), [1.0]], [0, 0]) for _ in range(5)])
    assert channel_agreement(campaign, total) == pytest.approx(1.0)


def test_opposite_channels_have_concordance_zero() -> None:
    campaign = _campaign(8)
    up, down = list(range(8)), list(range(8, 0, -1))
    total = _total(campaign, [_vote(campaign, [up], [0]), _vote(campaign, [down], [0])])
    assert channel_agreement(campaign, total) == pytest.approx(0.0)


def test_concordance_agrees_with_mean_rank_correlation() -> None:
    # Kendall & Babington Smith: W = (1 + (n - 1) r) / n, with r the mean correlation of all pairs of judges.
    campaign = _campaign(24)
    rng = np.random.default_rng(3)
    votes = [_vote(campaign, [list(np.arange(24) + rng.normal(scale=8, size=24))], [0]) for _ in range(6)]
    grades = [vote[grade_lane("g0")] for vote in votes]
    r = np.mean([np.corrcoef(a, b)[0, 1] for a, b in itertools.combinations(grades, 2)])
    assert channel_agreement(campaign, _total(campaign, votes)) == pytest.approx((1 + 5 * r) / 6)


def test_single_channels_rank_nothing() -> None:
    campaign = _campaign(1)
    assert channel_agreement(campaign, _total(campaign, [_vote(campaign, [[1.0]], [0])])) == 1.0
