"""``retraining.strategy`` on a device: what becomes of the fleet's slim base, and that the default is what it was."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunefleet_edge import work
from prunefleet_edge.campaign_networks import load_networks
from prunefleet_edge.data import Samples
from prunefleet_edge.gate import Verdict
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.models.weights import load_weights, save_weights
from prunefleet_edge.pruning import slim
from prunefleet_edge.ranking import masks_by_order, rank_widths
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.retraining import Anchored, Distilled, retrain
from prunefleet_edge.retraining_options import FLEET_STRATEGIES, PLAIN, RetrainingOptions
from prunefleet_edge.training import train
from prunefleet_edge.work import WorkOptions, dense_copy, personalise
from prunefleet_edge.work_process import Worker, WorkSetup
from prunefleet_shared import campaign as terms
from prunefleet_shared.campaign import CohortPolicy, Decision, PrivacyTerms
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.testing import COORDINATOR_PUBLIC, TRAINER_PUBLIC
from prunefleet_trainer.campaign_files import describe_base, make_campaign

torch.set_num_threads(1)
SPEC = parse_spec("resnet8/1x8x8/4")
RECIPE = Recipe(epochs=2, learning_rate=0.05, batch_size=8, label_smoothing=0.1)
THE_FLEETS = WorkOptions(RECIPE, seed=3, margin=1e9)
"""With such a margin the gate always keeps the fleet's network."""

with torch.random.fork_rng():
    torch.manual_seed(1)
    FILES = describe_base(SPEC, build(SPEC))
CAMPAIGN = make_campaign(
    FILES,
    campaign_id="ab" * 16,
    device_class="camera",
    levels_permille=(500,),
    cohort=CohortPolicy(size=4, quorum=2, deadline_ms=60_000),
    decision_key=COORDINATOR_PUBLIC,
    slim_base_key=TRAINER_PUBLIC,
    privacy=PrivacyTerms(terms.PLAIN, 1),
)
BASE = FILES.weights


def decided() -> tuple[Decision, bytes]:
    layout, table = CAMPAIGN.layout, CAMPAIGN.cost_table
    scores = np.random.default_rng(8).random(layout.num_channels)
    widths = rank_widths(layout, table, scores, CAMPAIGN.levels[0].budget)
    order = CAMPAIGN.public_order
    decision = Decision(CAMPAIGN.campaign_id, 0, widths, order, table.cost(widths), 4, "0" * 64, "1" * 64)
    base = load_weights(build(SPEC), BASE, "base")
    return decision, save_weights(slim(base, example_input(SPEC), masks_by_order(order, widths)))


DECISION, SLIM_BASE = decided()


def own(num: int = 24) -> Samples:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num) % 4
    return Samples(torch.rand(num, 1, 8, 8, generator=generator) * 0.5 + labels[:, None, None, None] / 8, labels)


def state(model: nn.Module) -> dict[str, Tensor]:
    return model.state_dict()


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = state(other)
    return all(torch.equal(tensor, theirs[name]) for name, tensor in state(one).items())


def kept_by(options: WorkOptions) -> nn.Module:
    return personalise(CAMPAIGN, DECISION, BASE, SLIM_BASE, own(), options).kept


def shipped() -> nn.Module:
    return load_networks(CAMPAIGN, DECISION, SLIM_BASE)[0]


def by(strategy: RetrainingOptions) -> nn.Module:
    return kept_by(replace(THE_FLEETS, retraining=strategy))


def test_the_default_is_to_the_bit_what_it_was() -> None:
    """Plain training of the shipped network on all images, as before there were strategies."""
    assert THE_FLEETS.retraining == PLAIN
    assert same(kept_by(THE_FLEETS), train(shipped(), own(), RECIPE, 3))


def test_survivors_of_a_slim_network_are_all_its_weights() -> None:
    assert same(by(RetrainingOptions("survivors")), kept_by(THE_FLEETS))


def test_none_takes_the_slim_base_as_it_is() -> None:
    assert same(by(RetrainingOptions("none")), shipped())


def test_anchored_is_anchored_to_the_slim_base() -> None:
    expected = retrain(shipped(), None, own(), RECIPE, Anchored(3.0, label_smoothing=0.1), 3)
    assert same(by(RetrainingOptions("anchored", anchor_weight=3.0)), expected)
    assert not same(expected, kept_by(THE_FLEETS))


def test_distilled_learns_from_the_devices_dense_copy(tmp_path: Path) -> None:
    options = RetrainingOptions("distilled", temperature=4.0, distilled_ratio=0.7)
    teacher = dense_copy(CAMPAIGN, BASE, own(), THE_FLEETS)
    expected = retrain(shipped(), None, own(), RECIPE, Distilled(teacher, 4.0, 0.7, label_smoothing=0.1), 3)
    assert same(by(options), expected)
    with_folder = replace(THE_FLEETS, retraining=options, state_dir=tmp_path)
    assert same(kept_by(with_folder), expected)


def test_the_teacher_has_seen_no_image_that_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-fitting: each half's networks, the teacher too, are fitted on that half alone."""
    seen: list[int] = []

    def watched(*arguments: object) -> nn.Module:
        samples = arguments[2]
        assert isinstance(samples, Samples)
        seen.append(len(samples))
        return copy.deepcopy(dense)

    dense = dense_copy(CAMPAIGN, BASE, own(), THE_FLEETS)
    monkeypatch.setattr(work, "dense_copy", watched)
    by(RetrainingOptions("distilled"))
    assert sorted(seen) == [12, 12, 12, 12, 24], "own choice and teacher of each half; then the teacher on all"


@pytest.mark.parametrize("name", FLEET_STRATEGIES)
def test_the_own_choice_is_trained_plainly_whatever_the_strategy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "compare", lambda *_losses: Verdict(False, 0.0, 0.0))
    assert same(kept_by(replace(THE_FLEETS, retraining=RetrainingOptions(name))), kept_by(THE_FLEETS))


def test_regrow_is_refused_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "load_networks", lambda *_arguments: pytest.fail("it went on"))
    with pytest.raises(ConfigError, match="regrow fills the gaps"):
        by(RetrainingOptions("regrow"))


def test_the_setting_reaches_the_worker() -> None:
    options = RetrainingOptions("anchored", anchor_weight=2.0)
    setup = WorkSetup("npz:x", "camera-1", "digits", 1, 1, None, None, retraining=options)
    assert Worker(pickle.loads(pickle.dumps(setup)))._options().retraining == options  # noqa: S301 - our own bytes
    assert Worker(WorkSetup("npz:x", "camera-1", "digits", 1, 1, None, None))._options().retraining == PLAIN
