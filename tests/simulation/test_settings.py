"""Settings: what is wrong is named, with what was expected and what came; options win over the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from prunefleet_shared.campaign import PLAIN, SUM, SUM_DP, PrivacyTerms
from prunefleet_shared.decision_rules import ORDER_RULES, DecisionRules
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.limits import Limits
from prunefleet_shared.noise_terms import NoiseWish
from prunefleet_simulation.presets import DIGITS, IMAGES
from prunefleet_simulation.settings import Settings, load_settings


def toml(folder: Path, text: str) -> Path:
    path = folder / "fleet.toml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(config: Path | None = None, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(config, options)
    assert "\n" not in str(caught.value), "one sentence"
    return str(caught.value)


def test_rules_and_limits_are_what_a_campaign_carries() -> None:
    settings = load_settings(
        None, {"order_rule": "majority", "public_votes": 3, "near_tie": 1.5, "min_keep": 2, "round_to": 4}
    )
    assert settings.rules == DecisionRules("majority", 3, 1500)
    assert settings.limits == Limits(2, 4)
    assert (Settings().rules, Settings().limits) == (DecisionRules(), Limits())
    assert set(get_args(Settings.model_fields["order_rule"].annotation)) == set(ORDER_RULES)


def test_nothing_given_is_the_demo() -> None:
    settings = load_settings(None, {"devices": None, "seeds": None})
    assert settings == Settings()
    assert (settings.devices, settings.seeds, settings.levels_permille) == (10, (1, 2, 3), (400, 200))
    assert settings.recipe is DIGITS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": 1}, ["devices", "greater than or equal to 2", "got 1"]),
        ({"clusters": 9}, ["clusters", "less than or equal to 8", "got 9"]),
        ({"clusters": 2, "steering": False}, ["clusters", "steering and public_retraining"]),
        ({"clusters": 2, "public_retraining": False}, ["clusters", "steering and public_retraining"]),
        ({"devices": 1001}, ["devices", "less than or equal to 1000", "got 1001"]),
        ({"devices": 2.5}, ["devices", "integer", "got 2.5"]),
        ({"levels": ()}, ["levels", "at least 1 item", "got ()"]),
        ({"levels": (0.2, 0.4)}, ["levels", "falling", "[0.2, 0.4]"]),
        ({"levels": (0.4, 0.4)}, ["levels", "falling", "[0.4, 0.4]"]),
        ({"levels": (1.0,)}, ["levels", "between 0 and 1", "[1.0]"]),
        ({"levels": (0.4, 0.0)}, ["levels", "between 0 and 1", "0.0"]),
        ({"levels": (-0.1,)}, ["levels", "between 0 and 1", "-0.1"]),
        ({"levels": (float("nan"),)}, ["levels", "between 0 and 1", "nan"]),
        ({"levels": (float("inf"), 0.1)}, ["levels", "between 0 and 1", "inf"]),
        ({"levels": tuple(0.9 - i / 10 for i in range(9))}, ["levels", "at most 8 items"]),
        ({"seeds": ()}, ["seeds", "at least 1 item", "got ()"]),
        ({"seeds": (-1,)}, ["seeds", "greater than or equal to 0", "got -1"]),
        ({"seeds": (2**32,)}, ["seeds", "less than 4294967296", "got 4294967296"]),
        ({"seeds": (1.5,)}, ["seeds", "integer", "got 1.5"]),
        ({"seeds": (3, 1, 3)}, ["seeds", "once", "[3, 1, 3]"]),
        ({"seeds": tuple(range(101))}, ["seeds", "at most 100 items"]),
        ({"order_rule": "loudest"}, ["order_rule", "'mean', 'majority', 'borda' or 'public'", "got 'loudest'"]),
        ({"public_votes": -1}, ["public_votes", "greater than or equal to 0", "got -1"]),
        ({"round_to": 0}, ["round_to", "greater than or equal to 1", "got 0"]),
        ({"privacy": "sum+dp", "public_votes": 2}, ["sum+dp", "leave out public votes"]),
        ({"preset": "digit"}, ["preset", "digits, images", "got 'digit'"]),
        ({"preset": "images"}, ["images needs data", "npz:PATH"]),
        ({"public": "npz:there.npz"}, ["public", "data of your own", "--data npz:PATH"]),
        ({"base": Path("base.safetensors")}, ["base", "data of your own", "--data npz:PATH"]),
        ({"base": Path("no-such.safetensors"), "data": "npz:x.npz"}, ["base", "no file", "no-such.safetensors"]),
        ({"images_per_device": 7}, ["images_per_device", "greater than or equal to 8", "got 7"]),
        ({"budget": "flops"}, ["budget", "'macs' or 'parameters'", "got 'flops'"]),
        ({"votes": "random"}, ["votes", "'taylor' or 'public_l1'", "got 'random'"]),
        ({"devices": 7}, ["devices", "at least 8 devices, got 7", "lower min_devices", "privacy plain"]),
        ({"devices": 12, "min_devices": 13}, ["devices", "at least 13 devices, got 12"]),
        ({"min_devices": 2}, ["min_devices", "greater than or equal to 3", "got 2"]),
        ({"epsilon": 0}, ["epsilon", "greater than 0", "got 0"]),
        ({"privacy": "none"}, ["privacy", "'sum'", "'plain'", "got 'none'"]),
        ({"workers": 0}, ["workers", "greater than or equal to 1", "got 0"]),
        ({"workers": 65}, ["workers", "less than or equal to 64", "got 65"]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_bad_option_says_what_was_expected_and_what_came(options: dict[str, Any], words: list[str]) -> None:
    text = complaint(**options)
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    "partition",
    ["class", "classes:", "classes:1", "classes:0", "classes:-2", "dirichlet", "dirichlet:0", "dirichlet:x"],
)
def test_an_unknown_partition_is_refused_before_anything_runs(partition: str) -> None:
    text = complaint(partition=partition)
    for word in (repr(partition), "classes:K", "dirichlet:ALPHA"):
        assert word in text


@pytest.mark.parametrize("partition", ["classes", "classes:2", "dirichlet:0.3", "dirichlet:.5", "dirichlet:10"])
def test_every_documented_partition_is_taken(partition: str) -> None:
    assert load_settings(None, {"partition": partition}).partition == partition


def test_an_unknown_key_names_the_nearest_one(tmp_path: Path) -> None:
    text = complaint(toml(tmp_path, "devicse = 4\n"))
    assert "'devicse'" in text
    assert "did you mean 'devices'?" in text


def test_a_key_like_no_other_names_them_all(tmp_path: Path) -> None:
    text = complaint(toml(tmp_path, "zzz = 4\n"))
    assert "'zzz'" in text
    assert all(key in text for key in Settings.model_fields)


def test_a_bad_value_in_the_file_is_named_like_an_option(tmp_path: Path) -> None:
    text = complaint(toml(tmp_path, 'seeds = ["one"]\n'))
    for word in ("seeds", "integer", "'one'"):
        assert word in text


@pytest.mark.parametrize("content", [b"devices = \n", b"devices = 4\ndevices = 5\n", b"\xff\xfe"], ids=str)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    text = complaint(path)
    assert "broken.toml" in text
    assert "not a readable TOML file" in text


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path: Path) -> None:
    assert "nowhere.toml" in complaint(tmp_path / "nowhere.toml")
    assert tmp_path.name in complaint(tmp_path)


def test_options_win_over_the_file(tmp_path: Path) -> None:
    path = toml(tmp_path, 'devices = 4\nseeds = [7]\nlevels = [0.5]\nvotes = "public_l1"\nmin_devices = 6\n')
    settings = load_settings(path, {"devices": 6, "seeds": None, "levels": (0.3, 0.1)})
    assert (settings.devices, settings.seeds, settings.levels) == (6, (7,), (0.3, 0.1))
    assert settings.votes == "public_l1"


def test_an_option_mends_a_bad_value_in_the_file(tmp_path: Path) -> None:
    assert load_settings(toml(tmp_path, "devices = 1\n"), {"devices": 8}).devices == 8


def test_data_of_one_s_own_is_trained_as_images_unless_a_preset_was_named(tmp_path: Path) -> None:
    assert load_settings(None, {"data": "npz:x.npz"}).recipe is IMAGES
    assert load_settings(None, {"data": "npz:x.npz", "preset": "digits"}).recipe is DIGITS
    assert load_settings(toml(tmp_path, 'data = "npz:x.npz"\npublic = "npz:y.npz"\n'), {}).recipe is IMAGES


def test_levels_are_thousandths_rounded_to_the_nearest() -> None:
    assert load_settings(None, {"levels": (0.2999999, 0.0016, 0.001)}).levels_permille[0] == 300
    assert load_settings(None, {"levels": (0.999, 0.001)}).levels_permille == (999, 1)


def test_privacy_becomes_the_campaign_s_terms() -> None:
    assert load_settings(None, {}).privacy_terms == PrivacyTerms(SUM, 8)
    assert load_settings(None, {"devices": 3, "min_devices": 3}).privacy_terms == PrivacyTerms(SUM, 3)
    assert load_settings(None, {"devices": 2, "privacy": "plain"}).privacy_terms == PrivacyTerms(PLAIN, 1)
    assert load_settings(None, {"epsilon": 2.0}).noise is None
    noisy = load_settings(None, {"privacy": "sum+dp", "epsilon": 2.0})
    assert (noisy.privacy_terms, noisy.noise) == (PrivacyTerms(SUM_DP, 8), NoiseWish(2000, 6))
