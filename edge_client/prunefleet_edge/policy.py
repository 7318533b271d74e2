"""What a device's owner agrees to. The campaign says what it asks; here is who may say no."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection

from prunefleet_edge.models import ModelSpec, check_code, parse_spec
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.errors import ConfigError, InputError
from prunefleet_shared.private_sum import PLAIN


def owner_policy(
    coordinator_address: str, *, allow_plain: bool, allowed_code: Collection[str] = ()
) -> Callable[[Campaign], None]:
    """The check of a campaign that the owner's consent makes.

    Args:
        coordinator_address: ``host:port``.
        allow_plain: The owner agrees to campaigns that are not private.
        allowed_code: Each ``package.module:factory`` that the owner lets a campaign's network be made by.

    Returns:
        A function that raises ``ConfigError`` when the device must not take part (the owner's to decide), and
        ``InputError`` when the campaign's network is none that this device knows. It imports nothing.
    """

    def check(campaign: Campaign) -> None:
        if campaign.privacy_mode == PLAIN and not allow_plain and not is_loopback(coordinator_address):
            msg = (
                f"campaign {campaign.campaign_id[:12]} is not private: the coordinator at {coordinator_address} would "
                "see this device's own channel grades, width votes and outcome before it adds them up; if you agree "
                "to that, start the device with --allow-plain (nothing has been contributed)"
            )
            raise ConfigError(msg)
        spec = _spec(campaign)
        remedy = f"if you trust it, start the device with --allow-factory {spec.architecture} (nothing has been run)"
        check_code(spec, allowed_code, remedy)

    return check


def _spec(campaign: Campaign) -> ModelSpec:
    try:
        return parse_spec(campaign.model)
    except ConfigError as error:
        msg = f"campaign {campaign.campaign_id[:12]}: {error}; a newer version of this program may know it"
        raise InputError(msg) from error


def is_loopback(address: str) -> bool:
    """True when ``host:port`` names this machine and nothing else."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
