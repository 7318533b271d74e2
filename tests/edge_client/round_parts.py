"""What it takes to play a device's round by hand."""

from __future__ import annotations

from prunefleet_edge.events import Command, Event, Invited, SendCheckIn
from prunefleet_edge.round import DeviceRound, Phase
from prunefleet_shared.errors import RejectReason, reject
from prunefleet_shared.messages import SumDown
from prunefleet_shared.sum_messages import Contribute, ContributionCounted


class OneMessageSum:
    """A sum of one stage: says the contribution and wants to hear that it was counted."""

    survivor_names: frozenset[str] = frozenset()

    def __init__(self, invited: Invited, payload: bytes) -> None:
        self.session_id, self.payload = invited.invitation.session_id, payload

    def start(self) -> Contribute:
        return Contribute(self.session_id, self.payload)

    def receive(self, answer: SumDown) -> None:
        if answer != ContributionCounted(self.session_id):
            raise reject(RejectReason.WRONG_SESSION)

    def abort(self) -> None:
        pass


def drive(device: DeviceRound, *events: Event) -> list[Command]:
    """Feed events, waking the device whenever it rests; returns the commands of the last event."""
    commands: list[Command] = []
    for event in events:
        if device.phase is Phase.RESTING:
            assert isinstance(device.tick(1e9)[0], SendCheckIn)
        commands = device.receive(event, 0.0)
    return commands
