"""The quick start: a coordinator that is its own fleet's authority, in one process. Honest-but-curious only.

Whoever runs both can make up devices, and with them single out a real one. So the screen, the log, the status and the
report all say so; a fleet in earnest has its authority elsewhere (``prunefleet ca``).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from prunefleet_coordinator.ca.files import (
    AuthoritySettings,
    all_hosts,
    init_authority,
    is_initialised,
    load_settings,
    save_settings,
)
from prunefleet_coordinator.ca.server import RunningAuthority, serve_authority
from prunefleet_coordinator.ca.tokens import TokenOrder
from prunefleet_coordinator.settings import ServeSettings
from prunefleet_shared.enrolment import join
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.identity_folder import IDENTITY_FILE
from prunefleet_shared.join_token import JoinToken
from prunefleet_shared.roles import Role

WARNING = (
    "Built-in authority: honest-but-curious only. Whoever runs this process can make up devices; "
    "for a fleet in earnest run the authority elsewhere (prunefleet ca)."
)
DEVICE_CLASS = "camera"
DEFAULT_DEVICES = 2
_FOLDER = "ca"
_JOIN_COMMANDS = {
    Role.OPERATOR: "prunefleet campaign join",
    Role.TRAINER: "prunefleet trainer join",
    Role.DEVICE: "prunefleet edge join",
}
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


def is_built_in(state: Path) -> bool:
    """Whether the coordinator of this state folder is the fleet's authority, too."""
    return is_initialised(state / _FOLDER)


async def start_built_in(settings: ServeSettings, state: Path, now: Callable[[], datetime]) -> RunningAuthority:
    """Run the authority in this process, made first if need be, and let the coordinator join it.

    It listens beside the coordinator: newcomers on the next port, members on the one after.

    Raises:
        ConfigError: Folder or ports cannot be used (the user's to mend).
    """
    wanted = _authority_settings(settings)
    folder = state / _FOLDER
    if not is_initialised(folder):
        init_authority(folder, folder / "root", wanted, now())
    else:
        kept = load_settings(folder)
        save_settings(folder, replace(wanted, validity_h=kept.validity_h))
    authority = await serve_authority(
        folder,
        join_host=settings.listen_host,
        join_port=wanted.join_port,
        members_host=settings.listen_host,
        members_port=wanted.members_port,
        now=now,
    )
    try:
        await _join_as_coordinator(authority, wanted, state, now)
    except BaseException:
        await authority.stop()
        raise
    return authority


def join_lines(authority: RunningAuthority, devices: int, *, is_first_start: bool) -> Iterator[str]:
    """The commands, each with a fresh token, by which the others join.

    Args:
        authority: The running one.
        devices: Tokens for devices.
        is_first_start: Also let an operator and a trainer in.
    """
    orders = [TokenOrder(Role.OPERATOR, "operator"), TokenOrder(Role.TRAINER, "trainer")] if is_first_start else []
    if devices:
        orders.append(TokenOrder(Role.DEVICE, DEVICE_CLASS, is_group=True, count=devices, device_class=DEVICE_CLASS))
    for order in orders:
        for token in authority.create_tokens(order):
            yield f"{_JOIN_COMMANDS[order.role]} {token}"


def _authority_settings(settings: ServeSettings) -> AuthoritySettings:
    port = settings.listen_port
    if not 1 <= port <= 65533:
        msg = f"listen: a built-in authority needs a port of 1 to 65533 (and takes the next two), got {port}"
        raise ConfigError(msg)
    host = settings.host or settings.listen_host
    if host in _ANYWHERE:
        host = socket.gethostname()
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return AuthoritySettings((host,), address, join_port=port + 1, members_port=port + 2)


async def _join_as_coordinator(
    authority: RunningAuthority, settings: AuthoritySettings, state: Path, now: Callable[[], datetime]
) -> None:
    if (state / IDENTITY_FILE).exists():
        return
    order = TokenOrder(Role.COORDINATOR, "coordinator", hosts=all_hosts(settings.hosts))
    (text,) = authority.create_tokens(order)
    token = JoinToken.parse(text)
    # Over this machine's own name, so that it works before others can resolve the name it is reached by.
    here = replace(token, address=f"localhost:{authority.join_port}")
    await join(here, Role.COORDINATOR, state, now=now)
