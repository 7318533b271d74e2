"""A lying coordinator with colluding devices: below the bound it learns the honest devices' sum, above it more.

The controls above the bound matter as much: they show that the attacks here are real ones.
"""

from itertools import combinations

import numpy as np
import pytest
from hostile import TwoFacedAboutSurvivors, both_shares, sums_of_two_rosters, unmask_one
from scipy.stats import chi2
from sum_world import Session, drawn_vectors

from prunefleet_shared.errors import RejectReason
from prunefleet_shared.secure_sum import agreement
from prunefleet_shared.secure_sum.context import most_colluders, threshold
from prunefleet_shared.secure_sum.ring import Accumulator
from prunefleet_shared.secure_sum.shamir import Reconstruction

BITS = [7, 7, 16, 20]
ALPHA = 1e-4
"""How improbable a statistic must be before a test fails; seeds are fixed, so it fails always or never."""


def test_the_bound():
    assert {n: most_colluders(n) for n in (3, 5, 8, 9, 100)} == {3: 2, 5: 2, 8: 3, 9: 4, 100: 33}


# --- both shares of one device ---------------------------------------------------------------------------------------


def two_faced(num_devices, colluders, num_told_alive, victim):
    session = Session(drawn_vectors(num_devices, BITS), BITS).run(until=2)
    session.send(3)
    honest = sorted(set(range(num_devices)) - colluders - {victim})
    told_alive = {victim, *honest[: num_told_alive - 1]}
    return session, TwoFacedAboutSurvivors(session, colluders, told_alive, victim)


@pytest.mark.parametrize("num_devices", [5, 9])
def test_both_shares_of_one_device_cannot_be_had_with_few_colluders(num_devices):
    needed, bound = threshold(num_devices), most_colluders(num_devices)
    for num_colluders in {0, bound}:
        for num_told_alive in range(1, num_devices - num_colluders + 1):
            _, attack = two_faced(num_devices, set(range(num_colluders)), num_told_alive, num_devices - 1)
            assert min(len(shares) for shares in attack.shares()) < needed, (num_colluders, num_told_alive)


@pytest.mark.parametrize("num_devices", [5, 9])
def test_with_one_colluder_more_the_victims_own_vector_is_read(num_devices):
    victim, colluders = num_devices - 1, set(range(most_colluders(num_devices) + 1))
    session, attack = two_faced(num_devices, colluders, (num_devices - len(colluders)) // 2, victim)
    vector = attack.unmasked_vector(session.up[3][victim].payload)
    assert vector is not None
    assert vector.tolist() == session.vectors[victim].tolist()


# --- two rosters -----------------------------------------------------------------------------------------------------


def divided(num_devices, num_colluders, num_first):
    honest = sorted(set(range(num_colluders, num_devices)))
    groups = {"first": set(honest[:num_first]), "second": set(honest[num_first:])}
    colluders = set(range(num_colluders))
    vectors = drawn_vectors(num_devices, BITS)
    return vectors, groups, colluders, sums_of_two_rosters(vectors, BITS, groups, colluders)


@pytest.mark.parametrize("num_devices", [5, 9])
def test_two_rosters_are_refused_by_one_group_at_least(num_devices):
    for num_colluders in {0, most_colluders(num_devices)}:
        num_honest = num_devices - num_colluders
        for num_first in range(1, num_honest):
            *_, found = divided(num_devices, num_colluders, num_first)
            refused = [reason for reason in found.values() if reason is RejectReason.NO_AGREEMENT]
            assert refused, (num_colluders, num_first)


@pytest.mark.parametrize("num_devices", [5, 9])
def test_with_one_colluder_more_each_group_is_summed_by_itself(num_devices):
    num_colluders = most_colluders(num_devices) + 1
    vectors, groups, colluders, found = divided(num_devices, num_colluders, (num_devices - num_colluders) // 2)
    for name, group in groups.items():
        modulus = 2 ** np.array(BITS)
        assert found[name].tolist() == (vectors[sorted(group | colluders)].sum(axis=0) % modulus).tolist()


# --- what a coordinator that follows the protocol sees ---------------------------------------------------------------


def known_masks_off(session, number, colluders):
    """A masked vector less all that coordinator and colluders know: its self mask, and its masks with colluders."""
    order = session.order()
    at, any_device = order.index(number), next(iter(session.devices.values()))
    seen = Accumulator(session.ring)
    seen.add(session.ring.unpack(session.up[3][number].payload))
    seen.subtract_mask(session.coordinator_knows[number])
    for colluder in colluders:
        peer = order.index(colluder)
        secret = agreement.agree(session.colluder_keys[colluder], any_device._entries[at].mask_key)
        seed = agreement.pair_seed(secret, any_device._salt, at, peer)
        (seen.subtract_mask if at < peer else seen.add_mask)(seed)
    return seen.lanes


def transcript(vectors, bits, colluders, seed):
    """The honest devices' residues, one row each."""
    session = Session(vectors, bits, seed=seed).run(until=3)
    held = {i: device._secrets for i, device in session.devices.items()}
    session.colluder_keys = {i: held[i].mask_key for i in colluders}
    session.coordinator_knows = {i: secrets.self_mask for i, secrets in held.items()}  # everyone survives
    honest = [i for i in session.devices if i not in colluders]
    return np.array([known_masks_off(session, i, colluders) for i in honest])


def chi_square_p(counts, expected):
    """How probable counts as far from ``expected`` are."""
    statistic = ((counts - expected) ** 2 / expected).sum()
    return chi2.sf(statistic, counts.size - 1)


@pytest.mark.parametrize("num_devices", [5, 9])
def test_of_honest_vectors_only_the_sum_is_left(num_devices):
    """For the same honest sum, the colluders' view is the same: uniform, but for the sum of all rows."""
    bits, num_colluders = [3] * 3000, most_colluders(num_devices)
    colluders = set(range(num_colluders))
    vectors = np.zeros((num_devices, len(bits)), dtype=np.int64)
    moved = vectors.copy()
    moved[num_colluders], moved[num_colluders + 1] = 3, -3  # the same sum, in other hands
    for which in (vectors, moved):
        rows = np.hstack([transcript(which, bits, colluders, seed) for seed in range(3)])
        honest_sum = which[num_colluders:].sum(axis=0) % 8
        assert (rows.sum(axis=0) % 8 == np.tile(honest_sum, 3)).all()
        for row in rows:
            assert chi_square_p(np.bincount(row, minlength=8), rows.shape[1] / 8) > ALPHA
        for one, other in combinations(range(len(rows)), 2):
            pairs = np.bincount(rows[one] * 8 + rows[other], minlength=64)
            assert chi_square_p(pairs, rows.shape[1] / 64) > ALPHA


def test_the_statistic_notices_a_mask_that_is_not_there():
    """Control: with all but one honest device's keys, its vector is bare."""
    bits = [3] * 100
    vectors = drawn_vectors(5, bits)
    rows = transcript(vectors, bits, {0, 1, 2, 3}, seed=1)
    assert rows[0].tolist() == vectors[4].tolist()
    assert chi_square_p(np.bincount(np.zeros(800, dtype=int), minlength=8), 100) < ALPHA


def test_a_threshold_of_devices_reads_everything_and_one_fewer_nothing():
    """What Shamir's threshold means: secrets are the devices' together, never the coordinator's."""
    session = Session(drawn_vectors(5, BITS), BITS).run(until=2)
    session.send(3)
    order, needed = session.order(), threshold(5)
    victim = order.index(4)
    for num_holders in (needed - 1, needed):
        held = {order.index(i) + 1: both_shares(session.devices[i], victim) for i in range(num_holders)}
        halves = [{point: both[half : half + 32] for point, both in held.items()} for half in (0, 32)]
        self_mask, mask_secret = (Reconstruction(num_holders).secret(half) for half in halves)
        vector = unmask_one(session, victim, session.up[3][4].payload, self_mask, mask_secret)
        assert (vector.tolist() == session.vectors[4].tolist()) is (num_holders == needed)
