"""``prunefleet simulate`` as a person meets it: exit codes, one sentence, and no wait for torch."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer imports names that click 8.5 deprecates
    from prunefleet_shared.cli import run as prunefleet

Printed = pytest.CaptureFixture[str]


def one_sentence(capsys: Printed) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("prunefleet: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--devices", "1"], ["devices", "got 1"]),
        (["--levels", "0.2,0.4"], ["levels", "falling"]),
        (["--levels", "half"], ["levels", "numbers separated by commas", "'half'"]),
        (["--levels", "0.4,"], ["levels", "'0.4,'"]),
        (["--levels", "[0.4]"], ["levels", "'[0.4]'"]),
        (["--seeds", "1,true"], ["seeds", "'1,true'"]),
        (["--seeds", "1.5"], ["seeds", "got 1.5"]),
        (["--seeds", "2,2"], ["seeds", "once"]),
        (["--preset", "cifar"], ["preset", "digits, images", "'cifar'"]),
        (["--preset", "images"], ["--data npz:PATH"]),
        (["--partition", "halves"], ["'halves'", "dirichlet:ALPHA"]),
        (["--budget", "flops"], ["budget", "'flops'"]),
        (["--votes", "none"], ["votes", "'none'"]),
        (["--workers", "0"], ["workers", "got 0"]),
        (["--images-per-device", "3"], ["images_per_device", "got 3"]),
        (["--base", "base.safetensors"], ["base", "--data"]),
        (["--config", "no-such.toml"], ["no-such.toml", "TOML"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_bad_option_is_exit_code_2_and_one_sentence(options: list[str], words: list[str], capsys: Printed) -> None:
    assert prunefleet(["simulate", *options]) == 2
    sentence = one_sentence(capsys)
    for word in words:
        assert word in sentence


def test_a_bad_configuration_file_is_exit_code_2(tmp_path: Path, capsys: Printed) -> None:
    config = tmp_path / "fleet.toml"
    config.write_text("device = 4\n")
    assert prunefleet(["simulate", "--config", str(config)]) == 2
    assert "did you mean 'devices'?" in one_sentence(capsys)


@pytest.mark.parametrize("options", [["--devices", "many"], ["--colour", "red"], ["stray"]])
def test_usage_errors_are_exit_code_2(options: list[str], capsys: Printed) -> None:
    assert prunefleet(["simulate", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err


def test_a_data_file_that_is_not_there_is_exit_code_2(tmp_path: Path, capsys: Printed) -> None:
    options = ["--data", "npz:no-such.npz", "--out", str(tmp_path / "runs"), "--quiet"]
    assert prunefleet(["simulate", *options]) == 2
    assert "there is no file no-such.npz" in one_sentence(capsys)
    assert not (tmp_path / "runs").exists()


def test_data_that_cannot_be_used_is_exit_code_5(tmp_path: Path, capsys: Printed) -> None:
    path = tmp_path / "fleet.npz"
    np.savez(path, x_train=np.zeros((40, 8, 8, 1), dtype=np.float32), y_train=np.arange(40) % 2)
    options = ["--data", f"npz:{path}", "--out", str(tmp_path / "runs"), "--quiet"]
    assert prunefleet(["simulate", *options]) == 5
    assert "expected uint8 images, got float32" in one_sentence(capsys)
    assert not (tmp_path / "runs").exists()


def test_too_little_data_is_exit_code_5(tmp_path: Path, capsys: Printed) -> None:
    assert prunefleet(["simulate", "--devices", "900", "--out", str(tmp_path / "runs"), "--quiet"]) == 5
    assert "fewer than 900 devices" in one_sentence(capsys)
    assert not (tmp_path / "runs").exists()


def test_help_names_every_option(capsys: Printed) -> None:
    assert prunefleet(["simulate", "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for option in ("--devices", "--levels", "--seeds", "--data", "--public", "--partition", "--votes", "--config"):
        assert option in out


def test_help_and_bad_options_never_wait_for_torch() -> None:
    program = (
        "import sys; from prunefleet_shared.cli import run; import prunefleet_simulation.cli; "
        "codes = run(['simulate', '--help']), run(['simulate', '--levels', 'x']); "
        "heavy = {'torch', 'grpc', 'sklearn', 'matplotlib'} & set(sys.modules); "
        "sys.exit(0 if codes == (0, 2) and not heavy else f'{codes} {heavy}')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603  # our own interpreter
    assert done.returncode == 0, done.stderr
