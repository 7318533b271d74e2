"""Takes the masks off a cohort's sum, from the shares that devices gave away in the last stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunefleet_shared.secure_sum import agreement
from prunefleet_shared.secure_sum.ring import Accumulator
from prunefleet_shared.secure_sum.shamir import Reconstruction
from prunefleet_shared.sum_messages import RosterEntry


@dataclass(frozen=True, slots=True)
class Masking:
    """Who put which masks on a sum; devices by position in the roster.

    Attributes:
        entries: The roster.
        salt: What its keys were derived with.
        self_mask_digests: What each device of the roster said of its self mask.
        senders: Devices whose pair masks are on the vectors of the others.
        survivors: Of those, the devices whose vectors are in the sum.
        threshold: Shares that give a secret.
    """

    entries: Sequence[RosterEntry]
    salt: bytes
    self_mask_digests: Sequence[bytes]
    senders: frozenset[int]
    survivors: frozenset[int]
    threshold: int


def take_masks_off(masked: Accumulator, masking: Masking, shares: Mapping[int, Mapping[int, bytes]]) -> int | None:
    """Take every mask off ``masked``, in place.

    Args:
        masked: The sum of the survivors' masked vectors.
        masking: What is on it.
        shares: For every sender, shares of the secret that was asked for, by point (the holder's position, from 1).

    Returns:
        None when all is off, else the first device whose shares do not give what it advertised; ``masked`` is spoilt.
    """
    reconstruction = Reconstruction(masking.threshold)
    for position in sorted(masking.senders):
        secret = reconstruction.secret(shares[position])
        if secret is None:
            return position
        is_survivor = position in masking.survivors
        take_off = _take_off_self_mask if is_survivor else _take_off_pair_masks
        if not take_off(masked, masking, position, secret):
            return position
    return None


def _take_off_self_mask(masked: Accumulator, masking: Masking, position: int, self_mask: bytes) -> bool:
    if agreement.self_mask_digest(self_mask) != masking.self_mask_digests[position]:
        return False
    masked.subtract_mask(self_mask)
    return True


def _take_off_pair_masks(masked: Accumulator, masking: Masking, position: int, mask_key: bytes) -> bool:
    """Take off what survivors put on for a device that dropped out: its mask with each of them."""
    key = agreement.private_key(mask_key)
    if agreement.public_key(key) != masking.entries[position].mask_key:
        return False
    for peer in masking.survivors:
        secret = agreement.agree(key, masking.entries[peer].mask_key)
        seed = agreement.pair_seed(secret, masking.salt, position, peer)
        (masked.subtract_mask if peer < position else masked.add_mask)(seed)  # the lower of a pair had added it
    return True
