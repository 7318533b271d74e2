"""A member's line that renews its own certificate at two thirds of its life, between calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prunefleet_shared.durations import in_words
from prunefleet_shared.enrolment import BeforeSend, renew, unwatched
from prunefleet_shared.errors import CarrierError, ConfigError, PrunefleetError, RejectReason, RemoteProtocolError
from prunefleet_shared.grpc_link import GrpcLink
from prunefleet_shared.identity_folder import Identity, load_identity
from prunefleet_shared.messages import Down, Up
from prunefleet_shared.meter import Meter
from prunefleet_shared.roles import Role

_log = logging.getLogger(__name__)
RENEW_AT = 2 / 3
"""Of a certificate's life; what is left is the time an authority may be away."""
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=10)
"""Between two tries to renew, doubled from one to the next: not every call must wait for an authority that is away."""
_RENEWAL_TIMEOUT_S = 10.0


def utc_now() -> datetime:
    """The time, aware."""
    return datetime.now(UTC)


class MemberLink:
    """A :class:`~prunefleet_shared.messages.Link` with the identity of a state folder.

    Args:
        folder: The state folder.
        role: Ours.
        timeout_s: Longest wait for an answer; above the coordinator's long poll.
        now: The time, aware.
        meter: Counts what is exchanged.
        to_authority: Call the authority rather than the coordinator.
        before_renewal: Sees the request for a new certificate before it leaves; if it raises, nothing is sent.

    Raises:
        ConfigError: No usable identity in the folder (the user's to mend).
    """

    def __init__(
        self,
        folder: Path,
        role: Role,
        *,
        timeout_s: float,
        now: Callable[[], datetime] = utc_now,
        meter: Meter | None = None,
        to_authority: bool = False,
        before_renewal: BeforeSend = unwatched,
    ) -> None:
        self._folder = folder
        self._timeout_s = timeout_s
        self._now = now
        self._meter = meter
        self._to_authority = to_authority
        self._before_renewal = before_renewal
        self._identity = load_identity(folder, role)
        self._try_again_at = datetime.min.replace(tzinfo=UTC)
        self._tried_at = self._try_again_at
        self._pause = FIRST_PAUSE
        self._next_renewal = self._try_again_at
        self._renewing = asyncio.Lock()
        self._num_calls: dict[GrpcLink, int] = {}
        self._link = self._connect()

    @property
    def identity(self) -> Identity:
        """Who we are now."""
        return self._identity

    async def call(self, message: Up) -> Down:
        """Send ``message`` and return the answer; renews first when it is time.

        Raises:
            RemoteProtocolError: The peer turned it down, or the authority says that we are revoked.
            CarrierError: It could not be reached.
            ConfigError: Our certificate does not hold now: the clock is wrong, or we must join again (the user's).
        """
        await self.renew_in_time()
        link = self._link
        self._num_calls[link] = self._num_calls.get(link, 0) + 1
        try:
            return await link.call(message)
        finally:
            self._num_calls[link] -= 1
            await self._close_unused()

    async def renew_in_time(self) -> None:
        """Renew if two thirds of the certificate's life are over, or if we know no operator; errors as :meth:`call`."""
        async with self._renewing:
            self._check_dates()
            # Who joined before the first operator can carry out nothing until it knows one.
            is_due = self._now() >= max(renew_at(self._identity), self._next_renewal)
            if is_due or not self._identity.operator_keys:
                await self._renew()

    async def renew_now(self) -> None:
        """Renew early, to hear of operators who joined since; at most every few seconds. Errors as :meth:`call`."""
        async with self._renewing:
            self._check_dates()
            # Somebody waits for the answer, so only the shortest pause counts, however long tries have been spaced.
            self._try_again_at = min(self._try_again_at, self._tried_at + FIRST_PAUSE)
            await self._renew()

    async def close(self) -> None:
        """Close the line; calls in flight end with a retryable ``CarrierError``."""
        for link in {*self._num_calls, self._link}:
            await link.close()

    async def _renew(self) -> None:
        if self._now() < self._try_again_at:
            return
        try:
            renewed = await renew(
                self._identity,
                self._folder,
                now=self._now,
                timeout_s=_RENEWAL_TIMEOUT_S,
                before_send=self._before_renewal,
            )
        except (CarrierError, ConfigError) as error:  # authority away, or disk full here
            self._postpone(error)
            return
        except RemoteProtocolError as error:
            if error.rejection.reason is RejectReason.REVOKED:
                raise
            self._postpone(error)
            return
        self._num_calls.setdefault(self._link, 0)
        self._identity = renewed
        self._next_renewal = self._now() + LONGEST_PAUSE  # a clock that is days fast must not renew at every call
        self._pause_tries()
        if renewed.operator_keys:
            self._pause = FIRST_PAUSE
        self._link = self._connect()
        await self._close_unused()

    def _postpone(self, error: PrunefleetError) -> None:
        """Go on with the old certificate, which holds for up to a third of its life yet."""
        self._pause_tries()
        until = self._identity.valid_until.isoformat(timespec="seconds")
        _log.warning("the certificate cannot be renewed yet; the old one holds until %s: %s", until, error)

    def _pause_tries(self) -> None:
        self._tried_at = self._now()
        self._try_again_at = self._now() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _check_dates(self) -> None:
        now, identity = self._now(), self._identity
        if now < identity.valid_from:
            early = in_words((identity.valid_from - now).total_seconds())
            msg = f"by this machine's clock the certificate of {identity.name} holds only in {early}; set the clock"
            raise ConfigError(msg)
        if now > identity.valid_until:
            late = in_words((now - identity.valid_until).total_seconds())
            msg = (
                f"the certificate of {identity.name} ended {late} ago by this machine's clock; if the clock is right, "
                "ask the operator for a join token of that name and join again (nothing else is lost)"
            )
            raise ConfigError(msg)

    def _connect(self) -> GrpcLink:
        identity = self._identity
        address = identity.authority_address if self._to_authority else identity.coordinator_address
        return GrpcLink(address, identity.credentials, timeout_s=self._timeout_s, meter=self._meter)

    async def _close_unused(self) -> None:
        """Close lines of former certificates whose calls are over."""
        unused = [link for link, count in self._num_calls.items() if link is not self._link and not count]
        for link in unused:
            self._num_calls.pop(link, None)
            await link.close()


def renew_at(identity: Identity) -> datetime:
    """When two thirds of the certificate's life are over."""
    return identity.valid_from + (identity.valid_until - identity.valid_from) * RENEW_AT
