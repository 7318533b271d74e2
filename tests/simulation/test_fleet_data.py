"""A fleet's data: public and private parts never overlap, the seed decides, and files that cannot be used are named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunefleet_edge.models import parse_spec
from prunefleet_shared.errors import ConfigError, InputError
from prunefleet_simulation.fleet_data import DevicePools, FleetData, Pool, make_fleet_data
from prunefleet_simulation.jobs import base_job
from prunefleet_simulation.presets import DIGITS, PRESETS
from prunefleet_simulation.settings import Settings
from prunefleet_trainer.public import fresh

NUM_DIGITS = 1797


def plain(**options: Any) -> Settings:
    """Settings of a fleet of any size: no private sum, which wants eight devices."""
    return Settings(privacy="plain", **options)


def with_id(num: int, side: int = 8, channels: int = 1, start: int = 0) -> np.ndarray:
    """Images whose first two pixels say which one it is, so that nobody can have it unnoticed."""
    images = np.random.default_rng(start).integers(0, 256, (num, side, side, channels), dtype=np.uint8)
    number = np.arange(start, start + num)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = number // 256, number % 256
    return images


def ids(*pools: Pool) -> Counter[int]:
    return Counter(int(i[0, 0, 0]) * 256 + int(i[0, 1, 0]) for pool in pools for i in pool.images)


def whole(pools: DevicePools) -> list[Pool]:
    return [pools.own, pools.report]


def same(one: FleetData, other: FleetData) -> bool:
    def content(data: FleetData) -> list[bytes]:
        pools = [data.public, *(pool for device in data.devices for pool in whole(device))]
        return [array.tobytes() for pool in pools for array in (pool.images, pool.labels)]

    return content(one) == content(other)


# --- the digits ------------------------------------------------------------------------------------------------------


@pytest.fixture
def straight_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images as they are, so that who has which can be seen."""
    monkeypatch.setitem(PRESETS, "digits", replace(DIGITS, cameras=None))


def pictures(*pools: Pool) -> list[bytes]:
    return [image.tobytes() for pool in pools for image in pool.images]


@pytest.mark.usefixtures("straight_cameras")
@pytest.mark.parametrize("partition", ["classes", "classes:3", "dirichlet:2"])
def test_no_image_of_the_digits_is_in_two_places(partition: str) -> None:
    data = make_fleet_data(plain(partition=partition), 1)
    everything = pictures(data.public, *(pool for device in data.devices for pool in whole(device)))
    assert len(everything) == len(set(everything)), "public, own and report parts of all devices are disjoint"
    assert len(data.public) == NUM_DIGITS // 3


@pytest.mark.usefixtures("straight_cameras")
def test_every_digit_is_used_where_the_report_is_not_capped() -> None:
    data = make_fleet_data(plain(), 1)
    assert len(pictures(data.public, *(pool for device in data.devices for pool in whole(device)))) == NUM_DIGITS


def test_a_device_has_few_images_of_a_few_classes() -> None:
    data = make_fleet_data(plain(), 3)
    assert len(data.devices) == 10
    for device in data.devices:
        assert len(device.own) == DIGITS.images_per_device == 40
        assert 4 <= len(device.report) <= DIGITS.report_images
        assert len(np.unique(device.own.labels)) == 5
        assert set(device.report.labels) <= set(device.own.labels)
    assert data.spec == parse_spec("resnet8/1x12x12/10")
    assert set(np.unique(data.public.labels)) == set(range(10))


def test_classes_come_in_proportion() -> None:
    for device in make_fleet_data(plain(), 4).devices:
        of_all = np.bincount(np.concatenate([device.own.labels, device.report.labels]), minlength=10)
        expected = 40 * of_all / of_all.sum()
        assert np.abs(np.bincount(device.own.labels, minlength=10) - expected).max() <= 1


def test_images_per_device_and_devices_are_obeyed() -> None:
    data = make_fleet_data(plain(devices=4, images_per_device=11, partition="classes:3"), 1)
    assert [len(device.own) for device in data.devices] == [11] * 4
    assert {len(np.unique(device.own.labels)) for device in data.devices} == {3}


def test_the_seed_alone_decides() -> None:
    settings = plain(devices=4)
    one = make_fleet_data(settings, 1)
    assert same(one, make_fleet_data(settings, 1))
    assert not same(one, make_fleet_data(settings, 2))


def test_each_device_has_a_camera_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = make_fleet_data(plain(devices=4), 1)
    monkeypatch.setitem(PRESETS, "digits", replace(DIGITS, cameras=None))
    straight = make_fleet_data(plain(devices=4), 1)
    assert same(replace(shifted, devices=()), replace(straight, devices=())), "the public part has none"
    brightness = []
    for mine, before in zip(shifted.devices, straight.devices, strict=True):
        assert (mine.own.labels == before.own.labels).all()
        assert (mine.own.images != before.own.images).any()
        assert (mine.report.images != before.report.images).any()
        brightness.append(mine.own.images.min(axis=(1, 2, 3)).mean())
    assert len({round(float(level)) for level in brightness}) > 1


def test_too_many_devices_are_told_what_to_do() -> None:
    with pytest.raises(
        InputError, match=r"device \d+ would have \d+ images .*fewer than 500 devices, another partition"
    ):
        make_fleet_data(plain(devices=500), 1)


def test_more_images_than_there_are_leaves_nothing_to_report_on() -> None:
    with pytest.raises(InputError, match="and 0 to report on"):
        make_fleet_data(plain(images_per_device=5000), 1)


# --- data of one's own -----------------------------------------------------------------------------------------------

Save = Callable[..., str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(name: str = "fleet.npz", **arrays: Any) -> str:
        np.savez(tmp_path / name, **arrays)
        return f"npz:{tmp_path / name}"

    return save


def arrays(num: int = 400, num_classes: int = 4, **options: int) -> dict[str, Any]:
    return {"x_train": with_id(num, **options), "y_train": np.arange(num) % num_classes}


def unseen(num: int = 100, start: int = 400) -> dict[str, Any]:
    return {"x_test": with_id(num, start=start), "y_test": np.arange(num) % 4}


def own_data(data: str, **options: Any) -> Settings:
    return plain(
        **{"preset": "images", "devices": 3, "partition": "classes:2", "images_per_device": 20} | options, data=data
    )


def test_without_test_arrays_the_report_is_what_is_left(save: Save) -> None:
    data = make_fleet_data(own_data(save(**arrays())), 1)
    seen = ids(data.public, *(pool for device in data.devices for pool in whole(device)))
    assert max(seen.values()) == 1
    assert len(data.public) == 200
    assert [len(device.own) for device in data.devices] == [20] * 3
    assert data.spec == parse_spec("resnet20/1x8x8/4")
    assert data.notes[0] == "Images: fleet.npz."


def test_with_test_arrays_the_report_is_theirs_in_the_device_s_classes(save: Save) -> None:
    data = make_fleet_data(own_data(save(**arrays(), **unseen())), 1)
    seen = ids(data.public, *(device.own for device in data.devices))
    assert max(seen.values()) == 1
    assert max(seen) < 400
    for device in data.devices:
        assert min(ids(device.report)) >= 400
        assert set(device.report.labels) == set(device.own.labels)
        assert len(device.report) == 50


def test_a_public_file_leaves_all_training_images_to_the_devices(save: Save) -> None:
    public = save("public.npz", x_train=with_id(60, start=1000), y_train=np.arange(60) % 6)
    data = make_fleet_data(own_data(save(**arrays()), public=public), 1)
    assert min(ids(data.public)) == 1000
    assert len(data.public) == 60
    assert data.spec.num_classes == 6, "classes that only the public part has count too"
    assert "Public part: public.npz." in data.notes


def test_the_same_file_and_seed_give_the_same_bytes(save: Save) -> None:
    settings = own_data(save(**arrays()), partition="dirichlet:5")
    one = make_fleet_data(settings, 1)
    assert same(one, make_fleet_data(settings, 1))
    assert not same(one, make_fleet_data(settings, 2))


def test_a_preset_named_with_own_data_shifts_its_cameras(save: Save) -> None:
    data = make_fleet_data(own_data(save(**arrays()), preset="digits"), 1)
    assert ids(data.devices[0].own) != ids(make_fleet_data(own_data(save(**arrays())), 1).devices[0].own)
    assert data.spec.architecture == "resnet8"


def test_another_network_can_be_asked_for(save: Save) -> None:
    path = save(**arrays(side=9, channels=3))
    assert make_fleet_data(own_data(path, model="resnet8"), 1).spec == parse_spec("resnet8/3x9x9/4")
    with pytest.raises(ConfigError, match="resnet8, resnet20"):
        make_fleet_data(own_data(path, model="vgg"), 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x_train": None}, "x_train missing"),
        ({"y_train": None}, "y_train missing"),
        ({"x_train": None, "y_train": None}, "x_train and y_train missing"),
        ({"x_test": with_id(9)}, "y_test missing"),
        ({"x_train": with_id(400).astype(np.float32) / 255}, "expected uint8 .*got float32"),
        ({"x_train": with_id(400).astype(np.int16)}, "expected uint8 .*got int16"),
        ({"x_train": with_id(400)[..., 0]}, r"expected images of shape .N, H, W, 1 or 3., got \(400, 8, 8\)"),
        ({"x_train": with_id(400, channels=4)}, r"expected images of shape .N, H, W, 1 or 3."),
        ({"x_train": with_id(400)[:0], "y_train": np.zeros(0, dtype=np.int64)}, "there are no samples"),
        ({"y_train": np.arange(399)}, r"expected 400 integer labels, got int64 of shape \(399,\)"),
        ({"y_train": np.arange(400) % 4 - 1}, "labels"),
        ({"y_train": np.full(400, 1) - (np.arange(400) == 7) * 2}, "labels must lie in 0.*, got -1..1"),
        ({"y_train": np.arange(400) % 4 / 1.0}, "labels, got float64"),
        ({"y_train": np.zeros((400, 4), dtype=np.int64)}, "labels"),
        ({"y_train": np.asarray(3)}, "labels"),
        ({"x_train": np.asarray(3, dtype=np.uint8)}, "expected images of shape"),
        ({"x_train": np.asarray([with_id(2), None], dtype=object)}, "pickle"),
        ({"y_train": np.asarray([{}] * 400, dtype=object)}, "pickle"),
        (
            {"x_test": with_id(9).astype(np.float32) / 255, "y_test": np.arange(9) % 4},
            "test: expected uint8 .*got float32",
        ),
        ({"x_test": with_id(9, channels=3), "y_test": np.arange(9) % 4}, "shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_cannot_be_used_are_named(save: Save, change: dict[str, Any], words: str) -> None:
    content = {name: array for name, array in (arrays() | change).items() if array is not None}
    with pytest.raises(InputError, match=words) as caught:
        make_fleet_data(own_data(save(**content)), 1)
    assert "fleet.npz" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no npz at all", b"\x80\x04]\x94."], ids=["empty", "text", "pickle"])
def test_a_file_that_is_no_npz_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.npz: not a readable npz file"):
        make_fleet_data(own_data(f"npz:{path}"), 1)


def test_a_bare_array_is_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "bare.npz"
    with path.open("wb") as file:
        np.save(file, with_id(4))
    with pytest.raises(InputError, match=r"bare\.npz: not a readable npz file"):
        make_fleet_data(own_data(f"npz:{path}"), 1)


def test_a_damaged_file_is_named(tmp_path: Path, save: Save) -> None:
    content = bytearray(Path(save(**arrays()).removeprefix("npz:")).read_bytes())
    content[5000] ^= 255
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.npz: not a readable npz file"):
        make_fleet_data(own_data(f"npz:{path}"), 1)


@pytest.mark.parametrize("cut", [0.3, 0.9], ids=["in the images", "in the directory"])
def test_a_truncated_file_is_named(tmp_path: Path, save: Save, cut: float) -> None:
    whole_file = Path(save(**arrays()).removeprefix("npz:")).read_bytes()
    path = tmp_path / "cut.npz"
    path.write_bytes(whole_file[: int(len(whole_file) * cut)])
    with pytest.raises(InputError, match=r"cut\.npz: not a readable npz file"):
        make_fleet_data(own_data(f"npz:{path}"), 1)


@pytest.mark.parametrize("flag", ["data", "public"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fleet.npz", "expected npz:PATH, got 'fleet.npz'"),
        ("csv:fleet.csv", "expected npz:PATH"),
        ("npz:", "expected npz:PATH"),
        ("npz:no-such.npz", "there is no file no-such.npz"),
    ],
)
def test_a_path_that_leads_nowhere_is_the_option_s_fault(save: Save, flag: str, text: str, words: str) -> None:
    settings = own_data(text) if flag == "data" else own_data(save(**arrays()), public=text)
    with pytest.raises(ConfigError, match=f"{flag}: {words}"):
        make_fleet_data(settings, 1)


@pytest.mark.parametrize("num", [30, 2, 1])
def test_too_little_data_is_told_what_to_do(save: Save, num: int) -> None:
    with pytest.raises(InputError, match="expected at least 8 and 4; use fewer than 3 devices"):
        make_fleet_data(own_data(save(**arrays(num=num))), 1)


@pytest.mark.parametrize("options", [{"side": 9}, {"channels": 3}], ids=["larger", "coloured"])
def test_public_images_of_another_shape_are_refused(save: Save, options: dict[str, int]) -> None:
    public = save("public.npz", **arrays(num=40, **options))
    with pytest.raises(InputError, match=r"public images are \(.*the devices' \(8, 8, 1\)"):
        make_fleet_data(own_data(save(**arrays()), public=public), 1)


# --- a base of one's own ---------------------------------------------------------------------------------------------

SPEC = parse_spec("resnet8/1x8x8/4")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64], ids=["empty", "text", "huge header"])
def test_a_base_file_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "base.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="base file: not the weights of") as caught:
        base_job(SPEC, Pool(with_id(16), np.arange(16) % 4), DIGITS.base, 1, path)
    assert "\n" not in str(caught.value)


def test_a_base_file_that_is_not_there_is_the_user_s_to_mend(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, InputError), match=r"no-such\.safetensors"):
        base_job(SPEC, Pool(with_id(16), np.arange(16) % 4), DIGITS.base, 1, tmp_path / "no-such.safetensors")


def test_a_base_for_another_network_is_refused_and_the_right_one_is_taken_as_it_is(tmp_path: Path) -> None:
    from prunefleet_edge.work import save_weights

    public, path = Pool(with_id(16), np.arange(16) % 4), tmp_path / "base.safetensors"
    path.write_bytes(save_weights(fresh(parse_spec("resnet8/1x8x8/5"), 1)))
    with pytest.raises(InputError, match="base file"):
        base_job(SPEC, public, DIGITS.base, 1, path)
    path.write_bytes(save_weights(fresh(SPEC, 1)))
    assert base_job(SPEC, public, DIGITS.base, 1, path).weights == path.read_bytes()
