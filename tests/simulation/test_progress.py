"""Progress: an honest time left, no crash on any terminal, no line too many."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from prunefleet_simulation.progress import (
    PlainProgress,
    Progress,
    RichProgress,
    SilentProgress,
    awaited_words,
    clock_words,
    open_progress,
)
from prunefleet_simulation.progress_events import (
    Awaited,
    DeviceChanged,
    DeviceState,
    Noted,
    PhaseChanged,
    RunFinished,
    RunStarted,
    RunView,
    SeedFinished,
    SeedStarted,
)

ACCURACY = {"dense": 0.8, "agnostic": 0.6, "agnostic_local": 0.7, "local": 0.65, "fleet": 0.75}


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def _console(width: int = 100, *, terminal: bool = True, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    return Console(file=file, width=width, force_terminal=terminal, color_system=None, legacy_windows=False)


def _text(console: Console) -> str:
    return console.file.buffer.getvalue().decode(console.encoding)


def _play(progress: Progress, clock: Clock, num_devices: int = 12) -> None:
    progress.on(RunStarted("digits", 2))
    progress.on(SeedStarted(0, num_devices, 2))
    clock.now_s += 10
    progress.on(SeedFinished(0, ACCURACY))
    progress.on(SeedStarted(1, num_devices, 2))
    states = list(DeviceState)
    for index in range(num_devices):
        progress.on(DeviceChanged(f"device-{index:02d}", states[index % len(states)]))
    clock.now_s += 5
    progress.on(PhaseChanged("fine-tuning", 0, 5, 10))
    progress.on(Awaited(tuple(f"device-{index:02d}" for index in range(5))))


def test_time_left_follows_the_share_done() -> None:
    view = RunView()
    view.apply(RunStarted("digits", 2), 0)
    view.apply(SeedStarted(0, 4, 2), 0)
    view.apply(PhaseChanged("scoring", None, 5, 10), 30)
    assert view.fraction_done() == 0.25
    assert view.time_left_s(30) == pytest.approx(90)
    view.apply(SeedFinished(0, ACCURACY), 50)
    assert view.time_left_s(50) == pytest.approx(50)
    view.apply(RunFinished("report.html"), 100)
    assert view.time_left_s(100) == 0


@pytest.mark.parametrize(("steps_done", "elapsed_s"), [(0, 100), (1, 100), (50, 1)])
def test_no_guess_without_evidence(steps_done: int, elapsed_s: float) -> None:
    view = RunView()
    view.apply(RunStarted("digits", 1), 0)
    view.apply(PhaseChanged("scoring", None, steps_done, 100), 0)
    assert view.time_left_s(elapsed_s) is None
    assert "estimating" in view.time_left_words(elapsed_s)


@pytest.mark.parametrize(
    ("elapsed_s", "words"),
    [(5, "a few seconds"), (47, "about 50 s"), (600, "about 10 min"), (9000, "about 2.5 h")],
)
def test_time_left_is_no_finer_than_it_deserves(elapsed_s: float, words: str) -> None:
    view = RunView()
    view.apply(RunStarted("digits", 1), 0)
    view.apply(PhaseChanged("scoring", None, 1, 2), 0)
    assert view.time_left_words(elapsed_s) == f"{words} left"


def test_impossible_steps_do_no_harm() -> None:
    view = RunView()
    view.apply(PhaseChanged("scoring", None, 12, 10), 0)
    assert view.fraction_done() == 1.0
    view.apply(PhaseChanged("scoring", None, 1, 0), 0)
    assert view.fraction_done() == 0.0


def test_panel_shows_phase_devices_awaited_and_accuracy() -> None:
    clock, console = Clock(), _console()
    progress = RichProgress(console, clock)
    _play(progress, clock)
    console.print(progress.render())
    text = _text(console)
    assert "level 1: fine-tuning" in text
    assert "waiting for device-00, device-01, device-02 and 2 more" in text
    assert "75 %" in text  # one seed of two, and half of the second
    assert "0:15 elapsed" in text
    assert "a few seconds left" in text
    assert "2 scoring" in text
    assert "seed 0        80.0      60.0            70.0   65.0   75.0" in text


@pytest.mark.parametrize("width", [1, 5, 12, 20, 46, 300])
@pytest.mark.parametrize("num_devices", [0, 12, 1000])
def test_panel_fits_any_terminal(width: int, num_devices: int) -> None:
    clock, console = Clock(), _console(width)
    progress = RichProgress(console, clock)
    console.print(progress.render())
    _play(progress, clock, num_devices)
    console.print(progress.render())
    progress.on(RunFinished("report.html"))
    console.print(progress.render())
    assert _text(console)


def test_live_panel_takes_events_from_many_threads() -> None:
    console = _console()
    with RichProgress(console) as progress:
        threads = [threading.Thread(target=_play, args=(progress, Clock(), 50)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        progress.on(RunFinished("runs/1/report.html"))
    assert "report: runs/1/report.html" in _text(console)


def test_plain_lines_are_rationed_but_results_never() -> None:
    clock, console = Clock(), _console(terminal=False)
    progress = PlainProgress(console, clock)
    progress.on(RunStarted("digits", 1))
    for step in range(100):
        clock.now_s += 0.1
        progress.on(PhaseChanged("fine-tuning", 1, step, 100))
    progress.on(Noted("level 2 decided"))
    progress.on(SeedFinished(0, ACCURACY))
    progress.on(RunFinished("runs/1/report.html"))
    lines = _text(console).splitlines()
    assert 4 <= sum("fine-tuning" in line for line in lines) <= 6  # ten seconds at one line per two
    assert lines[0] == "[0:00, estimating time left...] digits: 1 seed"
    assert lines[-3].endswith("level 2 decided")
    assert "fleet 75.0 %" in lines[-2]
    assert lines[-1] == "[0:10] report: runs/1/report.html"


def test_plain_lines_survive_an_old_encoding_and_a_closed_reader() -> None:
    console = _console(terminal=False, encoding="ascii")
    PlainProgress(console, Clock()).on(RunStarted("caméra [bold]", 1))
    assert "cam?ra [bold]" in _text(console)

    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    PlainProgress(Console(file=Closed()), Clock()).on(RunStarted("digits", 1))


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with SilentProgress() as progress:
        _play(progress, Clock())
    assert capsys.readouterr() == ("", "")


def test_display_suits_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(open_progress(_console()), RichProgress)
    assert isinstance(open_progress(_console(terminal=False)), PlainProgress)
    assert isinstance(open_progress(_console(encoding="ascii")), PlainProgress)
    assert isinstance(open_progress(_console(), quiet=True), SilentProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_progress(_console()), PlainProgress)


def test_words() -> None:
    assert clock_words(-1) == "0:00"
    assert clock_words(725) == "12:05"
    assert clock_words(7389) == "2:03:09"
    assert awaited_words(("a", "b")) == "waiting for a, b"
