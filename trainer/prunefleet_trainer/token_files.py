"""Join tokens as files for others to claim: ``DIR/0.token``, ``DIR/1.token``, …, whole from the first moment on.

Whoever uses one claims it by renaming it, so a name is never used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prunefleet_shared.document_file import write_whole
from prunefleet_shared.errors import ConfigError


def write_tokens(folder: Path, tokens: Sequence[str]) -> list[Path]:
    """Write each token to a file of its own, readable by its owner only.

    Args:
        folder: Made if need be; numbers go on after those of the files in it, claimed ones included.
        tokens: What to write.

    Raises:
        ConfigError: The folder cannot be written (the user's to mend).
    """
    first = prepare(folder)
    paths = [folder / f"{first + number}.token" for number in range(len(tokens))]
    for path, token in zip(paths, tokens, strict=True):
        write_whole(path, f"{token}\n".encode(), mode=0o600)
    return paths


def prepare(folder: Path) -> int:
    """Make the folder, and find the first number that no file in it has; called early, it fails before tokens exist.

    Raises:
        ConfigError: The folder cannot be made or read (the user's to mend).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [path.name.partition(".")[0] for path in folder.iterdir()]
    except OSError as error:
        msg = f"{folder}: expected a folder to write tokens to, got {error.strerror}"
        raise ConfigError(msg) from None
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
