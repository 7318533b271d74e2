"""The search for the smallest network that keeps a floor, as questions and answers; no torch.

What is asked is whether the network with a fraction of its cost removed still keeps the floor. Who answers trains it
and judges it on images that decide nothing else (the gate's), never on test images.
"""

from __future__ import annotations

from collections.abc import Sequence

from prunefleet_shared.errors import ConfigError

DEFAULT_RATIOS = tuple(percent / 100 for percent in range(5, 100, 5))
"""Fractions removed: 5 % to 95 % in steps of 5 %, as in the paper."""


class LevelSearch:
    """Binary search over pruning ratios (DaPR; Rajagopal & Bouganis 2020), with its flaws mended.

    Theirs starts at 50 %, halves the interval and stops when a level repeats, on test accuracy; its last answer need
    not keep the floor. This one assumes the same, that a network with less removed keeps the floor if one with more
    removed does. Where that is wrong (training is noisy) it may miss a better ratio, but never returns one that failed.
    It asks at most ceil(log2(n)) + 1 questions for n ratios, none twice.

    Args:
        ratios: Fractions removed, ascending, each in (0, 1).

    Raises:
        ConfigError: They are none, not ascending or out of range.
    """

    def __init__(self, ratios: Sequence[float] = DEFAULT_RATIOS) -> None:
        self._ratios = tuple(ratios)
        if not self._ratios or list(self._ratios) != sorted(set(self._ratios)):
            msg = f"pruning ratios: expected ascending fractions, got {list(self._ratios)}"
            raise ConfigError(msg)
        if not 0 < self._ratios[0] <= self._ratios[-1] < 1:
            msg = f"pruning ratios: expected fractions between 0 and 1, got {self._ratios[0]}..{self._ratios[-1]}"
            raise ConfigError(msg)
        self._kept: set[int] = set()
        self._failed: set[int] = set()

    def next_ratio(self) -> float | None:
        """The ratio to try next; None when there is nothing left to learn. Asking again changes nothing."""
        low = max(self._kept, default=-1)
        high = min((index for index in self._failed if index > low), default=len(self._ratios))
        return self._ratios[(low + high) // 2] if high - low > 1 else None

    def tell(self, ratio: float, is_floor_kept: bool) -> None:
        """The answer for a ratio; also one that was not asked for. A ratio that failed once has failed.

        Raises:
            ConfigError: It is none of the search's ratios (a bug in the caller).
        """
        if ratio not in self._ratios:
            msg = f"pruning ratio {ratio} is none of {list(self._ratios)}"
            raise ConfigError(msg)
        index = self._ratios.index(ratio)
        if is_floor_kept and index not in self._failed:
            self._kept.add(index)
        else:
            self._kept.discard(index)
            self._failed.add(index)

    @property
    def best(self) -> float | None:
        """The largest ratio known to keep the floor; None while there is none."""
        return self._ratios[max(self._kept)] if self._kept else None
