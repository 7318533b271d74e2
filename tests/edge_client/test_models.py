"""Networks by name: built in, of libraries, and of code of one's own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from prunefleet_edge.data import Samples
from prunefleet_edge.models import (
    ARCHITECTURES,
    ModelSpec,
    build,
    check_code,
    example_input,
    parse_spec,
)
from prunefleet_edge.models.resnet import Normalised
from prunefleet_edge.models.weights import read_base, save_weights
from prunefleet_shared.errors import ConfigError, InputError

torch.set_num_threads(1)


@pytest.mark.parametrize("text", ["resnet8/1x16x16/10", "resnet20/3x32x32/100", "resnet8/3x224x1024/10000"])
def test_a_specification_reads_back_as_it_was_written(text: str) -> None:
    assert str(parse_spec(text)) == text


def test_the_parts_of_a_specification() -> None:
    assert parse_spec("resnet20/3x32x48/100") == ModelSpec("resnet20", (3, 32, 48), 100)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "resnet20",
        "resnet20/3x32x32",
        "resnet21/3x32x32/100",
        "ResNet20/3x32x32/100",
        "resnet20/32x32/100",
        "resnet20/3x32x32/100/",
        "resnet20/3x32x32/100\n",
        " resnet20/3x32x32/100",
        "resnet20/3x32x-2/100",
        "resnet20/0x32x32/100",
        "resnet20/3x0x32/100",
        "resnet20/3x32x32/0",
        "resnet20/03x32x32/100",
        "resnet20/3x32x32/1000000",
        "resnet20/٣x32x32/100",
        "torchvision:/3x32x32/100",
        "timm:hf-hub:somebody/net/3x32x32/100",
        "timm:hf_hub:net/3x32x32/100",
        "timm:ResNet/3x32x32/100",
        f"timm:{'a' * 65}/3x32x32/100",
        "pytorchcv:../etc/3x32x32/100",
        "my.nets:/3x32x32/100",
        "my nets:build/3x32x32/100",
        "my.nets:build()/3x32x32/100",
        "my..nets:build/3x32x32/100",
        "../nets:build/3x32x32/100",
        f"my.{'n' * 200}:build/3x32x32/100",
    ],
)
def test_anything_else_is_refused_with_what_is_there_to_choose_from(text: str) -> None:
    with pytest.raises(ConfigError, match="ARCHITECTURE/CxHxW/CLASSES with one of resnet8, resnet20") as caught:
        parse_spec(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "num_parameters"),
    [
        ("resnet20/3x32x32/100", 278_324),
        # The three that the base files' README counts, or the paper (2.41 M).
        ("alexnet/3x32x32/100", 2_495_396),
        ("squeezenet/3x32x32/100", 778_180),
        ("mobilenetv2/3x32x32/100", 2_412_212),
        # 20 and 50 channels, 500 hidden units, added up by hand.
        ("lenet5/1x28x28/10", 520 + 25_050 + 400_500 + 5_010),
        # Stem, three blocks with their norms and shortcuts, classifier: added up by hand.
        ("resnet8/1x8x8/4", 176 + 4_672 + 14_528 + 57_728 + 260),
    ],
)
def test_parameter_counts(text: str, num_parameters: int) -> None:
    assert sum(parameter.numel() for parameter in build(parse_spec(text)).parameters()) == num_parameters


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_runs_on_its_example(architecture: str) -> None:
    spec = ModelSpec(architecture, (2, 32, 36), 5)
    example = example_input(spec)
    assert example.shape == (2, 2, 32, 36)
    assert build(spec).eval()(example).shape == (2, 5)


@pytest.mark.parametrize(
    ("text", "smallest"), [("alexnet/3x28x32/10", 29), ("squeezenet/1x8x7/10", 8), ("lenet5/1x16x15/10", 16)]
)
def test_images_that_pooling_would_reduce_to_nothing_are_refused(text: str, smallest: int) -> None:
    with pytest.raises(ConfigError, match=f"at least {smallest}x{smallest} pixels"):
        parse_spec(text)
    big_enough = ModelSpec(text.partition("/")[0], (1, smallest, smallest), 10)
    assert build(parse_spec(str(big_enough))).eval()(example_input(big_enough)).shape == (2, 10)


def test_the_example_is_fixed_and_leaves_the_global_generator_alone() -> None:
    spec = parse_spec("resnet8/1x8x8/4")
    before = torch.get_rng_state()
    assert torch.equal(example_input(spec), example_input(spec))
    assert torch.equal(torch.get_rng_state(), before)


def test_names_of_the_weights_are_those_of_the_base_files() -> None:
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    block = ["conv1.weight", *(f"bn1.{n}" for n in norm), "conv2.weight", *(f"bn2.{n}" for n in norm)]
    short = ["short.0.weight", *(f"short.1.{n}" for n in norm)]
    stem = ["conv1.weight", *(f"bn1.{n}" for n in norm)]
    blocks = [f"blocks.{i}.{name}" for i in range(3) for name in (block if i == 0 else [*block, *short])]
    names = ["mean", "std", *(f"net.{name}" for name in [*stem, *blocks, "fc.weight", "fc.bias"])]
    assert set(build(parse_spec("resnet8/1x8x8/4")).state_dict()) == set(names)


def test_the_normalisation_is_inside_the_network() -> None:
    model = build(parse_spec("resnet8/2x8x8/4")).eval()
    images = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = model.net(images)
        assert torch.equal(model(images), plain), "a fresh network normalises by 0 and 1"
        model.mean.copy_(torch.tensor([0.25, 0.5]).reshape(1, 2, 1, 1))
        model.std.copy_(torch.tensor([2.0, 4.0]).reshape(1, 2, 1, 1))
        shifted = torch.stack([images[:, 0] * 2 + 0.25, images[:, 1] * 4 + 0.5], dim=1)
        torch.testing.assert_close(model(shifted), plain)


# --- names that are not ours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_built_in", "is_code"),
    [
        ("resnet8/1x8x8/4", True, False),
        ("torchvision:resnet18/3x64x64/10", False, False),
        ("timm:resnet18.a1_in1k/3x64x64/10", False, False),
        ("pytorchcv:resnet20_cifar10/3x32x32/10", False, False),
        ("timm.models:create_model/3x32x32/10", False, True),
        ("nets:build/3x32x32/10", False, True),
        ("my.Nets_2:Build/3x32x32/10", False, True),
    ],
)
def test_what_kind_of_network_a_specification_names(text: str, is_built_in: bool, is_code: bool) -> None:
    spec = parse_spec(text)
    assert str(spec) == text
    assert (spec.is_built_in, spec.is_code) == (is_built_in, is_code)


def test_reading_a_specification_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str, package: str | None = None) -> None:
        msg = f"{name} was imported"
        raise AssertionError(msg)

    monkeypatch.setattr(importlib.util, "find_spec", import_module)
    monkeypatch.setattr(importlib, "import_module", import_module)
    assert parse_spec("nets:build/3x32x32/10").is_code
    with pytest.raises(ConfigError, match="not allowed"):
        build(parse_spec("nets:build/3x32x32/10"))


# --- code of one's own -----------------------------------------------------------------------------------------------


NETS = """
    import torch
    from torch import nn

    (ran := __import__("pathlib").Path(__file__).with_suffix(".ran")).touch()

    class Net(nn.Module):
        def __init__(self, num_classes=4, in_channels=1):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(in_channels, 6, 3), nn.Linear(6, num_classes)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(x)).mean(dim=(2, 3)))

    def plain():
        return Net()

    def with_in_chans(num_classes, *, in_chans):
        return Net(num_classes, in_chans)

    def any_keyword(**options):
        assert list(options) == ["num_classes"], options
        return Net(**options)

    def with_an_option_of_its_own(width=6):
        assert width == 6
        return Net().train()

    built = Net

    def failing():
        raise ValueError("no such weights")

    def no_module():
        return 7

    def tuple_of_logits(num_classes):
        class Two(Net):
            def forward(self, x):
                y = super().forward(x)
                return y, y
        return Two(num_classes)

    not_callable = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module ``own_nets`` in the working directory; yields the file that appears when it is imported."""
    (tmp_path / "own_nets.py").write_text(textwrap.dedent(NETS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "own_nets.ran"
    sys.modules.pop("own_nets", None)


def made(name: str, shape: str = "1x8x8/4") -> torch.nn.Module:
    spec = parse_spec(f"own_nets:{name}/{shape}")
    return build(spec, allowed_code=[spec.architecture])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("plain", "1x8x8/4"),
        ("built", "3x8x8/5"),
        ("Net", "3x8x8/5"),
        ("with_in_chans", "2x8x8/5"),
        ("any_keyword", "1x8x8/5"),
        ("with_an_option_of_its_own", "1x8x8/4"),
    ],
)
def test_a_factory_gets_the_arguments_it_takes(nets: Path, name: str, shape: str) -> None:
    model = made(name, shape)
    assert isinstance(model, Normalised)
    spec = parse_spec(f"own_nets:{name}/{shape}")
    assert model.eval()(example_input(spec)).shape == (2, spec.num_classes)
    assert model.mean.shape == (1, spec.input_chw[0], 1, 1)
    assert torch.equal(model.mean, torch.zeros_like(model.mean)), "nothing is normalised until somebody says so"


@pytest.mark.parametrize("allowed", [(), ("own_nets:plain",), ("own_nets",), ("own_nets:buil",), ("own_nets:built2",)])
def test_code_that_is_not_allowed_by_its_very_name_is_not_even_imported(nets: Path, allowed: tuple[str, ...]) -> None:
    spec = parse_spec("own_nets:built/1x8x8/4")
    with pytest.raises(ConfigError, match=r"own_nets:built/1x8x8/4 is made by code.*own_nets:built, which is not"):
        build(spec, allowed)
    assert not nets.exists()
    assert "own_nets" not in sys.modules
    build(spec, ("own_nets:plain", "own_nets:built"))
    assert nets.exists(), "the negative control"


def test_what_is_not_code_needs_no_permission() -> None:
    for text in ("resnet8/1x8x8/4", "timm:resnet18/3x8x8/4"):
        check_code(parse_spec(text), (), "nothing to do")


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("failing", "1x8x8/4", "making the network failed: ValueError: no such weights"),
        ("no_module", "1x8x8/4", "expected a torch.nn.Module, got a int"),
        ("plain", "1x8x8/5", r"expected logits 2x5 for 2 samples, got 2x4"),
        ("plain", "3x8x8/4", r"does not run on images 3x8x8: RuntimeError.*give the channels, height and width"),
        ("plain", "1x2x2/4", r"does not run on images 1x2x2"),
        ("tuple_of_logits", "1x8x8/4", r"expected logits 2x4 for 2 samples, got a tuple; wrap it"),
    ],
)
def test_a_factory_that_makes_no_such_network_is_refused(nets: Path, name: str, shape: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        made(name, shape)
    assert f"own_nets:{name}/{shape}" in str(caught.value)


@pytest.mark.parametrize(("name", "words"), [("nobody", "no callable"), ("not_callable", "no callable")])
def test_a_name_that_is_not_there_is_refused(nets: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made(name)
    spec = parse_spec("own_netz:build/1x8x8/4")
    with pytest.raises(ConfigError, match="own_netz cannot be imported"):
        build(spec, [spec.architecture])


def test_a_bare_network_of_ones_own_sees_images_as_they_are(nets: Path) -> None:
    spec = parse_spec("own_nets:plain/1x8x8/4")
    bare = made("plain").net
    other = Samples(torch.rand(9, 2, 8, 8), torch.zeros(9, dtype=torch.int64))
    found = read_base(spec, save_weights(bare), "own.safetensors", other, ["own_nets:plain"])
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(found(images), bare.eval()(images))
    with pytest.raises(ConfigError, match="not allowed"):
        read_base(spec, save_weights(bare), "own.safetensors", other)
