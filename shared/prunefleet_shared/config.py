"""Configuration files: TOML into a pydantic model, and what is wrong with it in words a person can act on."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prunefleet_shared.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


def read_values(config: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """The values of a TOML file (if any), overridden by the options that were given.

    Args:
        config: The file.
        options: By name; None means: not given.

    Raises:
        ConfigError: The file cannot be read (the user's to mend).
    """
    values = _read_toml(config) if config else {}
    return values | {name: value for name, value in options.items() if value is not None}


def checked(model: type[M], values: dict[str, Any]) -> M:
    """``values`` as ``model``.

    Raises:
        ConfigError: A key is unknown (the nearest known one is named), or a value is out of range (the user's to mend).
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise ConfigError(
            _in_words(error, [field.alias or name for name, field in model.model_fields.items()])
        ) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path}: not a readable TOML file: {error}"
        raise ConfigError(msg) from None


def _in_words(error: ValidationError, known: list[str]) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{name}: expected a value, got none; give it as an option or in the configuration"
    if first["type"] != "extra_forbidden":
        text = str(first["msg"]).removeprefix("Value error, ")
        return f"{name}: {text}, got {first['input']!r}" if name else text
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return f"unknown key {name!r} in the configuration; {hint}"
