"""What the operator makes of a base before a campaign."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from prunefleet_edge.local_subject import MEMORY_BATCH
from prunefleet_edge.memory import training_bytes
from prunefleet_edge.models import ModelSpec, build, example_input, parse_spec
from prunefleet_edge.pruning import slim
from prunefleet_edge.saliency import l1_saliency
from prunefleet_edge.tracing import count_macs, trace
from prunefleet_edge.work import load_weights
from prunefleet_shared.campaign import PLAIN, Campaign, CohortPolicy, PrivacyTerms
from prunefleet_shared.documents import canonical_bytes, digest, read_document
from prunefleet_shared.errors import ConfigError, LayoutError
from prunefleet_shared.layout import option_for_width, width_options
from prunefleet_shared.testing import COORDINATOR_PUBLIC, TRAINER_PUBLIC
from prunefleet_trainer.campaign_files import BaseFiles, agnostic_masks, describe_base, make_campaign

torch.set_num_threads(1)
SPEC = parse_spec("resnet8/1x8x8/4")
COHORT = CohortPolicy(size=8, quorum=3, deadline_ms=1000)


def a_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return build(SPEC)


MODEL = a_model()
FILES = describe_base(SPEC, MODEL)


def campaign(levels: tuple[int, ...] = (500, 250), unit: str = "macs", files: BaseFiles = FILES) -> Campaign:
    return make_campaign(
        files,
        campaign_id="0f" * 16,
        device_class="camera",
        levels_permille=levels,
        cohort=COHORT,
        decision_key=COORDINATOR_PUBLIC,
        slim_base_key=TRAINER_PUBLIC,
        privacy=PrivacyTerms(PLAIN, 1),
        budget_unit=unit,
    )


# --- the base --------------------------------------------------------------------------------------------------------


def test_the_files_say_what_the_network_is() -> None:
    assert FILES.model == "resnet8/1x8x8/4"
    assert FILES.layout == trace(MODEL, example_input(SPEC)).layout
    assert FILES.macs.cost(FILES.layout.dense_widths) == count_macs(MODEL, example_input(SPEC))
    num_parameters = sum(parameter.numel() for parameter in MODEL.parameters())
    assert FILES.parameters.cost(FILES.layout.dense_widths) == num_parameters
    again = load_weights(build(SPEC), FILES.weights, "base")
    assert all(torch.equal(MODEL.state_dict()[name], tensor) for name, tensor in again.state_dict().items())


def test_the_files_are_the_same_for_the_same_network() -> None:
    again = describe_base(SPEC, a_model())
    assert (again.weights, again.layout, again.macs, again.parameters) == (
        FILES.weights,
        FILES.layout,
        FILES.macs,
        FILES.parameters,
    )


@pytest.mark.parametrize("is_training", [True, False])
def test_describing_leaves_the_network_alone(is_training: bool) -> None:
    model = a_model().train(is_training)
    describe_base(SPEC, model)
    assert model.training is is_training
    assert all(torch.equal(MODEL.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_the_public_order_falls_in_l1_and_names_every_channel_once() -> None:
    scores = l1_saliency(MODEL, trace(MODEL, example_input(SPEC)))
    for part, order in zip(FILES.layout.slices(), FILES.public_order, strict=True):
        assert sorted(order) == list(range(part.stop - part.start))
        assert (np.diff(scores[part][list(order)]) <= 0).all()
        assert all(type(channel) is int for channel in order)


def test_tables_by_unit() -> None:
    assert FILES.table("macs") is FILES.macs
    assert FILES.table("parameters") is FILES.parameters
    with pytest.raises(ConfigError, match="budget unit 'latency' is unknown; expected one of macs, parameters"):
        FILES.table("latency")


def sequential(*between: nn.Module) -> nn.Module:
    layers = [nn.Conv2d(1, 6, 3), *between, nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(5, 4))


def test_a_group_that_cannot_be_pruned_safely_is_not_in_the_layout() -> None:
    model = sequential(nn.Sigmoid())
    files = describe_base(SPEC, model)
    assert [group.name for group in files.layout.groups] == ["2"]
    assert files.l1_scores_C.shape == (5,)
    assert files.parameters.cost((5,)) == sum(parameter.numel() for parameter in model.parameters())


def test_a_network_with_nothing_to_prune_safely_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    with pytest.raises(LayoutError, match="Sequential has no channel group that is safe to prune"):
        describe_base(SPEC, model)


def test_a_network_for_another_input_is_refused() -> None:
    with pytest.raises(LayoutError, match="cannot be traced with input"):
        describe_base(ModelSpec("resnet8", (2, 8, 8), 4), MODEL)


# --- the campaign ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["macs", "parameters"])
def test_budgets_are_the_levels_share_of_the_dense_cost_rounded_down(unit: str) -> None:
    made = campaign((500, 333, 250), unit)
    dense = FILES.table(unit).cost(FILES.layout.dense_widths)
    assert made.cost_table is FILES.table(unit)
    assert [level.permille for level in made.levels] == [500, 333, 250]
    for level in made.levels:
        assert 1000 * level.budget <= level.permille * dense < 1000 * (level.budget + 1)


def test_the_campaign_carries_the_base_by_digest_and_survives_signing() -> None:
    made = campaign()
    assert made.base_digest == digest(FILES.weights)
    assert (made.layout, made.public_order, made.cohort) == (FILES.layout, FILES.public_order, COHORT)
    assert (made.campaign_id, made.device_class, made.model) == ("0f" * 16, "camera", FILES.model)
    assert made.privacy == PrivacyTerms(PLAIN, 1)
    assert (made.decision_key, made.slim_base_key) == (COORDINATOR_PUBLIC.hex(), TRAINER_PUBLIC.hex())
    assert read_document(canonical_bytes(made), Campaign) == made


@pytest.mark.parametrize(
    "levels",
    [(), (1000,), (0,), (500, 500), (250, 500), (500, -1), (1500, 500), tuple(range(900, 0, -100))],
    ids=["none", "all", "nothing", "equal", "rising", "negative", "above one", "nine"],
)
def test_levels_must_fall_between_nothing_and_everything(levels: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="levels: expected 1 to 8 falling fractions between 0 and 1, got"):
        campaign(levels)


def test_eight_levels_are_fine() -> None:
    assert len(campaign(tuple(range(900, 100, -100))).levels) == 8


def test_a_level_that_nobody_could_meet_is_refused_before_anybody_is_asked() -> None:
    floors = FILES.macs.cost([width_options(n)[0] for n in FILES.layout.dense_widths])
    dense = FILES.macs.cost(FILES.layout.dense_widths)
    permille = floors * 1000 // dense
    assert permille >= 1
    with pytest.raises(ConfigError, match=f"cannot be met: the smallest widths cost {floors}"):
        campaign((500, permille))
    assert campaign((500, permille + 1)).levels[1].budget >= floors


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ConfigError, match="budget unit 'joules' is unknown"):
        campaign(unit="joules")


@pytest.mark.parametrize("permille", [500, 250])
def test_the_public_options_are_the_agnostic_baselines_own_votes(permille: int) -> None:
    made = campaign((permille,))
    masks = agnostic_masks(FILES, FILES.macs, made.levels[0].budget)
    widths = [int(mask.sum()) for mask in masks]
    assert made.public_options == (
        tuple(option_for_width(w, n) for w, n in zip(widths, FILES.layout.dense_widths, strict=True)),
    )


def test_training_memory_is_a_table_when_it_is_asked_for() -> None:
    assert not FILES.further
    files = describe_base(SPEC, a_model(), with_training_memory=True)
    table = files.table("training-memory")
    assert table.unit == "training_bytes"
    assert all(term.coefficient >= 0 for term in table.terms)
    assert table.cost(files.layout.dense_widths) == training_bytes(a_model(), example_input(SPEC), MEMORY_BATCH)


# --- the agnostic baseline -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permille", [500, 200])
def test_the_agnostic_baseline_meets_the_budget_and_keeps_the_largest_filters(permille: int) -> None:
    budget = campaign((permille,)).levels[0].budget
    masks = agnostic_masks(FILES, FILES.macs, budget)
    small = slim(MODEL, example_input(SPEC), masks)
    assert count_macs(small, example_input(SPEC)) <= budget
    for order, mask in zip(FILES.public_order, masks, strict=True):
        assert mask[list(order[: int(mask.sum())])].all()


def test_the_agnostic_baseline_looks_at_nothing_but_the_base() -> None:
    budget = campaign().levels[0].budget
    turned = replace(FILES, l1_scores_C=FILES.l1_scores_C[::-1])
    one, again, other = (agnostic_masks(files, FILES.macs, budget) for files in (FILES, FILES, turned))
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert not all((a == b).all() for a, b in zip(one, other, strict=True))
