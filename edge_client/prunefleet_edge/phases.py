"""Where a long job stands on the disk: networks that are finished, and the one being trained.

The folder belongs to one job: its name is a digest of everything the job depends on, so that the same command goes on
where it was stopped, and another command starts anew. Nothing of it is needed once the job is done.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from prunefleet_edge.checkpoint import Checkpoint
from prunefleet_shared.documents import digest

WORK_FOLDER = ".work"


@dataclass(frozen=True, slots=True)
class Phases:
    """The folder of one job.

    Attributes:
        path: The folder; made when something is written.
    """

    path: Path

    @classmethod
    def of(cls, out: Path, *depends_on: str) -> Phases:
        """The folder below ``out`` for a job that depends on these."""
        return cls(out / WORK_FOLDER / digest("|".join(depends_on).encode())[:16])

    def checkpoint(self, name: str) -> Checkpoint:
        """Where the training called ``name`` stands."""
        return Checkpoint(self.path / f"{name}.training", name)

    def within(self, name: str) -> Phases:
        """A part of the job."""
        return Phases(self.path / name)

    def finished(self, name: str) -> Path:
        """Where the network called ``name`` goes when it is finished."""
        return self.path / f"{name}.safetensors"

    def clear(self) -> None:
        """The job is done: remove it all, and what stopped jobs of other commands left."""
        shutil.rmtree(self.path.parent, ignore_errors=True)
