"""What a person who watches a campaign is told: one kind and a few plain facts per command carried out.

The facts are strings, integers and lists of ids, so that a progress display, a log line and a JSON stream can all be
made of them. Never a vector, a tally or a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prunefleet_coordinator.events import (
    AnnounceAbandoned,
    AnnounceDecision,
    AnnounceEnd,
    AnnounceJoined,
    AnnouncePaused,
    AnnounceResumed,
    AnnounceRuling,
    AnnounceStage,
    Command,
    Invite,
    Reject,
    SaveClosing,
    SaveSlimBase,
)
from prunefleet_coordinator.state import Progress
from prunefleet_shared.acceptance import Ruling

Fact = int | str | bool | list[str]
Observer = Callable[[str, Mapping[str, Fact]], None]
"""Called as ``on_event(kind, facts)``. Must not raise and must not wait: it runs between two messages."""


def describe(command: Command, progress: Progress) -> tuple[str, dict[str, Fact]] | None:
    """Kind and facts of a command; None for those that change nothing worth showing (a deferral, a re-sent offer).

    Kinds: ``invited``, ``joined``, ``stage``, ``rejected``, ``session_closed``, ``session_abandoned``, ``decided``,
    ``promoted``, ``rolled_back``, ``slim_base_published``, ``paused``, ``resumed``, ``ended``. All carry the progress
    after the command's whole batch: ``phase``, ``level``, ``attempt``, ``num_contributions`` and ``awaited`` (ids of
    invited devices still to contribute).
    """
    own = _own_facts(command)
    if own is None:
        return None
    kind, facts = own
    return kind, {
        "phase": progress.phase.name.lower(),
        "level": progress.level,
        "attempt": progress.attempt,
        "num_contributions": progress.num_contributions,
        "awaited": list(progress.awaited_ids),
        **facts,
    }


def _own_facts(command: Command) -> tuple[str, dict[str, Fact]] | None:
    told: tuple[str, dict[str, Fact]] | None = None
    match command:
        case Invite():
            told = "invited", {"device_id": command.device_id, "session_kind": command.kind.name.lower()}
        case AnnounceJoined():
            told = "joined", {"device_id": command.device_id}
        case AnnounceStage():
            told = "stage", {"stage": command.stage.name.lower(), "num_awaited": command.num_awaited}
        case Reject():
            told = "rejected", {"peer_id": command.peer_id, "reason": command.rejection.reason.name}
        case SaveClosing(closed=closed):
            facts: dict[str, Fact] = {"closed_level": closed.level, "num_devices": closed.total.num_devices}
            told = "session_closed", {"session_kind": closed.kind.name.lower(), **facts}
        case AnnounceAbandoned():
            told = (
                "session_abandoned",
                {"num_lost": command.num_contributions, "quorum": command.quorum, "why": command.why},
            )
        case AnnounceDecision(decision=decision):
            told = "decided", {"cost": decision.cost, "fingerprint": decision.fingerprint}
        case SaveSlimBase(slim_base=slim_base):
            told = "slim_base_published", {"model_digest": slim_base.model_digest}
        case AnnounceEnd():
            told = "ended", {"ending": command.ending.name.lower()}
        case _:
            told = _campaign_facts(command)
    return told


def _ruling_facts(ruling: Ruling) -> dict[str, Fact]:
    return {
        "ruled_level": ruling.level,
        "is_rollout": ruling.is_rollout,
        "reason": ruling.reason.name.lower(),
        "num_devices": ruling.num_devices,
        "num_worse": ruling.num_worse,
        "max_worse": ruling.max_worse,
    }


def _campaign_facts(command: Command) -> tuple[str, dict[str, Fact]] | None:
    match command:
        case AnnounceRuling(ruling=ruling):
            return "promoted" if ruling.is_promoted else "rolled_back", _ruling_facts(ruling)
        case AnnouncePaused(operator_id):
            return "paused", {"operator_id": operator_id}
        case AnnounceResumed(operator_id):
            return "resumed", {"operator_id": operator_id}
        case _:
            return None  # deferrals and offers are repeated at every poll
