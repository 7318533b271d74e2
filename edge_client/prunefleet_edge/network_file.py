"""The network a device keeps, as one safetensors file that says all there is to say about it.

The header holds the dense network's specification and which channels are kept, so that the file alone rebuilds the
network; no code is loaded. :func:`load_kept` is how an application on the device gets at it.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prunefleet_shared.document_file import write_whole
from prunefleet_shared.documents import canonical_bytes, read_document
from prunefleet_shared.errors import InputError, LayoutError, RemoteProtocolError

if TYPE_CHECKING:
    from torch import nn

    from prunefleet_edge.models import ModelSpec

MAX_HEADER_BYTES = 16 * 1024 * 1024
_KEY = "prunefleet"


@dataclass(frozen=True, slots=True)
class KeptInfo:
    """What the header of a kept network says.

    Attributes:
        model: Specification of the dense network, such as ``resnet8/1x12x12/10``.
        kept: For each channel group, the indices of the channels that are left.
        campaign_id: The campaign it came of.
        level: 0-based level of its schedule.
        decision_fingerprint: The decision that was tried.
        is_fleets: True: the fleet's network, fine-tuned here; False: the device's own choice, which the gate preferred.
        cost: Its cost in the campaign's unit.
        dense_cost: The dense network's.
        unit: ``macs`` or ``parameters``.
        is_fine_tuned: False: as the trainer made it, on a device without data.
        group_names: Names of the groups of ``kept``; empty for all that the dense network's trace finds.
    """

    model: str
    kept: tuple[tuple[int, ...], ...]
    campaign_id: str
    level: int
    decision_fingerprint: str
    is_fleets: bool
    cost: int
    dense_cost: int
    unit: str
    group_names: tuple[str, ...] = ()
    is_fine_tuned: bool = True

    @property
    def cost_permille(self) -> int:
        """Its cost in thousandths of the dense network's."""
        return round(1000 * self.cost / self.dense_cost)


def save_kept(path: Path, model: nn.Module, info: KeptInfo) -> None:
    """Write a network and what is known of it, whole or not at all (mode 0600: it has seen private images).

    Raises:
        ConfigError: The file cannot be written (the owner's to mend).
    """
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, save(tensors, {_KEY: canonical_bytes(info).decode()}), 0o600)


def read_kept_info(path: Path) -> KeptInfo:
    """What the header of a kept network says; needs no torch.

    Raises:
        InputError: There is no such file, or it is no kept network.
    """
    try:
        with path.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(size, MAX_HEADER_BYTES)))
        return read_document(header["__metadata__"][_KEY].encode(), KeptInfo)
    except OSError as error:
        msg = f"{path}: expected a kept network, got {error.strerror}"
        raise InputError(msg) from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RemoteProtocolError):
        msg = f"{path}: not a kept network (a safetensors file with a {_KEY!r} header)"
        raise InputError(msg) from None


def load_kept(path: Path, dense: nn.Module | None = None) -> nn.Module:
    """The network in the file, in eval mode: float32 images in [0, 1], N×C×H×W, to logits.

    Args:
        path: The file.
        dense: The dense network, as its factory makes it, when the file names code (``package.module:factory``): a
            file never makes a machine run code. Its weights do not matter; it is left as it is.

    Raises:
        ConfigError: The file names code and ``dense`` is not given, or a collection that is not installed (the
            caller's to mend).
        InputError: There is no such file, it is no kept network, or ``dense`` is another network.
        LayoutError: Its header contradicts the network it names.
    """
    from prunefleet_edge.models import example_input, parse_spec
    from prunefleet_edge.models.weights import load_weights
    from prunefleet_edge.pruning import slim
    from prunefleet_edge.tracing import trace

    info = read_kept_info(path)
    spec = parse_spec(info.model)
    whole, example = _dense(spec, dense, path), example_input(spec)
    traced = trace(whole, example)
    if info.group_names:
        traced = traced.only(info.group_names)
    widths = traced.layout.dense_widths
    masks = [np.isin(np.arange(width), kept) for width, kept in zip(widths, info.kept, strict=False)]
    names = tuple(group.name for group in traced.groups)
    if len(info.kept) != len(widths) or info.group_names not in ((), names):
        msg = f"{path}: it keeps channels of {len(info.kept)} groups, the network {info.model} has {', '.join(names)}"
        raise LayoutError(msg)
    return load_weights(slim(whole, example, masks, traced), path.read_bytes(), str(path)).eval()


def _dense(spec: ModelSpec, given: nn.Module | None, path: Path) -> nn.Module:
    from prunefleet_edge.models import build, check_code
    from prunefleet_edge.models.resnet import Normalised

    if given is None:
        check_code(spec, (), f"make the dense network yourself, and give it to load_kept({path.name!r}, dense)")
        return build(spec)
    return given if isinstance(given, Normalised) else Normalised(given, spec.input_chw[0])


def info_facts(info: KeptInfo) -> dict[str, object]:
    """What an owner wants to see of it, for machines."""
    facts = asdict(info)
    del facts["kept"], facts["group_names"]
    return facts | {"cost_permille": info.cost_permille}
