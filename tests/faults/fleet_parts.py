"""Parts of the fleet in ``fleet_world``: work that shows who was counted, and a store that fails when it is told to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import numpy as np
from fault_ops import CrashAtSave, SaveFails, SaveOp

from prunefleet_coordinator.state import ClosedRound, Snapshot
from prunefleet_coordinator.store import MemoryStore, StoredCampaign
from prunefleet_edge.device import Vote
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.metrics import GAIN_EDGES, Outcome
from prunefleet_shared.testing import TINY_BASE, tiny_slim_base

WORK_S = 5.0  # of the first device; the others take longer, so that faults fall between their contributions


class OneHotWork:
    """Device ``index`` votes for option ``index`` everywhere, and reports a gain in bin ``index``.

    In a judged campaign it is worse off from level ``missed_from`` on.

    The grades depend on how often it was asked, so that a vote computed again is a vote that differs.
    """

    def __init__(self, index: int, missed_from: int = 99) -> None:
        self.index, self.missed_from = index, missed_from
        self.rng = random.Random(index)
        self.tried: list[int] = []

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        assert base == TINY_BASE
        return campaign.layout.fingerprint()

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        await asyncio.sleep(WORK_S * (1 + self.index))
        scores = [self.rng.random() for _ in range(campaign.layout.num_channels)]
        options = np.full((len(campaign.levels), len(campaign.layout.groups)), self.index, dtype=np.int64)
        return Vote(grade_layout(campaign.layout, scores), options)

    async def personalise(
        self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None
    ) -> Outcome:
        assert slim_base == tiny_slim_base(decision)[1]
        await asyncio.sleep(WORK_S * (1 + self.index))
        latency_ratio = self.rng.uniform(0.1, 1.0)  # differs whenever it is measured again
        self.tried.append(decision.level)
        gain_over_dense = None
        if campaign.acceptance is not None:
            gain_over_dense = -0.9 if decision.level >= self.missed_from else 0.0
        return Outcome(True, True, _gain_in_bin(self.index), latency_ratio, gain_over_dense)


def _gain_in_bin(index: int) -> float:
    return GAIN_EDGES[index] - 1e-6


class Killed(Exception):  # noqa: N818 - no error: it unwinds a coordinator that has just died
    """The coordinator died here."""


class FaultyStore(MemoryStore):
    """A store whose saves fail, or are the last thing a coordinator does, as the ops say."""

    def __init__(self, ops: Sequence[SaveOp], kill: Callable[[], None]) -> None:
        super().__init__()
        self.ops = {op.n: op for op in ops}
        self.kill = kill
        self.num_saves = 0
        self.is_saving = False

    def save_campaign(self, campaign: StoredCampaign, signed: SignedDocument) -> None:
        if campaign not in self.list_campaigns():  # a restart enters it again, which changes nothing
            self._save(lambda: super(FaultyStore, self).save_campaign(campaign, signed))

    def save_snapshot(self, snapshot: Snapshot, signed: SignedDocument | None = None) -> None:
        self._save(lambda: super(FaultyStore, self).save_snapshot(snapshot, signed))

    def save_closing(
        self,
        closed: ClosedRound,
        snapshot: Snapshot,
        signed: SignedDocument | None = None,
        ruling: SignedDocument | None = None,
    ) -> None:
        self._save(lambda: super(FaultyStore, self).save_closing(closed, snapshot, signed, ruling))

    def _save(self, save: Callable[[], None]) -> None:
        if self.is_saving:  # a save made of saves is one transaction
            save()
            return
        op = self.ops.get(self.num_saves)
        self.num_saves += 1
        if isinstance(op, SaveFails) and not op.is_stored:
            raise ConfigError("disk full")
        self.is_saving = True
        save()
        self.is_saving = False
        if isinstance(op, SaveFails):
            raise ConfigError("the disk did not answer")
        if isinstance(op, CrashAtSave):
            self.kill()
            raise Killed
