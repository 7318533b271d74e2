"""A small fleet that takes private sums together, in memory: what tests of a device's side meet of the others."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import numpy as np

from prunefleet_shared.campaign import SUM, CohortPolicy, PrivacyTerms
from prunefleet_shared.certificates import Authority, create_authority, issue
from prunefleet_shared.lanes import LaneRule
from prunefleet_shared.masks import IntArray, grades_by_rank
from prunefleet_shared.messages import SessionKind, SumDown, SumUp
from prunefleet_shared.metrics import Outcome, outcome_vector
from prunefleet_shared.private_sum import (
    CoordinatorSum,
    DeviceSum,
    SessionFacts,
    SumKeys,
    open_coordinator_sum,
    open_device_sum,
)
from prunefleet_shared.roles import Role
from prunefleet_shared.secure_sum.roster import Members, SumIdentity
from prunefleet_shared.testing import tiny_campaign

NOW = datetime(2026, 1, 2, tzinfo=UTC)
MIN_DEVICES, COHORT_SIZE = 3, 4
CAMPAIGN = tiny_campaign(
    privacy=PrivacyTerms(SUM, MIN_DEVICES),
    cohort=CohortPolicy(size=COHORT_SIZE, quorum=MIN_DEVICES, deadline_ms=60_000, stage_ms=10_000),
)
FACTS = SessionFacts("ab" * 16, SessionKind.VOTE, 0, 1)
UNFINISHED = Outcome(finished=False)
STAGES = ["Advertise", "FetchCertificates", "ShareKeys", "Contribute", "ConfirmSurvivors", "Unmask"]
"""What a device says that has seen none of its peers before."""


@cache
def authority() -> Authority:
    return create_authority(NOW)


def name_of(number: int) -> str:
    return f"device-{number}"


@cache
def identity(number: int) -> SumIdentity:
    return SumIdentity.of(issue(authority(), Role.DEVICE, name_of(number), NOW))


def members() -> Members:
    return Members(authority().cert_pem, lambda: NOW)


def keys(number: int, seed: int = 0) -> SumKeys:
    return SumKeys(identity(number), members(), random.Random(100 * seed + number).randbytes, MIN_DEVICES)


def honest_vector(number: int) -> IntArray:
    """A vector that obeys the vote's lane table."""
    rng = np.random.default_rng(number)
    parts = []
    for block in CAMPAIGN.vote_lanes.blocks:
        if block.rule is LaneRule.ONE_HOT:
            parts.append(np.eye(block.length, dtype=np.int64)[rng.integers(block.length)])
        else:
            parts.append(rng.permutation(grades_by_rank(block.length)))
    return np.concatenate(parts)


class Others:
    """The coordinator of one session and every device in it but device 0, all honest.

    Attributes:
        coordinator: The other end of the sum.
    """

    def __init__(self, facts: SessionFacts = FACTS, num_devices: int = COHORT_SIZE) -> None:
        self.coordinator: CoordinatorSum = open_coordinator_sum(CAMPAIGN, facts, members())
        vector = honest_vector if facts.kind is SessionKind.VOTE else lambda _number: outcome_vector(UNFINISHED)
        self._sums = {name_of(i): open_device_sum(CAMPAIGN, facts, vector(i), keys(i)) for i in range(1, num_devices)}
        self._pending = {name: each.start() for name, each in self._sums.items()}

    def answer(self, message: SumUp) -> SumDown | None:
        """What device 0 is answered, after everybody else has spoken; None: not yet."""
        self.coordinator.receive(name_of(0), message)
        self._let_speak()
        return self.coordinator.receive(name_of(0), message)

    def _let_speak(self) -> None:
        for name, message in list(self._pending.items()):
            answer = self.coordinator.receive(name, message)
            following = self._sums[name].receive(answer) if answer else message
            if following is None:
                del self._pending[name]
            else:
                self._pending[name] = following


def play(ours: DeviceSum, others: Others) -> Iterator[SumUp]:
    """Take device 0 through all stages; yields each message of its before it is sent."""
    message: SumUp | None = ours.start()
    while message is not None:
        yield message
        answer = next(answer for _ in range(10) if (answer := others.answer(message)) is not None)
        message = ours.receive(answer)


def another(session: int, attempt: int = 1) -> SessionFacts:
    return replace(FACTS, session_id=f"{session:032x}", attempt=attempt)
