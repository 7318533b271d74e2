"""Fakes shipped beside the code: a small campaign, honest devices' payloads, a clock to set and ids that count.

Everything is deterministic and nothing needs torch, so that a round can be played in microseconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np

from prunefleet_shared.campaign import PLAIN, Campaign, CohortPolicy, Level, PrivacyTerms
from prunefleet_shared.documents import digest
from prunefleet_shared.lanes import pack
from prunefleet_shared.layout import (
    NUM_WIDTH_OPTIONS,
    ChannelGroup,
    CostTable,
    CostTerm,
    Layout,
    option_for_width,
)
from prunefleet_shared.masks import IntArray, grade_layout
from prunefleet_shared.metrics import Outcome, outcome_lanes, outcome_vector
from prunefleet_shared.testing import COORDINATOR_PUBLIC, TRAINER_PUBLIC

BASE_MODEL = b"the base model's safetensors file"


@dataclass(slots=True)
class FakeClock:
    """A clock that stands still until it is set; call it for the time in seconds."""

    now_s: float = 0.0

    def __call__(self) -> float:
        """The time now, in seconds."""
        return self.now_s


def counting_ids() -> Callable[[], str]:
    """A source of session ids: 1, 2, 3 … as 32 hex digits."""
    numbers = count(1)
    return lambda: f"{next(numbers):032x}"


def small_campaign(**changes: Any) -> Campaign:
    """Three groups, two levels, a cohort of three with a quorum of two; ``changes`` replace fields."""
    layout = Layout((ChannelGroup("stem", 16), ChannelGroup("body", 12), ChannelGroup("head", 5)))
    cost_table = CostTable("macs", (CostTerm(27, (0,)), CostTerm(9, (0, 1)), CostTerm(9, (1, 2)), CostTerm(1, (2,))))
    dense = cost_table.cost(layout.dense_widths)
    campaign = Campaign(
        campaign_id=digest(b"small campaign")[:32],
        device_class="camera",
        privacy=PrivacyTerms(PLAIN, 1),
        model="resnet20",
        base_digest=digest(BASE_MODEL),
        layout=layout,
        cost_table=cost_table,
        levels=tuple(Level(permille, dense * permille // 1000) for permille in (600, 300)),
        public_order=tuple(tuple(reversed(range(group.num_channels))) for group in layout.groups),
        cohort=CohortPolicy(size=3, quorum=2, deadline_ms=60_000),
        decision_key=COORDINATOR_PUBLIC.hex(),
        slim_base_key=TRAINER_PUBLIC.hex(),
    )
    return replace(campaign, **changes)


def vote_vector(campaign: Campaign, scores_C: Sequence[float], widths_LG: Sequence[Sequence[int]]) -> IntArray:
    """A device's vote (int64) from its scores of all channels and the widths it wants per level and group.

    Where the campaign steers, the lift mask is made of the same scores.
    """
    options = [
        np.eye(NUM_WIDTH_OPTIONS, dtype=np.int64)[option_for_width(width, group.num_channels)]
        for widths_G in widths_LG
        for group, width in zip(campaign.layout.groups, widths_G, strict=True)
    ]
    masks = [grade_layout(campaign.layout, scores_C)] * (1 if campaign.steering is None else 2)
    return np.concatenate([*masks, *options])


def random_vote(campaign: Campaign, seed: int) -> IntArray:
    """An honest vote drawn from ``seed``."""
    rng = random.Random(seed)  # noqa: S311 - made-up devices, no secret
    scores = [rng.random() for _ in range(campaign.layout.num_channels)]
    widths = [[rng.randint(1, group.num_channels) for group in campaign.layout.groups] for _ in campaign.levels]
    return vote_vector(campaign, scores, widths)


def vote_payload(campaign: Campaign, seed: int) -> bytes:
    """An honest vote drawn from ``seed``, packed as a device sends it."""
    return pack(campaign.vote_lanes, random_vote(campaign, seed))


def outcome_payload(accuracy_gain: float = 0.1, gain_over_dense: float | None = None) -> bytes:
    """The outcome of a device that finished and accepted, packed as a device sends it.

    Args:
        accuracy_gain: Over its own choice.
        gain_over_dense: Over its dense copy, in a campaign that judges; None in one that does not.
    """
    outcome = Outcome(True, True, accuracy_gain, latency_ratio=0.5, gain_over_dense=gain_over_dense)
    table = outcome_lanes(is_judged=gain_over_dense is not None)
    return pack(table, outcome_vector(outcome, table))
