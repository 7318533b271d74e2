"""A device's profile: what is predicted of widths, what is read back, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunefleet_edge.latency_table import Calibration, LatencyTable, LayerLatency
from prunefleet_edge.profile import CheckedNetwork, DeviceProfile, latency_table, read_profile, write_profile
from prunefleet_shared.errors import InputError
from prunefleet_shared.layout import ChannelGroup, CostTerm, Layout

LAYOUT = Layout((ChannelGroup("a", 16), ChannelGroup("b", 16)))
STEM = LayerLatency("a", (CostTerm(3),), (CostTerm(1, (0,)),), 64, (3,), (8, 16), ((100, 300),))
BODY = LayerLatency("b", (CostTerm(1, (0,)),), (CostTerm(1, (1,)),), 64, (8, 16), (8, 16), ((1000, 2000), (3000, 6000)))
PROFILE = DeviceProfile(
    model="resnet8/3x8x8/4",
    layout=LAYOUT.fingerprint(),
    runtime="onnxruntime",
    machine={"cpu": "one"},
    grid=2,
    layers=(STEM, BODY),
    calibration=Calibration(layers=2.0, constant_ns=50.0),
    checked=(),
    dense_ns=12_650,
    training_bytes={1: 10, 32: 20},
)


@pytest.mark.parametrize(
    ("widths", "stem_ns", "body_ns"),
    [
        ((8, 8), 100, 1000),
        ((16, 16), 300, 6000),
        ((16, 8), 300, 3000),
        ((8, 12), 100, 1500),
        ((8, 4), 100, 1000),  # below the grid: its end
    ],
)
def test_layers_add_up_between_what_was_measured(widths: tuple[int, ...], stem_ns: int, body_ns: int) -> None:
    assert LatencyTable((STEM, BODY)).cost(widths) == stem_ns + body_ns
    assert PROFILE.table.cost(widths) == 2 * (stem_ns + body_ns) + 50


def test_odd_inputs_cost_what_the_calibration_says() -> None:
    """The stem has 3 input channels of 64 pixels: 192 values, no multiple of 4."""
    table = LatencyTable((STEM,), Calibration(layers=1.0, ns_per_odd_input=0.5))
    assert table.cost((8, 8)) == 100 + 96


def test_a_profile_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_profile(path, PROFILE)
    assert read_profile(path) == PROFILE
    assert latency_table(PROFILE, LAYOUT, PROFILE.model) == PROFILE.table


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(format=2), "format"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d["layers"][1].update(ns=[[1, 2]]), "layer b: its times do not fit"),
        (lambda d: d["layers"][1].update(in_grid=[16, 8]), "layer b: its times do not fit"),
        (lambda d: d.pop("layout"), "layout"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, change: object, words: str) -> None:
    path = tmp_path / "profile.json"
    write_profile(path, PROFILE)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=words):
        read_profile(path)


def test_another_networks_profile_is_refused() -> None:
    with pytest.raises(InputError, match="expected one of resnet20/3x8x8/4, got one of resnet8/3x8x8/4"):
        latency_table(PROFILE, LAYOUT, "resnet20/3x8x8/4")
    other = Layout((ChannelGroup("a", 16),))
    with pytest.raises(InputError, match="its channel groups differ"):
        latency_table(PROFILE, other, PROFILE.model)


def test_a_missing_profile_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="edge profile"):
        read_profile(tmp_path / "none.json")


def test_errors_are_fractions_of_what_was_measured() -> None:
    pairs = [(90, 100), (220, 200), (1000, 800), (300, 300), (10, 20)]
    checked = tuple(CheckedNetwork(widths=(8, 8), predicted_ns=p, measured_ns=m) for p, m in pairs)
    profile = PROFILE.model_copy(update={"checked": checked})
    assert [one.error_ratio for one in checked] == pytest.approx([0.1, 0.1, 0.25, 0.0, 0.5])
    assert profile.error_ratios == pytest.approx((0.1, 0.4)), "90th percentile, between 0.25 and 0.5"


def test_nothing_in_the_file_names_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_profile(path, PROFILE)
    assert set(json.loads(path.read_text())) == set(DeviceProfile.model_fields)
    assert str(tmp_path) not in path.read_text()
