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
_KEY = "prunefleet-training-2"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Everything a training needs to go on.

    Attributes:
        tensors: Weights, momentum, the best weights so far, the order of the epoch, the generator's state.
        numbers: Epoch, batch, and what early stopping counts.
        is_finished: Nothing is left to do; the tensors are the result.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, float]
    is_finished: bool = False


@dataclass(slots=True)
class Checkpoint:
    """Where one training is kept.

    Attributes:
        path: The file.
        purpose: What is trained, from what, on what, how: a state saved under another purpose is ignored.
        clock: Monotonic seconds.
        every_s: Shortest time between two savings.
        keeps_result: What came of the training stays when it is done, so that a job of many trainings does none of
            them twice; whoever runs the job clears it.
    """

    path: Path
    purpose: str
    clock: Callable[[], float] = time.monotonic
    every_s: float = SAVE_EVERY_S
    keeps_result: bool = False
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
        header = {
            _KEY: json.dumps({"purpose": self.purpose, "numbers": state.numbers, "is_finished": state.is_finished})
        }
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
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                return TrainingState(tensors, dict(header["numbers"]), bool(header["is_finished"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None  # a product: made again from the start

    def finish(self, result: dict[str, Tensor]) -> None:
        """The training is done: keep what came of it, or forget it all, as :attr:`keeps_result` says.

        Raises:
            ConfigError: The file cannot be written (the owner's to mend).
        """
        if self.keeps_result:
            self.save(TrainingState(result, {}, is_finished=True))
        else:
            self.clear()

    def clear(self) -> None:
        """Forget it."""
        self.path.unlink(missing_ok=True)
