"""What a device does now, as a small file that its owner, and a container's health check, can read. No torch here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prunefleet_edge.kept_networks import IN_SERVICE_GLOB
from prunefleet_edge.network_file import info_facts, read_kept_info
from prunefleet_shared.document_file import read_document_file, write_whole
from prunefleet_shared.errors import ConfigError, InputError

HEARTBEAT_S = 15.0
"""Between two heartbeats of a device that is alive."""
STALE_AFTER_S = 60.0
"""Age of the heartbeat at which a device counts as hung or gone."""
MAX_FILES_NAMED = 20


@dataclass(frozen=True, slots=True)
class Status:
    """What a device does now.

    Attributes:
        name: Its name in the fleet.
        device_class: The class whose campaigns it joins.
        words: What it does or waits for.
        since: Since when, UTC, ISO 8601.
        next_check_in: When it checks in again; None while it does not rest.
        campaign_id: The campaign it takes part in; empty while there is none.
        level: 0-based level tried last; None before the first.
        last_error: The last thing that went wrong, empty if nothing has.
        last_error_at: When.
        certificate_until: End of its certificate.
        skipped_images: Image files that cannot be read.
        skipped_files: The first of them, by path; never sent.
        heartbeat: When this file was last known to be right.
        pid: The process; 0 once it has ended.
        last_ruling: The last ruling that was followed, in words; empty before the first.
    """

    name: str
    device_class: str
    words: str
    since: str
    next_check_in: str | None
    campaign_id: str
    level: int | None
    last_error: str
    last_error_at: str
    certificate_until: str
    skipped_images: int
    skipped_files: tuple[str, ...]
    heartbeat: str
    pid: int
    last_ruling: str = ""


class StatusFile:
    """Keeps the file up to date: replaced as a whole on every change.

    Args:
        path: The file.
        first: What to begin with; times are filled in.
        utc_now: The time.
        on_trouble: Told once when the file cannot be written; the device goes on, its work does not need it.
    """

    def __init__(
        self,
        path: Path,
        first: Status,
        *,
        utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_trouble: Callable[[str], None] = lambda _words: None,
    ) -> None:
        self._path, self._utc_now, self._on_trouble = path, utc_now, on_trouble
        self._is_troubled = False
        self._status = replace(first, since=self._now())
        self.beat()

    def beat(self) -> None:
        """Say that the device is alive."""
        self._status = replace(self._status, heartbeat=self._now())
        try:
            write_whole(self._path, json.dumps(asdict(self._status), indent=2).encode(), 0o600)
            self._is_troubled = False
        except ConfigError as error:
            if not self._is_troubled:
                self._on_trouble(str(error))
            self._is_troubled = True

    def says(
        self, words: str, *, campaign_id: str, level: int | None, resting_s: float | None, last_ruling: str = ""
    ) -> None:
        """The device does or waits for something else; of an empty ``last_ruling``, the one before stays."""
        since = self._status.since if words == self._status.words else self._now()
        wakes = None if resting_s is None else self._after(resting_s)
        self.update(words=words, since=since, next_check_in=wakes, campaign_id=campaign_id, level=level)
        if last_ruling and last_ruling != self._status.last_ruling:
            self.update(last_ruling=last_ruling)

    def failed(self, words: str) -> None:
        """Something went wrong."""
        self.update(last_error=words, last_error_at=self._now())

    def update(self, **changes: Any) -> None:
        """Change some of it."""
        self._status = replace(self._status, **changes)
        self.beat()

    def _now(self) -> str:
        return self._utc_now().isoformat(timespec="seconds")

    def _after(self, seconds: float) -> str:
        return (self._utc_now() + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def read_status(path: Path) -> Status:
    """What the file says.

    Raises:
        ConfigError: The device has never run here.
        InputError: The file is damaged.
    """
    if not path.exists():
        msg = f"{path}: no device has run here yet; start it: prunefleet edge run --data SOURCE"
        raise ConfigError(msg)
    return read_document_file(path, Status)


def is_fresh(status: Status, now: datetime) -> bool:
    """True while the device runs and its heartbeat is younger than :data:`STALE_AFTER_S`, whichever way clocks jump."""
    try:
        age_s = (now - datetime.fromisoformat(status.heartbeat)).total_seconds()
    except (ValueError, TypeError):
        return False
    return status.pid != 0 and abs(age_s) <= STALE_AFTER_S


def kept_facts(kept_folder: Path) -> dict[str, object] | None:
    """The network the device kept last; None while there is none."""
    files = sorted(kept_folder.glob(IN_SERVICE_GLOB), key=lambda path: path.stat().st_mtime_ns)
    try:
        return {"path": str(files[-1]), **info_facts(read_kept_info(files[-1]))} if files else None
    except InputError as error:
        return {"path": str(files[-1]), "error": str(error)}


def status_text(status: Status, kept: dict[str, object] | None, now: datetime) -> str:
    """The status for people."""
    if status.pid == 0:
        alive = "not running"
    else:
        alive = (
            f"running, process {status.pid}" if is_fresh(status, now) else f"no sign of life since {status.heartbeat}"
        )
    lines = [
        f"{status.name} (class {status.device_class}): {alive}",
        f"  {status.words}, since {status.since}",
        f"  next check-in: {status.next_check_in}" if status.next_check_in else "",
        f"  campaign {status.campaign_id[:12]}" if status.campaign_id else "  no campaign",
        f"  level {status.level}" if status.level is not None else "",
        f"  kept network: {_kept_words(kept)}",
        f"  last ruling: {status.last_ruling}" if status.last_ruling else "",
        f"  certificate until {status.certificate_until}",
        *_skipped_words(status),
        f"  last error, {status.last_error_at}: {status.last_error}" if status.last_error else "",
    ]
    return "\n".join(line for line in lines if line)


def _kept_words(kept: dict[str, object] | None) -> str:
    if kept is None:
        return "none yet"
    if "error" in kept:
        return str(kept["error"])
    done = "fine-tuned here" if kept["is_fine_tuned"] else "as it was shipped"
    whose = f"the fleet's, {done}" if kept["is_fleets"] else "its own choice"
    return f"{whose}, {kept['cost_permille']} / 1000 of the dense cost ({kept['unit']}), {kept['path']}"


def _skipped_words(status: Status) -> list[str]:
    if not status.skipped_images:
        return []
    return [f"  {status.skipped_images} images cannot be read:", *(f"    {path}" for path in status.skipped_files)]
