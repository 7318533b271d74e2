"""A training that stands on the disk: after a power cut it goes on where it stood, to the same bits.

A checkpoint is a safetensors file (no pickle) named after what is being trained; one that was made for anything else
is not used. It is written whole or not at all, at most every :data:`SAVE_EVERY_S` seconds of work.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from prunefleet_shared.document_file import write_whole

SAVE_EVERY_S = 20.0
"""Work that can be lost, in seconds; a minute is what the owner is promised."""
_KEY = "prunefleet-training"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Everything a training needs to go on.

    Attributes:
        tensors: Weights, momentum, the best weights so far, the order of the epoch, the generator's state.
        numbers: Epoch, batch, and what early stopping counts.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, float]


@dataclass(slots=True)
class Checkpoint:
    """Where one training is kept.

    Attributes:
        path: The file.
        purpose: What is trained, from what, on what, how: a state saved under another purpose is ignored.
        clock: Monotonic seconds.
        every_s: Shortest time between two savings.
    """

    path: Path
    purpose: str
    clock: Callable[[], float] = time.monotonic
    every_s: float = SAVE_EVERY_S
    _saved_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._saved_s = self.clock()

    def is_due(self) -> bool:
        """True when the last saving was long enough ago."""
        return self.clock() - self._saved_s >= self.every_s

    def save(self, state: TrainingState) -> None:
        """Write the state, whole or not at all.

        Raises:
            ConfigError: The file cannot be written (the owner's to mend).
        """
        header = {_KEY: json.dumps({"purpose": self.purpose, "numbers": state.numbers})}
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(
            self.path, save({name: tensor.contiguous() for name, tensor in state.tensors.items()}, header), 0o600
        )
        self._saved_s = self.clock()

    def load(self) -> TrainingState | None:
        """The state that was saved for this purpose; None when there is none, or it cannot be read."""
        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads(file.metadata()[_KEY])
                if header["purpose"] != self.purpose:
                    return None
                return TrainingState({name: file.get_tensor(name) for name in file.keys()}, header["numbers"])  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None  # a product: made again from the start

    def clear(self) -> None:
        """Forget it: the training is done."""
        self.path.unlink(missing_ok=True)
