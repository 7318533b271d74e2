"""The fleets and attackers of benchmarks/fleet_attacked.py and fleet_scale.py: what they hand in, and who has what."""

import sys
from pathlib import Path

import numpy as np
import pytest

from prunefleet_coordinator.combination import CombinationRule, combine
from prunefleet_shared.campaign import SUM, SUM_DP, CohortPolicy, PrivacyTerms
from prunefleet_shared.lanes import LaneRule, grade_lane, lift_lane, why_out_of_range, why_sum_impossible, width_lane
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import Total
from prunefleet_shared.noise import lane_variances_milli
from prunefleet_shared.noise_terms import NoiseWish, make_noise_terms
from prunefleet_shared.private_sum import noise_shares
from prunefleet_shared.steering_terms import SteeringTerms
from prunefleet_shared.testing import tiny_campaign

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
fleet_attackers = pytest.importorskip("fleet_attackers")
fleet_bench = pytest.importorskip("fleet_bench")
fleet_scale = pytest.importorskip("fleet_scale")
fleet_sources = pytest.importorskip("fleet_sources")

CAMPAIGN = tiny_campaign(privacy=PrivacyTerms(SUM, 4), steering=SteeringTerms((0,) * 24, (1,) * 24))
TABLE = CAMPAIGN.vote_lanes


def honest_vectors(num_devices, seed=1):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num_devices):
        masks = [grade_layout(CAMPAIGN.layout, rng.normal(size=24)) for _ in range(2)]
        widths = np.eye(8, dtype=np.int64)[rng.integers(8, size=4)].ravel()
        rows.append(np.concatenate([*masks, widths]))
    return np.stack(rows)


def profiles(seed=2):
    rng = np.random.default_rng(seed)
    return np.stack([grade_layout(CAMPAIGN.layout, rng.normal(size=24)) for _ in range(3)])


VECTORS = honest_vectors(20)
WORST = fleet_attackers.worst_vote(CAMPAIGN, VECTORS.sum(axis=0), profiles())


def test_honest_vectors_of_this_file_obey_the_lane_table():
    assert [why_out_of_range(TABLE, vector) for vector in VECTORS] == [None] * 20


@pytest.mark.parametrize("seed", range(20))
def test_colluders_obey_the_lane_table_whatever_the_fleet_votes(seed):
    worst = fleet_attackers.worst_vote(CAMPAIGN, honest_vectors(5, seed).sum(axis=0), profiles(seed))
    assert why_out_of_range(TABLE, worst) is None


def test_colluders_turn_the_fleets_order_upside_down():
    honest = VECTORS.sum(axis=0)
    ours, theirs = TABLE.split(WORST), TABLE.split(honest)
    for group in CAMPAIGN.layout.groups:
        mine, fleet = ours[grade_lane(group.name)], theirs[grade_lane(group.name)]
        assert mine[fleet.argmax()] == 0
        assert mine[fleet.argmin()] == 7


def test_colluders_ask_for_the_opposite_width():
    vectors = VECTORS.copy()
    block = slice(48, 56)  # the first width block: after two masks of 24 channels
    assert TABLE.blocks[4].name == width_lane(0, "conv1")
    assert TABLE.blocks[4].rule is LaneRule.ONE_HOT
    vectors[:, block] = np.eye(8, dtype=np.int64)[1]
    worst = fleet_attackers.worst_vote(CAMPAIGN, vectors.sum(axis=0), profiles())
    assert worst[block].tolist() == np.eye(8, dtype=np.int64)[6].tolist()


def test_colluders_push_the_kind_that_the_fleet_is_least_like():
    masks = profiles()
    vectors = VECTORS.copy()
    vectors[:, 24:48] = 7 - masks[1]
    worst = fleet_attackers.worst_vote(CAMPAIGN, vectors.sum(axis=0), masks)
    assert fleet_attackers.wrong_kind(CAMPAIGN, vectors.sum(axis=0), masks) == 1
    parts = TABLE.split(worst)
    assert np.concatenate([parts[lift_lane("conv1")], parts[lift_lane("conv2")]]).tolist() == masks[1].tolist()


def test_what_a_breaker_makes_of_its_cohorts_sum_passes_the_check_and_is_no_vote_of_the_fleets():
    honest = fleet_bench.total_of(VECTORS)
    poisoned = fleet_attackers.broken(honest, WORST)
    assert why_sum_impossible(TABLE, honest.lanes, 20) is None
    assert why_sum_impossible(TABLE, poisoned.lanes, 20) is None
    assert poisoned != honest


def test_one_broken_cohort_of_ten_moves_the_sum_but_hardly_the_median():
    clean = [Total(tuple(VECTORS[0].tolist()), 1)] * 9
    sums = [*clean, fleet_attackers.broken(clean[0], WORST)]
    honest = combine(TABLE, [*clean, clean[0]], CombinationRule.SUM)
    assert combine(TABLE, sums, CombinationRule.MEDIAN) == honest
    assert combine(TABLE, sums, CombinationRule.SUM) != honest


def test_attackers_grow_with_their_share_and_spare_the_measured():
    few, many = (fleet_attackers.attackers(100, 10, share, np.random.default_rng([1, 2])) for share in (0.05, 0.2))
    assert (len(few), len(many)) == (5, 20)
    assert set(few) < set(many)
    assert min(many) >= 10


def test_only_attackers_vectors_are_replaced():
    changed = fleet_attackers.colluded(VECTORS, [3, 7], WORST)
    assert (changed != VECTORS).any(axis=1).nonzero()[0].tolist() == [3, 7]
    assert (changed[3] == WORST).all()


# --- fleets ----------------------------------------------------------------------------------------------------------


def test_a_device_of_digits_is_the_same_each_time_and_another_for_another_seed():
    first, again = (fleet_sources.DigitsSource(1).device(4) for _ in range(2))
    other = fleet_sources.DigitsSource(2).device(4)
    assert first.own.images.equal(again.own.images)
    assert first.report.images.equal(again.report.images)
    assert not first.own.images.equal(other.own.images)


def test_a_device_of_digits_has_eight_images_of_each_of_five_classes_and_is_reported_on_the_same_classes():
    device = fleet_sources.DigitsSource(1).device(0)
    labels, counts = device.own.labels.unique(return_counts=True)
    assert counts.tolist() == [8] * 5
    assert device.report.labels.unique().tolist() == labels.tolist()


def test_no_image_is_public_and_private_or_learned_from_and_reported_on():
    parts = fleet_sources.DigitsSource(1).parts
    everything = np.concatenate([parts.public, parts.report, parts.private])
    assert len(np.unique(everything)) == len(everything) == 1797
    assert (len(parts.public), len(parts.report)) == (599, 399)


# --- scale -----------------------------------------------------------------------------------------------------------


def noisy_campaign():
    wish = NoiseWish(4000, 6)
    terms = make_noise_terms(CAMPAIGN.layout, 2, wish, steering=CAMPAIGN.steering)
    return tiny_campaign(
        privacy=PrivacyTerms(SUM_DP, 16, terms), cohort=CohortPolicy(20, 16, 1000), steering=CAMPAIGN.steering
    )


def test_noise_is_the_same_for_a_seed_and_as_large_as_the_product_says():
    campaign = noisy_campaign()
    table, terms = campaign.vote_lanes, campaign.privacy.noise
    drawn = np.array([fleet_scale.noise_of(campaign, 20, seed) for seed in range(40)])
    assert (drawn[3] == fleet_scale.noise_of(campaign, 20, 3)).all()
    expected = 20 * lane_variances_milli(table, terms.multiplier_milli, noise_shares(campaign)) / 1000
    assert (drawn**2 / expected).mean() == pytest.approx(1, abs=0.1)


def test_exact_sums_get_no_noise():
    assert not fleet_scale.noise_of(CAMPAIGN, 20, 1).any()


def test_agreement_counts_channels_kept_by_both():
    ours = [np.array([True, True, False, False]), np.array([True, False])]
    theirs = [np.array([True, False, True, False]), np.array([False, True])]
    assert fleet_bench.agreement_permille(ours, ours) == 1000
    assert fleet_bench.agreement_permille(ours, theirs) == 333
