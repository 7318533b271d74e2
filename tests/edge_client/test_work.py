"""A device's work from end to end on a tiny network: what votes, what is kept, and what it was judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunefleet_edge import campaign_networks, work
from prunefleet_edge.campaign_networks import load_networks
from prunefleet_edge.data import Samples
from prunefleet_edge.egress import outcome_vector, vote_vector
from prunefleet_edge.gate import Verdict
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.pruning import slim
from prunefleet_edge.ranking import masks_by_order, per_cost, rank_widths
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.saliency import l1_saliency
from prunefleet_edge.tracing import cost_table, count_macs, trace
from prunefleet_edge.work import (
    WorkOptions,
    load_weights,
    own_choice,
    personalise,
    prepare_vote,
    save_weights,
)
from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.campaign import PLAIN, Campaign, CohortPolicy, Decision, PrivacyTerms
from prunefleet_shared.errors import InputError, LayoutError
from prunefleet_shared.lanes import pack, unpack
from prunefleet_shared.layout import ChannelGroup, Layout, option_for_width, width_options
from prunefleet_shared.limits import Limits, narrowest_widths, why_limits_broken
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.metrics import OUTCOME_LANES
from prunefleet_shared.testing import COORDINATOR_PUBLIC, TRAINER_PUBLIC
from prunefleet_trainer.campaign_files import describe_base, make_campaign

torch.set_num_threads(1)
SPEC = parse_spec("resnet8/1x8x8/4")
OPTIONS = WorkOptions(Recipe(epochs=2, learning_rate=0.05, batch_size=8), seed=3)


def campaign_of(text: str) -> tuple[Campaign, bytes]:
    spec = parse_spec(text)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        files = describe_base(spec, build(spec))
    cohort = CohortPolicy(size=4, quorum=2, deadline_ms=60_000)
    campaign = make_campaign(
        files,
        campaign_id="ab" * 16,
        device_class="camera",
        levels_permille=(500, 200),
        cohort=cohort,
        decision_key=COORDINATOR_PUBLIC,
        slim_base_key=TRAINER_PUBLIC,
        privacy=PrivacyTerms(PLAIN, 1),
    )
    return campaign, files.weights


CAMPAIGN, BASE = campaign_of("resnet8/1x8x8/4")


def images_of(num: int, seed: int = 0) -> Tensor:
    return torch.rand(num, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def samples(num: int = 24, seed: int = 0) -> Samples:
    """Images with a bright quarter that says the class."""
    labels = torch.arange(num) % 4
    images = images_of(num, seed) * 0.5
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[:, row : row + 4, column : column + 4] += 0.5
    return Samples(images, labels)


def decided(level: int = 0) -> tuple[Decision, bytes]:
    """A decision by the public order, and its slim base (pruned, not retrained)."""
    layout, table = CAMPAIGN.layout, CAMPAIGN.cost_table
    scores = np.random.default_rng(8).random(layout.num_channels)
    widths = rank_widths(layout, table, scores, CAMPAIGN.levels[level].budget)
    decision = Decision(
        campaign_id=CAMPAIGN.campaign_id,
        level=level,
        widths=widths,
        prior=CAMPAIGN.public_order,
        cost=table.cost(widths),
        num_devices=4,
        tally_digest="0" * 64,
        fingerprint="1" * 64,
    )
    base = load_weights(build(SPEC), BASE, "base")
    return decision, save_weights(slim(base, example_input(SPEC), masks_by_order(decision.prior, widths)))


DECISION, SLIM_BASE = decided()


def same_vote(one: work.Vote, other: work.Vote) -> bool:
    return bool((one.grades_C == other.grades_C).all() and (one.options_LG == other.options_LG).all())


def widths_of(model: nn.Module) -> tuple[int, ...]:
    return trace(model, example_input(SPEC)).layout.dense_widths


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
        load_networks(CAMPAIGN, DECISION, BASE)[0]


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


# --- the outcome -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1])
def test_the_own_choice_costs_no_more_than_it_may(level: int) -> None:
    budget = CAMPAIGN.levels[level].budget
    small = own_choice(CAMPAIGN, BASE, level, samples(), OPTIONS)
    cost = count_macs(small, example_input(SPEC))
    assert cost <= budget
    assert cost == CAMPAIGN.cost_table.cost(widths_of(small))
    assert not small.training


@pytest.mark.parametrize("num", [24, 120], ids=["cross-fitted", "split"])
@pytest.mark.parametrize("accepted", [True, False], ids=["fleet", "own"])
def test_what_is_kept_costs_no_more_than_the_levels_budget(
    num: int, accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict is forced, so that both candidates are seen."""
    monkeypatch.setattr(work, "compare", lambda *_losses: Verdict(accepted, 0.0, 0.0))
    done = personalise(CAMPAIGN, DECISION, BASE, SLIM_BASE, samples(num), OPTIONS)
    assert done.verdict.accepted is accepted
    most = DECISION.cost if accepted else CAMPAIGN.levels[DECISION.level].budget
    assert count_macs(done.kept, example_input(SPEC)) <= most
    if done.verdict.accepted:
        assert widths_of(done.kept) == DECISION.widths
    assert not done.kept.training


def test_the_outcome_says_what_the_verdict_says_and_fits_its_lanes() -> None:
    done = personalise(CAMPAIGN, DECISION, BASE, SLIM_BASE, samples(), OPTIONS)
    outcome = done.outcome
    assert (outcome.finished, outcome.accepted) == (True, done.verdict.accepted)
    assert outcome.accuracy_gain == done.verdict.accuracy_gain
    assert outcome.latency_ratio is not None
    assert outcome.latency_ratio > 0
    vector = outcome_vector(outcome)
    assert (unpack(OUTCOME_LANES, pack(OUTCOME_LANES, vector)) == vector).all()


def test_the_same_data_and_seed_keep_the_same_network() -> None:
    one, again = (personalise(CAMPAIGN, DECISION, BASE, SLIM_BASE, samples(), OPTIONS) for _ in range(2))
    assert one.verdict == again.verdict
    assert save_weights(one.kept) == save_weights(again.kept)


def test_a_fleet_s_network_that_is_beyond_repair_is_not_kept() -> None:
    broken = load_networks(CAMPAIGN, DECISION, SLIM_BASE)[0]
    with torch.no_grad():
        broken.net.fc.bias.fill_(float("nan"))
    done = personalise(CAMPAIGN, DECISION, BASE, save_weights(broken), samples(), OPTIONS)
    assert not done.verdict.accepted
    assert not done.outcome.accepted


@pytest.mark.parametrize("num", [24, 120])
@pytest.mark.parametrize("accepted", [True, False], ids=["fleet", "own"])
def test_the_network_kept_is_held_against_the_dense_copy_fitted_on_the_same_images(
    num: int, accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, own, seen = replace(CAMPAIGN, acceptance=Acceptance(50, 100)), samples(num), []
    monkeypatch.setattr(work, "compare", lambda *_losses: Verdict(accepted, 0.0, 0.0))
    real = work._hits

    def note(model: nn.Module, test: object) -> object:
        hits = real(model, test)  # type: ignore[arg-type]
        seen.append(hits)
        return hits

    monkeypatch.setattr(work, "_hits", note)
    outcome = work.personalise(judged, DECISION, BASE, SLIM_BASE, own, OPTIONS).outcome
    fleet, mine, dense = (sum(float(hits.sum()) for hits in seen[first::3]) for first in range(3))
    num_judged = sum(len(hits) for hits in seen[2::3])
    assert num_judged == (num if num < 100 else 32)  # a quarter, rounded up class by class
    assert outcome.gain_over_dense == pytest.approx(((fleet if accepted else mine) - dense) / num_judged)


def test_the_dense_copy_is_not_judged_where_nothing_is() -> None:
    assert work.personalise(CAMPAIGN, DECISION, BASE, SLIM_BASE, samples(), OPTIONS).outcome.gain_over_dense is None


class Diary:
    """Which images were trained on and which were judged, in order."""

    def __init__(self, own: Samples) -> None:
        self._own = own
        self.entries: list[tuple[str, frozenset[int]]] = []

    def note(self, what: str, part: Samples) -> None:
        known = {image.numpy().tobytes(): index for index, image in enumerate(self._own.images)}
        self.entries.append((what, frozenset(known[image.numpy().tobytes()] for image in part.images)))

    def spying(self, what: str, function: Callable[..., object]) -> Callable[..., object]:
        def spy(model: nn.Module, part: Samples, *rest: object) -> object:
            self.note(what, part)
            return function(model, part, *rest)

        return spy

    def spying_with_masks(self, what: str, function: Callable[..., object]) -> Callable[..., object]:
        def spy(model: nn.Module, masks: object, part: Samples, *rest: object) -> object:
            self.note(what, part)
            return function(model, masks, part, *rest)

        return spy


@pytest.mark.parametrize("num", [24, 99, 100, 120])
def test_neither_candidate_is_judged_by_an_image_it_was_trained_on(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    own = samples(num)
    diary = Diary(own)
    monkeypatch.setattr(work, "train", diary.spying("train", work.train))
    monkeypatch.setattr(work, "retrain", diary.spying_with_masks("train", work.retrain))
    monkeypatch.setattr(work, "losses", diary.spying("judge", work.losses))
    personalise(
        CAMPAIGN, DECISION, BASE, SLIM_BASE, own, replace(OPTIONS, fine_tuning=replace(OPTIONS.fine_tuning, epochs=1))
    )
    trained: set[int] = set()
    judged: list[int] = []
    previous = "train"
    for what, images in diary.entries:
        if what == "train" and previous == "judge":
            trained = set()
        previous = what
        if what == "train":
            trained |= images
            continue
        assert trained
        assert not trained & images
        judged += images
    everything = list(range(num))
    if num < 100:
        assert sorted(judged) == sorted(everything * 2), "each image once by each candidate"
        assert trained == set(everything), "what is kept learned from all there is"
    else:
        assert abs(len(set(judged)) - num / 4) <= 2, "a quarter of each of the four classes, rounded"


def test_a_class_per_image_can_be_personalised_too() -> None:
    campaign, base = campaign_of("resnet8/1x8x8/8")
    layout, widths = campaign.layout, tuple((n + 1) // 2 for n in campaign.layout.dense_widths)
    decision = replace(DECISION, widths=widths, prior=campaign.public_order, cost=campaign.cost_table.cost(widths))
    model = load_weights(build(parse_spec(campaign.model)), base, "base")
    small = slim(model, example_input(SPEC), masks_by_order(decision.prior, widths))
    own = Samples(images_of(8), torch.arange(8))
    done = personalise(campaign, decision, base, save_weights(small), own, OPTIONS)
    assert done.outcome.finished
    assert layout.num_channels == 224


def test_decisions_that_do_not_fit_the_network_are_refused() -> None:
    with pytest.raises(LayoutError, match="do not fit"):
        personalise(CAMPAIGN, replace(DECISION, prior=DECISION.prior[::-1]), BASE, SLIM_BASE, samples(), OPTIONS)
    with pytest.raises(LayoutError, match="nothing would be left"):
        load_networks(CAMPAIGN, replace(DECISION, widths=(0, *DECISION.widths[1:])), SLIM_BASE)[0]
    with pytest.raises(InputError, match="slim base"):
        load_networks(CAMPAIGN, replace(DECISION, widths=(DECISION.widths[0] - 1, *DECISION.widths[1:])), SLIM_BASE)[0]


def test_personalising_needs_data_to_learn_from() -> None:
    with pytest.raises(InputError, match="private data: expected at least 8 images"):
        personalise(CAMPAIGN, DECISION, BASE, SLIM_BASE, samples(5), OPTIONS)
