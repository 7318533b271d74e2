"""Blending: between the fleet's order and the device's own, closer to its own the more images it has."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunefleet_edge.blending import PRIOR_IMAGES, blended_masks, blended_order
from prunefleet_shared.errors import LayoutError
from prunefleet_shared.testing import tiny_campaign

INFINITE = 10**9
LAYOUT = tiny_campaign().layout


@st.composite
def two_orders(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    channels = list(range(draw(st.integers(1, 64))))
    return draw(st.permutations(channels)), draw(st.permutations(channels))


@given(two_orders(), st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_blend_is_an_order_of_the_same_channels(orders: tuple[list[int], list[int]], own: int, prior: int) -> None:
    blend = blended_order(*orders, own, prior).tolist()
    assert sorted(blend) == sorted(orders[0])
    assert blend == blended_order(*orders, own, prior).tolist()
    assert blend == blended_order(*orders, 3 * own, 3 * prior).tolist(), "only the ratio counts"


@given(two_orders(), st.integers(1, 10_000))
def test_the_ends_are_the_two_orders(orders: tuple[list[int], list[int]], num_images: int) -> None:
    prior, own = orders
    assert blended_order(prior, own, num_images, 0).tolist() == own
    assert blended_order(prior, own, num_images, INFINITE).tolist() == prior
    assert blended_order(prior, own, 0).tolist() == prior


@given(two_orders(), st.integers(0, 500))
def test_where_both_agree_nothing_is_changed(orders: tuple[list[int], list[int]], num_images: int) -> None:
    assert blended_order(orders[0], orders[0], num_images).tolist() == orders[0]


@given(two_orders(), st.integers(0, 500), st.integers(0, 500))
def test_a_channel_that_both_prefer_comes_first(orders: tuple[list[int], list[int]], images: int, more: int) -> None:
    prior, own = orders
    blend = blended_order(prior, own, images, PRIOR_IMAGES).tolist()
    for better, worse in itertools.pairwise(blend):
        assert not (prior.index(worse) < prior.index(better) and own.index(worse) < own.index(better))
    # More own images never move the order away from the own one: fewer pairs stand against it.
    assert against(own, blended_order(prior, own, images + more).tolist()) <= against(own, blend)


def against(own: list[int], order: list[int]) -> int:
    place = {channel: index for index, channel in enumerate(own)}
    return sum(place[b] < place[a] for i, a in enumerate(order) for b in order[i + 1 :])


@pytest.mark.parametrize(("prior", "own"), [([0, 1, 1], [0, 1, 2]), ([0, 1], [0, 1, 2]), ([1, 2, 3], [0, 1, 2])])
def test_a_prior_of_other_channels_is_refused(prior: list[int], own: list[int]) -> None:
    with pytest.raises(LayoutError, match="no order"):
        blended_order(prior, own, 10)


def test_masks_have_the_decided_widths() -> None:
    scores = np.random.default_rng(2).random(LAYOUT.num_channels)
    prior = [list(range(width)) for width in LAYOUT.dense_widths]
    widths = [max(1, width // 2) for width in LAYOUT.dense_widths]
    masks = blended_masks(LAYOUT, prior, scores, widths, 40)
    assert [int(mask.sum()) for mask in masks] == widths
    with pytest.raises(LayoutError, match="does not fit"):
        blended_masks(LAYOUT, prior[1:], scores, widths, 40)
