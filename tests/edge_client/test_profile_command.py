"""``prunefleet edge profile`` as a person meets it: a file that serves as a budget, and figures on the screen."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer imports names that click 8.5 deprecates
    from prunefleet_shared.cli import run as prunefleet

from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.models.weights import save_weights
from prunefleet_edge.onboarding import onboard
from prunefleet_edge.profile import latency_table, read_profile

torch.set_num_threads(1)
SPEC = "resnet8/1x8x8/4"
Printed = pytest.CaptureFixture[str]


def options(out: Path, *more: str) -> list[str]:
    quick = ["--grid", "2", "--networks", "1", "--runtime", "torch-eager"]
    return ["edge", "profile", "--model", SPEC, "--out", str(out), *quick, *more]


def test_it_writes_a_profile_that_serves_as_a_budget(tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "profile.json"
    assert prunefleet(options(out)) == 0
    printed = capsys.readouterr()
    profile = read_profile(out)
    model = build(parse_spec(SPEC))
    layout = onboard(model, example_input(parse_spec(SPEC))).layout
    table = latency_table(profile, layout, SPEC)
    assert table.cost([1] * len(layout.groups)) > 0
    for words in (f"{SPEC}: {profile.dense_ns / 1e6:.2f} ms per image in torch-eager", "off by", "training memory"):
        assert words in printed.out
    assert "looking for channel groups" in printed.err


def test_it_prints_json_and_nothing_else_when_asked(tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "profile.json"
    assert prunefleet(options(out, "--json", "--quiet")) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["model"] == SPEC
    assert printed.err == ""


def test_weights_may_be_given_and_must_fit(tmp_path: Path, capsys: Printed) -> None:
    base, other = tmp_path / "base.safetensors", tmp_path / "other.safetensors"
    base.write_bytes(save_weights(build(parse_spec(SPEC))))
    other.write_bytes(save_weights(build(parse_spec("resnet8/1x8x8/5"))))
    assert prunefleet(options(tmp_path / "a.json", "--base", str(base))) == 0
    assert prunefleet(options(tmp_path / "b.json", "--base", str(other))) == 5
    assert "not the weights of" in capsys.readouterr().err
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize(
    ("more", "exit_code", "words"),
    [
        (["--runtime", "tflite"], 2, "runtime: expected onnxruntime or torch-eager, got 'tflite'"),
        (["--model", "nonet/1x8x8/4"], 2, "no built-in network"),
        (["--base", "nowhere.safetensors"], 5, "nowhere.safetensors"),
    ],
)
def test_what_is_wrong_is_said(more: list[str], exit_code: int, words: str, tmp_path: Path, capsys: Printed) -> None:
    assert prunefleet(options(tmp_path / "profile.json", *more)) == exit_code
    assert words in capsys.readouterr().err
