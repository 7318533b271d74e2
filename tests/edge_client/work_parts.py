"""What the tests of a device's heavy work share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from prunefleet_edge import work
from prunefleet_edge.data import Samples
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.pruning import slim
from prunefleet_edge.ranking import masks_by_order, rank_widths
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.tracing import trace
from prunefleet_edge.work import (
    WorkOptions,
    load_weights,
    save_weights,
)
from prunefleet_shared.campaign import PLAIN, Campaign, CohortPolicy, Decision, PrivacyTerms
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
