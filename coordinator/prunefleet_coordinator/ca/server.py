"""Runs the authority: one port for newcomers, one for members."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from prunefleet_coordinator.ca.authority_service import AuthorityService
from prunefleet_coordinator.ca.files import load_settings, save_settings
from prunefleet_coordinator.ca.rate_limit import FailureLimit
from prunefleet_coordinator.ca.signer import FolderSigner, ServerCertificate
from prunefleet_coordinator.ca.store import AuthorityStore
from prunefleet_coordinator.ca.tokens import TokenOrder
from prunefleet_coordinator.grpc_carrier import RunningServer, start_join_server, start_server
from prunefleet_shared.wire_methods import AUTHORITY

DATABASE = "authority.sqlite"


@dataclass(frozen=True, slots=True)
class RunningAuthority:
    """An authority that listens.

    Attributes:
        join_port: For newcomers; the system's choice where 0 was asked for.
        members_port: For members.
    """

    join_port: int
    members_port: int
    _service: AuthorityService
    _store: AuthorityStore
    _servers: tuple[RunningServer, ...]

    def create_tokens(self, order: TokenOrder) -> tuple[str, ...]:
        """Make join tokens of any role; see :meth:`AuthorityService.create_tokens`."""
        return self._service.create_tokens(order)

    async def stop(self) -> None:
        """Take no more calls, finish those in flight, close the files."""
        for server in self._servers:
            await server.stop()
        self._store.close()


def open_authority(state: Path, now: Callable[[], datetime]) -> tuple[AuthorityService, AuthorityStore]:
    """The rules over the files in ``state``; the caller closes the store.

    Raises:
        ConfigError: The folder holds no usable authority (the owner's to mend).
    """
    settings = load_settings(state)
    signer = FolderSigner(state, settings.validity_h)
    store = AuthorityStore(state / DATABASE)
    return AuthorityService(store, signer, settings, now=now, failures=FailureLimit(time.monotonic)), store


async def serve_authority(
    state: Path,
    *,
    join_host: str,
    join_port: int,
    members_host: str,
    members_port: int,
    now: Callable[[], datetime],
) -> RunningAuthority:
    """Listen for newcomers and members. Members are told the ports that were bound, and ``authority.json`` keeps them.

    Args:
        state: What ``init_authority`` made.
        join_host: Address to listen on for newcomers.
        join_port: 0 lets the system choose; choose it yourself for an authority that outlives its process.
        members_host: Address to listen on for members.
        members_port: As ``join_port``.
        now: The time, aware.

    Raises:
        ConfigError: No usable authority in ``state``, or a port cannot be bound (the owner's to mend).
    """
    service, store = open_authority(state, now)
    servers: list[RunningServer] = []
    try:
        settings = load_settings(state)
        certificate = ServerCertificate(state, settings, now)
        # Newcomers are told the members' port, so that one is bound first and theirs last.
        servers.append(await _start_for_members(service, certificate, now, members_host, members_port))
        settings = replace(settings, members_port=servers[0].port)
        service.advertise(settings)
        servers.append(await start_join_server(service, certificate, host=join_host, port=join_port))
        settings = replace(settings, join_port=servers[1].port)
        service.advertise(settings)
        save_settings(state, settings)
    except BaseException:
        for server in servers:
            await server.stop(0)
        store.close()
        raise
    return RunningAuthority(settings.join_port, settings.members_port, service, store, tuple(servers))


async def _start_for_members(
    service: AuthorityService, certificate: ServerCertificate, now: Callable[[], datetime], host: str, port: int
) -> RunningServer:
    return await start_server(
        service,
        certificate,
        clock=now,
        host=host,
        port=port,
        services=(AUTHORITY,),
        is_denied=service.is_denied,
    )
