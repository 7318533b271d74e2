"""Parts of a mixture: kinds that are alike stay together, and sums alone say what is merged and split."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import cut_tree, linkage

from prunefleet_shared.clusters import Kinds, clusters_of, regrouped
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.layout import ChannelGroup, Layout
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.mixture import PPM, shares_ppm

LAYOUT = Layout((ChannelGroup("a", 16), ChannelGroup("b", 32)))
VECTOR = ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))


def families(num_families=3, size=4, seed=1, apart=3.0):
    """Profiles of kinds that come in families: those of one are nearly alike."""
    rng = np.random.default_rng(seed)
    middles = apart * rng.normal(size=(num_families, LAYOUT.num_channels))
    lifts = [middles[family] + rng.normal(size=LAYOUT.num_channels) for family in np.repeat(range(num_families), size)]
    return np.stack([grade_layout(LAYOUT, lifts_C) for lifts_C in lifts])


def even(num_kinds):
    return shares_ppm([1] * num_kinds)


def made(weights_ppm=None, profiles_KC=None):
    profiles_KC = families() if profiles_KC is None else profiles_KC
    return Kinds(profiles_KC, even(len(profiles_KC)) if weights_ppm is None else weights_ppm, 7)


def test_kinds_that_are_alike_stay_together():
    assert sorted(clusters_of(made(), 3)) == list(VECTOR)


def test_kinds_without_a_share_are_in_no_cluster():
    weights = [0 if kind % 2 else PPM // 6 for kind in range(12)]
    assert sorted(clusters_of(made(weights), 3)) == [(0, 2), (4, 6), (8, 10)]


def test_the_heaviest_comes_first():
    weights = shares_ppm([1] * 4 + [3] * 4 + [2] * 4)
    assert clusters_of(made(weights), 3) == ((4, 5, 6, 7), (8, 9, 10, 11), (0, 1, 2, 3))


def test_no_more_clusters_than_kinds():
    weights = [500_000, 0, 500_000] + [0] * 9
    assert clusters_of(made(weights), 8) == ((0,), (2,))


def test_one_cluster_has_all():
    assert clusters_of(made(), 1) == (tuple(range(12)),)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_clusters", [2, 3, 5])
def test_a_second_implementation_agrees_where_all_weigh_the_same(seed, num_clusters):
    profiles = np.random.default_rng(seed).integers(0, 8, size=(10, LAYOUT.num_channels))
    tree = cut_tree(linkage(profiles.astype(float), "ward"), num_clusters).ravel()
    expected = {tuple(np.flatnonzero(tree == label).tolist()) for label in range(num_clusters)}
    assert set(clusters_of(made([1000] * 10, profiles), num_clusters)) == expected


@given(
    weights=st.lists(st.integers(1, PPM), min_size=4, max_size=4),
    profiles=st.lists(st.lists(st.integers(0, 7), min_size=5, max_size=5), min_size=4, max_size=4),
)
def test_a_distance_is_what_joining_costs(weights, profiles):
    """Ward's: the squares about the middle of both together, less those about the middle of each."""

    def squares(kinds):
        total = sum(weights[kind] for kind in kinds)
        middle = [Fraction(sum(weights[k] * 2 * profiles[k][c] for k in kinds), total) for c in range(5)]
        return sum(weights[k] * (2 * profiles[k][c] - middle[c]) ** 2 for k in kinds for c in range(5))

    kinds = Kinds(profiles, weights, 7)
    for one, other in [((0,), (1,)), ((0, 1), (2,)), ((0, 2), (1, 3))]:
        cost = squares(one + other) - squares(one) - squares(other)
        assert kinds.distance(one, other) == int(cost * 2**16)
        assert kinds.distance(other, one) == kinds.distance(one, other)


@given(
    weights=st.lists(st.integers(0, PPM), min_size=8, max_size=8).filter(any),
    seed=st.integers(0, 50),
    num_clusters=st.integers(1, 8),
    kept=st.lists(st.integers(-3, 40), min_size=8, max_size=8),
)
def test_every_kind_that_weighs_is_in_one_cluster_before_and_after(weights, seed, num_clusters, kept):
    kinds = made(weights, np.random.default_rng(seed).integers(0, 8, size=(8, LAYOUT.num_channels)))
    weighty = [kind for kind, weight in enumerate(weights) if weight]
    clusters = clusters_of(kinds, num_clusters)
    again = regrouped(kinds, clusters, kept[: len(clusters)])
    for found in (clusters, again):
        assert sorted(itertools.chain(*found)) == weighty
        assert len(found) == min(num_clusters, len(weighty))
        shares = [kinds.weight(cluster) for cluster in found]
        assert shares == sorted(shares, reverse=True)


def test_clusters_that_are_kept_stay():
    clusters = clusters_of(made(), 3)
    assert regrouped(made(), clusters, [8, 9, 12]) == clusters


def test_what_hardly_anybody_keeps_is_merged_and_what_most_keep_is_cut():
    """Four clusters of three families: one family was cut for nothing, another is what most devices took."""
    kinds = made()
    clusters = ((0, 1), (2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    again = regrouped(kinds, clusters, [9, 0, 30, 9])
    assert (0, 1, 2, 3) in again
    assert (8, 9, 10, 11) in again
    assert len(again) == 4
    assert sorted(itertools.chain(*(cluster for cluster in again if set(cluster) <= {4, 5, 6, 7}))) == [4, 5, 6, 7]


def test_nothing_is_cut_that_has_one_kind():
    weights = [500_000, 0, 0, 0, 500_000] + [0] * 7
    assert regrouped(made(weights), ((0,), (4,)), [10, 0]) == clusters_of(made(weights), 2)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(LocalProtocolError, match=r"3 weights do not fit profiles of shape \(12, 48\)"):
        Kinds(families(), [1, 2, 3], 7)
