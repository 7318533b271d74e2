"""Clusters: a fleet's mixture in parts, so that devices that see different things need not share one network.

The sum of lift masks tells which classes a fleet sees, not which of them one device sees. Classes that use the base
alike are likely neighbours, so the mixture is cut where its classes are least alike (:func:`clusters_of`; Ward,
"Hierarchical Grouping to Optimize an Objective Function", JASA 58, 1963), and the trainer ships a network for each part
beside the one for all. Each device tries them on its own images and takes the one that errs least (Ghosh et al., "An
Efficient Framework for Clustered Federated Learning", NeurIPS 2020): no vote says which. How many took which and kept
it is in the sum of outcomes; by it clusters are merged and split for the next level (:func:`regrouped`).

Integers only, so that it replays. Shape suffixes: ``K`` kinds (public classes), ``C`` channels of all groups.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.masks import IntArray

POINT = 16
"""Bits after the point of a distance."""
SPARSE_DIVISOR = 4
"""A cluster is sparse if it was kept less than an even share divided by this."""

Cluster = tuple[int, ...]
"""Indices of kinds, ascending."""


class Kinds:
    """The kinds of a mixture, and how far sets of them are from one another.

    Args:
        profiles_KC: One mask per kind, 0..``clip`` per channel.
        weights_ppm: Each kind's share of the mixture.
        clip: The largest value of a lane.

    Raises:
        LocalProtocolError: Shapes do not fit (our bug).
    """

    def __init__(self, profiles_KC: Sequence[Sequence[int]] | IntArray, weights_ppm: Sequence[int], clip: int) -> None:
        centred_KC = 2 * np.asarray(profiles_KC, dtype=np.int64) - clip
        if centred_KC.ndim != 2 or len(centred_KC) != len(weights_ppm):
            msg = f"{len(weights_ppm)} weights do not fit profiles of shape {centred_KC.shape}"
            raise LocalProtocolError(msg)
        self._weights_K = np.array([int(weight) for weight in weights_ppm], dtype=object)  # object: no overflow
        gram_KK = (centred_KC @ centred_KC.T).astype(object)
        self._mutual_KK = gram_KK * self._weights_K[:, None] * self._weights_K[None, :]
        self._within = functools.cache(lambda cluster: self._between(cluster, cluster))

    @property
    def weighty(self) -> Cluster:
        """The kinds that have a share at all."""
        return tuple(int(kind) for kind in np.flatnonzero(self._weights_K))

    def weight(self, cluster: Cluster) -> int:
        """Share of a cluster, parts per million."""
        return int(self._weights_K[list(cluster)].sum())

    def distance(self, one: Cluster, other: Cluster) -> int:
        """Ward's: by how much putting both together raises the squared distance from the middle, weighted."""
        mine, theirs = self.weight(one), self.weight(other)
        apart = theirs * theirs * self._within(one) + mine * mine * self._within(other)
        apart -= 2 * mine * theirs * self._between(one, other)
        return int((apart << POINT) // (mine * theirs * (mine + theirs)))

    def joined(self, clusters: Sequence[Cluster], num_clusters: int) -> tuple[Cluster, ...]:
        """Put the two nearest clusters together until ``num_clusters`` are left; the heaviest comes first."""
        left = sorted(clusters)
        while len(left) > max(1, num_clusters):
            one, other = min(itertools.combinations(left, 2), key=lambda pair: (self.distance(*pair), pair))
            left = sorted([*(c for c in left if c not in (one, other)), _together(one, other)])
        return tuple(sorted(left, key=lambda cluster: (-self.weight(cluster), cluster)))

    def _between(self, one: Cluster, other: Cluster) -> int:
        return int(self._mutual_KK[np.ix_(one, other)].sum())


def _together(one: Cluster, other: Cluster) -> Cluster:
    return tuple(sorted((*one, *other)))


def clusters_of(kinds: Kinds, num_clusters: int) -> tuple[Cluster, ...]:
    """Cut a mixture into ``num_clusters`` parts whose kinds are alike; fewer where there are fewer kinds."""
    return kinds.joined([(kind,) for kind in kinds.weighty], num_clusters)


def regrouped(kinds: Kinds, clusters: Sequence[Cluster], num_kept: Sequence[int]) -> tuple[Cluster, ...]:
    """Clusters for the next level, from how many devices kept the network of each: as many, where that can be.

    Clusters that hardly any device kept are put to their nearest neighbour each, the rarest first; then those that most
    devices kept are cut in two.

    Args:
        kinds: The mixture.
        clusters: The clusters so far.
        num_kept: For each of them, devices that kept its network; noise may have made some negative.
    """
    kept = dict(zip(clusters, num_kept, strict=True))
    least = max(1, sum(num_kept) // (SPARSE_DIVISOR * len(clusters)))
    while len(kept) > 1 and min(kept.values()) < least:
        rarest = min(kept, key=lambda cluster: (kept[cluster], cluster))
        nearest = min((c for c in kept if c != rarest), key=lambda c: (kinds.distance(rarest, c), c))
        kept[_together(rarest, nearest)] = kept.pop(rarest) + kept.pop(nearest)
    while len(kept) < len(clusters) and any(len(cluster) > 1 for cluster in kept):
        largest = min((c for c in kept if len(c) > 1), key=lambda cluster: (-kept[cluster], cluster))
        halves, count = kinds.joined([(kind,) for kind in largest], 2), kept.pop(largest)
        kept |= dict.fromkeys(halves, count // 2)
    return kinds.joined(list(kept), len(kept))
