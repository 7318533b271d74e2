"""Models kept on the disk by their digest, so that a restart does not download them again; checked whenever read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from prunefleet_shared.document_file import write_signed, write_whole
from prunefleet_shared.documents import SignedDocument, digest

CAMPAIGN_FILE = "campaign.json"
MAX_MODELS = 4
"""Models kept: the base, and a few slim bases of it."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ModelCache(Protocol):
    """Keeps models, and the last campaign for the owner to look at."""

    def load(self, model_digest: str) -> bytes | None:
        """The model of that digest; None if it is not there, or damaged."""
        ...

    def save(self, model_digest: str, model: bytes) -> None:
        """Keep a model whose digest has been checked.

        Raises:
            ConfigError: The disk is full, or the folder is not ours.
        """
        ...

    def save_campaign(self, campaign: SignedDocument) -> None:
        """Keep the campaign; errors as :meth:`save`."""
        ...


class NoCache:
    """Keeps nothing: for simulations and tests."""

    def load(self, model_digest: str) -> bytes | None:  # noqa: ARG002 - the protocol's signature
        """Never there."""
        return None

    def save(self, model_digest: str, model: bytes) -> None:
        """Forgotten at once."""

    def save_campaign(self, campaign: SignedDocument) -> None:
        """Forgotten at once."""


class FolderCache:
    """Keeps models in a folder, made if it is not there; the oldest go when there are more than ``MAX_MODELS``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, model_digest: str) -> bytes | None:
        """The model of that digest; a damaged one is removed, and fetched again."""
        if _DIGEST.fullmatch(model_digest) is None:  # it comes from outside, and becomes a file's name
            return None
        path = self._path(model_digest)
        try:
            model = path.read_bytes()
            if digest(model) == model_digest:
                return model
            path.unlink()
        except OSError:
            pass  # not there, or unreadable: either way it is fetched
        return None

    def save(self, model_digest: str, model: bytes) -> None:
        """Keep a model whose digest has been checked."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self._path(model_digest), model, 0o600)
        models = sorted(self._folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        for old in models[:-MAX_MODELS]:
            old.unlink(missing_ok=True)

    def save_campaign(self, campaign: SignedDocument) -> None:
        """Keep the campaign as ``campaign.json``."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_signed(self._folder / CAMPAIGN_FILE, campaign)

    def _path(self, model_digest: str) -> Path:
        return self._folder / f"{model_digest}.safetensors"
