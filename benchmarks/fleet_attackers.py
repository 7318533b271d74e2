"""What attackers of ``fleet_attacked.py`` hand in: votes in the lane table's rules, and sums that pass the last check.

Both kinds are taken to know the sum of all honest votes, which nobody is told: an upper bound.

- *Colluders* obey every rule of the lane table and say the same: the fleet's own order of channels upside down, the
  opposite widths, and, in place of their lift mask, the one of the kind of public images that the fleet is least like.
- *Breakers* ignore the protocol within their cohort. Nobody sees their vector, only what the cohort's sum becomes: as
  if each of its devices had voted as colluders do, which passes the check on sums.
"""

from __future__ import annotations

import numpy as np
from attack_poisoning import consensus, upside_down

from prunefleet_shared.campaign import Campaign
from prunefleet_shared.lanes import lift_lane
from prunefleet_shared.masks import IntArray
from prunefleet_shared.messages import Total


def worst_vote(campaign: Campaign, honest_L: IntArray, profiles_KC: IntArray) -> IntArray:
    """The vote that colluders agree on: int64 [L], in the rules of the lane table.

    Args:
        campaign: What is voted on; it steers.
        honest_L: The sum of all honest vectors.
        profiles_KC: The lift mask of each public kind: public knowledge.
    """
    table = campaign.vote_lanes
    parts = table.split(upside_down(table, consensus(table, honest_L)))
    start = 0
    wrong_C = profiles_KC[wrong_kind(campaign, honest_L, profiles_KC)]
    for group in campaign.layout.groups:
        parts[lift_lane(group.name)] = wrong_C[start : start + group.num_channels]
        start += group.num_channels
    return np.concatenate([parts[block.name] for block in table.blocks])


def wrong_kind(campaign: Campaign, honest_L: IntArray, profiles_KC: IntArray) -> int:
    """Index of the public kind whose lift mask goes least with the honest sum; the first of several."""
    parts = campaign.vote_lanes.split(honest_L)
    tally_C = np.concatenate([parts[lift_lane(group.name)] for group in campaign.layout.groups])
    centred_KC = profiles_KC - profiles_KC.mean(axis=1, keepdims=True)
    return int((centred_KC @ (tally_C - tally_C.mean())).argmin())


def attackers(num_devices: int, num_spared: int, share: float, rng: np.random.Generator) -> list[int]:
    """Who attacks, growing with the share: of all devices but the first ``num_spared``, which are measured."""
    order = num_spared + rng.permutation(num_devices - num_spared)
    return sorted(int(number) for number in order[: round(share * num_devices)])


def colluded(vectors_NL: IntArray, bad: list[int], worst_L: IntArray) -> IntArray:
    """The fleet's vectors, those of colluders replaced."""
    changed_NL = vectors_NL.copy()
    changed_NL[bad] = worst_L
    return changed_NL


def broken(honest: Total, worst_L: IntArray) -> Total:
    """A cohort's sum after one of its devices has added what turns it into the worst that passes the check."""
    return Total(tuple(int(lane) for lane in honest.num_devices * worst_L), honest.num_devices)
