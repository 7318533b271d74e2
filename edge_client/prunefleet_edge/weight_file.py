"""A weight-pruned network as one small safetensors file (no pickle, no code): a bitmap and the values that are left.

``bitmap`` has one bit a weight (first weight first, high bit first), ``values`` the survivors in the same order; both
go through all prunable weights in the network's own order. What is never pruned (biases, norms, buffers) lies in one
tensor a type. Names and shapes are not stored: the network that the header names has them, and a digest says whether
it is the same.

Size, of n float32 weights at sparsity s: n/8 + 4n(1-s) bytes and what is never pruned, against 4n. At 90 % that is
0.13 of the dense network; with values in float16 0.08, which rounds every weight to 11 significant bits.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from prunefleet_edge.models import build, check_code, parse_spec
from prunefleet_edge.weight_pruning import WeightMasks, check_masks, nonzero_masks, prunable_weights
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.documents import canonical_bytes, digest, read_document
from prunefleet_shared.errors import ConfigError, InputError, RemoteProtocolError

VALUE_TYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
MAX_HEADER_BYTES = 1024 * 1024
_KEY = "prunefleet-sparse"
_BITMAP, _VALUES, _REST = "bitmap", "values", "rest."


@dataclass(frozen=True, slots=True)
class SparseInfo:
    """What the header says.

    Attributes:
        model: Specification of the network, such as ``resnet20/3x32x32/100``.
        value_type: One of :data:`VALUE_TYPES`.
        num_weights: Prunable weights.
        num_kept: Those that are left.
        layout: Digest of the names, shapes and types of everything in the network.
    """

    model: str
    value_type: str
    num_weights: int
    num_kept: int
    layout: str

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that are gone."""
        return 1 - self.num_kept / self.num_weights


@dataclass(frozen=True, slots=True)
class SparseNetwork:
    """What a file holds.

    Attributes:
        model: In eval mode, float32.
        masks: Its survivors.
        info: The header.
    """

    model: nn.Module
    masks: WeightMasks
    info: SparseInfo


def save_sparse(
    path: Path,
    model: nn.Module,
    spec: str,
    masks: Mapping[str, Tensor] | None = None,
    value_type: str = "float32",
) -> SparseInfo:
    """Write a weight-pruned network, whole or not at all (mode 0600: it may have seen private images).

    Args:
        path: The file.
        model: Its weights are float32.
        spec: What :func:`load_sparse` builds it from.
        masks: Its survivors; None: the weights that are not zero.
        value_type: ``float32`` keeps every bit; ``float16`` halves the values and rounds them.

    Raises:
        ConfigError: The file cannot be written, or no such value type (the user's to mend).
        InputError: Weights outside the masks, not float32, or too large for float16 (the model's fault).
        LayoutError: The masks do not fit the model.
    """
    if value_type not in VALUE_TYPES:
        msg = f"value_type: expected one of {', '.join(VALUE_TYPES)}, got {value_type!r}"
        raise ConfigError(msg)
    found = nonzero_masks(model) if masks is None else dict(masks)
    check_masks(model, found)
    weights = torch.cat([weight.detach().flatten() for weight in prunable_weights(model).values()])
    kept = torch.cat([found[name].flatten() for name in prunable_weights(model)])
    values = _values(weights, kept, value_type)
    info = SparseInfo(spec, value_type, len(weights), len(values), _layout_digest(model))
    tensors = {_BITMAP: torch.from_numpy(np.packbits(kept.numpy())), _VALUES: values, **_rest(model)}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, save(tensors, {_KEY: canonical_bytes(info).decode()}), 0o600)
    return info


def _values(weights: Tensor, kept: Tensor, value_type: str) -> Tensor:
    if weights.dtype != torch.float32:
        msg = f"expected float32 weights, got {weights.dtype}; convert the network first"
        raise InputError(msg)
    num_outside = int((weights[~kept] != 0).sum())
    if num_outside:
        msg = f"{num_outside} weights outside the masks are not zero, and would be lost; apply the masks first"
        raise InputError(msg)
    values = weights[kept].to(VALUE_TYPES[value_type])
    if not bool(values.isfinite().all()):
        largest = float(weights.abs().max())
        msg = f"a weight is no number as {value_type} (the largest is {largest:.3g}); use float32, or mend the network"
        raise InputError(msg)
    return values


def _rest(model: nn.Module) -> dict[str, Tensor]:
    """What is never pruned, by type: flat, in the network's order."""
    pruned, parts = prunable_weights(model).keys(), dict[torch.dtype, list[Tensor]]()
    for name, tensor in model.state_dict().items():
        if name not in pruned:
            parts.setdefault(tensor.dtype, []).append(tensor.flatten())
    return {f"{_REST}{_type_name(dtype)}": torch.cat(tensors) for dtype, tensors in parts.items()}


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _layout_digest(model: nn.Module) -> str:
    facts = [[name, list(tensor.shape), _type_name(tensor.dtype)] for name, tensor in model.state_dict().items()]
    return digest(json.dumps(facts).encode())


def dense_bytes(model: nn.Module) -> int:
    """Bytes of all the network's tensors, stored as they are."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def read_sparse_info(path: Path) -> SparseInfo:
    """What the header says; the rest of the file is not looked at.

    Raises:
        InputError: There is no such file, or it is no weight-pruned network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            info = read_document(file.metadata()[_KEY].encode(), SparseInfo)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RemoteProtocolError):
        raise InputError(_not_one(path)) from None
    if info.value_type not in VALUE_TYPES or not 0 <= info.num_kept <= info.num_weights or info.num_weights < 1:
        raise InputError(_not_one(path))
    return info


def _not_one(path: Path) -> str:
    return f"{path}: not a weight-pruned network (a safetensors file with a {_KEY!r} header)"


def load_sparse(path: Path, network: nn.Module | None = None) -> SparseNetwork:
    """The network in the file.

    Args:
        path: The file; nothing of it is believed before it is checked against the network, its size included.
        network: The network to fill, when the file names code (``package.module:factory``) or a slim network: a file
            never makes a machine run code. It is copied; its weights do not matter.

    Raises:
        ConfigError: The file names code and no network is given (the caller's to mend).
        InputError: There is no such file, it is damaged, or for another network.
    """
    info = read_sparse_info(path)
    model = _network(info, network)
    _check_size(path, model)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        msg = f"{path}: it cannot be read: {error}; fetch it again"
        raise InputError(msg) from None
    why = _why_damaged(model, info, tensors)
    if why:
        msg = f"{path}: {why}; it is damaged, or of another network than {info.model}"
        raise InputError(msg)
    return SparseNetwork(model, _fill(model, info, tensors), info)


def _network(info: SparseInfo, given: nn.Module | None) -> nn.Module:
    if given is not None:
        return copy.deepcopy(given).eval()
    spec = parse_spec(info.model)
    check_code(spec, (), "make the network yourself, and give it to load_sparse(path, network)")
    return build(spec).eval()


def _check_size(path: Path, model: nn.Module) -> None:
    limit_bytes = dense_bytes(model) * 9 // 8 + MAX_HEADER_BYTES
    size_bytes = path.stat().st_size
    if size_bytes > limit_bytes:
        msg = f"{path}: expected at most {limit_bytes} bytes for this network, got {size_bytes}; fetch it again"
        raise InputError(msg)


def _why_damaged(model: nn.Module, info: SparseInfo, tensors: dict[str, Tensor]) -> str | None:
    if info.layout != _layout_digest(model):
        return "its layout is another one"
    num_weights = sum(weight.numel() for weight in prunable_weights(model).values())
    wanted: dict[str, Any] = {name: (tuple(rest.shape), rest.dtype) for name, rest in _rest(model).items()}
    wanted[_BITMAP] = ((-(-num_weights // 8),), torch.uint8)
    wanted[_VALUES] = ((info.num_kept,), VALUE_TYPES[info.value_type])
    got = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    if wanted != got or info.num_weights != num_weights:
        return f"expected {sorted(wanted)} of certain shapes and types, got others"
    bits = np.unpackbits(tensors[_BITMAP].numpy())
    if int(bits.sum()) != info.num_kept or bits[num_weights:].any():
        return f"its bitmap does not name {info.num_kept} weights"
    is_finite = all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    return None if is_finite else "it holds values that are no numbers"


def _fill(model: nn.Module, info: SparseInfo, tensors: dict[str, Tensor]) -> WeightMasks:
    """Write the checked tensors into the network; returns its survivors."""
    weights = prunable_weights(model)
    kept = torch.from_numpy(np.unpackbits(tensors[_BITMAP].numpy(), count=info.num_weights)).bool()
    flat = torch.zeros(info.num_weights).masked_scatter_(kept, tensors[_VALUES].float())
    sizes = [weight.numel() for weight in weights.values()]
    masks = {n: part.reshape(weights[n].shape) for n, part in zip(weights, torch.split(kept, sizes), strict=True)}
    state = {n: part.reshape(weights[n].shape) for n, part in zip(weights, torch.split(flat, sizes), strict=True)}
    state |= _unpacked(model, tensors)
    model.load_state_dict(state)
    return masks


def _unpacked(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The opposite of :func:`_rest`."""
    pruned, used, found = prunable_weights(model).keys(), dict[str, int](), dict[str, Tensor]()
    for name, tensor in model.state_dict().items():
        if name not in pruned:
            key = f"{_REST}{_type_name(tensor.dtype)}"
            start = used.get(key, 0)
            used[key] = start + tensor.numel()
            found[name] = tensors[key][start : used[key]].reshape(tensor.shape)
    return found
