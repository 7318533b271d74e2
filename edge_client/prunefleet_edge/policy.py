"""What a device's owner agrees to. The campaign says what it asks; here is who may say no."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass

from prunefleet_edge.models import ModelSpec, check_code, parse_spec
from prunefleet_shared.campaign import PLAIN, SUM_DP, Campaign
from prunefleet_shared.errors import ConfigError, InputError
from prunefleet_shared.noise_terms import why_noise_impossible

MIN_DEVICES = 8
"""Fewer in a sum, and what one device says shows through it."""
MAX_VOTES = 16
"""Sums of votes that a device helps to release: each says a little more about it."""


@dataclass(frozen=True, slots=True)
class PrivacyPolicy:
    """What the owner lets a coordinator learn, whatever a campaign asks.

    Attributes:
        allow_plain: Campaigns in which the coordinator sees each contribution.
        min_devices: Fewest devices that a sum, or the difference of two, must be over; at least 3.
        max_votes: Most sums of votes.
        max_epsilon: Largest epsilon of a campaign; None takes part in campaigns without noise, too.
        max_clusters: Most clusters of a campaign: which of their networks this device takes is in a sum.
        reply_slot_s: See ``DeviceRunner``: hides from the coordinator how long this device works.
    """

    allow_plain: bool = False
    min_devices: int = MIN_DEVICES
    max_votes: int = MAX_VOTES
    max_epsilon: float | None = None
    max_clusters: int = 1
    reply_slot_s: float = 0.0


def owner_policy(
    coordinator_address: str, privacy: PrivacyPolicy, *, allowed_code: Collection[str] = ()
) -> Callable[[Campaign, int], None]:
    """The check of a campaign that the owner's consent makes.

    Args:
        coordinator_address: ``host:port``.
        privacy: What the coordinator may learn.
        allowed_code: Each ``package.module:factory`` that the owner lets a campaign's network be made by.

    Returns:
        A function of a campaign and of how many sums of votes were released, that raises ``ConfigError``
        when the device must not take part (the owner's to decide), and ``InputError`` when the campaign's network is
        none that this device knows. It imports nothing.
    """

    def check(campaign: Campaign, num_released: int) -> None:
        why = _why_not_private_enough(campaign, coordinator_address, privacy, num_released)
        if why:
            msg = f"campaign {campaign.campaign_id[:12]} {why} (nothing has been contributed)"
            raise ConfigError(msg)
        spec = _spec(campaign)
        remedy = f"if you trust it, start the device with --allow-factory {spec.architecture} (nothing has been run)"
        check_code(spec, allowed_code, remedy)

    return check


def _why_not_private_enough(
    campaign: Campaign, coordinator_address: str, privacy: PrivacyPolicy, num_released: int
) -> str | None:
    terms = campaign.privacy
    if terms.mode == PLAIN:
        if privacy.allow_plain or is_loopback(coordinator_address):
            return None
        return (
            f"is not private: the coordinator at {coordinator_address} would see this device's own channel grades, "
            "width votes and outcome before it adds them up; if you agree to that, start the device with --allow-plain"
        )
    if terms.min_devices < privacy.min_devices:
        return (
            f"sums over as few as {terms.min_devices} devices, and this device's owner wants {privacy.min_devices}; "
            "ask the operator for more, or lower min_devices in the device's configuration, [privacy]"
        )
    if num_released >= privacy.max_votes:
        return (
            f"asks for a vote, and this device has voted {num_released} times, the most its owner allows; raise "
            "max_votes in the device's configuration, [privacy]"
        )
    num_clusters = campaign.steering.num_clusters if campaign.steering else 1
    if num_clusters > privacy.max_clusters:
        return (
            f"has {num_clusters} clusters: how many devices take the network of each would be in a sum, and this "
            f"device's owner allows {privacy.max_clusters}; raise max_clusters in the device's configuration, [privacy]"
        )
    return _why_not_noisy_enough(campaign, privacy.max_epsilon)


def _why_not_noisy_enough(campaign: Campaign, max_epsilon: float | None) -> str | None:
    noise, broken = campaign.privacy.noise, _why_noise_broken(campaign)
    if broken:
        return f"does not keep its promise of noise: {broken}; ask the operator to create it anew"
    if max_epsilon is None or (noise is not None and noise.epsilon_milli <= 1000 * max_epsilon):
        return None
    return (
        f"gives no epsilon of at most {max_epsilon:g}, which this device's owner wants; ask the operator for mode "
        "sum+dp with that epsilon, or change max_epsilon in the device's configuration, [privacy]"
    )


def _why_noise_broken(campaign: Campaign) -> str | None:
    noise = campaign.privacy.noise
    if (noise is not None) != (campaign.privacy.mode == SUM_DP):
        return f"noise belongs to mode {SUM_DP}, and to no other"
    return why_noise_impossible(campaign)


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
