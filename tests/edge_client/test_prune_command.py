"""``prunefleet edge prune`` and ``edge retrain`` as a person meets them: files that load, figures that hold."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer imports names that click 8.5 deprecates
    from prunefleet_shared.cli import run as prunefleet

from prunefleet_edge.data import stratified_halves
from prunefleet_edge.data_source import load_source
from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.local_images import FIT_RATIO
from prunefleet_edge.models import parse_spec
from prunefleet_edge.network_file import load_kept
from prunefleet_edge.phases import WORK_FOLDER
from prunefleet_edge.step_progress import StepProgress
from prunefleet_edge.weight_file import load_sparse

torch.set_num_threads(1)
SPEC = "resnet8/1x12x12/4"
Printed = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images of four classes, told apart by which quarter is bright."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 4
    images = rng.integers(0, 120, (120, 12, 12, 1))
    for image, label in zip(images, labels, strict=True):
        image[6 * (label // 2) :][:6, 6 * (label % 2) :][:, :6] += 100
    path = tmp_path_factory.mktemp("photos") / "photos.npz"
    np.savez(path, x=images.astype(np.uint8), y=labels)
    return path


def options(photos: Path, out: Path, *more: str) -> list[str]:
    common = ["--data", f"npz:{photos}", "--model", SPEC, "--scratch", "--preset", "digits", "--epochs", "3"]
    return ["edge", "prune", *common, "--out", str(out), "--quiet", *more]


def result_of(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "result.json").read_text())
    return found


def gate_of(photos: Path) -> object:
    samples = load_source(f"npz:{photos}", parse_spec(SPEC), "x").samples
    _, gate = stratified_halves(samples.labels, torch.Generator().manual_seed(0), FIT_RATIO)
    return samples[gate]


@pytest.fixture(scope="module")
def pruned(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with half of its MACs removed."""
    out = tmp_path_factory.mktemp("pruned")
    assert prunefleet(options(photos, out, "--remove", "0.5")) == 0
    return out


def test_the_file_holds_the_network_that_was_measured(pruned: Path, photos: Path) -> None:
    result = result_of(pruned)
    model = load_kept(pruned / "slim.safetensors")
    after, before = result["result"], result["dense"]
    assert accuracy(model, gate_of(photos)) == after["gate_accuracy"]
    assert sum(int(p.count_nonzero()) for p in model.parameters()) == after["parameters"]
    assert 0.4 * before["macs"] < after["macs"] <= 0.5 * before["macs"]
    assert after["file_bytes"] == (pruned / "slim.safetensors").stat().st_size
    assert result["data"]["num_fit"] + result["data"]["num_gate"] == 120
    assert not (pruned / WORK_FOLDER).exists(), "nothing of the work is left behind"


def test_the_same_command_gives_the_same_bytes(pruned: Path, photos: Path, tmp_path: Path) -> None:
    assert prunefleet(options(photos, tmp_path, "--remove", "0.5")) == 0
    assert (tmp_path / "slim.safetensors").read_bytes() == (pruned / "slim.safetensors").read_bytes()


@pytest.mark.parametrize("stop_at", [3, 11, 16])
def test_stopped_at_any_step_the_same_command_goes_on_to_the_same_bytes(
    pruned: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Ctrl-C in the fine-tuning, at its end, and in the retraining; every step is saved, so none is done twice."""
    monkeypatch.setattr("prunefleet_edge.checkpoint.SAVE_EVERY_S", 0.0)
    monkeypatch.setattr("prunefleet_edge.checkpoint.Checkpoint.is_due", lambda _self: True)
    steps = interrupted_at(stop_at, monkeypatch)
    assert prunefleet(options(photos, tmp_path, "--remove", "0.5")) == 130
    assert len(steps) == stop_at
    assert not (tmp_path / "slim.safetensors").exists()
    assert prunefleet(options(photos, tmp_path, "--remove", "0.5")) == 0
    assert (tmp_path / "slim.safetensors").read_bytes() == (pruned / "slim.safetensors").read_bytes()
    assert len(steps) < 2 * stop_at + 40
    assert not (tmp_path / WORK_FOLDER).exists()


def interrupted_at(stop_at: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Raise at one step, once; returns the steps that were made so far, over all phases."""
    steps: list[int] = []
    phase = StepProgress.phase

    def counting(self: StepProgress, words: str) -> Callable[[int, int], None]:
        tell = phase(self, words)

        def on_step(done: int, total: int) -> None:
            steps.append(done)
            if len(steps) == stop_at:
                raise KeyboardInterrupt
            tell(done, total)

        return on_step

    monkeypatch.setattr(StepProgress, "phase", counting)
    return steps


def test_another_command_does_not_take_up_what_was_left(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunefleet_edge.checkpoint.Checkpoint.is_due", lambda _self: True)
    interrupted_at(5, monkeypatch)
    assert prunefleet(options(photos, tmp_path, "--remove", "0.5")) == 130
    monkeypatch.undo()
    assert prunefleet(options(photos, tmp_path, "--remove", "0.5", "--seed", "7")) == 0
    other = tmp_path / "other"
    assert prunefleet(options(photos, other, "--remove", "0.5", "--seed", "7")) == 0
    assert (tmp_path / "slim.safetensors").read_bytes() == (other / "slim.safetensors").read_bytes()


def test_the_search_keeps_the_floor_and_says_what_it_tried(photos: Path, tmp_path: Path, capsys: Printed) -> None:
    assert prunefleet(options(photos, tmp_path, "--floor", "0.4", "--test", f"npz:{photos}", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["result"]["gate_accuracy"] >= 0.4
    kept = [one["removed_ratio"] for one in result["tries"] if one["is_floor_kept"]]
    assert all(one["is_floor_kept"] == (one["gate_accuracy"] >= 0.4) for one in result["tries"])
    chosen = next(one for one in result["tries"] if one["removed_ratio"] == max(kept))
    assert result["result"]["gate_accuracy"] == chosen["gate_accuracy"]
    assert result["result"]["test_accuracy"] is not None
    assert result["original_task"] == "not measured"


def test_a_floor_that_no_network_keeps_is_an_error_that_says_the_best(
    photos: Path, tmp_path: Path, capsys: Printed
) -> None:
    assert prunefleet(options(photos, tmp_path, "--floor", "0.999", "--epochs", "1")) == 5
    words = capsys.readouterr().err
    assert "no smaller network keeps an accuracy of 99.9%" in words
    assert "--max-drop" in words


# --- single weights ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sparse(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sparse")
    assert prunefleet(options(photos, out, "--sparsity", "0.8", "--steps", "2")) == 0
    return out


def test_a_weight_pruned_network_is_small_and_loads(sparse: Path, photos: Path) -> None:
    result, network = result_of(sparse), load_sparse(sparse / "sparse.safetensors")
    assert accuracy(network.model, gate_of(photos)) == result["result"]["gate_accuracy"]
    assert abs(network.info.sparsity - 0.8) < 1e-4
    assert result["result"]["file_bytes"] < 0.3 * result["dense"]["file_bytes"]


@pytest.mark.parametrize("strategy", ["survivors", "regrow", "all", "anchored", "distilled", "none"])
def test_a_deployed_network_is_retrained_by_any_strategy(
    sparse: Path, photos: Path, tmp_path: Path, strategy: str
) -> None:
    network = sparse / "sparse.safetensors"
    common = ["--data", f"npz:{photos}", "--preset", "digits", "--epochs", "1", "--out", str(tmp_path), "--quiet"]
    assert prunefleet(["edge", "retrain", str(network), *common, "--strategy", strategy]) == 0
    before, after = load_sparse(network), load_sparse(tmp_path / network.name)
    if strategy == "none":
        assert all(torch.equal(a, b) for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True))
    elif strategy in ("regrow", "all"):
        assert after.info.sparsity < 0.5
    else:
        assert all(not (after.masks[name] & ~mask).any() for name, mask in before.masks.items())


def test_a_slim_network_is_retrained_too_but_has_no_gaps_to_fill(
    pruned: Path, photos: Path, tmp_path: Path, capsys: Printed
) -> None:
    command = ["edge", "retrain", str(pruned / "slim.safetensors"), "--data", f"npz:{photos}", "--preset", "digits"]
    command += ["--epochs", "1", "--out", str(tmp_path), "--quiet"]
    assert prunefleet([*command, "--strategy", "anchored"]) == 0
    assert load_kept(tmp_path / "slim.safetensors") is not None
    assert prunefleet([*command, "--strategy", "regrow"]) == 2
    assert "it has none" in capsys.readouterr().err


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--remove", "0.5", "--floor", "0.9"], 2, ["remove and floor", "one of them"]),
        (["--remove", "1.5"], 2, ["remove", "got 1.5"]),
        (["--budget-in", "latency"], 2, ["profile", "edge profile"]),
        (["--strategy", "all"], 2, ["strategy", "sparsity"]),
        (["--remove", "0.5", "--criterion", "magic"], 2, ["criterion", "taylor", "'magic'"]),
        (["--remove", "0.5", "--plan", "magic"], 2, ["plan", "iterative", "'magic'"]),
        (["--sparsity", "0.5", "--strategy", "magic"], 2, ["strategy", "'magic'"]),
        (["--remove", "0.5", "--skip", "net.conv"], 2, ["skip", "did you mean net.conv1"]),
        (["--remove", "0.999"], 2, ["cannot be met"]),
        (["--memory-limit", "lots"], 2, ["memory_limit", "512MB"]),
        (["--memory-limit", "1kB"], 5, ["1.0 kB"]),
        (["--base", "no-such.safetensors"], 2, ["base", "scratch"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_what_cannot_be_done_is_one_sentence_before_anything_is_trained(
    photos: Path, tmp_path: Path, capsys: Printed, more: list[str], code: int, words: list[str]
) -> None:
    assert prunefleet(options(photos, tmp_path, *more)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("prunefleet: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def test_a_network_without_weights_says_what_to_give(photos: Path, tmp_path: Path, capsys: Printed) -> None:
    command = ["edge", "prune", "--data", f"npz:{photos}", "--model", SPEC, "--out", str(tmp_path), "--quiet"]
    assert prunefleet(command) == 2
    assert "--base" in capsys.readouterr().err


def test_missing_options_are_named(capsys: Printed) -> None:
    assert prunefleet(["edge", "prune"]) == 2
    assert "data: expected a value, got none" in capsys.readouterr().err


def test_options_may_come_from_a_file(photos: Path, tmp_path: Path) -> None:
    config = tmp_path / "prune.toml"
    lines = [f'data = "npz:{photos}"', f'model = "{SPEC}"', "scratch = true", 'preset = "digits"', "remove = 0.3"]
    config.write_text("\n".join([*lines, "epochs = 9", "[nothing]"]))
    assert prunefleet(["edge", "prune", "--config", str(config)]) == 2, "an unknown key is refused"
    config.write_text("\n".join([*lines, "epochs = 9", f'out = "{tmp_path / "a"}"']))
    assert prunefleet(["edge", "prune", "--config", str(config), "--epochs", "1", "--quiet"]) == 0
    assert "30%" in str(result_of(tmp_path / "a")["goal"])


def test_help_needs_no_torch() -> None:
    program = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from prunefleet_shared.cli import run\n"
        "assert run(['edge', 'prune', '--help']) == 0\n"
        "assert not {'torch', 'torch_pruning'} & set(sys.modules), 'torch was imported for a page of help'\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr
    for option in ("--data", "--model", "--max-drop", "--memory-limit", "--export"):
        assert option in done.stdout


def test_the_search_stays_within_what_the_limits_let_go(photos: Path, tmp_path: Path, capsys: Printed) -> None:
    """Rounded to 16, the stem (16 channels) stays whole, and most ratios cannot be reached: none of them is tried."""
    assert prunefleet(options(photos, tmp_path, "--floor", "0.3", "--round-to", "16", "--epochs", "1")) == 0
    result = result_of(tmp_path)
    assert result["tries"]
    assert all(one["cost_ratio"] <= 1 - one["removed_ratio"] for one in result["tries"])
    assert prunefleet(options(photos, tmp_path, "--round-to", "64")) == 2
    assert "the search begins with 5% removed; relax them" in capsys.readouterr().err
