"""Being a member from the command line: joining, and a patient line to coordinator or authority."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import typer

from prunefleet_edge.backoff import Backoff, RetryPolicy
from prunefleet_shared.errors import CarrierError
from prunefleet_shared.identity_folder import Identity, default_state
from prunefleet_shared.join_command import join_command
from prunefleet_shared.member_link import MemberLink
from prunefleet_shared.messages import Down, Link, Up
from prunefleet_shared.roles import Role

CALL_TIMEOUT_S = 15.0
"""Longest wait for one answer to an operator; nothing that an operator asks is held open."""
PATIENCE = RetryPolicy(first_s=0.5, max_s=4.0, give_up_after_s=20.0)
"""For a coordinator that is just starting."""


def join(role: Role, token: str | None, token_dir: Path | None, state: Path | None) -> Identity:
    """What ``… join`` does, and one line on stderr that says who we are now.

    Raises:
        ConfigError: The token or the folder is unusable (the user's to mend).
        RemoteProtocolError: The authority turned the token down.
        CarrierError: It cannot be reached.
    """
    folder = state or default_state(role)
    identity = join_command(role, token, token_dir, folder)
    until = identity.valid_until.strftime("%Y-%m-%d %H:%M UTC")
    typer.echo(f"{role} {identity.name}, member until {until} (renewed on its own); state in {folder}", err=True)
    return identity


@asynccontextmanager
async def member_link(state: Path, role: Role, *, to_authority: bool = False) -> AsyncIterator[MemberLink]:
    """A member's line, closed at the end.

    Raises:
        ConfigError: Not a member yet (the user's to mend).
    """
    link = MemberLink(state, role, timeout_s=CALL_TIMEOUT_S, to_authority=to_authority)
    try:
        yield link
    finally:
        await link.close()


class PatientLink:
    """A line that tries again for some seconds while the other end cannot be reached; for calls that may be repeated.

    Args:
        link: The line.
        policy: How long.
    """

    def __init__(self, link: Link, policy: RetryPolicy = PATIENCE) -> None:
        self._link = link
        self._policy = policy

    async def call(self, message: Up) -> Down:
        """Send ``message`` and return the answer.

        Raises:
            RemoteProtocolError: The peer turned it down.
            CarrierError: It could not be reached in all that time.
        """
        backoff = Backoff(self._policy, random.Random())  # noqa: S311 - spreads waits, protects nothing
        while True:
            try:
                return await self._link.call(message)
            except CarrierError as error:
                delay_s = backoff.next_delay_s(time.monotonic()) if error.retryable else None
                if delay_s is None:
                    raise
                await asyncio.sleep(delay_s)
