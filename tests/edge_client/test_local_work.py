"""The worker process: one for all jobs, gone within a second when the work is cancelled, honest when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from odd_workers import OddWorker

from prunefleet_edge.local_work import LocalWork
from prunefleet_edge.work_process import WorkSetup
from prunefleet_shared.errors import InputError, LayoutError, PrunefleetError

CAMPAIGN: Any = "a campaign, if you believe it"


def odd(how: str) -> LocalWork:
    return LocalWork(WorkSetup(how, "device-1", "digits", 1, None, None, None), make_worker=OddWorker)


async def vote(work: LocalWork, base: bytes = b"base") -> Any:
    return await work.prepare_vote(CAMPAIGN, base)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_one_process_does_all_jobs_and_takes_large_models() -> None:
    async def play() -> None:
        with contextlib.closing(odd("works")) as work:
            first, second = await vote(work), await vote(work, bytes(5_000_000))
            assert first == (second[0], 1, 4)
            assert second[1:] == (2, 5_000_000)
            pid = first[0]
        assert is_gone(pid)

    asyncio.run(play())


@pytest.mark.parametrize(
    ("how", "kind", "exit_code", "words"),
    [
        ("input", InputError, 5, "one class only"),
        ("layout", LayoutError, 5, "cannot be traced"),
        ("other", PrunefleetError, 6, "does not follow"),
        ("memory", InputError, 5, "not enough memory"),
        ("bug", PrunefleetError, 70, "ZeroDivisionError: one by nought"),
        ("dies", InputError, 5, "killed by signal 9; the system does so when memory runs out"),
    ],
)
def test_what_goes_wrong_there_is_said_here(how: str, kind: type[PrunefleetError], exit_code: int, words: str) -> None:
    async def play() -> None:
        with contextlib.closing(odd(how)) as work, pytest.raises(kind, match=words) as caught:
            await vote(work)
        assert type(caught.value) is kind
        assert caught.value.exit_code == exit_code

    asyncio.run(play())


def test_after_a_death_a_new_process_is_started() -> None:
    async def play() -> None:
        with contextlib.closing(odd("dies once")) as work:
            with pytest.raises(InputError, match="ended with 3"):
                await vote(work, b"")
            assert (await vote(work))[1] == 1

    asyncio.run(play())


def test_a_worker_that_will_not_end_is_killed_within_a_second() -> None:
    async def play() -> None:
        with contextlib.closing(odd("stubborn")) as work:
            working = asyncio.create_task(vote(work))
            async with asyncio.timeout(20.0):
                while work._process is None or not _ignores_sigterm(work._process.pid or 0):
                    await asyncio.sleep(0.01)
            pid = work._process.pid or 0
            start = time.monotonic()
            working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working
            assert time.monotonic() - start < 1.0
            assert is_gone(pid)

    asyncio.run(play())


def _ignores_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(mask, 16) >> 14 & 1)


ORPHAN = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from test_local_work import odd, vote
async def main():
    work = odd("stubborn")
    task = asyncio.create_task(vote(work))
    while work._process is None:
        await asyncio.sleep(0.01)
    print(work._process.pid, flush=True)
    await task
if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_device_that_is_killed_leaves_no_worker_behind(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    command = [sys.executable, str(script), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        pid = int(process.stdout.readline())  # type: ignore[union-attr]
        process.kill()
    give_up = time.monotonic() + 20.0
    while not _is_ended(pid) and time.monotonic() < give_up:
        time.sleep(0.02)
    assert _is_ended(pid)


def _is_ended(pid: int) -> bool:
    """Gone, or dead and only waiting for somebody to ask (in a container nobody may)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
