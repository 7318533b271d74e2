"""Every error a user or a peer can meet, each with what was wrong, what was expected, and what to do.

A :class:`RejectReason` is the vocabulary in which a coordinator turns a message down. It reaches the device (as a
:class:`RemoteProtocolError`) and the operator (in the report and the log), never with data values inside.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class RejectReason(enum.IntEnum):
    """Why a message was turned down. The numbers are the wire's (``RejectReason`` in the proto); never renumbered."""

    MALFORMED = 1  # the bytes are no message of this kind, or truncated
    TOO_LARGE = 2  # more bytes than this message may ever have
    UNKNOWN_FIELD = 3  # a field this protocol version does not have
    STRANGER = 4  # the certificate is not a device's of this fleet
    WRONG_CAMPAIGN = 5  # the campaign named is not the one running
    WRONG_LAYOUT = 6  # the device traced another network than the campaign's
    WRONG_SESSION = 7  # no such session is open
    NOT_INVITED = 8  # the session is open, but not for this device
    WRONG_LENGTH = 9  # the vector's length is not the lane table's
    OUT_OF_RANGE = 10  # a lane's value breaks the lane table
    DUPLICATE = 11  # this device's contribution was already counted
    LATE = 12  # the session's deadline has passed
    WRONG_ROLE = 13  # the certificate's role may not make this call
    WRONG_DECISION = 14  # a slim base for another decision, or out of turn
    NOT_FOUND = 15  # no blob with this digest
    BAD_SIGNATURE = 16  # a signed document does not verify
    UNKNOWN_TOKEN = 17  # no such join token, or a wrong secret
    USED_TOKEN = 18  # the join token has let somebody in already
    EXPIRED_TOKEN = 19  # the join token's time is over
    REVOKED = 20  # the certificate is on the deny-list
    TOO_MANY_TRIES = 21  # too many wrong tokens from there; wait
    OUT_OF_TURN = 22  # a stage of a private sum before its time
    BAD_ROSTER = 23  # a private sum's devices: too few, twice, strangers, or this device's entry altered
    NO_AGREEMENT = 24  # too few devices have signed the same roster, or the same survivors
    BAD_SURVIVORS = 25  # the survivors of a private sum: too few, others, or without this device
    TOO_ALIKE = 26  # released beside an earlier sum, this one would give away the few devices by which they differ


@dataclass(frozen=True, slots=True)
class Rejection:
    """One refused message: the rule broken, in words.

    Attributes:
        reason: The rule.
        expected: What would have been right (no data values, at most 200 characters on the wire).
        got: What came instead.
        remedy: What the sender should do now.
    """

    reason: RejectReason
    expected: str = ""
    got: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        parts = [self.reason.name]
        parts += [f"expected {self.expected}"] if self.expected else []
        parts += [f"got {self.got}"] if self.got else []
        parts += [self.remedy] if self.remedy else []
        return "; ".join(parts)


class PrunefleetError(Exception):
    """Root of all errors raised on purpose. ``exit_code`` is what the command line ends with."""

    exit_code = 70


class ConfigError(PrunefleetError):
    """An option, configuration file or environment is wrong; the user's to mend."""

    exit_code = 2


class InputError(PrunefleetError):
    """The data, model or base weights given cannot be used; the user's to mend."""

    exit_code = 5


class LayoutError(InputError):
    """The network cannot be traced, or does not match the layout it should have."""


class ReplayError(PrunefleetError):
    """A stored decision does not follow from what is stored beside it."""

    exit_code = 6


class EgressError(PrunefleetError):
    """Something that must not leave the device was about to; nothing was sent."""


class LocalProtocolError(PrunefleetError):
    """Our own code used a state machine wrongly: a bug here, never the peer's fault, never sent."""


class RemoteProtocolError(PrunefleetError):
    """The peer broke a rule, or says that we did.

    Attributes:
        rejection: Which rule, and what to do.
    """

    exit_code = 3

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(str(rejection))
        self.rejection = rejection


class CarrierError(PrunefleetError):
    """The peer could not be reached.

    Attributes:
        retryable: True when trying again later may help.
    """

    exit_code = 4

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


def reject(reason: RejectReason, *, expected: str = "", got: str = "", remedy: str = "") -> RemoteProtocolError:
    """The error that says a peer's message broke ``reason``."""
    return RemoteProtocolError(Rejection(reason, expected, got, remedy))
