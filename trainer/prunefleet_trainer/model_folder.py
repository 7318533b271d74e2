"""Models kept on disk, under a key and their own digest: a file that was damaged is no file."""

from __future__ import annotations

import re
from pathlib import Path

from prunefleet_shared.document_file import write_whole
from prunefleet_shared.documents import digest
from prunefleet_shared.errors import ConfigError, RejectReason, reject

MAX_MODELS = 32
"""Models kept in a folder; the oldest go first."""
KEY_DIGITS = 64


class ModelFolder:
    """Models by a key of 64 hex digits, such as a digest.

    Args:
        folder: Made when the first model comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, key: str) -> Path | None:
        """The file of the model under ``key``; None when there is none, or it is damaged.

        Raises:
            RemoteProtocolError: ``key`` is no digest; it comes from a document, and becomes a file's name.
        """
        check_hex(key, KEY_DIGITS)
        for path in sorted(self._folder.glob(f"{key}.*.safetensors")):
            if digest(path.read_bytes()) == path.name.split(".")[1]:
                return path
            path.unlink(missing_ok=True)
        return None

    def save(self, key: str, model: bytes) -> Path:
        """Keep ``model`` under ``key``, whole or not at all; returns its file.

        Raises:
            ConfigError: It cannot be written (the user's to mend).
            RemoteProtocolError: As :meth:`path`.
        """
        check_hex(key, KEY_DIGITS)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"{self._folder}: expected a folder to write to, got {error.strerror}; choose another with --state"
            raise ConfigError(msg) from None
        path = self._folder / f"{key}.{digest(model)}.safetensors"
        write_whole(path, model)
        self._forget_oldest()
        return path

    def _forget_oldest(self) -> None:
        paths = sorted(self._folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in paths[:-MAX_MODELS]:
            path.unlink(missing_ok=True)


def check_hex(text: str, num_digits: int) -> None:
    """Refuse what is to become a part of a file's name and is no run of so many hex digits.

    Raises:
        RemoteProtocolError: ``MALFORMED``: it comes from a document.
    """
    if not re.fullmatch(rf"[0-9a-f]{{{num_digits}}}", text):
        got = f"{len(text)} characters"
        raise reject(RejectReason.MALFORMED, expected=f"a digest of {num_digits} hex digits", got=got)
