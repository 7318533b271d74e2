"""Shamir's secret sharing of 256-bit secrets modulo a prime (Shamir 1979), in plain Python integers.

Any ``threshold`` shares give the secret back; fewer say nothing about it. Share ``i`` (from 1) is the value at ``i`` of
a random polynomial of degree ``threshold - 1`` whose value at 0 is the secret. Python integers are not constant-time;
what is computed with here is random and used once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

PRIME = 2**256 - 189
"""The largest prime below 2**256, so that a share takes 32 bytes."""
SECRET_BYTES = 32
RandomBytes = Callable[[int], bytes]
"""Gives so many bytes that nobody can predict, such as ``secrets.token_bytes``."""


def random_secret(random_bytes: RandomBytes) -> bytes:
    """32 bytes, uniform below :data:`PRIME`: drawn again in one of 2**248 cases."""
    while int.from_bytes(secret := random_bytes(SECRET_BYTES)) >= PRIME:
        pass
    return secret


def split(secret: bytes, threshold: int, num_shares: int, random_bytes: RandomBytes) -> list[bytes]:
    """The shares 1, 2, … ``num_shares`` of ``secret`` (32 bytes, below :data:`PRIME`), 32 bytes each."""
    coefficients = [int.from_bytes(random_secret(random_bytes)) for _ in range(threshold - 1)]
    polynomial = [*coefficients, int.from_bytes(secret)]  # highest degree first
    return [_value_at(x, polynomial).to_bytes(SECRET_BYTES) for x in range(1, num_shares + 1)]


def _value_at(x: int, polynomial: Sequence[int]) -> int:
    value = 0
    for coefficient in polynomial:
        value = (value * x + coefficient) % PRIME
    return value


def weights_at_zero(points: Sequence[int]) -> list[int]:
    """Lagrange weights: the secret is the sum of the shares at ``points`` (distinct), each times its weight."""
    weights = []
    for i, x_i in enumerate(points):
        above = below = 1
        for j, x_j in enumerate(points):
            if i != j:
                above = above * x_j % PRIME
                below = below * (x_j - x_i) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return weights


def combine(weights: Sequence[int], shares: Sequence[bytes]) -> bytes:
    """The secret, from as many shares as it was split with, and the weights of their points; 32 bytes."""
    total = sum(weight * int.from_bytes(share) for weight, share in zip(weights, shares, strict=True))
    return (total % PRIME).to_bytes(SECRET_BYTES)


class Reconstruction:
    """Gives secrets back from their shares; the weights of a set of points are computed once.

    Args:
        threshold: Shares that a secret needs.
    """

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._weights: dict[tuple[int, ...], list[int]] = {}

    def secret(self, share_at: Mapping[int, bytes]) -> bytes | None:
        """The secret whose shares are ``share_at`` by point; None with fewer than the threshold."""
        points = tuple(sorted(share_at)[: self._threshold])
        if len(points) < self._threshold:
            return None
        if points not in self._weights:
            self._weights[points] = weights_at_zero(points)
        return combine(self._weights[points], [share_at[point] for point in points])
