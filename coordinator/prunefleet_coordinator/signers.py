"""Who may start a campaign: operators, as the authority names them; asked again when a stranger signs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from prunefleet_shared.documents import SignedDocument, digest
from prunefleet_shared.errors import RejectReason, reject

LEARN_EVERY_S = 5.0
"""Between two questions who the operators are: whoever signs with a strange key shall not keep us busy."""


class Signers:
    """The operators whose signatures make a campaign.

    Args:
        operator_keys: Their keys, DER each, as known now.
        learn_operators: Brings ``operator_keys`` up to date; None: nobody can be asked.
        clock: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        operator_keys: Callable[[], Sequence[bytes]],
        learn_operators: Callable[[], Awaitable[None]] | None,
        clock: Callable[[], float],
    ) -> None:
        self._operator_keys, self._learn_operators, self._clock = operator_keys, learn_operators, clock
        self._learned_s: float | None = None

    async def check(self, signed: SignedDocument) -> None:
        """Raise unless an operator signed it.

        Raises:
            RemoteProtocolError: ``BAD_SIGNATURE`` (the sender's fault).
        """
        if signed.public_key in self._operator_keys():
            return
        now_s = self._clock()
        if self._learn_operators and (self._learned_s is None or now_s - self._learned_s >= LEARN_EVERY_S):
            self._learned_s = now_s
            await self._learn_operators()
        if signed.public_key not in self._operator_keys():
            expected = f"a campaign signed by one of {len(self._operator_keys())} operators"
            got = f"one by key {digest(signed.public_key)[:12]}"
            raise reject(
                RejectReason.BAD_SIGNATURE, expected=expected, got=got, remedy="sign it with an operator's key"
            )
