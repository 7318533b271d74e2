"""Networks by specification: ``ARCHITECTURE/CxHxW/CLASSES``, such as ``resnet20/3x32x32/100``.

The architecture is a built-in one, a network of an installed collection (``torchvision:resnet18``, ``timm:…``,
``pytorchcv:…``, always with fresh weights and never a download), or code of one's own (``package.module:factory``).
Code is run only if the person at this machine named it: :func:`build` takes the names it may run, and runs none else.

The input normalisation is part of the network (two buffers), so that a base file says all there is to say about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prunefleet_shared.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

ARCHITECTURES = ("resnet8", "resnet20", "alexnet", "squeezenet", "mobilenetv2", "lenet5")
_OURS = ", ".join(ARCHITECTURES)
COLLECTIONS = ("torchvision", "timm", "pytorchcv")
"""Packages of networks that are known by name."""
_MIN_PIXELS = {"alexnet": 29, "squeezenet": 8, "lenet5": 16}
"""Smallest height and width that survive a network's pooling; 1 for the others."""
_MAX_NAME = 200
_COLLECTED = re.compile(rf"(?:{'|'.join(COLLECTIONS)}):[a-z0-9_.]{{1,64}}", re.ASCII)
_FACTORY = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_SHAPE = re.compile(
    r"(?P<c>[1-9]\d{0,2})x(?P<h>[1-9]\d{0,3})x(?P<w>[1-9]\d{0,3})/(?P<classes>[1-9]\d{0,4})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A network's name, input shape (channels, height, width in pixels) and number of classes."""

    architecture: str
    input_chw: tuple[int, int, int]
    num_classes: int

    def __str__(self) -> str:
        c, h, w = self.input_chw
        return f"{self.architecture}/{c}x{h}x{w}/{self.num_classes}"

    @property
    def is_built_in(self) -> bool:
        """True for the networks of this package."""
        return ":" not in self.architecture

    @property
    def is_code(self) -> bool:
        """True for ``package.module:factory``: building it runs code that is neither ours nor a known collection's."""
        return not self.is_built_in and self.architecture.partition(":")[0] not in COLLECTIONS


def parse_spec(text: str) -> ModelSpec:
    """Read ``ARCHITECTURE/CxHxW/CLASSES``; nothing is imported, and whether there is such a network is not looked up.

    Raises:
        ConfigError: Not of that form, no such built-in network, or too small an image for it.
    """
    name, _, shape = text.partition("/")
    match = _SHAPE.fullmatch(shape)
    if match is None or len(name) > _MAX_NAME or not _is_name(name):
        collected = ", ".join(f"{collection}:NAME" for collection in COLLECTIONS)
        msg = (
            f"no built-in network {text!r}; expected ARCHITECTURE/CxHxW/CLASSES with one of {_OURS}; "
            f"or {collected}, or package.module:factory in its place"
        )
        raise ConfigError(msg)
    spec = ModelSpec(name, (int(match["c"]), int(match["h"]), int(match["w"])), int(match["classes"]))
    smallest = _MIN_PIXELS.get(name, 1)
    if min(spec.input_chw[1:]) < smallest:
        msg = f"{text}: {name} needs images of at least {smallest}x{smallest} pixels; enlarge them"
        raise ConfigError(msg)
    return spec


def _is_name(name: str) -> bool:
    if name.partition(":")[0] in COLLECTIONS:
        return _COLLECTED.fullmatch(name) is not None
    return name in ARCHITECTURES or _FACTORY.fullmatch(name) is not None


def check_code(spec: ModelSpec, allowed_code: Collection[str], remedy: str) -> None:
    """Refuse a network that is code which nobody here has allowed; nothing is imported.

    Args:
        spec: What somebody asks for.
        allowed_code: Each ``package.module:factory`` that the person at this machine named.
        remedy: What that person can do, in the error.

    Raises:
        ConfigError: It is code, and not allowed (that person's to decide).
    """
    if spec.is_code and spec.architecture not in allowed_code:
        msg = f"the network {spec} is made by code on this machine, {spec.architecture}, which is not allowed; {remedy}"
        raise ConfigError(msg)


def build(spec: ModelSpec, allowed_code: Collection[str] = ()) -> nn.Module:
    """A fresh network of ``spec``, float32, inputs in [0, 1] as N×C×H×W; torch's global generator initialises it.

    Args:
        spec: What to build.
        allowed_code: Each ``package.module:factory`` that the person at this machine named. Never pass what came from
            a file or a peer.

    Raises:
        ConfigError: It is code that is not in ``allowed_code``, or no installed collection has such a network.
        InputError: What the code made is no network, or not for this input and these classes.
    """
    check_code(spec, allowed_code, "name it on the command line of this machine")
    from prunefleet_edge.models.resnet import Normalised

    if spec.is_built_in:
        return Normalised(_built_in(spec), spec.input_chw[0])
    from prunefleet_edge.models.other import from_code, from_collection

    net = from_code(spec) if spec.is_code else from_collection(spec)
    return Normalised(net, spec.input_chw[0])


def _built_in(spec: ModelSpec) -> nn.Module:
    from prunefleet_edge.models.alexnet import CifarAlexNet
    from prunefleet_edge.models.lenet import LeNet5
    from prunefleet_edge.models.mobilenet import CifarMobileNetV2
    from prunefleet_edge.models.resnet import CifarResNet
    from prunefleet_edge.models.squeezenet import CifarSqueezeNet

    builders: dict[str, Callable[[int, int], nn.Module]] = {
        "resnet8": partial(CifarResNet, 1),
        "resnet20": partial(CifarResNet, 3),
        "alexnet": CifarAlexNet,
        "squeezenet": CifarSqueezeNet,
        "mobilenetv2": CifarMobileNetV2,
        # Its hidden layer has a weight for every pixel that pooling leaves.
        "lenet5": lambda _channels, num_classes: LeNet5(spec.input_chw, num_classes),
    }
    return builders[spec.architecture](spec.input_chw[0], spec.num_classes)


def example_input(spec: ModelSpec) -> torch.Tensor:
    """Two samples to trace with: float32, 2×C×H×W, fixed by a seed."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, *spec.input_chw, generator=generator)
