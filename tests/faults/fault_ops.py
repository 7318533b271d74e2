"""Faults as data: what goes wrong, and at which message or save."""

from __future__ import annotations

from dataclasses import dataclass

from prunefleet_shared.messages import Up


@dataclass(frozen=True)
class Nth:
    """The ``n``-th message of a run, from 0, whoever sends it; with ``kind``, only messages of that type count."""

    n: int
    kind: type[Up] | None = None


@dataclass(frozen=True)
class LoseRequest:
    """The message never arrives; the sender hears nothing."""

    call: Nth


@dataclass(frozen=True)
class LoseResponse:
    """The message arrives and is carried out; its answer is lost."""

    call: Nth


@dataclass(frozen=True)
class Duplicate:
    """The message arrives twice; the sender hears the second answer."""

    call: Nth


@dataclass(frozen=True)
class Reorder:
    """The message is held for ``hold_s``, so that messages sent later overtake it."""

    call: Nth
    hold_s: float = 3.0


@dataclass(frozen=True)
class Late:
    """The message is held until any session open now has passed its deadline."""

    call: Nth


@dataclass(frozen=True)
class AdvanceTime:
    """All machines are suspended for ``seconds`` just before the message is sent."""

    call: Nth
    seconds: float


@dataclass(frozen=True)
class RestartCoordinator:
    """The coordinator is killed after carrying the message out, before it can answer, and started from its store."""

    call: Nth


@dataclass(frozen=True)
class RestartDevice:
    """A device (None: the sender) is killed after the message was carried out, and started from its store."""

    call: Nth
    device: int | None = None


@dataclass(frozen=True)
class Stranger:
    """Somebody who was not invited contributes to the session that a device was last invited to."""

    call: Nth


@dataclass(frozen=True)
class Pause:
    """The operator pauses the campaign as the message is sent, and resumes it ``for_s`` later."""

    call: Nth
    for_s: float


@dataclass(frozen=True)
class StopCampaign:
    """The operator stops the campaign as the message is sent."""

    call: Nth


@dataclass(frozen=True)
class SaveFails:
    """The ``n``-th save of the run, from 0, fails; with ``is_stored``, only its success is not heard of."""

    n: int
    is_stored: bool = False


@dataclass(frozen=True)
class CrashAtSave:
    """The coordinator is killed after the ``n``-th save of the run, before anything that follows from it."""

    n: int


SaveOp = SaveFails | CrashAtSave
Op = (
    SaveOp
    | Pause
    | StopCampaign
    | LoseRequest
    | LoseResponse
    | Duplicate
    | Reorder
    | Late
    | AdvanceTime
    | RestartCoordinator
    | RestartDevice
    | Stranger
)
