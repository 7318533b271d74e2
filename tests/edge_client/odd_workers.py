"""Workers that misbehave in a process of their own, each in its way."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from prunefleet_edge.device import Vote
from prunefleet_edge.work_process import Worker
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.errors import InputError, LayoutError, ReplayError


class SleepyWorker(Worker):
    """Sleeps where it should train."""

    def vote(self, campaign: Campaign, base: bytes) -> Vote:
        time.sleep(600.0)
        raise AssertionError


class OddWorker:
    """Does what ``source`` of its setup says, whatever it is asked."""

    def __init__(self, setup: object) -> None:
        self.source = str(setup.source)  # type: ignore[attr-defined]
        self.count = 0

    def vote(self, campaign: object, base: bytes) -> object:
        self.count += 1
        match self.source:
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "dies once" if not Path("/proc/self/fd").exists() or not base:
                os._exit(3)
            case "input":
                raise InputError("one class only")
            case "layout":
                raise LayoutError("cannot be traced")
            case "other":
                raise ReplayError("does not follow")
            case "memory":
                raise MemoryError
            case "bug":
                raise ZeroDivisionError("one by nought")
            case "stubborn":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600.0)
        return os.getpid(), self.count, len(base)
