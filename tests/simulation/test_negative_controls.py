"""Where a fleet cannot have added anything, the report says so; made-up runs, real votes and decisions, no training.

That a device's vote follows its data is ``tests/edge_client/test_work.py``'s to show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from prunefleet_coordinator.aggregation import decide
from prunefleet_shared.documents import digest, sign_document
from prunefleet_shared.layout import NUM_WIDTH_OPTIONS
from prunefleet_shared.masks import IntArray, grade_layout
from prunefleet_shared.messages import Total
from prunefleet_shared.testing import COORDINATOR_KEY
from prunefleet_simulation.report import build_report
from prunefleet_simulation.results import RunResult, SeedResult

MakeRun = Callable[..., RunResult]


def public_vote(seed: SeedResult, option: int) -> IntArray:
    """What a device says that knows nothing but the base: its grades are the public order's."""
    layout = seed.campaign.layout
    scores = np.zeros(layout.num_channels)
    for part, order in zip(layout.slices(), seed.campaign.public_order, strict=True):
        scores[part][list(order)] = np.arange(len(order), 0, -1)
    widths = np.eye(NUM_WIDTH_OPTIONS, dtype=np.int64)[[option] * len(layout.groups) * len(seed.campaign.levels)]
    return np.concatenate([grade_layout(layout, scores), widths.ravel()])


def without_data(run: RunResult, option: int = 2) -> RunResult:
    """``run`` with every vote replaced by the public order, decided anew, and the fleet no better than without one."""
    return dataclasses.replace(run, seeds=tuple(_without_data(seed, option) for seed in run.seeds))


def _without_data(seed: SeedResult, option: int) -> SeedResult:
    total = Total(tuple(int(lane) * len(seed.devices) for lane in public_vote(seed, option)), len(seed.devices))
    levels = []
    for level in seed.levels:
        decision = decide(seed.campaign, total, level.decision.level)
        signed = sign_document("decision", decision, COORDINATOR_KEY)
        levels.append(dataclasses.replace(level, decision=decision, signed_decision=signed))
    devices = tuple(
        dataclasses.replace(device, accuracy=device.accuracy | {"fleet": device.accuracy["agnostic_local"]})
        for device in seed.devices
    )
    return dataclasses.replace(seed, vote_total=total, levels=tuple(levels), devices=devices)


def test_votes_without_data_add_nothing(run: RunResult) -> None:
    before = build_report(run)
    assert before.verdict is not None
    assert before.verdict.effect == "added", "with its own votes and accuracies, this run looks like a success"
    report = build_report(without_data(run))
    assert report.verdict is not None
    assert (report.verdict.fleet_added, report.verdict.effect) == (False, "nothing")
    assert "nothing measurable" in report.verdict.sentence
    assert report.arms_paired is not None
    pair = report.arms_paired["fleet_minus_agnostic_local"]
    assert (pair.mean, pair.ci95_low, pair.ci95_high, pair.share_worse) == (0, 0, 0, 0)


def test_votes_without_data_agree_totally_and_decide_the_public_order(run: RunResult) -> None:
    controlled = without_data(run)
    report = build_report(controlled)
    for part in report.rounds:
        assert (part.vote_agreement, part.channel_agreement) == (1.0, 1.0)
    for record, seed in zip(report.decisions[:: len(run.seeds[0].levels)], controlled.seeds, strict=True):
        assert record.prior == [list(order) for order in seed.campaign.public_order]


def test_a_public_order_that_was_shuffled_is_followed_too(run: RunResult) -> None:
    """Or the test above could pass because the order happens to be the channels' numbers."""
    rng = np.random.default_rng(3)
    orders = tuple(tuple(int(c) for c in rng.permutation(len(order))) for order in run.seeds[0].campaign.public_order)
    campaign = dataclasses.replace(run.seeds[0].campaign, public_order=orders)
    seed = _without_data(dataclasses.replace(run.seeds[0], campaign=campaign), 3)
    assert [level.decision.prior for level in seed.levels] == [orders] * len(seed.levels)


def test_real_votes_do_not_agree_totally(run: RunResult) -> None:
    for part in build_report(run).rounds:
        assert part.vote_agreement < 1
        assert 1 / 12 < part.channel_agreement < 1


def test_permuting_which_channel_got_which_grade_lowers_agreement_to_chance(run: RunResult) -> None:
    """Devices whose votes have nothing to do with each other: concordance falls to about one in ``n``."""
    seed, rng = run.seeds[0], np.random.default_rng(4)
    num_devices, layout = len(seed.devices), seed.campaign.layout
    vote = sum(
        np.concatenate(
            [grade_layout(layout, rng.random(layout.num_channels)), public_vote(seed, 1)[layout.num_channels :]]
        )
        for _ in range(num_devices)
    )
    unrelated = dataclasses.replace(seed, vote_total=Total(tuple(int(lane) for lane in vote), num_devices))
    report = build_report(dataclasses.replace(run, seeds=(unrelated,)))
    assert report.rounds[0].channel_agreement == pytest.approx(1 / num_devices, abs=0.06)
    assert build_report(run).rounds[0].channel_agreement > 0.3


def test_swapping_the_names_of_two_arms_at_random_finds_no_effect(make_run: MakeRun) -> None:
    """Sign-flip control: an effect of four points is there, and gone once a coin decides which arm is whose."""
    run, rng = make_run(num_seeds=1, num_devices=40), np.random.default_rng(6)

    def flipped() -> RunResult:
        devices = []
        for device in run.seeds[0].devices:
            pair = [device.accuracy["fleet"], device.accuracy["agnostic_local"]]
            fleet, agnostic = pair if rng.random() < 0.5 else pair[::-1]
            accuracy = device.accuracy | {"fleet": fleet, "agnostic_local": agnostic}
            devices.append(dataclasses.replace(device, accuracy=accuracy))
        return dataclasses.replace(run, seeds=(dataclasses.replace(run.seeds[0], devices=tuple(devices)),))

    verdict = build_report(run).verdict
    assert verdict is not None
    assert verdict.effect == "added"
    effects = [build_report(flipped()).verdict for _ in range(8)]
    assert sum(effect is not None and effect.effect != "nothing" for effect in effects) <= 1, "5 % are expected"


def test_the_digest_of_the_sum_tells_the_control_from_the_run(run: RunResult) -> None:
    seed, controlled = run.seeds[0], without_data(run).seeds[0]
    assert digest(str(seed.vote_total.lanes).encode()) != digest(str(controlled.vote_total.lanes).encode())
    assert seed.levels[0].decision.fingerprint != controlled.levels[0].decision.fingerprint
