"""What the tests of the coordinator's round share."""

from prunefleet_coordinator.events import (
    AnnounceJoined,
    DeviceCheckedIn,
    Invite,
    OperatorControlled,
    Reject,
    Reply,
    SlimBasePublished,
    SumMessageReceived,
)
from prunefleet_coordinator.round import CampaignRound
from prunefleet_coordinator.state import Snapshot
from prunefleet_coordinator.testing import counting_ids, outcome_payload, small_campaign, vote_payload
from prunefleet_shared.campaign import SlimBase
from prunefleet_shared.documents import canonical_bytes, read_document
from prunefleet_shared.messages import CheckIn, Contribute, Readiness, SessionKind
from prunefleet_shared.sum_messages import ContributionCounted

CAMPAIGN = small_campaign()
DEADLINE_S = CAMPAIGN.cohort.deadline_ms / 1000
DEVICES = ("d1", "d2", "d3")
TRAINER = "trainer"


class Player:
    """Drives one round and, for ``restart``, remembers what it was told to save."""

    def __init__(self, campaign=CAMPAIGN):
        self.campaign = campaign
        self.ids = counting_ids()
        self.round = CampaignRound(campaign, self.ids)
        self.saved = None
        self.now_s = 0.0

    def do(self, event=None):
        commands = self.round.receive(event, self.now_s) if event else self.round.tick(self.now_s)
        for command in commands:
            self.saved = getattr(command, "snapshot", self.saved)
        return commands

    def check_in(self, device_id, readiness=Readiness.READY):
        fingerprint = self.campaign.layout.fingerprint()
        return self.do(DeviceCheckedIn(device_id, CheckIn(self.campaign.campaign_id, fingerprint, readiness)))

    def invite(self, device_id):
        invitation = self.check_in(device_id)[-1]
        assert isinstance(invitation, Invite), invitation
        return invitation

    def contribute(self, invitation, device_id=None):
        is_vote = invitation.kind is SessionKind.VOTE
        payload = vote_payload(self.campaign, seed=int(invitation.device_id[1:])) if is_vote else outcome_payload()
        message = Contribute(invitation.session_id, payload)
        return self.do(SumMessageReceived(device_id or invitation.device_id, message))

    def gather(self, devices=DEVICES):
        """All check in and contribute; returns the commands of the last contribution."""
        invitations = [self.invite(device) for device in devices]
        return [self.contribute(invitation) for invitation in invitations][-1]

    def slim_base(self):
        decision = self.round.snapshot.decisions[-1]
        return SlimBase(decision.campaign_id, decision.level, decision.fingerprint, "00" * 32, 100)

    def publish(self, slim_base=None):
        return self.do(SlimBasePublished(TRAINER, slim_base or self.slim_base()))

    def control(self, control):
        return self.do(OperatorControlled("boss", control))

    def after(self, seconds):
        self.now_s += seconds
        return self

    def restart(self):
        snapshot = self.saved and read_document(canonical_bytes(self.saved), Snapshot)
        self.round = CampaignRound(self.campaign, self.ids, snapshot)
        return self


def kinds(commands):
    return [type(command) for command in commands]


def counted(invitation):
    device_id, session_id = invitation.device_id, invitation.session_id
    return [Reply(device_id, ContributionCounted(session_id)), AnnounceJoined(device_id, session_id)]


def reason(commands):
    assert isinstance(commands[-1], Reject), commands
    return commands[-1].rejection.reason
