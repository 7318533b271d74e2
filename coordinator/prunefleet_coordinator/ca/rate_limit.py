"""How many wrong tokens may be tried: a token bucket per address and one for everyone. Only failures cost.

A secret has 256 bits; nobody guesses it. The limit keeps a broken or hostile newcomer from filling log and disk, so the
bucket for everyone is generous: it must not become a way to keep honest newcomers out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MAX_ADDRESSES = 4096
"""Buckets kept; the one that was used longest ago is forgotten first."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much a bucket holds and how fast it fills.

    Attributes:
        burst: Failures at once.
        per_s: Failures a second in the long run.
    """

    burst: float
    per_s: float


PER_ADDRESS = Allowance(burst=10, per_s=1 / 6)
FOR_EVERYONE = Allowance(burst=500, per_s=20)


@dataclass(slots=True)
class _Bucket:
    allowance: Allowance
    content: float
    filled_at_s: float

    def fill(self, now_s: float) -> float:
        gained = max(0.0, now_s - self.filled_at_s) * self.allowance.per_s
        self.content = min(self.allowance.burst, self.content + gained)
        self.filled_at_s = now_s
        return self.content

    def take(self, now_s: float) -> None:
        self.content = max(0.0, self.fill(now_s) - 1)


class FailureLimit:
    """Says whether an address may try again.

    Args:
        clock: Seconds that never go back.
        per_address: For each address.
        for_everyone: For all together.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        per_address: Allowance = PER_ADDRESS,
        for_everyone: Allowance = FOR_EVERYONE,
    ) -> None:
        self._clock = clock
        self._per_address = per_address
        self._everyone = _Bucket(for_everyone, for_everyone.burst, clock())
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def is_exhausted(self, address: str) -> bool:
        """True when ``address``, or everyone together, failed too often lately."""
        now_s = self._clock()
        bucket = self._buckets.get(address)
        return self._everyone.fill(now_s) < 1 or (bucket is not None and bucket.fill(now_s) < 1)

    def count_failure(self, address: str) -> None:
        """One more failure of ``address``."""
        now_s = self._clock()
        self._everyone.take(now_s)
        if address not in self._buckets:
            self._buckets[address] = _Bucket(self._per_address, self._per_address.burst, now_s)
        self._buckets[address].take(now_s)
        self._buckets.move_to_end(address)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
