"""Code that the person at this machine names: ``package.module:name``. Never a name that came from a peer."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunefleet_shared.errors import ConfigError

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def names_code(text: str) -> bool:
    """True when ``text`` has the form ``package.module:name`` and there is such a package; nothing is run."""
    if _NAME.fullmatch(text) is None:
        return False
    with _from_here():
        return importlib.util.find_spec(text.partition(":")[0].partition(".")[0]) is not None


def load_code(text: str, what: str) -> Callable[..., Any]:
    """The callable that ``package.module:name`` names; the working directory counts as a place to import from.

    Args:
        text: Its name, as typed on this machine.
        what: What it is for, in errors.

    Raises:
        ConfigError: Not of that form, no such module, or no such callable in it (the user's to mend).
    """
    if _NAME.fullmatch(text) is None:
        msg = f"{what}: expected package.module:name, got {text!r}"
        raise ConfigError(msg)
    module_name, _, name = text.partition(":")
    try:
        with _from_here():
            module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise anything while it is imported
        msg = f"{what}: {module_name} cannot be imported: {type(error).__name__}: {error}"
        raise ConfigError(msg) from error
    found = getattr(module, name, None)
    if not callable(found):
        msg = f"{what}: {module_name} has no callable {name!r}"
        raise ConfigError(msg)
    return found  # type: ignore[no-any-return]  # whatever the user wrote


@contextmanager
def _from_here() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
