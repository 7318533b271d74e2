"""What lies where in a device's state folder. All of it is private: the folder is its owner's alone (mode 0700)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from prunefleet_shared.document_file import write_whole
from prunefleet_shared.errors import ConfigError

_SEED_FILE = "seed"


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The places in a state folder.

    Attributes:
        path: The folder; ``identity.json`` and the audit lie directly in it.
    """

    path: Path

    @property
    def store(self) -> Path:
        """What was said, and which rounds are spent."""
        return self.path / "state.sqlite"

    @property
    def status(self) -> Path:
        """What the device does now."""
        return self.path / "status.json"

    @property
    def cache(self) -> Path:
        """Models and the last campaign, as downloaded."""
        return self.path / "cache"

    @property
    def work(self) -> Path:
        """Dense working copies."""
        return self.path / "work"

    @property
    def kept(self) -> Path:
        """The networks that the device keeps: in service ``level-N*.safetensors``; on trial see ``kept_networks``."""
        return self.path / "kept"

    def seed(self) -> int:
        """The seed of order, augmentation and splits: drawn once, so that work done again comes out the same.

        Raises:
            ConfigError: It cannot be read or written (the owner's to mend).
        """
        path = self.path / _SEED_FILE
        try:
            seed = int(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            seed = secrets.randbits(62)
            write_whole(path, f"{seed}\n".encode(), 0o600)
        except (OSError, ValueError):
            msg = f"{path}: expected a whole number; remove the file, and another is drawn"
            raise ConfigError(msg) from None
        return seed
