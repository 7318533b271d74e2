"""Built-in networks, named by a specification such as ``resnet20/3x32x32/100`` (architecture/input/classes).

The input normalisation is part of the network (two buffers), so that a base file says all there is to say about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prunefleet_shared.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

_SPEC = re.compile(
    r"(?P<name>[a-z0-9_]{1,32})/(?P<c>[1-9]\d{0,2})x(?P<h>[1-9]\d{0,3})x(?P<w>[1-9]\d{0,3})/(?P<classes>[1-9]\d{0,4})",
    re.ASCII,
)
ARCHITECTURES = ("resnet8", "resnet20", "alexnet", "squeezenet", "mobilenetv2")
_MIN_PIXELS = {"alexnet": 29, "squeezenet": 8}
"""Smallest height and width that survive a network's pooling; 1 for the others."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A built-in network's name, input shape (channels, height, width in pixels) and number of classes."""

    architecture: str
    input_chw: tuple[int, int, int]
    num_classes: int

    def __str__(self) -> str:
        c, h, w = self.input_chw
        return f"{self.architecture}/{c}x{h}x{w}/{self.num_classes}"


def parse_spec(text: str) -> ModelSpec:
    """Read ``architecture/CxHxW/classes``.

    Raises:
        ConfigError: Not of that form, or no such architecture.
    """
    match = _SPEC.fullmatch(text)
    if match is None or match["name"] not in ARCHITECTURES:
        msg = (
            f"no built-in network {text!r}; expected ARCHITECTURE/CxHxW/CLASSES with one of {', '.join(ARCHITECTURES)}"
        )
        raise ConfigError(msg)
    spec = ModelSpec(match["name"], (int(match["c"]), int(match["h"]), int(match["w"])), int(match["classes"]))
    smallest = _MIN_PIXELS.get(spec.architecture, 1)
    if min(spec.input_chw[1:]) < smallest:
        msg = f"{text}: {spec.architecture} needs images of at least {smallest}x{smallest} pixels; enlarge them"
        raise ConfigError(msg)
    return spec


def build(spec: ModelSpec) -> nn.Module:
    """A fresh network of ``spec``, float32, inputs in [0, 1] as N×C×H×W; torch's global generator initialises it."""
    from prunefleet_edge.models.alexnet import CifarAlexNet
    from prunefleet_edge.models.mobilenet import CifarMobileNetV2
    from prunefleet_edge.models.resnet import CifarResNet, Normalised
    from prunefleet_edge.models.squeezenet import CifarSqueezeNet

    builders: dict[str, Callable[[int, int], nn.Module]] = {
        "resnet8": partial(CifarResNet, 1),
        "resnet20": partial(CifarResNet, 3),
        "alexnet": CifarAlexNet,
        "squeezenet": CifarSqueezeNet,
        "mobilenetv2": CifarMobileNetV2,
    }
    in_channels = spec.input_chw[0]
    return Normalised(builders[spec.architecture](in_channels, spec.num_classes), in_channels)


def example_input(spec: ModelSpec) -> torch.Tensor:
    """Two samples to trace with: float32, 2×C×H×W, fixed by a seed."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, *spec.input_chw, generator=generator)
