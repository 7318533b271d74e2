"""Sizes of memory as people write them: ``512MB``, ``2GiB``."""

from __future__ import annotations

import re

from prunefleet_shared.errors import ConfigError

_UNIT_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s?([KMG]?i?B)", re.IGNORECASE | re.ASCII)


def parse_bytes(text: str, name: str) -> int:
    """Bytes of a size.

    Args:
        text: A number and a unit, such as ``512MB`` or ``1.5GiB``.
        name: What it is, for the error.

    Raises:
        ConfigError: Not of that form, or nothing (the user's to mend).

    >>> parse_bytes("512MB", "memory-limit")
    512000000
    """
    match = _SIZE.fullmatch(text.strip())
    num_bytes = round(float(match[1]) * _UNIT_BYTES[match[2].upper()]) if match else 0
    if num_bytes < 1:
        msg = f"{name}: expected a size such as 512MB or 2GiB, got {text!r}"
        raise ConfigError(msg)
    return num_bytes


def bytes_in_words(num_bytes: float) -> str:
    """A size as people say it: ``"917 B"``, ``"34.1 kB"``, ``"2.4 MB"``."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes:.0f} B"
