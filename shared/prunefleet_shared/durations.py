"""Durations as people write them: ``90s``, ``10m``, ``24h``, ``7d``."""

from __future__ import annotations

import re

from prunefleet_shared.errors import ConfigError

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
MAX_DURATION_S = 366 * 24 * 3600


def parse_duration_s(text: str, name: str) -> int:
    """Seconds of a duration, 1 second to 366 days.

    Args:
        text: A whole number and a unit, such as ``24h``.
        name: What it is, for the error.

    Raises:
        ConfigError: Not of that form, or out of range (the user's to mend).

    >>> parse_duration_s("24h", "ttl")
    86400
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if not 1 <= seconds <= MAX_DURATION_S:
        msg = f"{name}: expected a duration of 1s to 366d, such as 90s, 10m, 24h or 7d, got {text!r}"
        raise ConfigError(msg)
    return seconds


def in_words(seconds: float) -> str:
    """A time as people say it: ``"48 s"``, ``"3 min 05 s"``, ``"2 h 10 min"``, ``"3 d 04 h"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"
