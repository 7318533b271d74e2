"""What comes of a decision on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from work_parts import (
    BASE,
    CAMPAIGN,
    DECISION,
    OPTIONS,
    SLIM_BASE,
    SPEC,
    campaign_of,
    images_of,
    samples,
    widths_of,
)

from prunefleet_edge import work
from prunefleet_edge.campaign_networks import load_networks
from prunefleet_edge.data import Samples
from prunefleet_edge.egress import outcome_vector
from prunefleet_edge.gate import Verdict
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.pruning import slim
from prunefleet_edge.ranking import masks_by_order
from prunefleet_edge.tracing import count_macs
from prunefleet_edge.work import (
    load_weights,
    own_choice,
    personalise,
    save_weights,
)
from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.errors import InputError, LayoutError
from prunefleet_shared.lanes import pack, unpack
from prunefleet_shared.metrics import OUTCOME_LANES


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
        load_networks(CAMPAIGN, replace(DECISION, widths=(0, *DECISION.widths[1:])), SLIM_BASE)
    with pytest.raises(InputError, match="slim base"):
        load_networks(CAMPAIGN, replace(DECISION, widths=(DECISION.widths[0] - 1, *DECISION.widths[1:])), SLIM_BASE)


def test_personalising_needs_data_to_learn_from() -> None:
    with pytest.raises(InputError, match="private data: expected at least 8 images"):
        personalise(CAMPAIGN, DECISION, BASE, SLIM_BASE, samples(5), OPTIONS)
