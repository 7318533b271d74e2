"""What an operator's wish does to a campaign: pause, resume, stop. Pure; open sessions are the round's to drop."""

from __future__ import annotations

from dataclasses import replace

from prunefleet_coordinator.admission import why_control_rejected
from prunefleet_coordinator.events import (
    AcceptControl,
    AnnounceEnd,
    AnnouncePaused,
    AnnounceResumed,
    Command,
    OperatorControlled,
    Reject,
    SaveSnapshot,
)
from prunefleet_coordinator.state import Happening, Snapshot
from prunefleet_shared.messages import Control, Ending, Phase


def controlled(snapshot: Snapshot, event: OperatorControlled) -> tuple[Snapshot, list[Command]]:
    """The campaign after the wish, and what to do; a wish that is fulfilled already is granted again."""
    operator_id, control = event.operator_id, event.control
    accept = AcceptControl(operator_id, control)
    if control is Control.STOP and snapshot.phase is Phase.STOPPED:
        return snapshot, [accept]  # it was stored, but our answer was lost
    rejection = why_control_rejected(snapshot.phase)
    if rejection:
        return snapshot, [Reject(operator_id, rejection)]
    if control is Control.STOP:
        stopped = replace(snapshot.moved_by(Happening.OPERATOR_STOPPED), is_paused=False)
        return stopped, [SaveSnapshot(stopped), accept, AnnounceEnd(Ending.STOPPED)]
    is_paused = control is Control.PAUSE
    if is_paused == snapshot.is_paused:
        return snapshot, [accept]
    after = replace(snapshot, is_paused=is_paused)
    announcement = AnnouncePaused(operator_id) if is_paused else AnnounceResumed(operator_id)
    return after, [SaveSnapshot(after), accept, announcement]
