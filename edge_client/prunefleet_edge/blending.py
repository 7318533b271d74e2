"""Which channels fill decided widths where nobody could retrain the network: the fleet's prior and own scores mixed.

Without public data there is no retrained slim base. A device then prunes its own dense copy to the decided widths, and
says itself which channels fill them. Its own scores come from n images and the prior from many devices, so the own
scores weigh n / (n + n0). Both sides are orders of the same channels; what is mixed is places, which makes the result
a matter of integers. Pure; no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunefleet_shared.errors import LayoutError
from prunefleet_shared.layout import Layout
from prunefleet_shared.masks import BoolArray, FloatArray, IntArray, descending_order, keep_mask

PRIOR_IMAGES = 40
"""n0: as many images the prior is worth. Chosen on validation seeds of the digits preset; see ADR 23."""


def blended_order(
    prior_C: Sequence[int], own_C: Sequence[int], num_own_images: int, prior_images: int = PRIOR_IMAGES
) -> IntArray:
    """One group's channels by the weighted mean of their places in two orders; equal ones as in the prior.

    >>> blended_order([0, 1, 2], [2, 1, 0], num_own_images=10, prior_images=40).tolist()
    [0, 1, 2]
    >>> blended_order([0, 1, 2], [2, 1, 0], num_own_images=100, prior_images=40).tolist()
    [2, 1, 0]

    Args:
        prior_C: The fleet's order, best first.
        own_C: The device's own order of the same channels.
        num_own_images: n, that the own order was found on, at least 0.
        prior_images: n0, at least 0; not both 0, or the prior decides.

    Raises:
        LayoutError: The two are not orders of the same channels (the decision does not fit the network).
    """
    prior, own = (np.asarray(order, dtype=np.int64) for order in (prior_C, own_C))
    if not (np.array_equal(np.sort(prior), np.arange(len(prior))) and np.array_equal(np.sort(own), np.sort(prior))):
        msg = f"the prior is no order of a group's {len(own)} channels"
        raise LayoutError(msg)
    place_in_prior, place_in_own = np.argsort(prior), np.argsort(own)
    place = num_own_images * place_in_own + prior_images * place_in_prior
    return np.lexsort((place_in_prior, place)).astype(np.int64)


def blended_masks(
    layout: Layout,
    prior: Sequence[Sequence[int]],
    scores_C: FloatArray,
    widths: Sequence[int],
    num_own_images: int,
    prior_images: int = PRIOR_IMAGES,
) -> list[BoolArray]:
    """For each group, a mask of the ``widths[g]`` channels that come first in the blended order.

    Args:
        layout: The groups.
        prior: The fleet's order of each group's channels.
        scores_C: The device's own scores over all groups, higher = keep.
        widths: Decided.
        num_own_images: That the scores were found on.
        prior_images: See :func:`blended_order`.

    Raises:
        LayoutError: Prior or widths do not fit the layout.
    """
    sizes = layout.dense_widths
    if len(prior) != len(sizes) or len(widths) != len(sizes):
        msg = f"a decision for {len(prior)} groups of channels does not fit a network of {len(sizes)}"
        raise LayoutError(msg)
    masks = []
    for part, order, width in zip(layout.slices(), prior, widths, strict=True):
        own = descending_order(scores_C[part]).tolist()
        masks.append(keep_mask(blended_order(order, own, num_own_images, prior_images), width))
    return masks
