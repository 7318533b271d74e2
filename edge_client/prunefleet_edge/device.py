"""What a device does with its private data, as the round sees it: two pieces of work and their results.

``DeviceWork`` is the seam between the protocol (which never touches data) and torch (which never touches the wire).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.masks import IntArray
from prunefleet_shared.metrics import Outcome


@dataclass(frozen=True, slots=True)
class Vote:
    """What a device would keep.

    Attributes:
        grades_C: Graded mask, int64, one grade 0..7 per channel of the layout, group by group.
        options_LG: Width votes, int64 [levels, groups]: index 0..7 into ``width_options`` of the group.
        lifts_C: Lift mask, in the form of ``grades_C``: the more its data use a channel beyond what public data do, the
            higher; None where the campaign does not steer.
    """

    grades_C: IntArray
    options_LG: IntArray
    lifts_C: IntArray | None = None


class DeviceWork(Protocol):
    """The device's heavy work; runs elsewhere (a worker process), may take minutes."""

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        """Trace the campaign's model with the base weights (a safetensors file) and return its layout's fingerprint.

        Raises:
            LayoutError: The network cannot be traced.
        """
        ...

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        """Fine-tune the dense working copy on private data, score its channels, and vote for every level."""
        ...

    async def personalise(
        self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None
    ) -> Outcome:
        """Fine-tune the fleet's network on private data, compare with the device's own choice, keep the better.

        ``slim_base`` is None where the trainer could not retrain it: the network is then a blend (``blending``).
        """
        ...


class Consumer(Protocol):
    """What a device without data does with a network: nothing but to keep it."""

    async def keep_slim_base(self, campaign: Campaign, decision: Decision, slim_base: bytes) -> None:
        """Put the slim base on the disk as it is; it is there before this returns, however often it is called."""
        ...
