"""The stages of a sum as the coordinator sees them, and what may go wrong with the whole."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Stage(enum.IntEnum):
    """What is being gathered."""

    ADVERTS = 1
    SHARES = 2
    VECTORS = 3
    CONFIRMATIONS = 4
    UNMASKING = 5
    DONE = 6


class SumFailedError(Exception):
    """The sum cannot be had: too few spoke in a stage, or shares were wrong. Nothing was learned; try another session.

    Attributes:
        blamed: Names of devices whose fault it is, where that is known.
    """

    def __init__(self, why: str, blamed: frozenset[str] = frozenset()) -> None:
        super().__init__(why)
        self.blamed = blamed


@dataclass(frozen=True, slots=True)
class CohortRule:
    """How many devices a session takes.

    Attributes:
        size: Adverts at which the roster is closed at once.
        fewest: Devices without which a session is given up, in the roster and in the sum.
    """

    size: int
    fewest: int
