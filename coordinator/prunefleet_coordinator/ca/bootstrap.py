"""The first tokens of a fleet that starts by itself, as containers do: written once, for whoever mounts the folder."""

from __future__ import annotations

from pathlib import Path

from prunefleet_coordinator.ca.server import RunningAuthority
from prunefleet_coordinator.ca.tokens import TokenOrder
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.identity_folder import make_state_folder
from prunefleet_shared.roles import Role

_DONE = "bootstrapped"
_ROLES = (Role.COORDINATOR, Role.OPERATOR, Role.TRAINER)


def write_bootstrap_tokens(authority: RunningAuthority, state: Path, folder: Path) -> None:
    """Write ``FOLDER/<role>/<role>.token`` (0600) for coordinator, operator and trainer, unless that was done before.

    Interrupted, it is done again: tokens that nobody reads any more end after a day.

    Raises:
        ConfigError: A folder cannot be written (the owner's to mend).
    """
    if (state / _DONE).exists():
        return
    for role in _ROLES:
        make_state_folder(folder / role.value)
        (text,) = authority.create_tokens(TokenOrder(role, role.value))
        write_whole(folder / role.value / f"{role.value}.token", f"{text}\n".encode(), mode=0o600)
    write_whole(state / _DONE, b"")
