"""From a simulation's measurements to its report; what follows from documents and sums alone is the coordinator's.

After a change of the model, ``python -m prunefleet_simulation.report --write-schema`` writes the schema again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prunefleet_coordinator.report_model import (
    Arm,
    ArmName,
    DecisionRecord,
    Device,
    Effect,
    Paired,
    PairName,
    Report,
    Round,
    Seed,
    SteeringFacts,
    Verdict,
    Wire,
    report_schema,
)
from prunefleet_coordinator.report_parts import contribution_of, decision_record, group_tallies, round_of, setting_of
from prunefleet_shared.masks import FloatArray
from prunefleet_shared.mixture import PPM
from prunefleet_simulation.results import ARMS, LevelResult, RunResult, SeedResult
from prunefleet_simulation.statistics import bootstrap_mean, paired_difference, worst_decile

SCHEMA_PATH = Path(__file__).with_name("report.schema.json")
PAIRS: tuple[tuple[PairName, ArmName], ...] = (
    ("fleet_minus_local", "local"),
    ("fleet_minus_agnostic_local", "agnostic_local"),
    ("fleet_minus_agnostic", "agnostic"),
    ("fleet_minus_fleet_widths", "fleet_widths"),
    ("fleet_minus_dense", "dense"),
)


def build_report(run: RunResult, *, replay_command: str | None = None, base_weight_bytes: int | None = None) -> Report:
    """Everything that can be said of ``run``.

    Args:
        run: At least one seed, each with at least one device and one level.
        replay_command: What recomputes the decisions from the run's folder.
        base_weight_bytes: Size of the base's fp32 weights, the yardstick for bytes (FedAvg sends that up every round).

    Raises:
        ValueError: The run has no seed, or a number is impossible, such as an accuracy above 1 (a bug in the caller).
    """
    campaign = run.seeds[0].campaign
    paired = {name: _paired(run, arm) for name, arm in PAIRS if {"fleet", arm} <= _arms_measured(run)}
    return Report(
        run_id=run.run_id,
        command=run.command,
        replay_command=replay_command or f"prunefleet coordinator replay runs/{run.run_id}",
        wall_s=run.wall_s,
        notes=list(run.notes),
        versions=dict(run.versions),
        setting=setting_of(campaign, run.preset, is_retrained=run.is_retrained),
        seeds=[Seed(seed=s.seed, num_devices=len(s.devices), wall_s=s.wall_s) for s in run.seeds],
        verdict=_verdict(paired),
        arms={arm: _arm(run, arm) for arm in _arm_names(run)},
        arms_paired=paired,
        wire=_wire(run.seeds, base_weight_bytes),
        contribution=contribution_of(campaign),
        rounds=[_round(seed, level) for seed in run.seeds for level in seed.levels],
        decisions=[_decision(seed, level) for seed in run.seeds for level in seed.levels],
        topology=[tally for s in run.seeds for tally in group_tallies(s.campaign, s.vote_total, s.seed)],
        steering=[facts for seed in run.seeds for level in seed.levels for facts in _steering(seed, level)] or None,
        devices=_devices(run),
    )


def _arms_measured(run: RunResult) -> set[str]:
    return set.intersection(*(set(device.accuracy) for seed in run.seeds for device in seed.devices))


def _arm_names(run: RunResult) -> list[ArmName]:
    measured = _arms_measured(run)
    return [arm for arm in ARMS if arm in measured]


def _accuracies(run: RunResult, arm: ArmName) -> list[FloatArray]:
    return [np.asarray([device.accuracy[arm] for device in seed.devices]) for seed in run.seeds]


def _arm(run: RunResult, arm: ArmName) -> Arm:
    accuracies = _accuracies(run, arm)
    interval = bootstrap_mean(accuracies)
    costs = [seed.arm_costs[arm] for seed in run.seeds]
    return Arm(
        accuracy_mean=interval.mean,
        accuracy_ci95_low=interval.ci95_low,
        accuracy_ci95_high=interval.ci95_high,
        accuracy_worst_decile=worst_decile(accuracies),
        macs_ratio=float(np.mean([cost.macs_ratio for cost in costs])),
        params_ratio=float(np.mean([cost.params_ratio for cost in costs])),
        latency_ratio=float(np.mean([cost.latency_ratio for cost in costs])),
    )


def _paired(run: RunResult, other: ArmName) -> Paired:
    difference = paired_difference(_accuracies(run, "fleet"), _accuracies(run, other))
    interval = difference.interval
    return Paired(
        mean=interval.mean,
        ci95_low=interval.ci95_low,
        ci95_high=interval.ci95_high,
        share_worse=difference.share_worse,
    )


def _verdict(paired: dict[PairName, Paired]) -> Verdict | None:
    ours = paired.get("fleet_minus_agnostic_local")
    if ours is None:
        return None
    effect: Effect = "added" if ours.ci95_low > 0 else "hurt" if ours.ci95_high < 0 else "nothing"
    size = f"{abs(ours.mean) * 100:.1f}" if effect != "nothing" else f"{ours.mean * 100:+.1f}"
    numbers = f"{size} percentage points (95 % interval {_interval(ours)})"
    sentences = {
        "added": f"The fleet added {numbers} to the best a device can do without one.",
        "nothing": f"The fleet added nothing measurable to the best a device can do without one: {numbers}.",
        "hurt": f"The fleet hurt: it took {numbers} from the best a device can do without one.",
    }
    return Verdict(
        fleet_added=effect == "added", effect=effect, sentence=sentences[effect], comparison=_comparison(paired)
    )


def _comparison(paired: dict[PairName, Paired]) -> str:
    against: dict[PairName, str] = {
        "fleet_minus_local": "each device pruning alone on its own images",
        "fleet_minus_agnostic": "the same budget without any device's data",
    }
    parts = [
        f"{paired[name].mean * 100:+.1f} points ({_interval(paired[name])}) against {words}"
        for name, words in against.items()
        if name in paired
    ]
    return f"The fleet's network stands at {' and '.join(parts)}." if parts else ""


def _interval(paired: Paired) -> str:
    return f"{paired.ci95_low * 100:+.1f} to {paired.ci95_high * 100:+.1f}"


def _wire(seeds: Sequence[SeedResult], base_weight_bytes: int | None) -> Wire:
    device_sessions = [len(seed.devices) * max(1, seed.wire.num_sessions) for seed in seeds]
    per_session = list(zip(seeds, device_sessions, strict=True))
    return Wire(
        up_bytes_per_device_session=float(np.mean([s.wire.protocol_up_bytes / n for s, n in per_session])),
        down_bytes_per_device_session=float(np.mean([s.wire.protocol_down_bytes / n for s, n in per_session])),
        model_down_bytes=float(np.mean([s.wire.model_down_bytes for s in seeds])),
        socket_up_bytes=float(np.mean([s.wire.socket_up_bytes for s in seeds])),
        socket_down_bytes=float(np.mean([s.wire.socket_down_bytes for s in seeds])),
        base_weight_bytes=base_weight_bytes,
    )


def _round(seed: SeedResult, result: LevelResult) -> Round:
    return round_of(seed.campaign, result.decision.level, seed.vote_total, result.outcome, seed.seed)


def _decision(seed: SeedResult, result: LevelResult) -> DecisionRecord:
    return decision_record(seed.campaign, seed.vote_total, result.decision, result.signed_decision, seed.seed)


def _steering(seed: SeedResult, result: LevelResult) -> list[SteeringFacts]:
    """One entry, or none where the level was not steered."""
    if result.steering is None:
        return []
    mixture, seen = result.steering.mixture, {label for device in seed.devices for label in device.classes}
    shares = zip(mixture.weights_ppm, result.steering.kinds, strict=True)
    facts = SteeringFacts(
        seed=seed.seed,
        level=result.decision.level,
        weights=[weight / PPM for weight in mixture.weights_ppm],
        explained=mixture.explained_ppm / PPM,
        by_chance=mixture.by_chance_ppm / PPM,
        is_confident=mixture.is_confident,
        on_fleet=sum(weight for weight, kind in shares if kind in seen) / PPM,
        clusters=[[result.steering.kinds[kind] for kind in part] for part in result.steering.clusters] or None,
    )
    return [facts]


def _devices(run: RunResult) -> list[Device]:
    arms = _arm_names(run)
    return [
        Device(
            seed=seed.seed,
            device_id=device.device_id,
            classes=list(device.classes),
            accuracy={arm: device.accuracy[arm] for arm in arms},
            num_report_images=device.num_report_images,
            accepted=list(device.accepted),
        )
        for seed in run.seeds
        for device in seed.devices
    ]


def main(arguments: Sequence[str]) -> int:
    """Write the schema beside this module (``--write-schema``) or print it; returns the exit code."""
    if list(arguments) == ["--write-schema"]:
        SCHEMA_PATH.write_text(report_schema(), encoding="utf-8")
    else:
        sys.stdout.write(report_schema())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
