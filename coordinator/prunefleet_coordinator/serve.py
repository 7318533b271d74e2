"""The coordinator as a process: identity, lock, store, deny-list, campaigns, a port; until a signal ends it.

Killed at any instant it resumes from its store. Its own certificate is renewed by the line to the authority, which asks
for the deny-list every few seconds; the server shows the renewed one at the next handshake, without a restart.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from prunefleet_coordinator.built_in_ca import DEFAULT_DEVICES, WARNING, join_lines, start_built_in
from prunefleet_coordinator.ca.server import RunningAuthority
from prunefleet_coordinator.campaigns import Campaigns
from prunefleet_coordinator.deny_list import DeniedSerials
from prunefleet_coordinator.grpc_carrier import is_loopback, start_server
from prunefleet_coordinator.health import forget_address, note_address
from prunefleet_coordinator.log_lines import log_event, log_to_stderr
from prunefleet_coordinator.settings import ServeSettings
from prunefleet_coordinator.store import SqlStore
from prunefleet_shared.errors import ConfigError, PrunefleetError
from prunefleet_shared.identity_folder import IDENTITY_FILE, make_state_folder
from prunefleet_shared.join_command import join_command
from prunefleet_shared.member_link import MemberLink, utc_now
from prunefleet_shared.roles import Role
from prunefleet_shared.secure_sum.roster import Members

_log = logging.getLogger(__name__)

STOP_GRACE_S = 3.0
"""For calls in flight when a signal comes; the whole stop takes at most 5 s."""
AUTHORITY_TIMEOUT_S = 10.0
_LOCK_FILE = "coordinator.lock"
PLAIN_BANNER = (
    "NOT PRIVATE: with --allow-plain this coordinator also carries out campaigns of privacy mode plain, in which it "
    "sees each device's contribution while it adds it up, and other machines can reach it. Whoever runs it can read "
    "what a device would keep of its network."
)


def serve(settings: ServeSettings, state: Path, show: Callable[[str], None]) -> None:
    """Run the coordinator until SIGTERM or SIGINT.

    Args:
        settings: What it is told.
        state: Its state folder.
        show: Shows a text on the screen and nowhere else: with the built-in authority, join tokens.

    Raises:
        ConfigError: Settings, folder, identity, store or port cannot be used (the operator's to mend).
        CarrierError: The authority cannot be reached, and it is needed.
        RemoteProtocolError: The authority refused us.
    """
    log_to_stderr()
    make_state_folder(state)
    with locked(state):
        if settings.token_dir is not None and not settings.built_in_ca:
            join_command(Role.COORDINATOR, None, settings.token_dir, state)
        asyncio.run(_until_signal(settings, state, show))


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the state folder against a second coordinator, which would open sessions of its own.

    Raises:
        ConfigError: Another process holds it, or the folder cannot be written (the operator's to mend).
    """
    path = state / _LOCK_FILE
    try:
        stream = path.open("a")
    except OSError as error:
        msg = f"the state folder {state} cannot be used: {error.strerror}; name another with --state"
        raise ConfigError(msg) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            msg = f"another coordinator runs with the state folder {state}; stop it, or name another with --state"
            raise ConfigError(msg) from None
        yield


async def _until_signal(settings: ServeSettings, state: Path, show: Callable[[str], None]) -> None:
    serving = asyncio.create_task(_serve(settings, state, show))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        _log.info("stopped by a signal; everything is stored")
    except ExceptionGroup as errors:
        raise _first(errors) from errors


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    error: Exception = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _serve(settings: ServeSettings, state: Path, show: Callable[[str], None]) -> None:
    is_first_start = not (state / IDENTITY_FILE).exists()
    async with AsyncExitStack() as stack:
        if settings.built_in_ca:
            authority = await start_built_in(settings, state, utc_now)
            stack.push_async_callback(authority.stop)
            _show_tokens(authority, settings, show, is_first_start=is_first_start)
        link = MemberLink(state, Role.COORDINATOR, timeout_s=AUTHORITY_TIMEOUT_S, to_authority=True)
        stack.push_async_callback(link.close)
        store = SqlStore(settings.database_url(state))
        stack.callback(store.close)
        store.check()
        denied = DeniedSerials(link, store, utc_now)
        await denied.ensure_list()
        campaigns = _campaigns(settings, store, link, denied)
        await stack.enter_async_context(_listening(settings, state, campaigns, denied, link))
        async with asyncio.TaskGroup() as group:
            group.create_task(campaigns.run())
            group.create_task(denied.run())


def _campaigns(settings: ServeSettings, store: SqlStore, link: MemberLink, denied: DeniedSerials) -> Campaigns:
    return Campaigns(
        store,
        store,
        operator_keys=lambda: link.identity.operator_keys,
        signing_key=link.identity.signing_key,
        clock=time.monotonic,
        new_session_id=lambda: secrets.token_hex(16),
        deny_list_age_ms=lambda: denied.age_ms,
        authority_is_built_in=settings.built_in_ca,
        on_event=log_event,
        learn_operators=lambda: _learn_operators(link),
        allow_plain=settings.allow_plain or is_loopback(settings.listen_host),
        members=Members(link.identity.credentials.ca_pem, utc_now),
    )


async def _learn_operators(link: MemberLink) -> None:
    """Renew early: the authority's answer names the operators of today. A failure is logged, nothing else."""
    try:
        await link.renew_now()
    except PrunefleetError as error:
        _log.warning("the authority was not asked who the operators are: %s", error)


@asynccontextmanager
async def _listening(
    settings: ServeSettings, state: Path, campaigns: Campaigns, denied: DeniedSerials, link: MemberLink
) -> AsyncIterator[None]:
    server = await start_server(
        campaigns,
        lambda: link.identity.credentials,
        clock=utc_now,
        host=settings.listen_host,
        port=settings.listen_port,
        is_denied=denied.is_denied,
    )
    try:
        note_address(state, settings.listen_host, server.port)
        _greet(settings, link.identity.name, server.port)
        yield
    finally:
        forget_address(state)
        campaigns.end()
        await server.stop(STOP_GRACE_S)


def _greet(settings: ServeSettings, name: str, port: int) -> None:
    if settings.allow_plain and not is_loopback(settings.listen_host):
        _log.warning(PLAIN_BANNER)
    if settings.built_in_ca:
        _log.warning(WARNING)
    _log.info("coordinator %s listens on %s port %d", name, settings.listen_host, port)


def _show_tokens(
    authority: RunningAuthority, settings: ServeSettings, show: Callable[[str], None], *, is_first_start: bool
) -> None:
    devices = settings.devices if settings.devices is not None else DEFAULT_DEVICES * is_first_start
    lines = list(join_lines(authority, devices, is_first_start=is_first_start))
    if lines:
        show("\n".join([WARNING, "Each of these works once, within 24 hours:", *lines]))
