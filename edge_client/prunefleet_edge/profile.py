"""What this device needs for one network at any widths, as a small JSON file; ``profile_measurement`` makes it.

No host name, path or serial number gets in. Needs no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prunefleet_edge.latency_table import Calibration, LatencyTable, LayerLatency
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.errors import InputError
from prunefleet_shared.layout import Layout

Runtime = Literal["onnxruntime", "torch-eager"]


class CheckedNetwork(BaseModel):
    """A network with random widths, predicted and then measured whole.

    Attributes:
        widths: Of every group.
        predicted_ns: By the table.
        measured_ns: Median.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: tuple[int, ...]
    predicted_ns: Annotated[int, Field(gt=0)]
    measured_ns: Annotated[int, Field(gt=0)]

    @property
    def error_ratio(self) -> float:
        """How far the prediction is off, as a fraction of what was measured."""
        return abs(self.predicted_ns / self.measured_ns - 1)


class DeviceProfile(BaseModel):
    """The document that ``prunefleet edge profile`` writes. Unknown keys are refused.

    Attributes:
        format: 1.
        model: Specification of the network.
        layout: Fingerprint of its channel groups.
        runtime: What was measured in: one sample, one thread.
        machine: Processor, cores, operating system and versions.
        grid: Widths per layer that were asked for.
        layers: What was measured.
        calibration: From layers to networks.
        checked: Networks that the calibration has not seen.
        dense_ns: Measured latency of the dense network.
        training_bytes: Batch size, and the peak that training the dense network takes on top of the process.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    model: str
    layout: str
    runtime: Runtime
    machine: dict[str, str]
    grid: int
    layers: tuple[LayerLatency, ...]
    calibration: Calibration
    checked: tuple[CheckedNetwork, ...]
    dense_ns: int
    training_bytes: dict[int, int]

    @property
    def table(self) -> LatencyTable:
        """What predicts latencies."""
        return LatencyTable(self.layers, self.calibration)

    @property
    def error_ratios(self) -> tuple[float, float]:
        """Median and 90th percentile of the predictions' errors, fractions of what was measured."""
        errors = [network.error_ratio for network in self.checked]
        return (float(np.median(errors)), float(np.quantile(errors, 0.9))) if errors else (0.0, 0.0)


def write_profile(path: Path, profile: DeviceProfile) -> None:
    """Write a profile, whole or not at all.

    Raises:
        ConfigError: It cannot be written (the user's to mend).
    """
    document = profile.model_dump(mode="json")
    lists = {name: ",\n".join("  " + json.dumps(one) for one in document.pop(name)) for name in ("checked", "layers")}
    body = "".join(f',\n "{name}": [\n{lines}\n ]' for name, lines in lists.items())
    write_whole(path, f"{json.dumps(document, indent=1)[:-2]}{body}\n}}\n".encode())


def read_profile(path: Path) -> DeviceProfile:
    """A profile from its file.

    Raises:
        InputError: It cannot be read, or is no profile (the user's to mend).
    """
    try:
        profile = DeviceProfile.model_validate_json(path.read_bytes())
    except OSError as error:
        msg = f"{path}: expected a profile, got {error.strerror}; `prunefleet edge profile` makes one"
        raise InputError(msg) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        msg = f"{path}: not a profile of `prunefleet edge profile`: {where}: {first['msg']}"
        raise InputError(msg) from None
    _check_grids(path, profile)
    return profile


def _check_grids(path: Path, profile: DeviceProfile) -> None:
    for layer in profile.layers:
        is_ascending = all(list(grid) == sorted(set(grid)) and grid for grid in (layer.in_grid, layer.out_grid))
        is_full = len(layer.ns) == len(layer.in_grid) and {len(row) for row in layer.ns} == {len(layer.out_grid)}
        if not (is_ascending and is_full):
            msg = f"{path}: layer {layer.name}: its times do not fit its grid of widths; measure again"
            raise InputError(msg)


def latency_table(profile: DeviceProfile, layout: Layout, model: str) -> LatencyTable:
    """The profile's table, if it is this network's.

    Args:
        profile: As it was read.
        layout: The groups whose widths are to be predicted.
        model: Specification of the network.

    Raises:
        InputError: It is another network's (the user's to mend).
    """
    if profile.model != model or profile.layout != layout.fingerprint():
        same = "; its channel groups differ" if profile.model == model else ""
        msg = (
            f"profile: expected one of {model}, got one of {profile.model}{same}; "
            f"measure this one with `prunefleet edge profile --model {model}`"
        )
        raise InputError(msg)
    return profile.table
