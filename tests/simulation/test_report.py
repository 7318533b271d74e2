"""The report says what the run measured, under the schema it ships."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import numpy as np
import pytest
from pydantic import ValidationError

from prunefleet_coordinator.report_model import Report, report_json, report_schema
from prunefleet_shared.documents import SignedDocument, signature_agrees
from prunefleet_simulation.report import SCHEMA_PATH, build_report, main
from prunefleet_simulation.results import ARMS, RunResult


@pytest.fixture(scope="module")
def report(run: RunResult) -> Report:
    return build_report(run, base_weight_bytes=1_080_000)


def test_report_obeys_the_shipped_schema(report: Report) -> None:
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(report_json(report)))


def test_shipped_schema_is_fresh() -> None:
    assert SCHEMA_PATH.read_text(encoding="utf-8") == report_schema(), (
        "run: python -m prunefleet_simulation.report --write-schema"
    )


def test_schema_refuses_unknown_keys(report: Report) -> None:
    document = json.loads(report_json(report)) | {"surprise": 1}
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        jsonschema.validate(document, json.loads(report_schema()))
    with pytest.raises(ValidationError, match="surprise"):
        Report.model_validate(document)


def test_schema_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == report_schema()


def test_json_reads_back_as_the_same_report(report: Report) -> None:
    assert Report.model_validate_json(report_json(report)) == report


def test_arms_are_means_over_devices_then_seeds(run: RunResult, report: Report) -> None:
    assert report.arms is not None
    assert tuple(report.arms) == ARMS
    by_seed = [[device.accuracy["fleet"] for device in seed.devices] for seed in run.seeds]
    expected = sum(sum(seed) / len(seed) for seed in by_seed) / len(by_seed)
    arm = report.arms["fleet"]
    assert arm.accuracy_mean == pytest.approx(expected)
    assert arm.accuracy_ci95_low < expected < arm.accuracy_ci95_high
    assert arm.accuracy_worst_decile == pytest.approx(np.mean([min(seed) for seed in by_seed]))
    assert (arm.macs_ratio, arm.params_ratio, arm.latency_ratio) == pytest.approx((0.299, 0.281, 0.52))


def test_paired_differences_have_the_right_sign(report: Report) -> None:
    assert report.arms_paired is not None
    means = {name: pair.mean for name, pair in report.arms_paired.items()}
    assert means["fleet_minus_dense"] == pytest.approx(-0.01, abs=0.02)
    assert means["fleet_minus_agnostic_local"] == pytest.approx(0.04, abs=0.02)
    assert means["fleet_minus_local"] == pytest.approx(0.10, abs=0.02)
    assert means["fleet_minus_agnostic"] == pytest.approx(0.16, abs=0.02)


def test_wire_is_shared_out_by_devices_and_sessions(report: Report) -> None:
    assert report.wire.up_bytes_per_device_session == 620
    assert report.wire.down_bytes_per_device_session == 9200
    assert report.wire.model_down_bytes == 480_000 * 12
    assert report.wire.base_weight_bytes == 1_080_000


def test_contribution_adds_up_to_the_packed_bytes(run: RunResult, report: Report) -> None:
    vote_bits = sum(part.num_bits for part in report.contribution.parts if part.session == "vote")
    assert report.contribution.vote_bytes == run.seeds[0].campaign.vote_lanes.packed_bytes == (vote_bits + 7) // 8
    lanes = sum(part.num_lanes for part in report.contribution.parts if part.session == "vote")
    assert lanes == run.seeds[0].campaign.vote_lanes.num_lanes


def test_rounds_count_what_the_outcomes_say(report: Report) -> None:
    assert [(part.seed, part.level, part.level_permille) for part in report.rounds] == [
        (0, 0, 500),
        (0, 1, 300),
        (1, 0, 500),
        (1, 1, 300),
    ]
    for part in report.rounds:
        assert (part.outcome.tried, part.outcome.finished) == (12, 11)
        assert sum(part.outcome.accuracy_gain) == 11
        assert part.gate_accept_rate == part.outcome.accepted / 11


def test_no_finished_device_means_no_accept_rate(run: RunResult) -> None:
    level = run.seeds[0].levels[0]
    none = dataclasses.replace(level.outcome, finished=0, accepted=0)
    seed = dataclasses.replace(run.seeds[0], levels=(dataclasses.replace(level, outcome=none),))
    assert build_report(dataclasses.replace(run, seeds=(seed,))).rounds[0].gate_accept_rate is None


def test_decisions_can_be_checked(run: RunResult, report: Report) -> None:
    for record, level in zip(report.decisions, run.seeds[0].levels, strict=False):
        signed = SignedDocument(
            "decision",
            level.signed_decision.payload,
            bytes.fromhex(record.signature),
            bytes.fromhex(record.public_key),
        )
        assert signature_agrees(signed)
        assert record.fingerprint in level.signed_decision.payload.decode()
        assert record.cost <= record.budget


@pytest.mark.parametrize(("num_decided", "num_measured"), [(0, 0), (1, 0), (2, 1), (2, 2)])
def test_a_real_fleet_reports_without_accuracies(real_report, num_decided: int, num_measured: int) -> None:
    report = real_report(num_decided, num_measured)
    document = json.loads(report_json(report))
    assert not {"arms", "arms_paired", "devices", "verdict", "seeds", "wire", "command", "wall_s"} & set(document)
    jsonschema.Draft202012Validator(json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))).validate(document)
    assert Report.model_validate_json(report_json(report)) == report
    is_measured = [part["outcome"] is not None for part in document["rounds"]]
    assert is_measured == [level < num_measured for level in range(num_decided)]


def test_a_real_fleet_and_a_simulation_say_the_same_of_the_same_sums(real_report, report: Report) -> None:
    real = real_report()
    for ours, theirs in ((real.rounds, report.rounds), (real.decisions, report.decisions)):
        of_seed = [part.model_copy(update={"seed": None}) for part in theirs if part.seed == 0]
        assert ours == of_seed
    assert real.contribution == report.contribution


@pytest.mark.parametrize(
    ("fleet_offset", "effect", "word"),
    [(0.05, "added", "added"), (0.0, "nothing", "nothing measurable"), (-0.05, "hurt", "hurt")],
)
def test_verdict_follows_the_interval(make_run, fleet_offset: float, effect: str, word: str) -> None:
    offsets = dict.fromkeys(ARMS, 0.0) | {"fleet": fleet_offset}
    verdict = build_report(make_run(offsets=offsets, noise=0.01)).verdict
    assert verdict is not None
    assert (verdict.effect, verdict.fleet_added) == (effect, effect == "added")
    assert word in verdict.sentence


def test_a_fleet_equal_to_going_without_added_nothing(make_run) -> None:
    """Negative control: identical accuracies on every device, though ``local`` is far behind."""
    run = make_run(offsets=dict.fromkeys(ARMS, 0.0) | {"local": -0.2}, noise=0.0)
    report = build_report(run)
    assert report.verdict is not None
    assert report.arms_paired is not None
    assert not report.verdict.fleet_added
    assert report.verdict.effect == "nothing"
    pair = report.arms_paired["fleet_minus_agnostic_local"]
    assert (pair.mean, pair.ci95_low, pair.ci95_high, pair.share_worse) == (0, 0, 0, 0)


def test_an_impossible_accuracy_is_refused(make_run) -> None:
    run = make_run(num_seeds=1)
    wrong = dataclasses.replace(run.seeds[0].devices[0], accuracy=dict.fromkeys(ARMS, 75.0))
    seed = dataclasses.replace(run.seeds[0], devices=(wrong,))
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        build_report(dataclasses.replace(run, seeds=(seed,)))
