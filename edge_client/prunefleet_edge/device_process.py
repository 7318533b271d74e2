"""A device as a long-lived process: waits for a campaign, takes part, keeps its network, waits for the next.

What goes wrong in one campaign (a vote that cannot be prepared, a signature that does not hold) is shown to the owner
and tried again later, with growing waits: memory may be free by then, or another campaign run. What only a person can
mend (the disk, the certificate, a refusal of this device) ends the process.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path

from prunefleet_edge.audit import AuditLog
from prunefleet_edge.backoff import Backoff, RetryPolicy, rest_s
from prunefleet_edge.egress import Egress, enrolment_record
from prunefleet_edge.kept_networks import KeptFolder
from prunefleet_edge.local_work import LocalWork
from prunefleet_edge.model_cache import FolderCache
from prunefleet_edge.policy import PrivacyPolicy, owner_policy
from prunefleet_edge.retraining_options import PLAIN, RetrainingOptions
from prunefleet_edge.runner import DeviceRunner, Standing, SumMembership
from prunefleet_edge.state_folder import StateFolder
from prunefleet_edge.status import HEARTBEAT_S, MAX_FILES_NAMED, Status, StatusFile
from prunefleet_edge.store import SqliteDeviceStore
from prunefleet_edge.work_process import NO_DATA, WorkSetup
from prunefleet_shared.errors import CarrierError, InputError, PrunefleetError, RejectReason, RemoteProtocolError
from prunefleet_shared.identity_folder import Identity
from prunefleet_shared.member_link import MemberLink, utc_now
from prunefleet_shared.messages import Ending, Role
from prunefleet_shared.secure_sum.roster import Members, SumIdentity

CALL_TIMEOUT_S = 60.0
NEXT_CAMPAIGN_S = 10.0
"""Rest after a campaign before the device asks for the next."""
RETRIES = RetryPolicy(first_s=5.0, max_s=3600.0, give_up_after_s=inf)
"""Waits after a campaign that went wrong."""
_FOR_A_PERSON = frozenset({RejectReason.STRANGER, RejectReason.REVOKED, RejectReason.WRONG_ROLE})


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """How a device's process runs.

    Attributes:
        source: Where its images are, see ``data_source``; or ``none``: it has no data, and says nothing.
        device_class: The class whose campaigns to join; empty takes the identity's.
        recipe: Name of the recipe for fine-tuning.
        threads: torch's.
        privacy: What the owner lets a coordinator learn.
        is_once: End after one campaign.
        allowed_code: Each ``package.module:factory`` that the owner lets a campaign's network be made by.
        retraining: How the fleet's slim base is fine-tuned.
    """

    source: str
    device_class: str
    recipe: str
    threads: int
    privacy: PrivacyPolicy
    is_once: bool
    allowed_code: tuple[str, ...] = ()
    retraining: RetrainingOptions = PLAIN

    @property
    def has_data(self) -> bool:
        """False by the owner's word alone, never by what is found in the data: the coordinator is told."""
        return self.source != NO_DATA


class DeviceProcess:
    """One device, from start to end of its process.

    Args:
        folder: Its state folder, with an identity in it.
        options: How it runs.
        tell: Told in words what happens, for a log.

    Raises:
        ConfigError: No usable identity, store or audit, or another process runs this device (the owner's to mend).
    """

    def __init__(self, folder: StateFolder, options: DeviceOptions, tell: Callable[[str], None]) -> None:
        self._folder, self._options, self._tell = folder, options, tell
        self._told = ""
        self._runner: DeviceRunner | None = None

    async def run(self) -> Ending:
        """Take part in campaigns; returns after the first with ``is_once``, else only by an error or cancellation.

        Raises:
            InputError: The data cannot be used; nothing was sent.
            PrunefleetError: What only a person can mend.
        """
        async with AsyncExitStack() as stack:
            self._store = SqliteDeviceStore(self._folder.store)
            stack.callback(self._store.close)
            audit = AuditLog(self._folder.path)
            stack.callback(audit.close)
            if audit.dropped_line:
                self._tell("the audit's last line was cut short by a crash; its message was never sent")
            self._link = MemberLink(
                self._folder.path,
                Role.DEVICE,
                timeout_s=CALL_TIMEOUT_S,
                before_renewal=lambda message: audit.append(enrolment_record(message, utc_now())),
            )
            stack.push_async_callback(self._link.close)
            self._egress = Egress(self._link, audit=audit.append)
            self._members = Members(self._link.identity.credentials.ca_pem, utc_now)
            self._status = self._first_status(self._link.identity)
            self._work = self._make_work(self._link.identity)
            stack.callback(self._work.close)
            await stack.enter_async_context(self._heartbeats())
            return await self._live()

    async def _live(self) -> Ending:
        try:
            if self._options.has_data:
                self._says(f"looking at the images in {self._options.source}")
                self._skipped(await self._work.examine())
            return await self._campaigns()
        except PrunefleetError as error:
            self._status.failed(str(error))
            raise

    async def _campaigns(self) -> Ending:
        rng = random.SystemRandom()
        backoff = Backoff(RETRIES, rng)
        while True:
            try:
                ending = await self._campaign(rng)
            except PrunefleetError as error:
                delay_s = backoff.next_delay_s(time.monotonic())
                if delay_s is None or self._options.is_once or not may_pass(error):
                    raise
                self._status.failed(str(error))
                self._says(f"{error}; trying again in {delay_s:.0f} s", resting_s=delay_s)
                await asyncio.sleep(delay_s)
                await self._learn_operators(error)
                continue
            if self._options.is_once:
                return ending
            backoff.reset()
            await asyncio.sleep(rest_s(NEXT_CAMPAIGN_S, rng))

    async def _learn_operators(self, error: PrunefleetError) -> None:
        """When nobody we know signed a campaign, an operator may have joined after us: a renewal brings the keys."""
        if isinstance(error, RemoteProtocolError) and error.rejection.reason is RejectReason.BAD_SIGNATURE:
            with suppress(CarrierError):
                await self._link.renew_now()

    async def _campaign(self, rng: random.Random) -> Ending:
        identity = self._link.identity
        self._runner = DeviceRunner(
            self._egress,
            self._work,
            self._store,
            device_class=self._options.device_class or identity.device_class,
            operator_keys=identity.operator_keys,
            clock=time.monotonic,
            sleep=asyncio.sleep,
            rng=rng,
            on_state=self._says,
            cache=FolderCache(self._folder.cache),
            check_policy=owner_policy(
                identity.coordinator_address, self._options.privacy, allowed_code=self._options.allowed_code
            ),
            membership=SumMembership(
                lambda: SumIdentity.of(self._link.identity.credentials),
                self._members,
                self._options.privacy.min_devices,
                secrets.token_bytes,
            ),
            kept=KeptFolder(self._folder.kept),
            consumer=None if self._options.has_data else self._work,
            reply_slot_s=self._options.privacy.reply_slot_s,
        )
        return await self._runner.run()

    def _make_work(self, identity: Identity) -> LocalWork:
        setup = WorkSetup(
            source=self._options.source,
            name=identity.name,
            recipe=self._options.recipe,
            seed=self._folder.seed(),
            threads=self._options.threads,
            work_dir=self._folder.work,
            kept_dir=self._folder.kept,
            allowed_code=self._options.allowed_code,
            retraining=self._options.retraining,
        )
        return LocalWork(setup, on_skipped=self._skipped)

    # --- what the owner sees --------------------------------------------------------------------------------------

    def _first_status(self, identity: Identity) -> StatusFile:
        first = Status(
            name=identity.name,
            device_class=self._options.device_class or identity.device_class,
            words="starting",
            since="",
            next_check_in=None,
            campaign_id="",
            level=None,
            last_error="",
            last_error_at="",
            certificate_until=identity.valid_until.isoformat(timespec="seconds"),
            skipped_images=0,
            skipped_files=(),
            heartbeat="",
            pid=os.getpid(),
        )
        return StatusFile(self._folder.status, first, on_trouble=self._tell)

    def _says(self, words: str, *, resting_s: float | None = None) -> None:
        standing = self._runner.standing if self._runner else Standing()
        rest = standing.resting_s if resting_s is None else resting_s
        self._status.says(
            words,
            campaign_id=standing.campaign_id,
            level=standing.level,
            resting_s=rest,
            last_ruling=standing.last_ruling,
        )
        # Waiting is told once, not at every check-in: the log of a month should fit a screen.
        gist = words.partition(";")[0]
        if gist not in {"checking in", self._told}:
            self._told = gist
            self._tell(words)

    def _skipped(self, files: tuple[Path, ...]) -> None:
        self._status.update(
            skipped_images=len(files), skipped_files=tuple(str(path) for path in files[:MAX_FILES_NAMED])
        )
        if files:
            self._tell(f"{len(files)} images cannot be read and are left out, such as {files[0]}")

    @asynccontextmanager
    async def _heartbeats(self) -> AsyncIterator[None]:
        async def beat() -> None:
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                until = self._link.identity.valid_until.isoformat(timespec="seconds")
                self._status.update(certificate_until=until)

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating
            self._status.update(pid=0, words="stopped", next_check_in=None)


def may_pass(error: PrunefleetError) -> bool:
    """True for what may be over at the next campaign, or when memory is free; False for what a person must mend."""
    if isinstance(error, RemoteProtocolError):
        return error.rejection.reason not in _FOR_A_PERSON
    return isinstance(error, InputError) or type(error) is PrunefleetError
