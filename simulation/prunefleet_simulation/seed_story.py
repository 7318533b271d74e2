"""What a repetition tells the display: coordinator's and devices' words turned into progress events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunefleet_coordinator.watch import Fact
from prunefleet_simulation.progress import Progress
from prunefleet_simulation.progress_events import Awaited, DeviceChanged, DeviceState, Noted, PhaseChanged, SeedStarted

STEPS = {"base_job": 12, "vote_job": 2, "slim_base_job": 4, "decided_job": 4, "personal_job": 4, "agnostic_job": 1}
"""Relative time each job takes, for the time left; measured roughly on the digits preset."""
_STATES = {
    "preparing the vote": DeviceState.SCORING,
    "contributing": DeviceState.CONTRIBUTED,
    "trying the decision": DeviceState.FINE_TUNING,
}


class SeedStory:
    """Feeds one display; the same object serves all seeds of a run."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps_done = 0
        self._steps_total = 1
        self._phase = "starting"
        self._level: int | None = None

    def plan(self, num_devices: int, num_levels: int) -> None:
        """A seed is about to begin: count its steps."""
        per_device = STEPS["vote_job"] + num_levels * STEPS["personal_job"] + STEPS["agnostic_job"]
        self._steps_total = (
            STEPS["base_job"] + num_levels * STEPS["decided_job"] + STEPS["slim_base_job"] + num_devices * per_device
        )
        self._steps_done = 0

    def begin(self, seed: int, names: Sequence[str], num_levels: int) -> None:
        """The seed's base is ready and its devices come up."""
        self._progress.on(SeedStarted(seed, len(names), num_levels))
        for name in names:
            self._progress.on(DeviceChanged(name, DeviceState.IDLE))
        self._show("devices vote", None)

    def announce(self, phase: str) -> None:
        """Something outside the rounds begins."""
        self._show(phase, None)

    def note(self, text: str) -> None:
        """A line for the log."""
        self._progress.on(Noted(text))

    def job_done(self, job: str) -> None:
        """A job ended in a worker."""
        self._steps_done = min(self._steps_total, self._steps_done + STEPS.get(job, 0))
        self._show(self._phase, self._level)

    def device_is(self, name: str, state: DeviceState) -> None:
        """A device entered a state."""
        self._progress.on(DeviceChanged(name, state))

    def device_says(self, name: str, words: str) -> None:
        """A device's own words about what it does."""
        for beginning, state in _STATES.items():
            if words.startswith(beginning):
                self.device_is(name, state)

    def coordinator_says(self, kind: str, facts: Mapping[str, Fact]) -> None:
        """A step of the campaign, as the coordinator's watchers are told."""
        level = facts.get("level")
        if isinstance(level, int):
            self._level = level
        awaited = facts.get("awaited")
        self._progress.on(Awaited(tuple(awaited) if isinstance(awaited, list) else ()))
        match kind:
            case "decided":
                self.note(f"decided: {facts['cost']} per sample, fingerprint {str(facts['fingerprint'])[:12]}")
                self._show("the trainer retrains the shared network on public data", self._level)
            case "slim_base_published":
                self._show("devices fine-tune and compare", self._level)
            case "session_abandoned":
                self.note(f"session abandoned with {facts['num_lost']} contributions, quorum {facts['quorum']}")
            case "rejected" if facts["reason"] != "DUPLICATE":  # that one says: you were counted without your last word
                self.note(f"{facts['peer_id']} was turned down: {facts['reason']}")
            case _:
                pass

    def _show(self, phase: str, level: int | None) -> None:
        self._phase, self._level = phase, level
        self._progress.on(PhaseChanged(phase, level, self._steps_done, self._steps_total))
