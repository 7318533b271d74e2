"""Whole collections of networks, and base files."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from prunefleet_edge.data import Samples
from prunefleet_edge.models import (
    COLLECTIONS,
    build,
    parse_spec,
)
from prunefleet_edge.models.resnet import Normalised
from prunefleet_edge.models.weights import load_weights, read_base, save_weights
from prunefleet_shared.errors import ConfigError, InputError

# --- collections -----------------------------------------------------------------------------------------------------

torch.set_num_threads(1)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path for packages that look like the collections; the real ones are put away."""
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in COLLECTIONS}
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in COLLECTIONS]:
        del sys.modules[name]
    sys.modules.update(real)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")


NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, num_classes, in_channels=3):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(in_channels, 6, 3), nn.Linear(6, num_classes)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(x)).mean(dim=(2, 3)))
"""


def write_collections(folder: Path) -> None:
    write(folder / "torchvision" / "__init__.py", "")
    write(
        folder / "torchvision" / "models" / "__init__.py",
        NET
        + """
    import sys

    def list_models(module):
        assert module is sys.modules[__name__], "classifiers only"
        return ["resnet18", "resnet34"]

    def get_model(name, *, weights, num_classes):
        assert weights is None, "nothing is downloaded"
        return Net(num_classes)
""",
    )
    write(
        folder / "timm" / "__init__.py",
        NET
        + """
    def list_models():
        return ["resnet18"]

    def create_model(name, *, pretrained, num_classes, in_chans):
        assert pretrained is False, "nothing is downloaded"
        return Net(num_classes, in_chans)
""",
    )
    write(folder / "pytorchcv" / "__init__.py", "")
    write(folder / "pytorchcv" / "models" / "__init__.py", "")
    write(folder / "pytorchcv" / "models" / "broken.py", "raise RuntimeError('this one is not asked for')")
    write(
        folder / "pytorchcv" / "models" / "resnet_cifar.py",
        NET
        + """
    __all__ = ["Net", "resnet20"]

    def resnet20(pretrained, num_classes, in_channels, in_size):
        assert pretrained is False, "nothing is downloaded"
        assert in_size == (8, 9)
        return Net(num_classes, in_channels)

    def hidden(**options):
        raise AssertionError("not one of the public networks")
""",
    )


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18", "pytorchcv:resnet20"])
def test_a_network_of_a_collection_has_fresh_weights_and_its_normalisation_inside(packages: Path, name: str) -> None:
    write_collections(packages)
    model = build(parse_spec(f"{name}/3x8x9/5"))
    assert isinstance(model, Normalised)
    assert model.eval()(torch.rand(2, 3, 8, 9)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchvision:resnet19", r"torchvision has no classifier 'resnet19'; did you mean resnet18"),
        ("timm:vgg", r"timm has no classifier 'vgg'; look at its list"),
        ("pytorchcv:resnet56", r"pytorchcv has no classifier 'resnet56'"),
        ("pytorchcv:hidden", r"pytorchcv has no classifier 'hidden'"),
        ("pytorchcv:resnet.0", r"pytorchcv has no classifier 'resnet.0'"),
    ],
)
def test_a_name_that_a_collection_does_not_have_is_refused(packages: Path, name: str, words: str) -> None:
    write_collections(packages)
    with pytest.raises(ConfigError, match=words):
        build(parse_spec(f"{name}/3x8x9/5"))


def test_a_network_of_a_collection_that_does_not_fit_the_input_is_refused(packages: Path) -> None:
    write_collections(packages)
    with pytest.raises(InputError, match="torchvision:resnet18/1x8x9/5: the network does not run on images 1x8x9"):
        build(parse_spec("torchvision:resnet18/1x8x9/5"))


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_a_collection_that_is_not_installed_says_what_to_install(
    packages: Path, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, collection, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=rf"need the package {collection}; install it \(pip install {collection}\)"):
        build(parse_spec(f"{collection}:resnet18/3x8x9/5"))


def test_a_collection_that_cannot_be_imported_says_why(packages: Path) -> None:
    write(packages / "torchvision" / "__init__.py", "raise RuntimeError('operator torchvision::nms does not exist')")
    write(packages / "timm" / "__init__.py", "import huggingface_hub_that_is_not_there")
    with pytest.raises(ConfigError, match=r"torchvision is installed but cannot be imported.*nms.*same torch"):
        build(parse_spec("torchvision:resnet18/3x8x9/5"))
    with pytest.raises(ConfigError, match=r"timm is installed but cannot be imported.*huggingface_hub"):
        build(parse_spec("timm:resnet18/3x8x9/5"))


# --- base files ------------------------------------------------------------------------------------------------------


BUILT_IN = parse_spec("resnet8/2x8x8/4")
IMAGES = torch.rand(9, 2, 8, 8, generator=torch.Generator().manual_seed(3)) / 2
SAMPLES = Samples(IMAGES, torch.zeros(9, dtype=torch.int64))


def wrapped() -> Normalised:
    model = build(BUILT_IN)
    assert isinstance(model, Normalised)
    with torch.no_grad():
        model.mean.fill_(0.25)
        model.std.fill_(2.0)
    return model


def test_a_base_file_with_its_normalisation_is_taken_as_it_is() -> None:
    model = wrapped()
    for samples in (None, SAMPLES):
        found = read_base(BUILT_IN, save_weights(model), "base.safetensors", samples)
        assert not found.training
        assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_a_bare_built_in_network_gets_the_normalisation_of_the_images() -> None:
    model = wrapped()
    found = read_base(BUILT_IN, save_weights(model.net), "base.safetensors", SAMPLES)
    assert torch.equal(found.net.fc.weight, model.net.fc.weight)
    for channel in range(2):
        pixels = IMAGES[:, channel].flatten()
        assert float(found.mean[0, channel]) == pytest.approx(float(pixels.mean()), rel=1e-5)
        assert float(found.std[0, channel]) == pytest.approx(float(pixels.std()), rel=1e-5)


def test_a_bare_built_in_network_without_images_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"base\.safetensors: it has no input normalisation.*give some"):
        read_base(BUILT_IN, save_weights(wrapped().net), "base.safetensors", None)


@pytest.mark.parametrize(
    "weights", [b"", b"junk", save({"fc.weight": torch.ones(2)}), save_weights(build(parse_spec("resnet8/2x8x8/5")))]
)
def test_a_file_for_another_network_is_refused(weights: bytes) -> None:
    with pytest.raises(InputError, match=r"base\.safetensors: not the weights of"):
        read_base(BUILT_IN, weights, "base.safetensors", SAMPLES)
    with pytest.raises(InputError, match="copy: not the weights of Normalised"):
        load_weights(build(BUILT_IN), weights, "copy")
