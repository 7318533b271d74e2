"""Folders and npz files of images: labels, sizes, what is skipped, and what is refused before anything is sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunefleet_edge import image_folder
from prunefleet_edge.data_source import examine_source, load_source
from prunefleet_edge.models import parse_spec
from prunefleet_shared.errors import ConfigError, InputError

GREY, COLOUR = parse_spec("resnet8/1x8x6/4"), parse_spec("resnet8/3x8x6/4")


def picture(path: Path, value: int = 128, mode: str = "RGB", size: tuple[int, int] = (20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in {"L", "P"} else (value,) * len(mode)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for number in range(10):
        suffix = ("png", "JPG", "jpeg", "bmp")[number % 4]
        picture(root / str(number % 2) / f"{number}.{suffix}", value=25 * number)
    return root


@pytest.mark.parametrize("prefix", ["", "folder:"])
@pytest.mark.parametrize("spec", [GREY, COLOUR])
def test_a_folder_becomes_images_of_the_networks_size(folder: Path, prefix: str, spec: object) -> None:
    data = load_source(f"{prefix}{folder}", spec, "device")  # type: ignore[arg-type]
    assert data.samples.images.shape == (10, *spec.input_chw)  # type: ignore[attr-defined]
    assert data.samples.labels.tolist() == [0] * 5 + [1] * 5
    assert data.skipped == ()
    means = data.samples.images.mean(dim=(1, 2, 3)).tolist()
    assert means == pytest.approx([25 * n / 255 for n in (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)], abs=0.02)


def test_labels_by_name(folder: Path) -> None:
    (folder / "classes.txt").write_text("fox\nhare\nowl\n\n")
    (folder / "0").rename(folder / "owl")
    assert load_source(str(folder), GREY, "x").samples.labels.tolist() == [1] * 5 + [2] * 5


@pytest.mark.parametrize("text", ["fox\nfox\n", "fox\n\nowl\n"])
def test_class_names_that_are_ambiguous_are_refused(folder: Path, text: str) -> None:
    (folder / "classes.txt").write_text(text)
    with pytest.raises(ConfigError, match=r"classes\.txt"):
        load_source(str(folder), GREY, "x")


@pytest.mark.parametrize("name", ["fox", "-1", "1.5", "99999", "²"])
def test_a_sub_folder_that_is_no_label_is_refused(folder: Path, name: str) -> None:
    picture(folder / name / "a.png")
    with pytest.raises(InputError, match="expected a class index"):
        examine_source(str(folder), "x")


def spoil(folder: Path) -> set[Path]:
    """Files that cannot be read, each in its own way."""
    whole = (folder / "0" / "0.png").read_bytes()
    spoilt = {
        "empty.png": b"",
        "text.png": b"this is no picture",
        "cut.png": whole[: len(whole) // 2],
        "head.png": whole[:30],
        "flipped.png": whole[:40] + bytes(byte ^ 0xFF for byte in whole[40:60]) + whole[60:],
    }
    for name, body in spoilt.items():
        (folder / "1" / name).write_bytes(body)
    (folder / "1" / "folder.png").mkdir()
    picture(folder / "1" / "other.gif.png", mode="RGB").write_bytes(b"GIF89a" + b"\0" * 50)
    return {folder / "1" / name for name in [*spoilt, "folder.png", "other.gif.png"]}


def test_what_cannot_be_read_is_skipped_and_named(folder: Path) -> None:
    spoilt = spoil(folder)
    data = load_source(str(folder), GREY, "x")
    assert set(data.skipped) == spoilt
    assert len(data.samples) == 10
    assert examine_source(str(folder), "x").num_images >= 10


def test_a_decompression_bomb_is_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = picture(folder / "0" / "bomb.png", size=(300, 300))
    monkeypatch.setattr(image_folder, "MAX_PIXELS", 300 * 300 - 1)
    assert load_source(str(folder), GREY, "x").skipped == (bomb,)
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300 * 200)  # pillow's own limit only warns up to twice of it
    assert load_source(str(folder), GREY, "x").skipped == (bomb,)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_every_mode_becomes_what_the_network_takes(tmp_path: Path, mode: str) -> None:
    for number in range(8):
        path = tmp_path / str(number % 2) / f"{number}.{'jpg' if mode == 'CMYK' else 'png'}"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).convert(mode).save(path)
    assert load_source(str(tmp_path), COLOUR, "x").samples.images.shape == (8, 3, 8, 6)


def few(folder: Path) -> str:
    for path in list((folder / "0").iterdir())[1:]:
        path.unlink()
    return str(folder)


def one_class(folder: Path) -> str:
    for path in (folder / "1").iterdir():
        picture(folder / "0" / f"more-{path.stem}.png")
        path.unlink()
    return str(folder)


def empty(folder: Path) -> str:
    (folder / "nothing").mkdir()
    return str(folder / "nothing")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (few, "at least 8 images"),
        (one_class, "one class"),
        (empty, "found none"),
        (lambda folder: f"{folder}-missing", "expected a folder"),
        (lambda folder: f"npz:{folder}/missing.npz", "not a readable npz"),
    ],
)
def test_bad_data_is_found_before_any_network_is_known(folder: Path, source: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        examine_source(source(folder), "x")  # type: ignore[operator]


def test_labels_beyond_the_network_are_refused(folder: Path) -> None:
    picture(folder / "4" / "a.png")
    with pytest.raises(InputError, match=r"labels must lie in 0\.\.3"):
        load_source(str(folder), GREY, "x")


@pytest.mark.parametrize("names", [("x", "y"), ("x_train", "y_train")])
def test_arrays_are_taken_as_they_are_or_not_at_all(tmp_path: Path, names: tuple[str, str]) -> None:
    images, labels = np.full((9, 8, 6, 1), 51, dtype=np.uint8), np.arange(9) % 4
    np.savez(tmp_path / "a.npz", **{names[0]: images, names[1]: labels})  # type: ignore[arg-type]
    data = load_source(f"npz:{tmp_path / 'a.npz'}", GREY, "x")
    assert data.samples.images.mean().item() == pytest.approx(0.2)
    with pytest.raises(InputError, match=r"expected images of 8x6x3.*got 8x6x1"):
        load_source(f"npz:{tmp_path / 'a.npz'}", COLOUR, "x")


def test_an_npz_with_objects_runs_no_code(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object), y=np.arange(1))
    with pytest.raises(InputError, match="not a readable npz"):
        load_source(f"npz:{tmp_path / 'a.npz'}", GREY, "x")


def test_an_unknown_kind_says_which_are_known() -> None:
    with pytest.raises(ConfigError, match=r"is unknown; expected KIND:ARGUMENT with one of .*folder, npz"):
        examine_source("camera:0", "x")
