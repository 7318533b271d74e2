"""Weights as safetensors files: a network's own, and base files, which may hold the bare network only."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from prunefleet_edge.data import Samples
from prunefleet_edge.models import ModelSpec, build
from prunefleet_edge.models.resnet import Normalised
from prunefleet_shared.errors import InputError

_SMALLEST_STD = 1e-3
_MARK = "/"
"""Parts of torch's own names have a full stop between them, and never this."""


def save_weights(model: nn.Module) -> bytes:
    """A network's weights as the bytes of a safetensors file."""
    return save_tensors({name: tensor.contiguous() for name, tensor in model.state_dict().items()})


def load_weights(model: nn.Module, weights: bytes, what: str) -> nn.Module:
    """Fill ``model`` from the bytes of a safetensors file.

    Raises:
        InputError: Not such a file, or for another network.
    """
    return _fill(model, _tensors(weights, what, type(model).__name__), what)


def join_networks(networks: Sequence[bytes]) -> bytes:
    """One safetensors file for networks of one shape; the first as it is by itself, the others' tensors prefixed."""
    if len(networks) == 1:
        return networks[0]
    parts = [(_prefix(index), load_tensors(weights)) for index, weights in enumerate(networks)]
    return save_tensors({prefix + name: tensor for prefix, tensors in parts for name, tensor in tensors.items()})


def split_networks(weights: bytes, what: str) -> list[bytes]:
    """The networks that :func:`join_networks` has put together, each as a safetensors file.

    Raises:
        InputError: Not such a file.
    """
    tensors = _tensors(weights, what, "slim networks")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        prefix, mark, rest = name.rpartition(_MARK)
        parts.setdefault(prefix + mark, {})[rest] = tensor
    if not parts or set(parts) != {_prefix(index) for index in range(len(parts))}:
        msg = f"{what}: expected networks numbered from 0, got {len(parts)} with other names"
        raise InputError(msg)
    return [save_tensors(parts[_prefix(index)]) for index in range(len(parts))]


def _prefix(index: int) -> str:
    return f"network-{index}{_MARK}" if index else ""


def read_base(
    spec: ModelSpec, weights: bytes, what: str, samples: Samples | None, allowed_code: Collection[str] = ()
) -> nn.Module:
    """A dense base in eval mode from the bytes of a safetensors file.

    The file holds the network with its input normalisation (``mean``, ``std``, ``net.…``), or the bare network. To a
    bare built-in network belongs the normalisation of the images it was trained on; any other is taken as it is: it
    sees images in [0, 1].

    Args:
        spec: The network.
        weights: Of the file.
        what: The file, in errors.
        samples: What to measure a bare built-in network's normalisation on; None if there are none.
        allowed_code: See :func:`prunefleet_edge.models.build`.

    Raises:
        ConfigError: There is no such network, or it is code that is not allowed.
        InputError: The file is for another network, or bare with no images to measure on.
    """
    tensors = _tensors(weights, what, str(spec))
    model = build(spec, allowed_code)
    if not isinstance(model, Normalised) or {"mean", "std"} <= tensors.keys():
        return _fill(model, tensors, what).eval()
    _fill(model.net, tensors, what)
    if spec.is_built_in:
        if samples is None:
            msg = f"{what}: it has no input normalisation, and there are no images to measure it on; give some"
            raise InputError(msg)
        set_normalisation(model, samples)
    return model.eval()


def set_normalisation(model: nn.Module, samples: Samples) -> nn.Module:
    """Write the per-channel mean and standard deviation of the images into the network."""
    if isinstance(model, Normalised):
        std, mean = torch.std_mean(samples.images, dim=(0, 2, 3), keepdim=True)
        model.mean.copy_(mean)
        model.std.copy_(std.clamp_min(_SMALLEST_STD))
    return model


def _tensors(weights: bytes, what: str, network: str) -> dict[str, Tensor]:
    try:
        return load_tensors(weights)
    except Exception as error:  # safetensors raises several kinds; the user needs one
        msg = f"{what}: not the weights of {network}: {_first_line(error)}"
        raise InputError(msg) from error


def _fill(model: nn.Module, tensors: dict[str, Tensor], what: str) -> nn.Module:
    try:
        model.load_state_dict(tensors)
    except Exception as error:  # torch raises several kinds; the user needs one
        msg = f"{what}: not the weights of {type(model).__name__}: {_first_line(error)}"
        raise InputError(msg) from error
    return model


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
