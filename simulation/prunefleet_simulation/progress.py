"""What a running simulation tells the person in front of it: events in, a live panel or plain lines out.

The simulation reports what happened (``progress_events``); a :class:`Progress` shows it. :class:`RichProgress` keeps a
live panel on a terminal, :class:`PlainProgress` writes a line now and then to a file or pipe, :class:`SilentProgress`
nothing. Events may come from any thread. Displays decide nothing and never raise into the run.

>>> with SilentProgress() as progress:
...     progress.on(RunStarted("digits", num_seeds=3))
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from prunefleet_simulation.progress_events import (
    Awaited,
    DeviceState,
    Noted,
    PhaseChanged,
    ProgressEvent,
    RunFinished,
    RunStarted,
    RunView,
    SeedFinished,
    SeedStarted,
    phase_words,
)
from prunefleet_simulation.results import ARMS

GLYPHS = {
    DeviceState.IDLE: ("·", "bright_black"),
    DeviceState.AWAITED: ("○", "yellow"),
    DeviceState.SCORING: ("◔", "cyan"),
    DeviceState.CONTRIBUTED: ("◑", "blue"),
    DeviceState.FINE_TUNING: ("◕", "magenta"),
    DeviceState.DONE: ("●", "green"),
    DeviceState.FAILED: ("✗", "red"),
}
"""For every state its glyph and colour."""
MAX_GLYPHS = 200
"""Devices drawn one by one; a larger fleet shows counts only."""
MAX_NAMES = 3
"""Awaited devices named; the rest are counted."""
PLAIN_INTERVAL_S = 2.0

Clock = Callable[[], float]


class Progress(Protocol):
    """Something that shows a run. Use as a context manager, so that a terminal is always put right again."""

    def on(self, event: ProgressEvent) -> None:
        """Take one event; from any thread, quickly, without raising."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _NoTerminal:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class SilentProgress(_NoTerminal):
    """Shows nothing: for tests and for ``--json``."""

    def on(self, event: ProgressEvent) -> None:
        """Ignore ``event``."""


class PlainProgress(_NoTerminal):
    """A line per change that matters, at most one every two seconds; starts, ends and results always.

    Args:
        console: Where lines go; its width is not relied on.
        clock: Monotonic seconds.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._lock = threading.Lock()
        self._view = RunView()
        self._last_line_s = float("-inf")
        self._last_text = ""

    def on(self, event: ProgressEvent) -> None:
        """Take one event and write a line if it is time."""
        with self._lock:
            now_s = self._clock()
            self._view.apply(event, now_s)
            text = self._line(event)
            must = isinstance(event, RunStarted | SeedStarted | Noted | SeedFinished | RunFinished)
            if text and text != self._last_text and (must or now_s - self._last_line_s >= PLAIN_INTERVAL_S):
                self._last_line_s, self._last_text = now_s, text
                self._write(text, now_s)

    def _write(self, text: str, now_s: float) -> None:
        left = "" if self._view.finished else f", {self._view.time_left_words(now_s)}"
        line = f"[{clock_words(now_s - self._view.started_s)}{left}] {text}"
        printable = line.encode(self._console.encoding, "replace").decode(self._console.encoding)
        # Not Console.print: it ends the program when the reader has gone away, and with it an hour's run.
        with contextlib.suppress(OSError, ValueError):
            self._console.file.write(printable + "\n")
            self._console.file.flush()

    def _line(self, event: ProgressEvent) -> str:
        if isinstance(event, PhaseChanged):
            return f"{self._view.where}{phase_words(event)}, step {event.steps_done} of {event.steps_total}"
        if isinstance(event, Awaited):
            return f"{self._view.where}{awaited_words(event.names)}" if event.names else ""
        return self._view.events[-1] if self._view.is_logged(event) else ""


class RichProgress:
    """A live panel: overall bar and time left, the current seed's devices, accuracies so far, the last events.

    Args:
        console: A terminal with Unicode (anything else: :class:`PlainProgress`).
        clock: Monotonic seconds.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._view = RunView()
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=8, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def on(self, event: ProgressEvent) -> None:
        """Take one event; the panel follows within an eighth of a second."""
        with self._lock:
            self._view.apply(event, self._clock())

    def render(self) -> RenderableType:
        """The panel as of now."""
        with self._lock:
            now_s = self._clock()
            parts = [_header(self._view, now_s)]
            if self._view.seed is not None and not self._view.finished:
                parts.append(_seed_panel(self._view))
            if self._view.accuracies:
                parts.append(_accuracy_table(self._view))
            parts.extend(
                Text(line, style="bright_black", overflow="ellipsis", no_wrap=True) for line in self._view.events
            )
            return Group(*parts)


def open_progress(console: Console, *, quiet: bool = False) -> RichProgress | PlainProgress | SilentProgress:
    """The display that suits ``console``: live on a terminal, lines elsewhere, nothing when ``quiet``."""
    if quiet:
        return SilentProgress()
    live = console.is_terminal and not console.is_dumb_terminal and not console.options.ascii_only
    return RichProgress(console) if live else PlainProgress(console)


def clock_words(seconds: float) -> str:
    """Seconds as ``"0:07"``, ``"12:05"`` or ``"2:03:09"``."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def awaited_words(names: tuple[str, ...]) -> str:
    """Whom the run waits for: the first few by name, the others counted."""
    rest = len(names) - MAX_NAMES
    return f"waiting for {', '.join(names[:MAX_NAMES])}{f' and {rest} more' if rest > 0 else ''}"


def _header(view: RunView, now_s: float) -> RenderableType:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    fraction = view.fraction_done()
    bar = ProgressBar(total=1.0, completed=fraction, complete_style="blue", finished_style="green")
    seeds = f"{min(len(view.accuracies) + 1, view.num_seeds)}/{view.num_seeds}"
    title = Text.assemble((view.title or "simulation", "bold"), (f"  seed {seeds}", "bright_black"))
    grid.add_row(title, bar, Text(f"{100 * fraction:.0f} %"))
    times = f"{clock_words(now_s - view.started_s)} elapsed"
    if not view.finished:
        times += f" · {view.time_left_words(now_s)}"
    return Group(grid, Text(times, style="bright_black"))


def _seed_panel(view: RunView) -> RenderableType:
    parts: list[RenderableType] = [Text(view.phase or "starting", style="bold")]
    if view.device_states:
        parts += [_device_row(view), _state_counts(view)]
    if view.awaited:
        parts.append(Text(awaited_words(view.awaited), style="yellow"))
    return Panel(
        Group(*parts),
        title=view.where.removesuffix(": ") or "preparing",
        title_align="left",
        border_style="bright_black",
    )


def _device_row(view: RunView) -> Text:
    row = Text()
    if len(view.device_states) <= MAX_GLYPHS:
        for state in view.device_states.values():
            row.append(GLYPHS[state][0] + " ", style=GLYPHS[state][1])
    return row


def _state_counts(view: RunView) -> Text:
    counts = Counter(view.device_states.values())
    parts = [
        (f"{GLYPHS[state][0]} {counts[state]} {state.value}   ", GLYPHS[state][1])
        for state in DeviceState
        if counts[state]
    ]
    return Text.assemble(*parts)


def _accuracy_table(view: RunView) -> RenderableType:
    arms = [arm for arm in ARMS if any(arm in accuracy for accuracy in view.accuracies.values())]
    table = Table(box=None, padding=(0, 1), header_style="bright_black", pad_edge=False)
    table.add_column("accuracy, %")
    for arm in arms:
        table.add_column(arm, justify="right", style="bold blue" if arm == "fleet" else "")
    for seed, accuracy in view.accuracies.items():
        cells = [f"{100 * accuracy[arm]:.1f}" if arm in accuracy else "" for arm in arms]
        table.add_row(f"seed {seed}", *cells)
    return table
