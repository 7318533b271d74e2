"""What a coordinator is told: keys of ``coordinator.toml`` or options of the command line, checked together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from prunefleet_shared.config import checked, read_values

DEFAULT_LISTEN = "127.0.0.1:8470"
DATABASE_FILE = "coordinator.sqlite"
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


class ServeSettings(BaseModel):
    """A coordinator's settings. Unknown keys are refused.

    Attributes:
        listen: ``host:port``; port 0 lets the system choose.
        database: SQLAlchemy URL; None: ``coordinator.sqlite`` in the state folder.
        token_dir: Where to claim a join token from when there is no identity yet.
        allow_plain: Carry out campaigns of mode ``plain`` (it sees each contribution) though others can reach it.
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
    return checked(ServeSettings, read_values(config, options))


def settings_toml(settings: ServeSettings) -> str:
    """The settings as ``coordinator.toml`` would say them; keys without a value are left out."""
    values = settings.model_dump(mode="json", exclude_none=True)
    # JSON's strings, numbers and booleans are TOML's, too.
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
