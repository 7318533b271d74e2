"""A device's settings: files, options that win over them, and what is refused before anything starts."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from prunefleet_edge.device_settings import load_device_settings
from prunefleet_edge.policy import PrivacyPolicy
from prunefleet_edge.retraining_options import PLAIN, RetrainingOptions
from prunefleet_shared.errors import ConfigError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer imports names that click 8.5 deprecates
    from typer.testing import CliRunner

    from prunefleet_edge.cli import app

TOML = """
data = "npz:images.npz"
class = "camera"
allow_plain = true
allow_factory = ["mine.nets:small"]
threads = 2

[retraining]
strategy = "anchored"
anchor_weight = 0.25

[privacy]
min_devices = 12
max_votes = 4
max_epsilon = 2.5
max_clusters = 4
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


def test_a_file_says_everything(config: Path) -> None:
    options = load_device_settings(config, {}, None).options()
    assert (options.source, options.device_class, options.recipe) == ("npz:images.npz", "camera", "images")
    assert (options.threads, options.is_once) == (2, False)
    assert options.privacy == PrivacyPolicy(True, 12, 4, 2.5, 4, 10.0)
    assert options.allowed_code == ("mine.nets:small",)
    assert options.retraining == RetrainingOptions("anchored", anchor_weight=0.25)


def test_options_win_over_the_file(config: Path) -> None:
    given = {"data": "digits:x", "class": "phone", "threads": 1, "once": True, "preset": None, "allow_plain": None}
    options = load_device_settings(config, given, "distilled").options()
    assert (options.source, options.device_class, options.recipe) == ("digits:x", "phone", "digits")
    assert (options.threads, options.privacy.allow_plain, options.is_once) == (1, True, True)
    assert options.privacy.min_devices == 12, "no option asks for fewer: the file's stays"
    assert options.retraining == RetrainingOptions("distilled", anchor_weight=0.25), "the file's numbers stay"


def test_without_a_file_the_defaults_are_those_of_before() -> None:
    options = load_device_settings(None, {"data": "folder"}, None).options()
    assert (options.device_class, options.recipe, options.threads) == ("", "images", 1)
    assert (options.privacy, options.is_once, options.allowed_code) == (
        PrivacyPolicy(False, 8, 16, None, 1, 10.0),
        False,
        (),
    )
    assert options.retraining == PLAIN


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('clas = "x"', r"unknown key 'clas'.*did you mean 'class'"),
        ("[retraining]\nstratgy = 'all'", r"unknown key 'stratgy'.*did you mean 'strategy'"),
        ("[retraining]\nstrategy = 'some'", r"retraining\.strategy: expected one of"),
        ("[retraining]\nstrategy = 'regrow'", r"a fleet's slim network has none"),
        ("[retraining]\nregrow_ratio = 0.5", r"unknown key 'regrow_ratio'"),
        ("[retraining]\ntemperature = 'warm'", r"temperature"),
        ("[retraining]\ntemperature = -1.0", r"retraining\.temperature: expected above 0"),
        ("[privacy]\nmin_device = 3", r"unknown key 'privacy.min_device'"),
        ("[privacy]\nallow_plain = true", r"unknown key 'privacy.allow_plain'.*did you mean 'allow_plain'"),
        ("[privacy]\nmin_devices = 2", r"min_devices: .*greater than or equal to 3, got 2"),
        ("[privacy]\nmin_devices = 1001", r"min_devices: .*less than or equal to 1000, got 1001"),
        ("[privacy]\nmax_votes = 0", r"max_votes: .*greater than or equal to 1, got 0"),
        ("[privacy]\nmax_epsilon = 0", r"max_epsilon: .*greater than 0, got 0"),
        ("[privacy]\nmax_epsilon = nan", r"max_epsilon: .*got nan"),
        ("privacy = 'sum'", r"privacy"),
        ("retraining = 'all'", r"expected a table \[retraining\]"),
        ("threads = 0", r"threads"),
        ("preset = 'pictures'", r"preset: expected one of"),
        ("data =", r"not a readable TOML file"),
    ],
)
def test_mistakes_are_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        load_device_settings(path, {} if text == "data =" else {"data": "folder"}, None).options()


def test_data_must_be_given_somewhere() -> None:
    with pytest.raises(ConfigError, match="data: expected a value, got none; give it as an option or in the config"):
        load_device_settings(None, {}, None)


def test_the_command_refuses_before_it_does_anything(tmp_path: Path, config: Path) -> None:
    """No identity is looked for, no state folder made."""
    state = tmp_path / "state"
    arguments = ["run", "--config", str(config), "--state", str(state), "--strategy", "regrow"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert "regrow" in str(result.exception)
    assert not state.exists()


def test_the_command_gives_its_options_to_the_device(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    monkeypatch.setattr("prunefleet_edge.cli._run_until_told", lambda folder, options: found.append((folder, options)))
    monkeypatch.setattr("prunefleet_shared.identity_folder.load_identity", lambda _path, _role: None)
    arguments = ["run", "--config", str(config), "--state", str(tmp_path), "--strategy", "none", "--once"]
    result = CliRunner().invoke(app, [*arguments, "--allow-factory", "a.b:c", "--allow-factory", "d:e"])
    assert result.exit_code == 0, result.exception
    [(folder, options)] = found
    assert folder.path == tmp_path
    assert (options.retraining.strategy, options.is_once, options.privacy.allow_plain) == ("none", True, True)
    assert options.allowed_code == ("a.b:c", "d:e")
