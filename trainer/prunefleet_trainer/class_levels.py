"""``--class CLASS[=LEVELS]``: which device classes a base is for, and what may remain of it on each. No torch.

A campaign is for one class, so several classes are several campaigns, which share nothing but the base: each has its
own cohorts, votes, decisions and ending, and a device takes part in its own class's alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from prunefleet_shared.errors import ConfigError

_DEVICE_CLASS = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class ClassLevels:
    """A device class and its schedule.

    Attributes:
        device_class: Its name.
        levels_permille: What may remain of the dense cost at each level, in thousandths, falling.
    """

    device_class: str
    levels_permille: tuple[int, ...]


def parse_classes(texts: Sequence[str], default_levels: str) -> tuple[ClassLevels, ...]:
    """The classes asked for, in order; ``default_levels`` are those of a class that names none.

    Raises:
        ConfigError: A class or its levels cannot be read, or a class comes twice (the user's to mend).
    """
    classes = []
    for text in texts:
        name, has_levels, levels = text.partition("=")
        if not _DEVICE_CLASS.fullmatch(name):
            msg = f"--class: expected 1 to 32 of a-z 0-9 -, perhaps with =LEVELS, got {text!r}"
            raise ConfigError(msg)
        classes.append(ClassLevels(name, parse_levels(levels if has_levels else default_levels)))
    names = [one.device_class for one in classes]
    if len(set(names)) != len(names):
        msg = f"--class: each class may come once, got {', '.join(names)}"
        raise ConfigError(msg)
    return tuple(classes)


def parse_levels(text: str) -> tuple[int, ...]:
    """Levels in thousandths from fractions separated by commas, such as ``0.4,0.2``.

    Raises:
        ConfigError: Not numbers, or not whole thousandths between 0 and 1 (the user's to mend).
    """
    try:
        permilles = [1000 * float(part) for part in text.split(",")]
    except ValueError:
        permilles = [-1.0]
    if not all(0 < permille < 1000 and abs(permille - round(permille)) < 1e-6 for permille in permilles):
        msg = f"--levels: expected fractions between 0 and 1 of at most three digits, such as 0.4,0.2; got {text!r}"
        raise ConfigError(msg)
    return tuple(round(permille) for permille in permilles)
