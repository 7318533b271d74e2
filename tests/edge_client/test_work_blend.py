"""A device without a retrained slim base blends, and what the gate sets the fleet's network against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import test_work_retraining as parts
import torch
from test_work_retraining import BASE, CAMPAIGN, DECISION, RECIPE, SLIM_BASE, THE_FLEETS, own, same

from prunefleet_edge import work
from prunefleet_edge.blending import blended_masks
from prunefleet_edge.training import train
from prunefleet_edge.work import (
    alternative,
    blended,
    dense_copy,
    own_candidate,
    personalise,
    slim_as_asked,
    vote_scores,
)
from prunefleet_shared.errors import LayoutError
from prunefleet_shared.gate_terms import FLEET_WIDTHS, GateTerms

torch.set_num_threads(1)


def test_without_a_retrained_base_the_own_dense_copy_is_pruned_to_the_decided_widths() -> None:
    kept = personalise(CAMPAIGN, DECISION, BASE, None, own(), THE_FLEETS)
    dense = dense_copy(CAMPAIGN, BASE, own(), THE_FLEETS)
    scores = vote_scores(CAMPAIGN, dense, own())
    masks = blended_masks(CAMPAIGN.layout, DECISION.prior, scores, DECISION.widths, len(own()))
    assert [int(mask.sum()) for mask in kept.masks] == list(DECISION.widths)
    assert all(np.array_equal(mine, expected) for mine, expected in zip(kept.masks, masks, strict=True))
    assert same(kept.kept, train(slim_as_asked(CAMPAIGN, dense, masks), own(), RECIPE, 3))
    assert kept.verdict.accepted
    assert kept.outcome.finished


def test_the_more_images_the_more_of_the_own_order_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """n counts what the copy was fitted on: while it is judged, half of the images."""
    counted: list[int] = []

    def watched(*arguments: object) -> object:
        counted.append(arguments[4])  # type: ignore[arg-type]
        return blended_masks(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "blended_masks", watched)
    personalise(CAMPAIGN, DECISION, BASE, None, own(24), THE_FLEETS)
    assert counted == [12, 12, 24]


def test_a_decision_for_another_network_is_refused() -> None:
    odd = replace(DECISION, prior=((0, 0), *DECISION.prior[1:]))
    with pytest.raises(LayoutError):
        blended(CAMPAIGN, odd, BASE, own(), THE_FLEETS)


def test_the_gates_other_side_is_the_own_choice_unless_the_campaign_says_otherwise() -> None:
    usual = alternative(CAMPAIGN, DECISION, BASE, own(), THE_FLEETS)
    assert same(usual.model, own_candidate(CAMPAIGN, BASE, 0, own(), THE_FLEETS).model)
    assert [int(mask.sum()) for mask in usual.masks] != list(DECISION.widths)


def test_at_the_fleets_widths_a_device_keeps_its_own_channels() -> None:
    campaign = replace(CAMPAIGN, gate=GateTerms(FLEET_WIDTHS))
    other = alternative(campaign, DECISION, BASE, own(), THE_FLEETS)
    assert [int(mask.sum()) for mask in other.masks] == list(DECISION.widths)
    shipped = parts.masks_by_order(DECISION.prior, DECISION.widths)
    assert any(not np.array_equal(mine, theirs) for mine, theirs in zip(other.masks, shipped, strict=True))


@pytest.mark.parametrize("slim_base", [SLIM_BASE, None])
@pytest.mark.parametrize("accepts", [True, False])
def test_whatever_the_gate_says_all_devices_have_the_fleets_widths(
    slim_base: bytes | None, accepts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "compare", lambda *_: parts.Verdict(accepts, 0.0, 0.0))
    campaign = replace(CAMPAIGN, gate=GateTerms(FLEET_WIDTHS))
    kept = personalise(campaign, DECISION, BASE, slim_base, own(), THE_FLEETS)
    assert kept.verdict.accepted is accepts
    assert [int(mask.sum()) for mask in kept.masks] == list(DECISION.widths)
