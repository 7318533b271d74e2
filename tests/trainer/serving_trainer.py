"""What the tests of a serving trainer share."""

from __future__ import annotations

import random
from collections.abc import Iterable

import torch
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_edge.backoff import Backoff
from prunefleet_edge.models import parse_spec
from prunefleet_shared.campaign import PLAIN, Campaign, CohortPolicy, Decision, PrivacyTerms
from prunefleet_shared.documents import public_bytes, sign_document
from prunefleet_shared.errors import (
    CarrierError,
)
from prunefleet_shared.messages import (
    Awaited,
    ComeBack,
    DecisionOffer,
    Stored,
)
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    COORDINATOR_PUBLIC,
    TRAINER_KEY,
    TRAINER_PUBLIC,
    Answer,
    ScriptedLink,
    SimClock,
    run_simulated,
    tiny_campaign,
    tiny_decision,
)
from prunefleet_trainer.campaign_files import BaseFiles, describe_base, make_campaign
from prunefleet_trainer.public import fresh
from prunefleet_trainer.runner import Retrained, SteeringSums, TrainerRunner
from prunefleet_trainer.serve import RETRIES, serve

torch.set_num_threads(1)
SPEC = "resnet8/1x8x8/4"
FILES: BaseFiles = describe_base(parse_spec(SPEC), fresh(parse_spec(SPEC), 1))
OPERATOR_KEY = ec.derive_private_key(17, ec.SECP256R1())
OPERATOR_PUBLIC = public_bytes(OPERATOR_KEY.public_key())
TINY = tiny_campaign()
TINY_DECISION = tiny_decision(TINY)
STORED, LATER = Stored(), ComeBack(1000, Awaited.DEVICES)
UNREACHABLE = CarrierError("127.0.0.1:1: UNAVAILABLE", retryable=True)


def offer(campaign: Campaign = TINY, decision: Decision = TINY_DECISION) -> DecisionOffer:
    return DecisionOffer(
        sign_document("campaign", campaign, OPERATOR_KEY), sign_document("decision", decision, COORDINATOR_KEY)
    )


def real_campaign(slim_base_key: bytes = TRAINER_PUBLIC, decision_key: bytes = COORDINATOR_PUBLIC) -> Campaign:
    return make_campaign(
        FILES,
        campaign_id="0f" * 16,
        device_class="camera",
        levels_permille=(500,),
        cohort=CohortPolicy(size=2, quorum=2, deadline_ms=1000),
        decision_key=decision_key,
        slim_base_key=slim_base_key,
        privacy=PrivacyTerms(PLAIN, 1),
    )


class Served:
    """A serving trainer over a script; ``retrain`` only counts."""

    def __init__(self, script: Iterable[Answer]) -> None:
        self.link = ScriptedLink(script)
        self.clock = SimClock()
        self.said: list[str] = []
        self.foreign: list[str] = []
        self.trained: list[Decision] = []

    async def _retrain(self, _campaign: Campaign, decision: Decision, _sums: SteeringSums | None) -> Retrained:
        self.trained.append(decision)
        return Retrained(b"slim")

    def _runner(self) -> TrainerRunner:
        return TrainerRunner(
            self.link,
            "",
            operator_keys=lambda: [OPERATOR_PUBLIC],
            signing_key=TRAINER_KEY,
            retrain=self._retrain,
            sleep=self.clock.sleep,
            on_foreign=lambda campaign: self.foreign.append(campaign.campaign_id),
        )

    def run(self, *, is_once: bool = True) -> None:
        backoff = Backoff(RETRIES, random.Random(1))
        run_simulated(
            serve(self._runner, backoff, self.clock, self.said.append, is_once=is_once, sleep=self.clock.sleep),
            self.clock,
        )
