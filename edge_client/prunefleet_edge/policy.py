"""What a device's owner agrees to. The campaign says what it asks; here is who may say no."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from prunefleet_shared.campaign import Campaign
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.private_sum import PLAIN


def owner_policy(coordinator_address: str, *, allow_plain: bool) -> Callable[[Campaign], None]:
    """The check of a campaign that the owner's consent makes.

    Args:
        coordinator_address: ``host:port``.
        allow_plain: The owner agrees to campaigns that are not private.

    Returns:
        A function that raises ``ConfigError`` when the device must not take part (the owner's to decide).
    """

    def check(campaign: Campaign) -> None:
        if campaign.privacy_mode == PLAIN and not allow_plain and not is_loopback(coordinator_address):
            msg = (
                f"campaign {campaign.campaign_id[:12]} is not private: the coordinator at {coordinator_address} would "
                "see this device's own channel grades, width votes and outcome before it adds them up; if you agree "
                "to that, start the device with --allow-plain (nothing has been contributed)"
            )
            raise ConfigError(msg)

    return check


def is_loopback(address: str) -> bool:
    """True when ``host:port`` names this machine and nothing else."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
