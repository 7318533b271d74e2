"""How far a training on this device is: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from prunefleet_shared.durations import in_words

LINE_EVERY_S = 5.0
"""Least time between two lines when there is no terminal."""


class StepProgress:
    """Shows one phase after another; use as a context manager, so that the terminal is put right again.

    Args:
        console: Where to; standard error.
        is_quiet: Show nothing.
        clock: Monotonic seconds.
    """

    def __init__(
        self, console: Console, *, is_quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._is_quiet, self._clock = console, is_quiet, clock
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        is_shown = console.is_terminal and not is_quiet
        left = TimeRemainingColumn(elapsed_when_finished=True)
        self._bars = Progress(*columns, left, console=console, transient=True) if is_shown else None
        self._task: TaskID | None = None
        self._words, self._told_s = "", 0.0
        self._began: tuple[int, float] | None = None  # steps done and time when the phase was first heard of

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def say(self, words: str) -> None:
        """One line that stays."""
        if not self._is_quiet:
            self._console.print(words, markup=False, highlight=False)

    def phase(self, words: str) -> Callable[[int, int], None]:
        """A new phase; returns what to call with the steps done and the steps there are."""
        self._words, self._told_s, self._began = words, self._clock(), None
        if self._bars:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(words, total=None)
        return self._on_step

    def _on_step(self, done: int, total: int) -> None:
        now_s = self._clock()
        if self._began is None:
            self._began = (done, now_s)
        if self._bars and self._task is not None:
            self._bars.update(self._task, completed=done, total=total)
        elif now_s - self._told_s >= LINE_EVERY_S and done > self._began[0]:
            self._told_s = now_s
            first, began_s = self._began
            left_s = (now_s - began_s) / (done - first) * (total - done)
            self.say(f"{self._words}: {100 * done // total} %, about {in_words(left_s)} left")
