"""A whole simulation, small but real: processes, gRPC, training, private sums. One run in worker processes, its
repetition here, in mode plain.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from prunefleet_coordinator.archive import read_signed
from prunefleet_coordinator.replay import replay
from prunefleet_edge.recipes import Recipe
from prunefleet_shared.campaign import PLAIN, SUM, Campaign, PrivacyTerms
from prunefleet_shared.documents import read_document
from prunefleet_shared.errors import InputError, ReplayError
from prunefleet_simulation import simulate as simulate_module
from prunefleet_simulation.presets import DIGITS, PRESETS
from prunefleet_simulation.progress import SilentProgress
from prunefleet_simulation.progress_events import ProgressEvent, RunFinished, RunStarted, SeedFinished
from prunefleet_simulation.report import SCHEMA_PATH
from prunefleet_simulation.results import ARMS
from prunefleet_simulation.settings import Settings
from prunefleet_simulation.simulate import new_run_id, simulate

torch.set_num_threads(1)
LOCAL = Recipe(epochs=1, learning_rate=0.03, batch_size=8, shift_pixels=1)
TINY = replace(
    DIGITS,
    base=Recipe(epochs=1, learning_rate=0.1, batch_size=32, shift_pixels=1),
    public=Recipe(epochs=1, learning_rate=0.05, batch_size=32),
    public_ratio=0.1,
    local=LOCAL,
    images_per_device=16,
    report_images=40,
)
NUM_DEVICES, LEVELS = 4, (0.5, 0.25)
NUM_SESSIONS = 1 + len(LEVELS)
PRUNED = ("agnostic", "agnostic_local", "local", "fleet")


class Listening(SilentProgress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[ProgressEvent] = []

    def on(self, event: ProgressEvent) -> None:
        self.events.append(event)


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    page: Path
    report: dict[str, Any]
    events: list[ProgressEvent]

    @property
    def fingerprints(self) -> list[str]:
        return [decision["fingerprint"] for decision in self.report["decisions"]]


def play(out: Path, **options: Any) -> Run:
    usual = {"devices": NUM_DEVICES, "min_devices": 3, "levels": LEVELS, "seeds": (5,)}
    settings = Settings(out=out, workers=1, **(usual | options))
    progress = Listening()
    page = simulate(settings, progress, "test")
    return Run(page.parent, page, json.loads((page.parent / "report.json").read_text()), progress.events)


@pytest.fixture(scope="module", autouse=True)
def tiny_preset() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "digits", TINY)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The real thing, in a worker process and in mode sum."""
    return play(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def at_home() -> Iterator[None]:
    """Jobs in a thread of this process: the same results, without starting Python and torch anew."""

    def thread_pool(workers: int, **_: object) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(workers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate_module, "ProcessPoolExecutor", thread_pool)
        yield


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory, run: Run, at_home: None) -> Run:
    """The same seed once more, then another; the coordinator sees each contribution."""
    return play(tmp_path_factory.mktemp("again"), seeds=(5, 6), privacy="plain")


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory, run: Run, at_home: None) -> Run:
    """The same seed and base, a smaller fleet, every vote replaced by the public order."""
    return play(tmp_path_factory.mktemp("control"), votes="public_l1", devices=2, levels=LEVELS[-1:], privacy="plain")


@pytest.fixture(scope="module")
def blended(tmp_path_factory: pytest.TempPathFactory, run: Run, at_home: None) -> Run:
    """The same seed without public retraining; the gate's other side is at the fleet's widths."""
    options = {"public_retraining": False, "gate_alternative": "fleet_widths", "levels": LEVELS[-1:]}
    return play(tmp_path_factory.mktemp("blended"), **options)


def campaign_of(run: Run, seed: int = 5) -> Campaign:
    return read_document(read_signed(run.folder / f"seed-{seed}" / "campaign.json").payload, Campaign)


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_obeys_the_shipped_schema(run: Run) -> None:
    jsonschema.Draft202012Validator(json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))).validate(run.report)
    assert run.report["command"] == "test"
    assert run.report["run_id"] == run.folder.name
    assert run.page.read_text(encoding="utf-8").lstrip().startswith("<!")


def test_every_arm_was_measured_on_every_device(run: Run) -> None:
    arms = [arm for arm in ARMS if arm != "fleet_widths"]
    assert list(run.report["arms"]) == arms
    assert len(run.report["devices"]) == NUM_DEVICES
    for device in run.report["devices"]:
        assert set(device["accuracy"]) == set(arms)
        assert device["num_report_images"] == 40
        assert len(device["accepted"]) == len(LEVELS)
    for seed_round in run.report["rounds"]:
        assert seed_round["outcome"]["tried"] == seed_round["outcome"]["finished"] == NUM_DEVICES


def test_pruned_arms_cost_the_same_and_no_more_than_was_allowed(run: Run) -> None:
    costs = [run.report["arms"][arm]["macs_ratio"] for arm in PRUNED]
    assert max(costs) - min(costs) <= 0.01
    assert max(costs) <= LEVELS[-1] + 0.001
    assert run.report["arms"]["dense"]["macs_ratio"] == 1
    for decision in run.report["decisions"]:
        assert 0.9 * decision["budget"] < decision["cost"] <= decision["budget"]


def test_without_public_retraining_the_report_says_what_was_done_instead(run: Run, blended: Run) -> None:
    assert tuple(blended.report["arms"]) == ARMS
    assert blended.report["setting"]["is_retrained"] is False
    assert blended.report["setting"]["gate_alternative"] == "fleet_widths"
    assert any(note.startswith("No public retraining") for note in blended.report["notes"])
    page = blended.page.read_text(encoding="utf-8")
    assert "retrained on public data" not in page
    assert "retrained on public data" in run.page.read_text(encoding="utf-8")
    replay(blended.folder / "seed-5")


def test_all_devices_end_with_the_fleets_widths_if_the_gate_asks_for_it(blended: Run) -> None:
    costs = blended.report["arms"]
    assert costs["fleet_widths"]["macs_ratio"] == pytest.approx(costs["fleet"]["macs_ratio"], abs=1e-12)
    assert costs["fleet_widths"]["params_ratio"] == pytest.approx(costs["fleet"]["params_ratio"], abs=1e-12)


def test_arms_differ_only_where_they_should(run: Run) -> None:
    """Shapes from data and shapes from the public order are not one and the same by some slip."""
    (tally,) = {tuple(group["grade_tally"]) for group in run.report["topology"][:1]}
    assert len(set(tally)) > 1
    assert run.report["rounds"][0]["channel_agreement"] < 1


@pytest.mark.parametrize(("name", "limit_bytes"), [("run", 5000), ("again", 1000)], ids=["sum", "plain"])
def test_little_goes_up_and_it_is_counted(name: str, limit_bytes: int, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    sent = run.report["wire"]
    assert 0 < sent["up_bytes_per_device_session"] <= limit_bytes
    assert sent["down_bytes_per_device_session"] > 0
    assert sent["model_down_bytes"] > NUM_DEVICES * sent["base_weight_bytes"] > 0
    assert sent["socket_up_bytes"] > sent["up_bytes_per_device_session"] * NUM_DEVICES * NUM_SESSIONS
    assert sent["socket_down_bytes"] > sent["model_down_bytes"]
    vote, outcome = (run.report["contribution"][name] for name in ("vote_bytes", "outcome_bytes"))
    assert sent["up_bytes_per_device_session"] * NUM_SESSIONS > vote + len(LEVELS) * outcome


def test_the_display_hears_the_beginning_and_the_end(run: Run) -> None:
    assert isinstance(run.events[0], RunStarted)
    assert run.events[-1] == RunFinished(str(run.page))
    (finished,) = [event for event in run.events if isinstance(event, SeedFinished)]
    means = {arm: found["accuracy_mean"] for arm, found in run.report["arms"].items()}
    assert {arm: pytest.approx(mean) for arm, mean in means.items()} == finished.accuracy_mean


# --- what is left behind ---------------------------------------------------------------------------------------------


def test_nothing_private_stays_in_the_folder(run: Run) -> None:
    names = sorted(path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file())
    levels = [
        f"seed-5/level-{level}/{name}.json"
        for level in range(len(LEVELS))
        for name in ("decision", "outcome", "slim_base", "steering", "sum")
    ]
    known = {"report.html", "report.json", "seed-5/campaign.json", "seed-5/coordinator.sqlite", *levels}
    assert set(names) == known, "signed documents, sums and the report; no device's store, no dense copy"


def test_the_run_replays(run: Run) -> None:
    decisions = replay(run.folder)
    assert [decision.fingerprint for decision in decisions] == run.fingerprints
    assert [decision.level for decision in decisions] == list(range(len(LEVELS)))
    assert {decision.num_devices for decision in decisions} == {NUM_DEVICES}


def change_sum(text: str) -> str:
    total = json.loads(text)
    total["lanes"][0] += 1
    return json.dumps(total)


def move_one_grade(text: str) -> str:
    """A change that keeps every total: only the decision itself can tell."""
    total = json.loads(text)
    lanes = total["lanes"]
    low, high = min(range(8), key=lanes.__getitem__), max(range(8), key=lanes.__getitem__)
    lanes[low], lanes[high] = lanes[high], lanes[low]
    return json.dumps(total)


def change_signature(text: str) -> str:
    signed = json.loads(text)
    digits = signed["signature"]
    signed["signature"] = digits[:-1] + format(int(digits[-1], 16) ^ 1, "x")
    return json.dumps(signed)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("level-0/sum.json", change_sum, r"level-0/sum\.json: no decision follows"),
        ("level-1/sum.json", move_one_grade, r"level-1/decision\.json: prior does not follow"),
        ("level-0/decision.json", change_signature, r"level-0/decision\.json: BAD_SIGNATURE"),
        ("level-1/slim_base.json", change_signature, r"level-1/slim_base\.json: BAD_SIGNATURE"),
        ("campaign.json", change_signature, r"campaign\.json: BAD_SIGNATURE"),
    ],
)
def test_one_changed_number_or_byte_is_found(
    run: Run, tmp_path: Path, name: str, change: Callable[[str], str], words: str
) -> None:
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    path = copy / "seed-5" / name
    path.write_text(change(path.read_text()))
    with pytest.raises(ReplayError, match=words):
        replay(copy)


# --- once more -------------------------------------------------------------------------------------------------------


def test_the_same_seed_decides_the_same_elsewhere_and_another_does_not(run: Run, again: Run) -> None:
    """In a worker process or not; and masks leave no trace: from private sums follows what follows from plain ones."""
    assert (campaign_of(run).privacy, campaign_of(again).privacy) == (PrivacyTerms(SUM, 3), PrivacyTerms(PLAIN, 1))
    assert again.fingerprints[: len(LEVELS)] == run.fingerprints
    assert len(set(again.fingerprints)) == 2 * len(LEVELS)
    one, other = (
        [(d["classes"], d["accuracy"]) for d in report["devices"] if d["seed"] == 5]
        for report in (run.report, again.report)
    )
    assert one == other, "accuracies too: a worker process changes nothing"


def test_seeds_are_told_apart_in_folder_and_report(again: Run) -> None:
    assert [seed["seed"] for seed in again.report["seeds"]] == [5, 6]
    assert {path.name for path in again.folder.glob("seed-*")} == {"seed-5", "seed-6"}
    assert len(replay(again.folder)) == 2 * len(LEVELS)
    assert campaign_of(again, 5).campaign_id != campaign_of(again, 6).campaign_id


def test_votes_without_data_say_the_public_order_and_agree(run: Run, control: Run) -> None:
    public_order = [list(order) for order in campaign_of(control).public_order]
    assert public_order == [list(order) for order in campaign_of(run).public_order], "the same base"
    for decision in control.report["decisions"]:
        assert decision["prior"] == public_order
    for seed_round in control.report["rounds"]:
        assert (seed_round["vote_agreement"], seed_round["channel_agreement"]) == (1.0, 1.0)
    assert any("Control" in note for note in control.report["notes"])
    assert run.report["decisions"][0]["prior"] != public_order, "real votes say something else"


# --- what stops a run ------------------------------------------------------------------------------------------------


def test_data_that_cannot_be_used_stops_a_run_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        simulate(Settings(devices=900, out=tmp_path / "runs"), SilentProgress(), "test")
    assert not (tmp_path / "runs").exists()


def test_a_run_never_writes_into_another(tmp_path: Path) -> None:
    settings, now = Settings(out=tmp_path), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    names = []
    for _ in range(3):
        names.append(new_run_id(settings, now))
        (tmp_path / names[-1]).mkdir()
    assert names == ["20260102-030405-digits", "20260102-030405-digits-2", "20260102-030405-digits-3"]
