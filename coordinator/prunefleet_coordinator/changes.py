"""Wakes whoever waits for something to change: long polls, and the task that keeps deadlines."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Changes:
    """One for all campaigns of a coordinator: few things change, and whoever wakes asks again."""

    def __init__(self) -> None:
        self._next = asyncio.Event()
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """True once nobody shall wait any more."""
        return self._is_over

    def announce(self) -> None:
        """Something has changed: wake everybody who waits now."""
        self._next.set()
        if not self._is_over:
            self._next = asyncio.Event()

    def end(self) -> None:
        """The coordinator stops: wake everybody, and let nobody wait again."""
        self._is_over = True
        self.announce()

    async def wait(self, timeout_s: float | None) -> None:
        """Until the next change, or ``timeout_s`` seconds (None: for ever)."""
        change = self._next
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await change.wait()
