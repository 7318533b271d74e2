"""What the ``campaign`` commands do once their options are read: each opens a line, asks, and closes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from prunefleet_shared.campaign import PLAIN
from prunefleet_shared.documents import public_bytes
from prunefleet_shared.errors import CarrierError, ConfigError
from prunefleet_shared.identity_folder import Identity
from prunefleet_shared.messages import Control, FleetStatus
from prunefleet_shared.roles import Role
from prunefleet_trainer.campaign_folder import read_campaign
from prunefleet_trainer.membership import PatientLink, member_link
from prunefleet_trainer.operator_calls import (
    choose_campaign,
    control_campaign,
    get_status,
    is_loopback,
    start_campaign,
)
from prunefleet_trainer.status_table import status_table

TELL_S = 2.0
"""Least time between two lines of progress."""


async def start_from_folder(folder: Path, state: Path, say: Callable[[str], None], *, allow_plain: bool) -> str:
    """Check a campaign's folder, upload its base and start it; returns its id.

    Raises:
        InputError: The folder does not hold a campaign of ours (the user's to mend).
        ConfigError: Not a member yet, or a plain campaign for another machine's coordinator without consent.
        RemoteProtocolError: The coordinator does not want it.
        CarrierError: It cannot be reached.
    """
    async with member_link(state, Role.OPERATOR) as link:
        who = link.identity
        files = read_campaign(folder, [*who.operator_keys, public_bytes(who.signing_key.public_key())])
        _check_consent(who, files.campaign.privacy.mode, allow_plain=allow_plain)
        say(f"sending the base ({len(files.base):,} bytes) to {who.coordinator_address}")
        await start_campaign(PatientLink(link), files.signed, files.base, _upload_teller(len(files.base), say))
    return files.campaign.campaign_id


def _check_consent(who: Identity, privacy_mode: str, *, allow_plain: bool) -> None:
    if privacy_mode == PLAIN and not allow_plain and not is_loopback(who.coordinator_address):
        msg = (
            f"privacy mode plain, coordinator {who.coordinator_address}: it would see each device's contribution, not "
            "only their sum; say --allow-plain if that is what you want"
        )
        raise ConfigError(msg)


def _upload_teller(total_bytes: int, say: Callable[[str], None]) -> Callable[[int], None]:
    told_s = time.monotonic()

    def tell(sent_bytes: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= TELL_S:
            told_s = time.monotonic()
            say(f"{sent_bytes:,} of {total_bytes:,} bytes sent")

    return tell


async def fetch_status(state: Path) -> FleetStatus:
    """Where every campaign stands.

    Raises:
        ConfigError: Not a member yet.
        RemoteProtocolError: The coordinator refused.
        CarrierError: It cannot be reached.
    """
    async with member_link(state, Role.OPERATOR) as link:
        return await get_status(PatientLink(link))


async def watch_status(state: Path, every_s: float) -> None:
    """Show where every campaign stands, again and again, until interrupted; a coordinator that is away may come back.

    Raises:
        ConfigError: Not a member yet.
        RemoteProtocolError: The coordinator refused.
    """
    shown: RenderableType = Text("asking …")
    async with member_link(state, Role.OPERATOR) as link:
        with Live(shown, console=Console(), auto_refresh=False) as live:
            while True:
                try:
                    shown = status_table(await get_status(link))
                    live.update(shown, refresh=True)
                except CarrierError as error:
                    live.update(Group(shown, Text(f"{error}; trying again", style="red")), refresh=True)
                await asyncio.sleep(every_s)


async def control_one(state: Path, prefix: str | None, control: Control) -> str:
    """Pause, resume or stop the campaign whose id begins with ``prefix``; returns its id.

    Raises:
        ConfigError: Not a member yet, or no one campaign is meant (the user's to mend).
        RemoteProtocolError: The campaign has ended, or the coordinator refused.
        CarrierError: It cannot be reached.
    """
    async with member_link(state, Role.OPERATOR) as link:
        patient = PatientLink(link)
        chosen = choose_campaign(await get_status(patient), prefix)
        await control_campaign(patient, chosen.campaign_id, control)
        return chosen.campaign_id
