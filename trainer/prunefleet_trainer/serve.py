"""The trainer that runs for ever: what a failure means to it, and how long it waits before it tries again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from prunefleet_edge.backoff import Backoff, RetryPolicy
from prunefleet_shared.campaign import SlimBase
from prunefleet_shared.durations import in_words
from prunefleet_shared.errors import CarrierError, RejectReason, RemoteProtocolError
from prunefleet_trainer.runner import TrainerRunner

RETRIES = RetryPolicy(first_s=1.0, max_s=60.0, give_up_after_s=math.inf)
FATAL = frozenset(
    {
        RejectReason.STRANGER,
        RejectReason.REVOKED,
        RejectReason.WRONG_ROLE,
        RejectReason.BAD_SIGNATURE,
        RejectReason.UNKNOWN_FIELD,
        RejectReason.TOO_LARGE,
    }
)
"""Refusals that trying again does not change. The others may mend: an upload that another one broke off, or a campaign
that ended while its slim base was on its way."""


async def serve(
    new_runner: Callable[[], TrainerRunner],
    backoff: Backoff,
    clock: Callable[[], float],
    say: Callable[[str], None],
    *,
    is_once: bool = False,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    learn_operators: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Answer decisions for ever; with ``is_once``, until one slim base is published.

    Args:
        new_runner: The runner as it should be now; a renewed certificate may bring other operators' keys.
        backoff: How long to wait after failures.
        clock: Seconds on a clock that never goes back.
        say: Told in words what happens.
        is_once: Stop after one slim base.
        sleep: Waits for some seconds.
        learn_operators: Brings the operators' keys up to date; asked once when a campaign is signed by nobody we know.

    Raises:
        RemoteProtocolError: The coordinator refused us for good, or showed what no operator of ours signed.
        CarrierError: It is reached, but not the one we know (a certificate that does not verify).
        InputError: Data or base cannot be used (the user's to mend).
    """
    may_learn = learn_operators is not None
    while True:
        try:
            happened = await new_runner().step()
        except (CarrierError, RemoteProtocolError) as error:
            if may_learn and learn_operators and _is_unsigned(error):
                may_learn = False  # an operator who joined after us; asked again only after a success
                await learn_operators()
                continue
            if _is_final(error):
                raise
            delay_s = backoff.next_delay_s(clock()) or 0.0
            say(f"{error}; trying again in {in_words(max(1.0, delay_s))}")
            await sleep(max(1.0, delay_s))
            continue
        backoff.reset()
        may_learn = learn_operators is not None
        if isinstance(happened, SlimBase):
            say(f"campaign {happened.campaign_id[:8]}, level {happened.level + 1}: slim base published")
            if is_once:
                return


def _is_unsigned(error: CarrierError | RemoteProtocolError) -> bool:
    return isinstance(error, RemoteProtocolError) and error.rejection.reason is RejectReason.BAD_SIGNATURE


def _is_final(error: CarrierError | RemoteProtocolError) -> bool:
    if isinstance(error, CarrierError):
        return not error.retryable
    return error.rejection.reason in FATAL
