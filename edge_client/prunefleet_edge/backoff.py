"""How long to wait after failures in a row: exponential with full jitter, bounded in delay and in total.

Full jitter (a uniform draw from zero to the bound) spreads a fleet that lost its coordinator at the same instant; see
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

MIN_REST_S = 0.05
"""Shortest rest a coordinator can ask for, so that a wrong delay does not make a device spin."""
MAX_REST_S = 6 * 3600.0
"""Longest rest a coordinator can ask for: a device that sleeps a quarter of a day still notices the next level."""
REST_JITTER = 0.25
"""A rest is spread by ± a quarter, so that a fleet told the same delay does not come back at once."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The bounds of a :class:`Backoff`.

    Attributes:
        first_s: Longest wait after the first failure.
        max_s: Longest wait ever; five minutes, so that a returning coordinator is found soon.
        give_up_after_s: Time since the first failure after which the device stops; a week survives a long weekend.
    """

    first_s: float = 1.0
    max_s: float = 300.0
    give_up_after_s: float = 7 * 24 * 3600.0


def rest_s(asked_s: float, rng: random.Random) -> float:
    """How long to stay away when told to come back in ``asked_s`` seconds: within bounds, spread by a quarter."""
    return min(max(asked_s * rng.uniform(1 - REST_JITTER, 1 + REST_JITTER), MIN_REST_S), MAX_REST_S)


class Backoff:
    """Counts failures in a row and draws the next wait; ``rng`` is the caller's."""

    def __init__(self, policy: RetryPolicy, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._failures = 0
        self._failing_since_s = 0.0

    def next_delay_s(self, now_s: float) -> float | None:
        """Wait after one more failure at ``now_s``, in seconds; None when it is time to give up."""
        if self._failures == 0:
            self._failing_since_s = now_s
        elif now_s - self._failing_since_s > self._policy.give_up_after_s:
            return None
        # 2**30 s is past any max_s; without the bound a month of failures would overflow a float.
        bound_s = min(self._policy.max_s, self._policy.first_s * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return self._rng.uniform(0.0, bound_s)

    def reset(self) -> None:
        """Something went well."""
        self._failures = 0
