"""A real device's work, in one worker process that lives as long as the device: started when first needed.

The event loop stays alive while it works. When the work is cancelled (the campaign was stopped), the process is ended
within a second, and started anew for the next job.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, cast

from prunefleet_edge.device import Vote
from prunefleet_edge.work_process import Failure, WorkSetup, serve, start_worker
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.errors import InputError
from prunefleet_shared.metrics import Outcome

TERMINATE_S = 0.5
"""Grace before a worker process that was told to end is killed."""


class LocalWork:
    """Implements ``DeviceWork`` in a worker process.

    Args:
        setup: What the worker needs to know.
        on_skipped: Told which image files cannot be read, whenever the images are loaded for a campaign.
        make_worker: Makes the worker in its process; tests give their own.
    """

    def __init__(
        self,
        setup: WorkSetup,
        *,
        on_skipped: Callable[[tuple[Path, ...]], None] = lambda _skipped: None,
        make_worker: Callable[[WorkSetup], object] = start_worker,
    ) -> None:
        self._setup = setup
        self._on_skipped = on_skipped
        self._make_worker = make_worker
        self._process: SpawnProcess | None = None
        self._line: Connection | None = None
        self._one_at_a_time = asyncio.Lock()

    async def examine(self) -> tuple[Path, ...]:
        """Refuse data that nothing can be learned from, before anything is sent.

        Returns:
            The files that cannot be read.

        Raises:
            InputError: Too few images, one class, or an unreadable source (the owner's to mend).
            ConfigError: There is no such kind of source.
        """
        summary = await self._run("examine")
        return cast("tuple[Path, ...]", summary.skipped)

    async def layout_fingerprint(self, campaign: Campaign, base: bytes) -> str:
        """See ``DeviceWork``; loads the images too, so that bad ones are found before the device checks in.

        Raises:
            LayoutError: The network cannot be traced.
            InputError: The images do not fit the network, or nothing can be learned from them.
        """
        fingerprint, skipped = await self._run("trace", campaign, base)
        self._on_skipped(skipped)
        return str(fingerprint)

    async def prepare_vote(self, campaign: Campaign, base: bytes) -> Vote:
        """See ``DeviceWork``."""
        return cast(Vote, await self._run("vote", campaign, base))

    async def personalise(
        self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None
    ) -> Outcome:
        """See ``DeviceWork``; the network that is kept is on the disk before this returns."""
        return cast(Outcome, await self._run("personalise", campaign, decision, base, slim_base))

    async def keep_slim_base(self, campaign: Campaign, decision: Decision, slim_base: bytes) -> None:
        """See ``Consumer``.

        Raises:
            LayoutError: The decision does not fit the network.
            InputError: The weights do not.
        """
        await self._run("keep_slim_base", campaign, decision, slim_base)

    def close(self) -> None:
        """End the worker process, whatever it does."""
        process, line = self._process, self._line
        self._process = self._line = None
        if process is not None:
            process.terminate()
            process.join(TERMINATE_S)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        if line is not None:
            line.close()  # last: a thread may still be sending, and fails now

    async def _run(self, job: str, *arguments: object) -> Any:
        async with self._one_at_a_time:
            try:
                is_done, result = await self._ask(job, arguments)
            except BaseException:  # cancelled, or the process died: either way it is of no more use
                self.close()
                raise
        if not is_done:
            failure: Failure = result
            raise failure.error()
        return result

    async def _ask(self, job: str, arguments: tuple[object, ...]) -> tuple[bool, Any]:
        process, line = self._started()
        try:
            # In a thread: a pipe takes 64 KiB, a model more, and the process may still be starting.
            await asyncio.to_thread(line.send, (job, arguments))
            await _readable(line)
            return cast("tuple[bool, Any]", line.recv())
        except (EOFError, OSError) as error:
            process.join(TERMINATE_S)
            raise _died(job, process.exitcode) from error

    def _started(self) -> tuple[SpawnProcess, Connection]:
        if self._process is not None and self._line is not None and self._process.is_alive():
            return self._process, self._line
        self.close()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, self._make_worker, self._setup), daemon=True)
        process.start()
        theirs.close()  # theirs alone: when they end, reading ours ends
        self._process, self._line = process, ours
        return process, ours


async def _readable(line: Connection) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(line.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(line.fileno())


def _died(job: str, exit_code: int | None) -> InputError:
    if exit_code is not None and exit_code < 0:
        why = f"it was killed by signal {-exit_code}"
        why += "; the system does so when memory runs out" if exit_code == -9 else ""
    else:
        why = f"it ended with {exit_code}"
    return InputError(f"the worker process died over {job!r}: {why}; free memory, or give fewer images or --threads 1")
