"""What happens in a run, as events, and the state that follows from them; no display in here.

:class:`RunView` is what every display shows. It takes time as an argument and draws nothing, so that it can be tested
with a made-up clock.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

MAX_EVENTS = 4
"""Last events kept for the log lines."""
MIN_EVIDENCE_FRACTION = 0.03
MIN_EVIDENCE_S = 3.0
"""Below either, time left is not guessed: the first steps warm caches and say little about the rest."""


class DeviceState(enum.StrEnum):
    """Where a device is in the current round; the values are the words shown."""

    IDLE = "idle"
    AWAITED = "awaited"
    SCORING = "scoring"
    CONTRIBUTED = "contributed"
    FINE_TUNING = "fine-tuning"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run began: ``title`` such as the preset's name, and how many seeds it has."""

    title: str
    num_seeds: int


@dataclass(frozen=True, slots=True)
class SeedStarted:
    """A repetition began; its devices are not known by name yet."""

    seed: int
    num_devices: int
    num_levels: int


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The current seed moved on.

    Attributes:
        phase: What happens now, in a few words: ``"scoring"``, ``"retraining the shared network"``.
        level: 0-based level of the schedule, or None outside the rounds.
        steps_done: Steps of this whole seed already done.
        steps_total: Steps of this whole seed; they should cost about the same.
    """

    phase: str
    level: int | None
    steps_done: int
    steps_total: int


@dataclass(frozen=True, slots=True)
class DeviceChanged:
    """A device entered a state."""

    device_id: str
    state: DeviceState


@dataclass(frozen=True, slots=True)
class Awaited:
    """Whom the run waits for now; empty when for nobody."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Noted:
    """Something worth a line in the log: a decision, a refusal, a retry."""

    text: str


@dataclass(frozen=True, slots=True)
class SeedFinished:
    """A repetition ended; mean accuracy over devices by arm (fractions)."""

    seed: int
    accuracy_mean: dict[str, float]


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run ended; where its report is."""

    report_path: str


ProgressEvent = RunStarted | SeedStarted | PhaseChanged | DeviceChanged | Awaited | Noted | SeedFinished | RunFinished


@dataclass(slots=True)
class RunView:
    """All that a display needs to know; changed by :meth:`apply` only. Not thread-safe by itself.

    Attributes:
        accuracies: Mean accuracy by arm for every finished seed.
        events: The last log lines, oldest first.
    """

    title: str = ""
    num_seeds: int = 1
    num_levels: int = 0
    started_s: float = 0.0
    seed: int | None = None
    phase: str = ""
    steps_done: int = 0
    steps_total: int = 0
    finished: bool = False
    device_states: dict[str, DeviceState] = field(default_factory=dict)
    awaited: tuple[str, ...] = ()
    accuracies: dict[int, dict[str, float]] = field(default_factory=dict)
    events: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))

    @property
    def where(self) -> str:
        """``"seed 3: "`` once a seed has begun, to put before what it does."""
        return "" if self.seed is None else f"seed {self.seed}: "

    def apply(self, event: ProgressEvent, now_s: float) -> None:
        """Take one event into account; ``now_s`` is monotonic seconds."""
        match event:
            case RunStarted():
                self.title, self.num_seeds, self.started_s = event.title, max(1, event.num_seeds), now_s
            case SeedStarted():
                self._start_seed(event)
            case PhaseChanged():
                self.phase, self.steps_done, self.steps_total = phase_words(event), event.steps_done, event.steps_total
            case DeviceChanged():
                self.device_states[event.device_id] = event.state
            case Awaited():
                self.awaited = event.names
            case SeedFinished():
                self._finish_seed(event)
            case RunFinished():
                self.finished, self.awaited = True, ()
            case Noted():
                pass
        line = _log_line(event)
        if line:
            self.events.append(line)

    def is_logged(self, event: ProgressEvent) -> bool:
        """True when ``event`` makes a line in :attr:`events`."""
        return bool(_log_line(event))

    def fraction_done(self) -> float:
        """Share of the whole run that is done, 0 to 1: finished seeds plus the current seed's steps."""
        if self.finished:
            return 1.0
        current = min(1.0, self.steps_done / self.steps_total) if self.steps_total > 0 else 0.0
        return min(1.0, (len(self.accuracies) + current) / self.num_seeds)

    def time_left_s(self, now_s: float) -> float | None:
        """Seconds left if the rest goes as the part done went; None until there is evidence."""
        fraction, elapsed_s = self.fraction_done(), now_s - self.started_s
        if fraction < MIN_EVIDENCE_FRACTION or elapsed_s < MIN_EVIDENCE_S:
            return None
        return elapsed_s * (1 - fraction) / fraction

    def time_left_words(self, now_s: float) -> str:
        """``"estimating time left..."``, or about how long, no finer than the estimate deserves."""
        left_s = self.time_left_s(now_s)
        if left_s is None:
            return "estimating time left..."
        if left_s < 10:
            return "a few seconds left"
        if left_s < 90:
            return f"about {round(left_s / 10) * 10} s left"
        if left_s < 90 * 60:
            return f"about {round(left_s / 60)} min left"
        return f"about {left_s / 3600:.1f} h left"

    def _start_seed(self, event: SeedStarted) -> None:
        self.seed, self.num_levels = event.seed, event.num_levels
        self.phase, self.steps_done, self.steps_total = "", 0, 0
        self.device_states, self.awaited = {}, ()

    def _finish_seed(self, event: SeedFinished) -> None:
        self.accuracies[event.seed] = dict(event.accuracy_mean)
        self.steps_done, self.steps_total, self.awaited = 0, 0, ()


def phase_words(event: PhaseChanged) -> str:
    """A phase with its level, if it has one, counted from 1 as people do."""
    return event.phase if event.level is None else f"level {event.level + 1}: {event.phase}"


def _log_line(event: ProgressEvent) -> str:
    match event:
        case RunStarted():
            return f"{event.title}: {event.num_seeds} {'seed' if event.num_seeds == 1 else 'seeds'}"
        case SeedStarted():
            return f"seed {event.seed}: {event.num_devices} devices, {event.num_levels} levels"
        case SeedFinished():
            shown = ", ".join(f"{arm} {100 * accuracy:.1f} %" for arm, accuracy in event.accuracy_mean.items())
            return f"seed {event.seed} finished: {shown}"
        case RunFinished():
            return f"report: {event.report_path}"
        case Noted():
            return event.text
        case _:
            return ""
