"""A run made up from chosen numbers, with real campaigns, votes, sums and signatures; no torch.

The folder is put on the path, so that its tests can share a world (importlib mode does not).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prunefleet_coordinator.report_model import FleetFacts, Report
from prunefleet_coordinator.report_parts import (
    contribution_of,
    decision_record,
    group_tallies,
    round_of,
    setting_of,
)
from prunefleet_shared.campaign import (
    PLAIN,
    Campaign,
    CohortPolicy,
    Decision,
    Level,
    PrivacyTerms,
    decision_fingerprint,
)
from prunefleet_shared.documents import digest, sign_document
from prunefleet_shared.lanes import grade_lane, width_lane
from prunefleet_shared.layout import (
    NUM_WIDTH_OPTIONS,
    ChannelGroup,
    CostTable,
    CostTerm,
    Layout,
    option_for_width,
    width_options,
)
from prunefleet_shared.masks import descending_order, grade_layout
from prunefleet_shared.messages import Total
from prunefleet_shared.metrics import OUTCOME_LANES, Outcome, outcome_vector, read_outcome
from prunefleet_shared.testing import COORDINATOR_KEY as KEY
from prunefleet_shared.testing import COORDINATOR_PUBLIC, TRAINER_PUBLIC
from prunefleet_simulation.results import (
    ARMS,
    ArmCost,
    DeviceResult,
    LevelResult,
    RunResult,
    SeedResult,
    WireTotals,
)

sys.path.insert(0, str(Path(__file__).parent))
PERMILLES = (500, 300)
OFFSETS = {
    "dense": 0.05,
    "agnostic": -0.12,
    "agnostic_local": 0.0,
    "local": -0.06,
    "fleet_widths": -0.05,
    "fleet": 0.04,
}

MakeRun = Callable[..., RunResult]


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """``make_run(num_seeds=, num_devices=, num_groups=, offsets=, noise=)`` gives a synthetic run."""
    return build_run


@pytest.fixture(scope="session")
def run() -> RunResult:
    """Two seeds, 12 devices, 7 groups, a fleet that helps."""
    return build_run()


MakeReal = Callable[..., Report]


@pytest.fixture(scope="session")
def real_report(run: RunResult) -> MakeReal:
    """``real_report(num_decided=, num_measured=, **facts)`` gives a real campaign's report."""
    result = run.seeds[0]
    campaign, total = result.campaign, result.vote_total

    def build(num_decided: int = 2, num_measured: int = 2, **facts: object) -> Report:
        levels = result.levels[:num_decided]
        told = list(enumerate(levels))
        standing = {"phase": "completed", "is_paused": False, "is_authority_built_in": False} | facts
        return Report(
            run_id=campaign.campaign_id,
            replay_command=f"prunefleet coordinator replay runs/{campaign.campaign_id}",
            notes=["Plain mode: the coordinator saw each contribution."],
            versions={"prunefleet": "0.1.0"},
            setting=setting_of(campaign),
            fleet=FleetFacts(
                campaign_id=campaign.campaign_id,
                num_levels=len(campaign.levels),
                num_voters=total.num_devices if levels else 0,
                cohort_size=12,
                quorum=2,
                max_attempts=3,
                deadline_s=600,
                **standing,
            ),
            contribution=contribution_of(campaign),
            rounds=[round_of(campaign, i, total, x.outcome if i < num_measured else None) for i, x in told],
            decisions=[decision_record(campaign, total, x.decision, x.signed_decision) for x in levels],
            topology=group_tallies(campaign, total) if levels else [],
        )

    return build


def build_run(
    num_seeds: int = 2,
    num_devices: int = 12,
    num_groups: int = 7,
    offsets: dict[str, float] | None = None,
    noise: float = 0.02,
) -> RunResult:
    groups = tuple(ChannelGroup(f"layer{i // 4}.{i % 4}.conv1", 16 << min(i // 3, 3)) for i in range(num_groups))
    seeds = tuple(
        _build_seed(seed, num_devices, Layout(groups), OFFSETS if offsets is None else offsets, noise)
        for seed in range(num_seeds)
    )
    return RunResult(
        run_id="20260101-120000-digits",
        preset="digits",
        command="prunefleet simulate --preset digits --devices 12 --seeds 2",
        notes=(
            "Plain mode: the coordinator sees each contribution; this machine only.",
            "Base: trained on a <public> half of the digits & kept apart from every device.",
        ),
        seeds=seeds,
        versions={"prunefleet": "0.1.0", "numpy": np.__version__, "python": "3.11", "cores": "2", "ram_gb": "8"},
        wall_s=sum(seed.wall_s for seed in seeds) + 3.2,
    )


def _build_seed(seed: int, num_devices: int, layout: Layout, offsets: dict[str, float], noise: float) -> SeedResult:
    rng = np.random.default_rng(seed)
    campaign = _campaign(seed, layout, num_devices)
    total, widths = _votes(campaign, num_devices, rng)
    levels = tuple(_level(campaign, i, total, widths[i], rng) for i in range(len(PERMILLES)))
    return SeedResult(
        seed=seed,
        campaign=campaign,
        vote_total=total,
        levels=levels,
        devices=tuple(_device(i, rng, offsets, noise) for i in range(num_devices)),
        arm_costs={arm: ArmCost(*((1.0, 1.0, 1.0) if arm == "dense" else (0.299, 0.281, 0.52))) for arm in ARMS},
        wire=WireTotals(620 * 3 * num_devices, 9200 * 3 * num_devices, 480_000 * num_devices, 10**6, 9 * 10**6, 3),
        wall_s=58.0 + seed,
    )


def _campaign(seed: int, layout: Layout, num_devices: int) -> Campaign:
    terms = tuple(CostTerm(9, (i, i + 1)) for i in range(len(layout.groups) - 1))
    table = CostTable("macs", (CostTerm(27, (0,)), *terms))
    dense = table.cost(layout.dense_widths)
    return Campaign(
        campaign_id=f"{seed:032x}",
        device_class="camera",
        privacy=PrivacyTerms(PLAIN, 1),
        model="resnet20",
        base_digest=digest(b"base"),
        layout=layout,
        cost_table=table,
        levels=tuple(Level(p, dense * p // 1000) for p in PERMILLES),
        public_order=tuple(tuple(range(g.num_channels)) for g in layout.groups),
        cohort=CohortPolicy(size=num_devices, quorum=2, deadline_ms=60_000),
        decision_key=COORDINATOR_PUBLIC.hex(),
        slim_base_key=TRAINER_PUBLIC.hex(),
    )


def _votes(campaign: Campaign, num_devices: int, rng: np.random.Generator) -> tuple[Total, list[tuple[int, ...]]]:
    layout = campaign.layout
    common = rng.normal(size=layout.num_channels)
    vote = np.zeros(campaign.vote_lanes.num_lanes, dtype=np.int64)
    for _ in range(num_devices):
        parts = {}
        grades = grade_layout(layout, common + rng.normal(scale=0.8, size=layout.num_channels))
        for group, part in zip(layout.groups, layout.slices(), strict=True):
            parts[grade_lane(group.name)] = grades[part]
            for level, permille in enumerate(PERMILLES):
                share = np.clip((permille / 1000) ** 0.5 + rng.normal(scale=0.08), 0.1, 1)
                option = option_for_width(max(1, int(share * group.num_channels)), group.num_channels)
                parts[width_lane(level, group.name)] = np.eye(NUM_WIDTH_OPTIONS, dtype=np.int64)[option]
        vote += np.concatenate([parts[block.name] for block in campaign.vote_lanes.blocks])
    total = Total(tuple(int(lane) for lane in vote), num_devices)
    return total, [_widths(campaign, total, level) for level in range(len(PERMILLES))]


def _widths(campaign: Campaign, total: Total, level: int) -> tuple[int, ...]:
    blocks = campaign.vote_lanes.split(total.lanes)
    options = [int(blocks[width_lane(level, g.name)].argmax()) for g in campaign.layout.groups]
    while True:  # the most voted widths, the widest narrowed until the budget holds
        widths = tuple(width_options(g.num_channels)[o] for g, o in zip(campaign.layout.groups, options, strict=True))
        if campaign.cost_table.cost(widths) <= campaign.levels[level].budget:
            return widths
        options[options.index(max(options))] -= 1


def _level(
    campaign: Campaign, level: int, total: Total, widths: tuple[int, ...], rng: np.random.Generator
) -> LevelResult:
    blocks = campaign.vote_lanes.split(total.lanes)
    orders = [descending_order(blocks[grade_lane(g.name)]) for g in campaign.layout.groups]
    prior = tuple(tuple(int(c) for c in order) for order in orders)
    decision = Decision(
        campaign_id=campaign.campaign_id,
        level=level,
        widths=widths,
        prior=prior,
        cost=campaign.cost_table.cost(widths),
        num_devices=total.num_devices,
        tally_digest=digest(str(total.lanes).encode()),
        fingerprint=decision_fingerprint(campaign, level, total.lanes, widths, prior),
    )
    outcome = np.zeros(OUTCOME_LANES.num_lanes, dtype=np.int64)
    for device in range(total.num_devices):
        gain, latency = float(rng.normal(0.04, 0.06)), float(rng.normal(0.45 + 0.1 * (1 - level), 0.06))
        finished = device > 0  # one device never finishes
        outcome += outcome_vector(Outcome(finished, finished and gain > 0, *((gain, latency) if finished else ())))
    return LevelResult(decision, sign_document("decision", decision, KEY), read_outcome(outcome))


def _device(index: int, rng: np.random.Generator, offsets: dict[str, float], noise: float) -> DeviceResult:
    level = rng.uniform(0.62, 0.85)
    accuracy = {arm: float(np.clip(level + off + rng.normal(scale=noise), 0, 1)) for arm, off in offsets.items()}
    classes = tuple(sorted(int(c) for c in rng.choice(10, size=4, replace=False)))
    return DeviceResult(f"device-{index:02d}", classes, accuracy, 120, (bool(rng.random() < 0.8), True))
