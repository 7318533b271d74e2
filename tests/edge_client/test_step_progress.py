"""Progress with time left: lines where there is no terminal, nothing when told to be quiet."""

from __future__ import annotations

import io

from rich.console import Console

from prunefleet_edge.step_progress import LINE_EVERY_S, StepProgress


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def run(*, is_quiet: bool = False, is_terminal: bool = False) -> str:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=100)
    with StepProgress(console, is_quiet=is_quiet, clock=clock) as progress:
        progress.say("40 images [of] 5 classes")
        tell = progress.phase("fine-tuning")
        for step in range(1, 11):
            clock.now_s += 2.0
            tell(step, 10)
    return out.getvalue()


def test_a_line_now_and_then_says_how_far_it_is_and_how_long_it_takes() -> None:
    first_s = -(-LINE_EVERY_S // 2) * 2
    lines = run().splitlines()
    assert lines[0] == "40 images [of] 5 classes"
    assert lines[1] == f"fine-tuning: {int(first_s / 2 * 10)} %, about {int(20 - first_s)} s left"
    assert len(lines) == 1 + int(20 // first_s), "no more than one line every five seconds"


def test_quiet_says_nothing() -> None:
    assert run(is_quiet=True) == ""


def test_a_terminal_gets_a_bar_with_the_phase() -> None:
    shown = run(is_terminal=True)
    assert "fine-tuning" in shown
    assert "100 %" in shown
