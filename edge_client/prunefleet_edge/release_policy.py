"""Which sums of votes may be released beside those that were released before.

An exact sum over a cohort says little about each device; two over nearly the same devices say what the few said by
whom they differ (their difference is a sum over these alone). Sums over the same devices differ by none: the second
tells how the cohort has changed its mind, which is again a sum over all of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from prunefleet_shared.errors import Rejection, RejectReason


def why_too_alike(devices: frozenset[str], released: Iterable[frozenset[str]], min_devices: int) -> Rejection | None:
    """Why a sum over ``devices`` must not be released; None if it may be.

    Args:
        devices: Names of the devices that would be in it.
        released: The same of sums that this device helped to release, whatever the network: a campaign that leaves one
            group of channels out asks for nearly the same votes.
        min_devices: Fewest devices that any difference of sums must be over, this device's own policy.
    """
    for before in released:
        num_apart = len(devices ^ before)
        if 0 < num_apart < min_devices:
            return Rejection(
                RejectReason.TOO_ALIKE,
                expected=f"the same devices as in an earlier sum of votes, or {min_devices} others",
                got=f"{num_apart} others",
                remedy="vote again with another cohort, or with noise (privacy mode sum+dp)",
            )
    return None
