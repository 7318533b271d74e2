"""The authority as a process: runs until it is told to stop, and can be asked whether it is well."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from prunefleet_coordinator.ca.files import load_root, load_settings
from prunefleet_coordinator.ca.server import RunningAuthority, serve_authority
from prunefleet_shared.authority_messages import GetAuthority
from prunefleet_shared.grpc_link import GrpcLink, Trust
from prunefleet_shared.member_link import utc_now

HEALTH_TIMEOUT_S = 5.0


async def run_until_stopped(
    state: Path,
    *,
    join_at: tuple[str, int],
    members_at: tuple[str, int],
    on_running: Callable[[RunningAuthority], None],
    say: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        state: The authority's folder.
        join_at: Host and port for newcomers.
        members_at: Host and port for members.
        on_running: Called once both ports listen.
        say: Progress, in words.

    Raises:
        ConfigError: No usable authority, or a port cannot be bound (the owner's to mend).
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    (join_host, join_port), (members_host, members_port) = join_at, members_at
    authority = await serve_authority(
        state,
        join_host=join_host,
        join_port=join_port,
        members_host=members_host,
        members_port=members_port,
        now=utc_now,
    )
    try:
        on_running(authority)
        say(f"the authority listens: newcomers on port {authority.join_port}, members on {authority.members_port}")
        await stopped.wait()  # as long as the process lives; a signal ends it
    finally:
        await authority.stop()


async def check_health(state: Path) -> None:
    """Ask the authority on this machine for its root, over TLS that its root vouches for.

    Raises:
        CarrierError: It does not answer in time.
        ConfigError: ``state`` holds no authority (the owner's to mend).
    """
    address = f"localhost:{load_settings(state).join_port}"
    link = GrpcLink(address, Trust(load_root(state)), timeout_s=HEALTH_TIMEOUT_S)
    try:
        await link.call(GetAuthority())
    finally:
        await link.close()
