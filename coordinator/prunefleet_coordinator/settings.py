"""What a coordinator is told: keys of ``coordinator.toml`` or options of the command line, checked together."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from prunefleet_shared.errors import ConfigError

DEFAULT_LISTEN = "127.0.0.1:8470"
DATABASE_FILE = "coordinator.sqlite"
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


class ServeSettings(BaseModel):
    """A coordinator's settings. Unknown keys are refused.

    Attributes:
        listen: ``host:port``; port 0 lets the system choose.
        database: SQLAlchemy URL; None: ``coordinator.sqlite`` in the state folder.
        token_dir: Where to claim a join token from when there is no identity yet.
        allow_plain: Let other machines reach a coordinator that sees each contribution.
        built_in_ca: Be the fleet's authority, too.
        host: With the built-in authority, the name or address at which members reach this machine.
        devices: With the built-in authority, how many join tokens to print for devices; None: 2 at the first
            start, none later.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = DEFAULT_LISTEN
    database: str | None = None
    token_dir: Path | None = None
    allow_plain: bool = False
    built_in_ca: bool = False
    host: str | None = None
    devices: Annotated[int, Field(ge=0, le=1000)] | None = None

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, listen: str) -> str:
        parse_address(listen)
        return listen

    @property
    def listen_host(self) -> str:
        """The host in ``listen``, without brackets."""
        return parse_address(self.listen)[0]

    @property
    def listen_port(self) -> int:
        """The port in ``listen``."""
        return parse_address(self.listen)[1]

    def database_url(self, state: Path) -> str:
        """The database's URL, for this state folder."""
        return self.database or f"sqlite:///{state / DATABASE_FILE}"


def parse_address(address: str) -> tuple[str, int]:
    """Host (without brackets) and port of ``host:port``.

    Raises:
        ValueError: It is none (whoever wrote it).

    >>> parse_address("[::1]:8470")
    ('::1', 8470)
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        msg = "expected host:port, such as 127.0.0.1:8470 or 0.0.0.0:8470"
        raise ValueError(msg)
    return match["host"].strip("[]"), int(match["port"])


def load_settings(config: Path | None, options: dict[str, Any]) -> ServeSettings:
    """Settings from a TOML file (if any), overridden by the options that were given.

    Args:
        config: The file.
        options: By name; None means: not given.

    Raises:
        ConfigError: The file cannot be read, a key is unknown, or a value is out of range (the user's to mend).
    """
    values = _read_toml(config) if config else {}
    values |= {name: value for name, value in options.items() if value is not None}
    try:
        return ServeSettings(**values)
    except ValidationError as error:
        raise ConfigError(_in_words(error)) from None


def settings_toml(settings: ServeSettings) -> str:
    """The settings as ``coordinator.toml`` would say them; keys without a value are left out."""
    values = settings.model_dump(mode="json", exclude_none=True)
    # JSON's strings, numbers and booleans are TOML's, too.
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path}: not a readable TOML file: {error}"
        raise ConfigError(msg) from None


def _in_words(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        text = str(first["msg"]).removeprefix("Value error, ")
        return f"{name}: {text}, got {first['input']!r}"
    near = difflib.get_close_matches(name, ServeSettings.model_fields, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(ServeSettings.model_fields)}"
    return f"unknown key {name!r} in the configuration; {hint}"
