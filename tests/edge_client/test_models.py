"""Built-in networks: names, sizes, and the names of their weights."""

from __future__ import annotations

import pytest
import torch

from prunefleet_edge.models import ARCHITECTURES, ModelSpec, build, example_input, parse_spec
from prunefleet_shared.errors import ConfigError


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


@pytest.mark.parametrize(("text", "smallest"), [("alexnet/3x28x32/10", 29), ("squeezenet/1x8x7/10", 8)])
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
