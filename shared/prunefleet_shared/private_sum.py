"""The two ends of a private sum, as the rounds see them, and the plain form.

A round only knows that a device turns a vector into one message after another, and that the coordinator turns such
messages into one total. ``secure_sum`` does that in five stages; ``plain`` has a single one and hides nothing: the
coordinator sees each vector for as long as it takes to add it (never on disk).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from prunefleet_shared.campaign import PLAIN, Campaign, Decision
from prunefleet_shared.errors import LocalProtocolError, Rejection, RejectReason, reject
from prunefleet_shared.lanes import LaneTable, pack, unpack
from prunefleet_shared.masks import IntArray
from prunefleet_shared.messages import SessionKind
from prunefleet_shared.noise import device_noise, honest_devices, noisy_ranges
from prunefleet_shared.secure_sum.context import context_of
from prunefleet_shared.secure_sum.coordinator_end import SecureCoordinatorSum
from prunefleet_shared.secure_sum.device_end import SecureDeviceSum, SumTerms
from prunefleet_shared.secure_sum.ring import Ring
from prunefleet_shared.secure_sum.roster import Members, SumIdentity
from prunefleet_shared.secure_sum.shamir import RandomBytes
from prunefleet_shared.secure_sum.stages import CohortRule, Stage, SumFailedError
from prunefleet_shared.sum_messages import Contribute, ContributionCounted, SumDown, SumUp


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """Which session of a campaign a sum is for.

    Attributes:
        session_id: 32 hex digits.
        kind: What is summed.
        level: 0-based level of the schedule; 0 for the vote.
        attempt: From 1.
        decision: With ``OUTCOME``, the decision tried.
    """

    session_id: str
    kind: SessionKind
    level: int
    attempt: int
    decision: Decision | None = None


class DeviceSum(Protocol):
    """A device's end of one session."""

    @property
    def survivor_names(self) -> frozenset[str]:
        """Devices in the sum, as far as this device was told."""
        ...

    def start(self) -> SumUp:
        """The first message."""
        ...

    def receive(self, answer: SumDown) -> SumUp | None:
        """Take the answer to the last message; returns the next, or None when nothing more is asked.

        Raises:
            RemoteProtocolError: The answer breaks a rule; the session is over for this device.
        """
        ...

    def abort(self) -> None:
        """Leave the session and forget its keys."""
        ...


class CoordinatorSum(Protocol):
    """The coordinator's end of one session."""

    @property
    def stage(self) -> Stage:
        """What is being gathered."""
        ...

    @property
    def joined(self) -> frozenset[str]:
        """Devices that have begun."""
        ...

    @property
    def contributors(self) -> frozenset[str]:
        """Devices whose vector has arrived."""
        ...

    @property
    def spent(self) -> frozenset[str]:
        """Devices that will not speak in this round again, even if this session comes to nothing."""
        ...

    @property
    def awaited(self) -> frozenset[str]:
        """Devices that have begun and whose next message is awaited."""
        ...

    def is_open_to(self, device_id: str) -> bool:
        """Whether this device may begin now (again, if it has lost its keys)."""
        ...

    def receive(self, device_id: str, message: SumUp) -> SumDown | None:
        """Take one message; returns its answer, or None: not yet, say it again.

        Raises:
            RemoteProtocolError: It breaks a rule; nothing has changed.
        """
        ...

    def end_stage(self) -> None:
        """The stage's time is over: go on with those who spoke.

        Raises:
            SumFailedError: They are too few.
        """
        ...

    def close(self) -> IntArray:
        """The sum over ``contributors``, once the stage is ``DONE``.

        Raises:
            SumFailedError: It cannot be had.
        """
        ...


# --- plain -----------------------------------------------------------------------------------------------------------


class PlainDeviceSum:
    """Sends the vector itself, packed at one device's bits."""

    survivor_names: frozenset[str] = frozenset()

    def __init__(self, session_id: str, table: LaneTable, vector: IntArray) -> None:
        self._contribute = Contribute(session_id, pack(table, vector))

    def start(self) -> SumUp:
        """The only message."""
        return self._contribute

    def receive(self, answer: SumDown) -> None:
        """Check that it was counted, in this session."""
        if answer != ContributionCounted(self._contribute.session_id):
            expected, got = f"counted in session {self._contribute.session_id[:12]}", type(answer).__name__
            raise reject(RejectReason.WRONG_SESSION, expected=expected, got=got)

    def abort(self) -> None:
        """Nothing to forget."""


class PlainCoordinatorSum:
    """Adds vectors as they come; keeps who contributed, never what."""

    def __init__(self, session_id: str, table: LaneTable, rule: CohortRule) -> None:
        self._session_id, self._table, self._rule = session_id, table, rule
        self._total = np.zeros(table.num_lanes, dtype=np.int64)
        self._contributors: set[str] = set()
        self._stage = Stage.VECTORS

    @property
    def stage(self) -> Stage:
        """``VECTORS``, then ``DONE``."""
        return self._stage

    @property
    def joined(self) -> frozenset[str]:
        """Devices already added."""
        return frozenset(self._contributors)

    @property
    def contributors(self) -> frozenset[str]:
        """The same: who begins has spoken."""
        return self.joined

    @property
    def spent(self) -> frozenset[str]:
        """Nobody: what was said once is said again in the next attempt."""
        return frozenset()

    @property
    def awaited(self) -> frozenset[str]:
        """Nobody: who begins has spoken."""
        return frozenset()

    def is_open_to(self, device_id: str) -> bool:
        """Whether it has not contributed yet."""
        return self._stage is Stage.VECTORS and device_id not in self._contributors

    def receive(self, device_id: str, message: SumUp) -> SumDown:
        """Check and add one packed vector.

        Raises:
            RemoteProtocolError: ``OUT_OF_TURN``, ``DUPLICATE``, ``WRONG_LENGTH`` or ``OUT_OF_RANGE``; the sum is
                unchanged.
        """
        if self._stage is Stage.DONE:
            msg = "receive() after the last vector"
            raise LocalProtocolError(msg)
        if not isinstance(message, Contribute):
            got = f"a {type(message).__name__}"
            raise reject(RejectReason.OUT_OF_TURN, expected="a Contribute, the only stage of mode plain", got=got)
        if device_id in self._contributors:
            raise reject(RejectReason.DUPLICATE, remedy="nothing to do: the first contribution is in the sum")
        vector = unpack(self._table, message.payload)
        self._total += vector
        self._contributors.add(device_id)
        if len(self._contributors) == self._rule.size:
            self._stage = Stage.DONE
        return ContributionCounted(self._session_id)

    def end_stage(self) -> None:
        """Close with those who contributed.

        Raises:
            SumFailedError: They are too few.
        """
        if len(self._contributors) < self._rule.fewest:
            msg = f"{len(self._contributors)} contributions, where {self._rule.fewest} are needed"
            raise SumFailedError(msg)
        self._stage = Stage.DONE

    def close(self) -> IntArray:
        """The sum so far."""
        return self._total


# --- opening ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SumKeys:
    """What a device brings to secure sums, from session to session.

    Attributes:
        identity: Its certificate and key, as they are now.
        members: Checks peers' certificates.
        random_bytes: Unpredictable bytes, such as ``secrets.token_bytes``.
        min_devices: Fewest devices in a sum, as its owner wants.
        why_survivors_refused: See ``SumTerms``.
    """

    identity: SumIdentity
    members: Members
    random_bytes: RandomBytes
    min_devices: int
    why_survivors_refused: Callable[[frozenset[str]], Rejection | None] = lambda _names: None


def open_device_sum(campaign: Campaign, facts: SessionFacts, vector: IntArray, keys: SumKeys | None) -> DeviceSum:
    """A device's end of a session.

    Args:
        campaign: The verified campaign.
        facts: Which session.
        vector: What is contributed, within the lane table; with mode ``sum+dp``, noise is added to it here.
        keys: None will do in mode ``plain``.

    Raises:
        LocalProtocolError: The vector breaks the lane table, or keys are missing (our bug).
    """
    table = campaign.lanes_of(facts.kind)
    if campaign.privacy.mode == PLAIN:
        return PlainDeviceSum(facts.session_id, table, vector)
    if keys is None:
        msg = f"mode {campaign.privacy.mode} needs a certificate and its key"
        raise LocalProtocolError(msg)
    return SecureDeviceSum(
        _context(keys.members, campaign, table, facts),
        facts.session_id,
        ring_of(campaign, table),
        vector + _noise(campaign, table, keys.random_bytes),
        identity=keys.identity,
        members=keys.members,
        terms=SumTerms(
            min_devices=max(campaign.privacy.min_devices, keys.min_devices),
            max_devices=campaign.cohort.size,
            why_survivors_refused=keys.why_survivors_refused,
        ),
        random_bytes=keys.random_bytes,
    )


def open_coordinator_sum(campaign: Campaign, facts: SessionFacts, members: Members | None) -> CoordinatorSum:
    """The coordinator's end of a session; ``members`` may be None in mode ``plain``."""
    table, cohort = campaign.lanes_of(facts.kind), campaign.cohort_of(facts.kind)
    rule = CohortRule(cohort.size, max(cohort.quorum, campaign.privacy.min_devices))
    if campaign.privacy.mode == PLAIN:
        return PlainCoordinatorSum(facts.session_id, table, rule)
    if members is None:
        msg = f"mode {campaign.privacy.mode} needs the fleet's root certificate"
        raise LocalProtocolError(msg)
    context = _context(members, campaign, table, facts)
    return SecureCoordinatorSum(context, facts.session_id, ring_of(campaign, table), rule, members)


def ring_of(campaign: Campaign, table: LaneTable) -> Ring:
    """The integers in which a cohort's sum is computed: wide enough for all of its devices, and for their noise."""
    terms, max_devices = campaign.privacy.noise, campaign.cohort.size
    if terms is None:
        return Ring(table.sum_bits(max_devices))
    _, bits_L = noisy_ranges(table, terms.multiplier_milli, noise_shares(campaign), max_devices)
    return Ring(bits_L)


def noise_shares(campaign: Campaign) -> int:
    """Parts in which the noise of a sum comes from its devices: as many as are honest for certain."""
    return honest_devices(campaign.privacy.min_devices, campaign.cohort.size)


def _noise(campaign: Campaign, table: LaneTable, random_bytes: RandomBytes) -> IntArray:
    terms = campaign.privacy.noise
    if terms is None:
        return np.zeros(table.num_lanes, dtype=np.int64)
    return device_noise(table, terms.multiplier_milli, noise_shares(campaign), random_bytes)


def _context(members: Members, campaign: Campaign, table: LaneTable, facts: SessionFacts) -> bytes:
    return context_of(
        members.fleet,
        campaign,
        table,
        session_id=facts.session_id,
        kind=facts.kind.name.lower(),
        level=facts.level,
        attempt=facts.attempt,
        decision=facts.decision,
    ).digest
