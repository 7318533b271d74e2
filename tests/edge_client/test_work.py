"""A device's heavy work: weights, the vote, the dense working copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from work_parts import (
    BASE,
    CAMPAIGN,
    DECISION,
    OPTIONS,
    SPEC,
    campaign_of,
    images_of,
    same_vote,
    samples,
    widths_of,
)

from prunefleet_edge import campaign_networks, work
from prunefleet_edge.campaign_networks import load_networks
from prunefleet_edge.data import Samples
from prunefleet_edge.egress import vote_vector
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.ranking import per_cost, rank_widths
from prunefleet_edge.saliency import l1_saliency
from prunefleet_edge.tracing import cost_table, trace
from prunefleet_edge.work import (
    load_weights,
    own_choice,
    personalise,
    prepare_vote,
    save_weights,
)
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.errors import InputError, LayoutError
from prunefleet_shared.lanes import pack, unpack
from prunefleet_shared.layout import ChannelGroup, Layout, option_for_width, width_options
from prunefleet_shared.limits import Limits, narrowest_widths, why_limits_broken
from prunefleet_shared.masks import grade_layout

# --- weights ---------------------------------------------------------------------------------------------------------


def test_weights_survive_the_trip_through_bytes() -> None:
    model = build(SPEC)
    other = load_weights(build(SPEC), save_weights(model), "base")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
    assert save_weights(other) == save_weights(model)


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        b"no safetensors",
        BASE[:-1],
        save_weights(nn.Linear(2, 2)),
        save_weights(build(parse_spec("resnet20/1x8x8/4"))),
    ],
    ids=["empty", "garbage", "truncated", "another net", "a deeper net"],
)
def test_weights_that_do_not_fit_are_refused(weights: bytes) -> None:
    with pytest.raises(InputError, match="base model: not the weights of Normalised") as caught:
        prepare_vote(CAMPAIGN, weights, samples(), OPTIONS)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"slim base: not the weights of (Normalised|slim networks)"):
        personalise(CAMPAIGN, DECISION, BASE, weights, samples(), OPTIONS)


def test_the_dense_base_is_no_slim_base() -> None:
    with pytest.raises(InputError, match="slim base"):
        load_networks(CAMPAIGN, DECISION, BASE)


def test_the_layout_traced_here_is_the_campaign_s() -> None:
    assert campaign_networks.layout_fingerprint(CAMPAIGN, BASE) == CAMPAIGN.layout.fingerprint()


# --- the vote --------------------------------------------------------------------------------------------------------


def test_a_vote_obeys_the_lane_table() -> None:
    vote = prepare_vote(CAMPAIGN, BASE, samples(), OPTIONS)
    vector = vote_vector(CAMPAIGN, vote)
    packed = pack(CAMPAIGN.vote_lanes, vector)
    assert (unpack(CAMPAIGN.vote_lanes, packed) == vector).all()


def test_a_vote_says_the_ranking_of_the_scores_and_nothing_else() -> None:
    scores = np.random.default_rng(2).random(CAMPAIGN.layout.num_channels)
    vote = work.scores_to_vote(CAMPAIGN, scores)
    assert (vote.grades_C == grade_layout(CAMPAIGN.layout, scores)).all()
    for level, options in zip(CAMPAIGN.levels, vote.options_LG, strict=True):
        widths = rank_widths(CAMPAIGN.layout, CAMPAIGN.cost_table, scores, level.budget)
        sizes = CAMPAIGN.layout.dense_widths
        assert options.tolist() == [option_for_width(w, n) for w, n in zip(widths, sizes, strict=True)]
    assert (vote.options_LG[1] <= vote.options_LG[0]).all(), "a smaller budget asks for no more"


def limited_campaign() -> Campaign:
    """At its last level parameters bind, widths are multiples of 4, and the first group stays whole."""
    layout, levels = CAMPAIGN.layout, CAMPAIGN.levels
    dense = load_weights(build(SPEC), BASE, "base")
    parameters = cost_table(dense, example_input(SPEC), trace(dense, example_input(SPEC)), "parameters")
    limits = Limits(round_to=4, skipped=frozenset({layout.groups[0].name}))
    wide = parameters.cost(layout.dense_widths)
    binding = parameters.cost(narrowest_widths(layout, limits)) * 5 // 4
    last = replace(levels[1], budget=levels[0].budget, further_budgets=(binding,))
    return replace(
        CAMPAIGN,
        limits=limits,
        further_tables=(parameters,),
        levels=(replace(levels[0], further_budgets=(wide,)), last),
    )


def test_votes_and_the_own_choice_keep_to_the_campaigns_limits_and_all_its_budgets() -> None:
    campaign = limited_campaign()
    scores = np.random.default_rng(2).random(campaign.layout.num_channels)
    vote = work.scores_to_vote(campaign, scores)
    for group, options in zip(campaign.layout.groups, vote.options_LG.T, strict=True):
        voted = [width_options(group.num_channels)[option] for option in options]
        assert all(width % 4 == 0 for width in voted), "4 divides an eighth, or half of what has 8"
    assert (vote.options_LG[:, 0] == 7).all()
    own = widths_of(own_choice(campaign, BASE, 1, samples(), OPTIONS))
    assert why_limits_broken(campaign.layout, campaign.limits, own) is None
    assert all(constraint.is_met(own) for constraint in campaign.constraints(1))
    free = widths_of(own_choice(CAMPAIGN, BASE, 1, samples(), OPTIONS))
    assert not campaign.constraints(1)[1].is_met(free), "or this tests nothing"


def test_the_same_data_and_seed_give_the_same_vote() -> None:
    one, again = (prepare_vote(CAMPAIGN, BASE, samples(), OPTIONS) for _ in range(2))
    assert same_vote(one, again)


def test_other_images_other_labels_or_another_seed_give_another_vote() -> None:
    """The negative control: were votes the same whatever the data, a fleet would be an expensive constant."""
    own = samples()
    shuffled = own.labels[torch.randperm(len(own), generator=torch.Generator().manual_seed(1))]
    vote = prepare_vote(CAMPAIGN, BASE, own, OPTIONS)
    for other, options in (
        (Samples(own.images, shuffled), OPTIONS),
        (samples(seed=1), OPTIONS),
        (own, replace(OPTIONS, seed=4)),
    ):
        assert (prepare_vote(CAMPAIGN, BASE, other, options).grades_C != vote.grades_C).any()


def test_a_vote_needs_data_to_learn_from() -> None:
    with pytest.raises(InputError, match="private data: expected at least 8 images"):
        prepare_vote(CAMPAIGN, BASE, samples(7), OPTIONS)
    with pytest.raises(InputError, match="private data: all images are of one class"):
        prepare_vote(CAMPAIGN, BASE, Samples(images_of(9), torch.full((9,), 2)), OPTIONS)


def test_a_campaign_with_another_layout_is_refused() -> None:
    groups = (*CAMPAIGN.layout.groups[:-1], ChannelGroup("elsewhere", 64))
    with pytest.raises(LayoutError, match="another layout than the campaign's"):
        prepare_vote(replace(CAMPAIGN, layout=Layout(groups)), BASE, samples(), OPTIONS)


# --- the dense working copy ------------------------------------------------------------------------------------------


def no_training(*_: object) -> nn.Module:
    msg = "this should have been remembered"
    raise AssertionError(msg)


def test_the_dense_copy_is_kept_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = replace(OPTIONS, state_dir=tmp_path / "state")
    fresh = prepare_vote(CAMPAIGN, BASE, samples(), OPTIONS)
    assert same_vote(prepare_vote(CAMPAIGN, BASE, samples(), kept), fresh)
    (path,) = (tmp_path / "state").iterdir()
    assert path.name.startswith("dense-")
    monkeypatch.setattr(work, "train", no_training)
    assert same_vote(prepare_vote(CAMPAIGN, BASE, samples(), kept), fresh)


def test_the_dense_copy_belongs_to_base_data_recipe_and_seed(tmp_path: Path) -> None:
    own = samples()
    _, other_base = campaign_of("resnet8/1x8x8/4")
    weights = load_weights(build(SPEC), other_base, "base")
    with torch.no_grad():
        weights.net.fc.bias += 1
    options = replace(OPTIONS, state_dir=tmp_path)
    relabelled = Samples(own.images, own.labels.flip(0))
    recipe = replace(options, fine_tuning=replace(options.fine_tuning, learning_rate=0.01))
    calls = [
        (BASE, own, options),
        (save_weights(weights), own, options),
        (BASE, samples(seed=1), options),
        (BASE, relabelled, options),
        (BASE, own, recipe),
        (BASE, own, replace(options, seed=9)),
    ]
    copies = [save_weights(work.dense_copy(CAMPAIGN, *call)) for call in calls]
    assert len(set(copies)) == len(calls)
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == sorted(copies)


def test_a_broken_dense_copy_is_made_again(tmp_path: Path) -> None:
    options = replace(OPTIONS, state_dir=tmp_path)
    prepare_vote(CAMPAIGN, BASE, samples(), options)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    prepare_vote(CAMPAIGN, BASE, samples(), options)
    assert path.read_bytes() == whole


def test_l1_votes_where_taylor_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = campaign_networks.load_base(CAMPAIGN, BASE)
    expected = per_cost(CAMPAIGN.layout, CAMPAIGN.cost_table, l1_saliency(dense, trace(dense, example_input(SPEC))))
    for nothing in (0.0, np.nan):
        monkeypatch.setattr(work, "taylor_saliency", lambda *_args, nothing=nothing: np.full(len(expected), nothing))
        np.testing.assert_array_equal(work.vote_scores(CAMPAIGN, dense, samples()), expected)
