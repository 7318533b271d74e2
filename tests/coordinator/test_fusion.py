"""Noisy sums: no worse than public knowledge, as good as the votes once there are enough; honest noise passes."""

import itertools
import math

import numpy as np
import pytest

from prunefleet_coordinator.fusion import fused_order, fused_width_votes, why_noisy_sum_impossible
from prunefleet_shared.lanes import LaneBlock, LaneRule, LaneTable
from prunefleet_shared.layout import ChannelGroup, Layout
from prunefleet_shared.masks import half_of
from prunefleet_shared.noise import lane_variances_milli

EPSILON_1 = 4.6
"""Noise multiplier of a single sum at epsilon 1, delta 1e-6."""


# --- which channels --------------------------------------------------------------------------------------------------


class Fleet:
    """Channels with true scores; public scores correlated with them; devices that see the truth through noise.

    Every device keeps half of each group; the votes are added up without noise.
    """

    def __init__(self, seed, num_devices, agreement, sizes=(32,) * 20):
        self.rng = np.random.default_rng(seed)
        self.num_devices = num_devices
        self.layout = Layout(tuple(ChannelGroup(f"g{i}", size) for i, size in enumerate(sizes)))
        self.truth = [self.rng.normal(size=size) for size in sizes]
        hidden = math.sqrt(1 - agreement**2)
        self.public = [_order(agreement * group + hidden * self.rng.normal(size=len(group))) for group in self.truth]
        self.votes = [self._votes(group) for group in self.truth]

    def _votes(self, group):
        seen = group + self.rng.normal(size=(self.num_devices, len(group)))
        ranks = np.argsort(np.argsort(-seen, axis=1), axis=1)
        return (ranks < half_of(len(group))).sum(axis=0)

    def noisy_tally(self, std):
        votes = np.concatenate(self.votes)
        return [int(lane) for lane in votes + np.rint(self.rng.normal(size=len(votes)) * std).astype(int)]

    def fused(self, std):
        return fused_order(self.layout, self.noisy_tally(std), self.num_devices, int(std**2 * 1000), self.public)

    def overlap(self, orders):
        """Chance-corrected share of the truly best half that ``orders`` put first: 1 perfect, 0 by chance."""
        shares = [
            len(set(order[: len(order) // 2]) & set(_order(group)[: len(order) // 2])) / (len(order) // 2)
            for order, group in zip(orders, self.truth, strict=True)
        ]
        return 2 * float(np.mean(shares)) - 1


def _order(scores):
    return tuple(int(channel) for channel in np.argsort(-np.asarray(scores), kind="stable"))


def _mean_overlaps(num_devices, agreement, std_of, seeds=range(6)):
    """Mean overlap of (public, fused, votes without noise)."""
    rows = []
    for seed in seeds:
        fleet = Fleet(seed, num_devices, agreement)
        exact = [_order(votes) for votes in fleet.votes]
        std = std_of(fleet.layout.num_channels)
        rows.append([fleet.overlap(fleet.public), fleet.overlap(fleet.fused(std)), fleet.overlap(exact)])
    return np.mean(rows, axis=0)


def epsilon_1_std(num_channels):
    return EPSILON_1 * math.sqrt(num_channels) / 2


@pytest.mark.parametrize("agreement", [0.9, 0.6, 0.0])
@pytest.mark.parametrize("num_devices", [8, 32, 100])
def test_at_epsilon_1_a_small_fleet_is_not_worse_off_than_with_public_knowledge_alone(num_devices, agreement):
    public, fused, _ = _mean_overlaps(num_devices, agreement, epsilon_1_std)
    assert fused > public - 0.015


@pytest.mark.parametrize("agreement", [0.9, 0.6, 0.0])
def test_at_epsilon_1_a_large_fleet_wins_over_public_knowledge_and_nears_its_votes(agreement):
    public, fused, votes = _mean_overlaps(2_000, agreement, epsilon_1_std, seeds=range(2))
    assert fused > public + 0.15
    assert fused > votes - 0.06


@pytest.mark.parametrize("agreement", [0.9, 0.0])
def test_without_noise_the_fleets_votes_decide(agreement):
    _, fused, votes = _mean_overlaps(500, agreement, lambda _: 0.0, seeds=range(2))
    assert fused > votes - 0.01


def test_without_noise_in_a_unanimous_small_network_the_votes_decide_entirely():
    layout = Layout((ChannelGroup("a", 6),))
    tally = [1000, 0, 1000, 0, 1000, 0]
    assert set(fused_order(layout, tally, 1000, 0, [(0, 1, 2, 3, 5, 4)])[0][:3]) == {0, 2, 4}


def test_a_tally_of_nothing_but_noise_leaves_the_public_order():
    fleet = Fleet(1, 10, 0.5)
    noise = [int(lane) for lane in np.random.default_rng(5).normal(size=fleet.layout.num_channels) * 900]
    assert fused_order(fleet.layout, noise, 10, 1_000_000_000, fleet.public) == tuple(fleet.public)


def test_equal_channels_stay_in_the_public_order_and_groups_of_one_are_no_trouble():
    layout = Layout((ChannelGroup("a", 1), ChannelGroup("b", 3)))
    assert fused_order(layout, [9, 4, 4, 4], 9, 0, [(0,), (2, 0, 1)]) == ((0,), (2, 0, 1))
    assert fused_order(Layout((ChannelGroup("a", 1),)), [3], 3, 500, [(0,)]) == ((0,),)


def test_the_golden_order():
    """Any machine, any release: these votes give this order. A change here breaks replays of campaigns with noise."""
    layout = Layout((ChannelGroup("a", 8), ChannelGroup("b", 6)))
    tally = [41, -3, 17, 30, 12, 25, 33, 9, 2, 28, 15, 31, -7, 22]
    public = [(1, 0, 3, 2, 5, 4, 7, 6), (5, 4, 3, 2, 1, 0)]
    assert fused_order(layout, tally, 40, 36_500, public) == ((0, 3, 6, 5, 2, 4, 7, 1), (3, 1, 5, 2, 0, 4))


def test_a_channel_with_more_votes_never_falls_behind():
    fleet = Fleet(3, 60, 0.7, sizes=(12, 12, 12, 12))
    tally = fleet.noisy_tally(5.0)
    before = fused_order(fleet.layout, tally, 60, 25_000, fleet.public)
    tally[7] += 1
    after = fused_order(fleet.layout, tally, 60, 25_000, fleet.public)
    assert after[0].index(7) <= before[0].index(7)


# --- widths ----------------------------------------------------------------------------------------------------------


def test_votes_without_noise_stay_as_they_are():
    votes = [[0, 3, 0, 0, 5, 0, 0, 2], [10, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 2, 2]]
    assert fused_width_votes(votes, 10, 0) == [[1000 * count for count in row] for row in votes]


def test_noisy_votes_become_votes_never_negative_and_as_many_as_devices():
    rng = np.random.default_rng(2)
    for std in (1, 30, 1000):
        noisy = (
            (rng.multinomial(50, [1 / 8] * 8, size=12) + np.rint(rng.normal(size=(12, 8)) * std)).astype(int).tolist()
        )
        fused = fused_width_votes(noisy, 50, std * std * 1000)
        assert all(min(row) >= 0 and sum(row) == 50_000 for row in fused)


def test_groups_that_differ_by_no_more_than_noise_all_get_the_fleets_mean():
    rng = np.random.default_rng(4)
    noisy = [[int(10 + x) for x in np.rint(rng.normal(size=8) * 40)] for _ in range(30)]
    fused = np.asarray(fused_width_votes(noisy, 80, 2_500_000))
    assert (fused == fused[0]).all()


def test_drawing_towards_the_mean_brings_noisy_votes_nearer_to_the_true_ones():
    rng = np.random.default_rng(6)
    worse = 0
    for _ in range(20):
        truth = rng.multinomial(60, rng.dirichlet([2.0] * 8), size=16)
        noisy = truth + np.rint(rng.normal(size=truth.shape) * 15).astype(int)
        fused = np.asarray(fused_width_votes(noisy.tolist(), 60, 225_000)) / 1000
        clamped = np.maximum(noisy, 0)
        worse += abs(fused - truth).sum() > abs(clamped * 60 / clamped.sum(axis=1, keepdims=True) - truth).sum()
    assert worse == 0


@pytest.mark.parametrize(
    "row", [[5, -2, 9, 0, 1, 1, 3, -4], [-5, -5, -5, -9, -5, -5, -5, -5], [100, 0, 0, 0, 0, 0, 0, 0]]
)
def test_a_single_group_is_projected_to_the_nearest_votes(row):
    fused = np.asarray(fused_width_votes([row], 4, 0)[0]) / 1000
    grid = (counts for counts in itertools.product(range(5), repeat=8) if sum(counts) == 4)
    best = min(math.dist(counts, row) for counts in grid)
    assert math.dist(fused, row) <= best + 0.01  # thousandths of a vote come nearer than whole ones


# --- sums that cannot be ---------------------------------------------------------------------------------------------

TABLE = LaneTable(
    (
        LaneBlock("grade/a", 16, 1, LaneRule.HALF),
        LaneBlock("width/0/a", 8, 1, LaneRule.ONE_HOT),
        LaneBlock("tried", 1, 1, LaneRule.FLAG),
        LaneBlock("gain", 16, 1, LaneRule.AT_MOST_ONE),
    )
)


def honest_sum(rng, num_devices):
    masks = np.sum([rng.permutation(16) < 8 for _ in range(num_devices)], axis=0)
    return np.concatenate(
        [
            masks,
            rng.multinomial(num_devices, [1 / 8] * 8),
            [num_devices],
            rng.multinomial(num_devices - 1, [1 / 16] * 16),
        ]
    )


@pytest.mark.parametrize("multiplier_milli", [300, 1_000, 4_000])
def test_honest_noise_passes(multiplier_milli):
    rng = np.random.default_rng(multiplier_milli)
    variances = lane_variances_milli(TABLE, multiplier_milli, 5) * 20
    for _ in range(50):
        mean = variances / 2000
        total = honest_sum(rng, 20) + rng.poisson(mean) - rng.poisson(mean)
        assert why_noisy_sum_impossible(TABLE, total.tolist(), 20, variances.tolist()) is None


@pytest.mark.parametrize(
    ("lanes", "change", "why"),
    [
        ([3], 500, "grade/a outside"),
        ([3], -500, "grade/a outside"),
        (range(16), 12, "grade/a does not add up"),
        ([16, 17, 18], -22, "width/0/a does not add up"),
        (range(25, 41), 12, "gain does not add up"),
        ([24], 100, "tried outside"),
    ],
)
def test_what_noise_cannot_explain_is_named(lanes, change, why):
    total = honest_sum(np.random.default_rng(1), 20)
    variances = [6_000] * TABLE.num_lanes
    total[list(lanes)] += change
    assert why in (why_noisy_sum_impossible(TABLE, total.tolist(), 20, variances) or "")


def test_a_sum_of_another_length_is_named():
    assert why_noisy_sum_impossible(TABLE, [0], 20, [0]) == "1 lanes instead of 41"
