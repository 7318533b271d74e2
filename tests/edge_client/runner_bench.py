"""A device's runner on the bench: its work, its store, and a coordinator that follows a script."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import numpy as np

from prunefleet_edge.device import Consumer, Vote
from prunefleet_edge.device_state import DeviceState, Release
from prunefleet_edge.egress import Egress, EgressRecord
from prunefleet_edge.model_cache import ModelCache, NoCache
from prunefleet_edge.runner import DeviceRunner
from prunefleet_edge.store import MemoryDeviceStore
from prunefleet_edge.verified_link import LinkLimits
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import (
    CarrierError,
)
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import (
    CampaignOffer,
    Down,
    Ending,
    SessionKind,
    Up,
)
from prunefleet_shared.metrics import Outcome
from prunefleet_shared.sum_messages import Contribute, ContributionCounted
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    COORDINATOR_PUBLIC,
    TINY_BASE,
    Answer,
    ScriptedLink,
    SimClock,
    invitation,
    outcome_invitation,
    run_simulated,
    tiny_campaign,
    tiny_decision,
    tiny_slim_base,
)

CAMPAIGN = tiny_campaign()
DECISION = tiny_decision(CAMPAIGN)
SLIM_BASE, SLIM_MODEL = tiny_slim_base(DECISION)
OFFER = CampaignOffer(sign_document("campaign", CAMPAIGN, COORDINATOR_KEY))
VOTE_TO = invitation(SessionKind.VOTE, session=1)
OUTCOME_TO = outcome_invitation(DECISION, session=2)
LOST = CarrierError("cut", retryable=True)


def counted(message: Up) -> Down:
    assert isinstance(message, Contribute)
    return ContributionCounted(message.session_id)


class Work:
    """Votes at random, finds every decision good; ``log`` says in which order it was asked."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.fingerprint = CAMPAIGN.layout.fingerprint()
        self.slim_model: bytes | None = SLIM_MODEL

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        assert base == TINY_BASE
        return self.fingerprint

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        self.log.append("vote")
        grades_C = grade_layout(campaign.layout, np.random.default_rng(1).random(campaign.layout.num_channels))
        return Vote(grades_C, np.zeros((len(campaign.levels), len(campaign.layout.groups)), dtype=np.int64))

    async def personalise(
        self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None
    ) -> Outcome:
        assert (decision, slim_base) == (DECISION, self.slim_model)
        self.log.append("outcome")
        return Outcome(finished=True, accepted=True, accuracy_gain=0.1, latency_ratio=0.5)


class LoggedStore(MemoryDeviceStore):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def save(self, state: DeviceState, release: Release | None = None) -> None:
        self.log.append("save")
        super().save(state, release)


class Bench:
    """A device and its scripted coordinator; ``log`` has work, saves and messages in order."""

    def __init__(self, script: Iterable[Answer], models: Iterable[bytes] = (TINY_BASE, SLIM_MODEL)) -> None:
        self.log: list[str] = []
        self.states: list[str] = []
        self.clock = SimClock()
        self.link = ScriptedLink(script, models)
        self.work = Work(self.log)
        self.store = LoggedStore(self.log)
        self.limits = LinkLimits()
        self.cache: ModelCache = NoCache()
        self.audit: Callable[[EgressRecord], None] = lambda record: self.log.append(record.kind)
        self.consumer: Consumer | None = None
        self.check_policy: Callable[[Campaign, int], None] = lambda _campaign, _num_released: None

    def run(self) -> Ending:
        runner = DeviceRunner(
            Egress(self.link, audit=self.audit),
            self.work,
            self.store,
            device_class="camera",
            operator_keys=[COORDINATOR_PUBLIC],
            clock=self.clock,
            sleep=self.clock.sleep,
            rng=random.Random(1),
            on_state=self.states.append,
            limits=self.limits,
            cache=self.cache,
            check_policy=self.check_policy,
            consumer=self.consumer,
        )
        return run_simulated(runner.run(), self.clock)
