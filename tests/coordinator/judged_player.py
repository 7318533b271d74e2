"""One judged campaign, played by hand: devices that hold the floor or miss it as the test says, and a coordinator that
is restarted whenever the test wants."""

from prunefleet_coordinator.accounting import Release
from prunefleet_coordinator.events import (
    AnnounceDecision,
    AnnounceEnd,
    AnnounceRuling,
    DeviceCheckedIn,
    Invite,
    OfferRuling,
    OperatorControlled,
    SaveClosing,
    SlimBasePublished,
    SumMessageReceived,
)
from prunefleet_coordinator.round import CampaignRound
from prunefleet_coordinator.state import Snapshot
from prunefleet_coordinator.testing import counting_ids, outcome_payload, small_campaign, vote_payload
from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.campaign import CohortPolicy, Level, SlimBase
from prunefleet_shared.documents import canonical_bytes, read_document
from prunefleet_shared.messages import CheckIn, Contribute, Phase, Readiness, SessionKind

COHORT = CohortPolicy(size=4, quorum=3, deadline_ms=60_000, overselection_permille=1000)
GOOD, BAD = 0.0, -0.9
_LETTERS = {
    Phase.VOTING: "vote",
    Phase.RETRAINING: "retrain",
    Phase.MEASURING: "try",
    Phase.ROLLING_OUT: "roll out",
    Phase.COMPLETED: "completed",
    Phase.FAILED: "failed",
    Phase.STOPPED: "stopped",
}


def judged_campaign(num_levels=2, search="descend", canary_size=0, canary_count=1, max_worse_permille=0, **changes):
    """The small campaign with a floor: nobody may lose more than five points."""
    dense = small_campaign().cost_table.cost(small_campaign().layout.dense_widths)
    permilles = [900 - 600 * number // num_levels for number in range(num_levels)]
    return small_campaign(
        levels=tuple(Level(permille, dense * permille // 1000) for permille in permilles),
        acceptance=Acceptance(50, max_worse_permille, search, canary_size, canary_count),
        **{"cohort": COHORT, **changes},
    )


class JudgedPlayer:
    """Drives one round and remembers what it was told to save.

    Args:
        campaign: What is played.
        holds: ``holds(level, is_rollout)``, what devices find.
        restarts_always: The coordinator starts again from what it saved after every single event.
    """

    def __init__(self, campaign, holds=lambda _level, _is_rollout: True, *, restarts_always=False):
        self.campaign, self.holds, self.restarts_always = campaign, holds, restarts_always
        self.ids, self.now_s, self.saved = counting_ids(), 0.0, None
        self.round = CampaignRound(campaign, self.ids)
        self.closings, self.announced, self.heard = [], [], {}
        self.num_seen = 0

    def do(self, event=None):
        commands = self.round.receive(event, self.now_s) if event else self.round.tick(self.now_s)
        for command in commands:
            self.saved = getattr(command, "snapshot", self.saved)
            if isinstance(command, SaveClosing):
                self.closings.append(command)
            if isinstance(command, AnnounceRuling | AnnounceDecision | AnnounceEnd):
                self.announced.append(command)
        return commands

    def restart(self):
        snapshot = self.saved and read_document(canonical_bytes(self.saved), Snapshot)
        self.round = CampaignRound(self.campaign, self.ids, snapshot)
        return self

    def check_in(self, device_id, readiness=Readiness.READY):
        """What a device is answered; it has heard what it was told before."""
        fingerprint, heard = self.campaign.layout.fingerprint(), self.heard.get(device_id, 0)
        check_in = CheckIn(self.campaign.campaign_id, fingerprint, readiness, heard)
        answer = self.do(DeviceCheckedIn(device_id, check_in))[-1]
        if isinstance(answer, OfferRuling):
            self.heard[device_id] = answer.ruling.number
        return answer

    def check_in_again(self, device_id):
        """The answer after all rulings are heard."""
        answer = self.check_in(device_id)
        return self.check_in(device_id) if isinstance(answer, OfferRuling) else answer

    def publish(self):
        decision = self.round.snapshot.decision
        slim_base = SlimBase(decision.campaign_id, decision.level, decision.fingerprint, "00" * 32, 100)
        return self.do(SlimBasePublished("trainer", slim_base))

    def control(self, control):
        return self.do(OperatorControlled("boss", control))

    def contribute(self, invitation, gain=None):
        if self.campaign.acceptance is None and invitation.kind is not SessionKind.VOTE:
            payload = outcome_payload()
        elif invitation.kind is SessionKind.VOTE:
            payload = vote_payload(self.campaign, seed=int(invitation.device_id[1:]))
        else:
            holds = self.holds(invitation.level, invitation.kind is SessionKind.ROLLOUT)
            payload = outcome_payload(gain_over_dense=gain if gain is not None else GOOD if holds else BAD)
        return self.do(SumMessageReceived(invitation.device_id, Contribute(invitation.session_id, payload)))

    def gather(self, gain=None):
        """New devices check in and contribute until the round is closed; returns their names."""
        num_closed, names = len(self.closings), []
        while len(self.closings) == num_closed:
            names.append(f"d{self.num_seen}")
            self.num_seen += 1
            invitation = self.check_in_again(names[-1])
            assert isinstance(invitation, Invite), invitation
            self.contribute(invitation, gain)
        return names

    def step(self):
        """Whatever the campaign waits for happens."""
        self.publish() if self.round.snapshot.phase is Phase.RETRAINING else self.gather()
        if self.restarts_always:
            self.restart()

    def play(self, max_steps=100):
        """Play to the end; returns the story, such as ``vote, retrain 0, try 0, completed``."""
        story = [self.where]
        while not self.round.has_ended:
            self.step()
            story.append(self.where)
            assert len(story) < max_steps, story
        return ", ".join(story)

    @property
    def where(self):
        phase, level = self.round.snapshot.phase, self.round.snapshot.level
        is_at_level = phase in {Phase.RETRAINING, Phase.MEASURING, Phase.ROLLING_OUT}
        return f"{_LETTERS[phase]} {level}" if is_at_level else _LETTERS[phase]

    @property
    def rulings(self):
        return self.round.snapshot.rulings

    @property
    def released(self):
        return [Release(closed.kind, closed.level) for closed in self.round.snapshot.closed_rounds]
