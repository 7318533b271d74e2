"""The mixture that explains a tally: found when it is there, not made up when it is not, the same everywhere."""

from hashlib import sha256

import numpy as np
import pytest
from scipy.optimize import nnls

from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.layout import ChannelGroup, Layout
from prunefleet_shared.masks import grade_layout, half_mask
from prunefleet_shared.mixture import PPM, fit_mixture, shares_ppm

VECTOR = ((0, 615314, 0, 0, 384686, 0), 966096, 87840)
LAYOUT = Layout((ChannelGroup("a", 16), ChannelGroup("b", 32), ChannelGroup("c", 64)))
NUM_KINDS, NUM_DEVICES = 20, 12


def kinds(seed=1):
    """How far each kind's use of each channel is from the usual."""
    return np.random.default_rng(seed).normal(size=(NUM_KINDS, LAYOUT.num_channels))


def masks(lifts_KC):
    return np.stack([grade_layout(LAYOUT, lifts_C) for lifts_C in lifts_KC])


def fleet_tally(shares_K, seed=2, noise=0.3, num_devices=NUM_DEVICES):
    """The sum of the lift masks of devices that see the kinds in these shares, give or take their few images."""
    rng = np.random.default_rng(seed)
    lifts = [shares_K @ kinds() + noise * rng.normal(size=LAYOUT.num_channels) for _ in range(num_devices)]
    return masks(lifts).sum(axis=0)


def shares_of(*seen):
    shares = np.zeros(NUM_KINDS)
    shares[list(seen)] = 1 / len(seen)
    return shares


def fitted(tally_C, num_devices=NUM_DEVICES):
    return fit_mixture(LAYOUT, masks(kinds()), [int(grade) for grade in tally_C], num_devices, 7)


@pytest.mark.parametrize("seen", [(0,), (3, 4), (1, 5, 9, 13), tuple(range(8))])
def test_what_the_fleet_sees_is_found(seen):
    found = fitted(fleet_tally(shares_of(*seen), noise=0.1))
    assert found.is_confident
    assert sum(found.weights_ppm[kind] for kind in seen) >= 0.9 * PPM


def test_unequal_shares_come_in_the_right_order():
    shares = np.zeros(NUM_KINDS)
    shares[[2, 7, 11]] = (0.6, 0.3, 0.1)
    weights = fitted(fleet_tally(shares, noise=0.05)).weights_ppm
    assert weights[2] > weights[7] > weights[11] > 0


def test_a_fleet_that_says_nothing_is_not_believed():
    """Votes at random: the fit explains something of anything, and must not be taken for knowledge."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        tally = masks(rng.normal(size=(NUM_DEVICES, LAYOUT.num_channels))).sum(axis=0)
        found = fitted(tally)
        assert not found.is_confident
        assert found.weights_ppm == (PPM // NUM_KINDS,) * NUM_KINDS


def test_an_even_tally_is_explained_by_nothing():
    found = fitted([NUM_DEVICES * 7 // 2] * LAYOUT.num_channels)
    assert not found.is_confident
    assert found.explained_ppm == 0


def test_shares_add_up_and_are_not_negative():
    weights = fitted(fleet_tally(shares_of(1, 2, 3))).weights_ppm
    assert sum(weights) == PPM
    assert min(weights) >= 0


def test_permuting_kinds_permutes_the_shares():
    tally, order = fleet_tally(shares_of(4, 8)), np.random.default_rng(3).permutation(NUM_KINDS)
    plain = fitted(tally)
    moved = fit_mixture(LAYOUT, masks(kinds())[order], tally.tolist(), NUM_DEVICES, 7)
    difference = np.array(moved.weights_ppm) - np.array(plain.weights_ppm)[order]
    assert np.abs(difference).max() < PPM // 1000  # the order of coordinates moves the last bits only


def test_masks_of_one_bit_with_noise_are_read_as_well():
    bits_KC, rng = half_mask(masks(kinds())), np.random.default_rng(4)
    votes = [half_mask(grade_layout(LAYOUT, shares_of(6, 12) @ kinds())) for _ in range(100)]
    tally = np.sum(votes, axis=0) + np.rint(rng.normal(0, 20, LAYOUT.num_channels)).astype(np.int64)
    assert tally.min() < 0, "noise must make some counts impossible for this to be a test"
    found = fit_mixture(LAYOUT, bits_KC, tally.tolist(), 100, 1)
    assert found.is_confident
    assert found.weights_ppm[6] + found.weights_ppm[12] > 0.7 * PPM


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_that_of_another_implementation(seed):
    """Lawson and Hanson's algorithm in floating point, with the ridge as rows of its own."""
    shares = np.random.default_rng(seed).dirichlet([0.3] * NUM_KINDS)
    tally, centred_CK = fleet_tally(shares, seed=seed), (2 * masks(kinds()) - 7).T.astype(float)
    ridge = np.sqrt(0.03 * np.square(centred_CK).sum(axis=0).mean())
    departure_C = 2 * tally / NUM_DEVICES - 7
    stacked = np.vstack([centred_CK, ridge * np.eye(NUM_KINDS)])
    weights_K, _ = nnls(stacked, np.concatenate([departure_C, np.zeros(NUM_KINDS)]))
    weights_K[weights_K <= weights_K.mean()] = 0
    expected = PPM * weights_K / weights_K.sum()
    assert np.abs(np.array(fitted(tally).weights_ppm) - expected).max() < PPM // 200


def test_the_same_integers_give_the_same_answer_for_ever():
    """A vector: whatever the machine or the version of numpy, this tally gives these shares."""
    profiles = [[sha256(b"%d %d" % (kind, channel)).digest()[0] % 8 for channel in range(112)] for kind in range(6)]
    tally = [5 * profiles[1][channel] + 3 * profiles[4][channel] + channel % 5 for channel in range(112)]
    found = fit_mixture(LAYOUT, profiles, tally, 8, 7)
    assert (found.weights_ppm, found.explained_ppm, found.by_chance_ppm) == VECTOR


@pytest.mark.parametrize(
    ("profiles", "num_devices"), [([[1, 2]], 1), ([[0] * 112], 0), ([0] * 112, 1)], ids=["narrow", "nobody", "flat"]
)
def test_what_does_not_fit_is_our_bug(profiles, num_devices):
    with pytest.raises(LocalProtocolError):
        fit_mixture(LAYOUT, profiles, [0] * 112, num_devices, 7)


@pytest.mark.parametrize("weights", [[0, 0], [1, -1, 1], []])
def test_shares_of_nothing_are_our_bug(weights):
    with pytest.raises(LocalProtocolError):
        shares_ppm(weights)


def test_shares_are_rounded_to_the_largest_remainders():
    assert shares_ppm([1, 1, 1]) == (333_334, 333_333, 333_333)
    assert shares_ppm([0, 5]) == (0, PPM)
