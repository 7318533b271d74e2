"""One round in mode ``sum`` and its devices' real ends of the private sum, in memory: who speaks when is the test's.

Devices are ``d1`` … ``d9``; each one's certificate is made once, and each remembers the certificates of its peers.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from prunefleet_coordinator.events import (
    AnnounceStage,
    DeviceCheckedIn,
    Invite,
    OperatorControlled,
    Reply,
    SlimBasePublished,
    SumMessageReceived,
)
from prunefleet_coordinator.round import CampaignRound
from prunefleet_coordinator.state import Snapshot
from prunefleet_coordinator.testing import counting_ids, outcome_payload, random_vote, small_campaign
from prunefleet_shared.campaign import SUM, CohortPolicy, PrivacyTerms, SlimBase
from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.documents import canonical_bytes, read_document
from prunefleet_shared.lanes import unpack
from prunefleet_shared.messages import CheckIn, Readiness, Role, SessionKind
from prunefleet_shared.metrics import OUTCOME_LANES
from prunefleet_shared.private_sum import DeviceSum, SessionFacts, SumKeys, open_device_sum
from prunefleet_shared.secure_sum.roster import Members, SumIdentity
from prunefleet_shared.secure_sum.stages import Stage
from prunefleet_shared.sum_messages import FetchCertificates, SumUp

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FIVE = CohortPolicy(size=5, quorum=3, deadline_ms=60_000, stage_ms=10_000)
"""A roster of 5 needs 4 of them in every stage; one of 3 or 4 may come together at the deadline."""
DEADLINE_S, STAGE_S = 60.0, 10.0


def sum_campaign(**changes):
    """The small campaign, in mode ``sum`` over at least three devices."""
    return small_campaign(**{"privacy": PrivacyTerms(SUM, 3), "cohort": FIVE, **changes})


@cache
def root():
    return create_authority(NOW, validity_h=24 * 365)


@cache
def identity(device_id):
    return SumIdentity.of(issue(root(), Role.DEVICE, device_id, NOW, validity_h=24))


def members():
    return Members(root().cert_pem, lambda: NOW)


def seeded(label):
    """Bytes that follow from ``label`` and from how many were drawn before."""
    calls = 0

    def draw(num_bytes):
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{label}|{calls}".encode()).digest(num_bytes)

    return draw


@dataclass
class Device:
    """One device in one session: its end of the sum, and what it says next (None: nothing more)."""

    end: DeviceSum
    next: SumUp | None


class SumPlayer:
    """Drives one round and its devices, and, for ``restart``, remembers what it was told to save."""

    def __init__(self, campaign=None):
        self.campaign = campaign or sum_campaign()
        self.ids, self.now_s, self.saved = counting_ids(), 0.0, None
        self.round = CampaignRound(self.campaign, self.ids, None, members())
        self.members = defaultdict(members)
        self.devices = {}
        self.num_opened = 0
        self.stage = Stage.ADVERTS  # as was announced
        self.session_id, self.session_attempt = "", 0  # that devices were last invited to
        self.vector_of = lambda device_id, honest: honest  # what a device contributes, given what an honest one would

    # --- events --------------------------------------------------------------------------------------------------

    def do(self, event=None):
        commands = self.round.receive(event, self.now_s) if event else self.round.tick(self.now_s)
        for command in commands:
            self.saved = getattr(command, "snapshot", self.saved)
            if isinstance(command, AnnounceStage):
                self.stage = command.stage
        return commands

    def after(self, seconds):
        """Let time pass; returns what the tick then orders."""
        self.now_s += seconds
        return self.do()

    def control(self, control):
        return self.do(OperatorControlled("boss", control))

    def publish(self):
        decision = self.round.snapshot.decisions[-1]
        return self.do(
            SlimBasePublished(
                "trainer", SlimBase(decision.campaign_id, decision.level, decision.fingerprint, "00" * 32, 100)
            )
        )

    def restart(self):
        """Start again from what was saved; the devices stay as they were."""
        snapshot = self.saved and read_document(canonical_bytes(self.saved), Snapshot)
        self.round = CampaignRound(self.campaign, self.ids, snapshot, members())

    # --- devices -------------------------------------------------------------------------------------------------

    def check_in(self, device_id):
        fingerprint = self.campaign.layout.fingerprint()
        return self.do(DeviceCheckedIn(device_id, CheckIn(self.campaign.campaign_id, fingerprint, Readiness.READY)))

    def invite(self, *device_ids):
        """These check in, are invited and open their ends, with new keys; they have said nothing yet."""
        for device_id in device_ids:
            invitation = self.check_in(device_id)[-1]
            assert isinstance(invitation, Invite), invitation
            self.session_id, self.session_attempt = invitation.session_id, invitation.attempt
            end = self._opened(device_id, invitation)
            self.devices[device_id] = Device(end, end.start())

    def _opened(self, device_id, to):
        is_vote = to.kind is SessionKind.VOTE
        decision = None if is_vote else self.round.snapshot.decisions[-1]
        facts = SessionFacts(to.session_id, to.kind, to.level, to.attempt, decision)
        number = int(device_id[1:])
        honest = random_vote(self.campaign, number) if is_vote else unpack(OUTCOME_LANES, outcome_payload())
        self.num_opened += 1
        randomness = seeded((device_id, self.num_opened))
        keys = SumKeys(identity(device_id), self.members[device_id], randomness, min_devices=3)
        return open_device_sum(self.campaign, facts, self.vector_of(device_id, honest), keys)

    def say(self, device_id, message=None):
        """The device says what is next (or ``message`` instead); an answer is taken in. Returns all commands."""
        device = self.devices[device_id]
        commands = self.do(SumMessageReceived(device_id, message or device.next))
        answer = next((command.answer for command in commands if isinstance(command, Reply)), None)
        if answer is not None:
            device.next = device.end.receive(answer)
            if isinstance(device.next, FetchCertificates):
                commands = [*commands, *self.say(device_id)]
        return commands

    def speak(self, *device_ids):
        """Each says what is next, once; returns the commands of all."""
        return [command for device_id in device_ids for command in self.say(device_id)]

    def play_stage(self, *device_ids):
        """Each says what is next, and again if it was told *not yet*; returns all commands."""
        said = {device_id: self.devices[device_id].next for device_id in device_ids}
        commands = self.speak(*device_ids)
        return commands + self.speak(*(each for each in device_ids if self.devices[each].next is said[each]))

    def play_until(self, stage, *device_ids):
        """These are invited and speak, all of them in every stage, until the sum is at ``stage``."""
        self.invite(*device_ids)
        self.stage = Stage.ADVERTS
        for _ in range(Stage.ADVERTS, stage):
            self.play_stage(*device_ids)
        assert self.stage is stage

    def gather(self, *device_ids):
        """All are invited and speak until the session is over; returns all commands."""
        self.invite(*device_ids)
        return self.finish(*device_ids)

    def finish(self, *device_ids):
        """These speak until nobody has anything to say, or hears anything new; returns all commands."""
        commands, before = [], None
        while before != [self.devices[each].next for each in device_ids]:
            before = [self.devices[each].next for each in device_ids]
            commands += self.play_stage(*(each for each in device_ids if self.devices[each].next))
        return commands
