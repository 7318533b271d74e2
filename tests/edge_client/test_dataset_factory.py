"""Images from code of one's own: arrays or a dataset, and every way in which it can disappoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prunefleet_edge.data_source import load_source
from prunefleet_edge.dataset_factory import read_factory
from prunefleet_edge.local_code import load_code, names_code
from prunefleet_edge.models import parse_spec
from prunefleet_shared.errors import ConfigError, InputError

CODE = """
import numpy as np, torch
from PIL import Image

IMAGES = np.arange(10 * 6 * 5 * 3, dtype=np.uint8).reshape(10, 6, 5, 3)
LABELS = np.arange(10) % 3

def arrays(): return IMAGES, LABELS
def lists(): return IMAGES.tolist(), LABELS.tolist()
def one_array(): return IMAGES
def fails(): raise RuntimeError("the camera is off")
class tensors:
    def __len__(self): return 10
    def __getitem__(self, i): return torch.from_numpy(IMAGES[i]).permute(2, 0, 1).float() / 255, int(LABELS[i])
class pictures:
    def __len__(self): return 10
    def __getitem__(self, i): return Image.fromarray(IMAGES[i]), LABELS[i]
class grey:
    def __len__(self): return 10
    def __getitem__(self, i): return IMAGES[i, :, :, 0], LABELS[i]
not_callable = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Name of a module in the working directory, another for each test: imports are remembered."""
    name = "own_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("factory", ["arrays", "tensors", "pictures"])
def test_arrays_and_datasets_give_the_same_images(module: str, factory: str) -> None:
    expected = np.arange(10 * 6 * 5 * 3, dtype=np.uint8).reshape(10, 6, 5, 3)
    samples = load_source(f"{module}:{factory}", parse_spec("resnet8/3x6x5/3"), "device").samples
    torch.testing.assert_close(samples.images, torch.from_numpy(expected.transpose(0, 3, 1, 2)).float() / 255)
    assert samples.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def test_grey_images_get_a_channel(module: str) -> None:
    assert read_factory(f"{module}:grey")[0].shape == (10, 6, 5, 1)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("one_array", InputError, "expected arrays"),
        ("lists", InputError, "expected arrays"),
        ("fails", InputError, "the camera is off"),
        ("not_callable", ConfigError, "no callable 'not_callable'"),
        ("nothing", ConfigError, "no callable 'nothing'"),
    ],
)
def test_what_is_no_dataset_is_refused(module: str, name: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        read_factory(f"{module}:{name}")


def test_code_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_broken.py").write_text("import no_such_thing_at_all\n")
    monkeypatch.chdir(tmp_path)
    assert names_code("own_broken:factory")
    with pytest.raises(ConfigError, match="own_broken cannot be imported: ModuleNotFoundError"):
        load_code("own_broken:factory", "data")


def test_only_names_that_have_the_form_and_a_package_name_code() -> None:
    assert names_code("json.decoder:JSONDecoder")
    for text in ("json", "json:", ":loads", "json:a b", "json:a.b", "no_such_package_x:load", "../json:loads", "C:/x"):
        assert not names_code(text)


def test_an_unknown_kind_still_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"expected KIND:ARGUMENT with one of .*folder"):
        load_source("digitz:private", parse_spec("resnet8/1x12x12/10"), "device")
