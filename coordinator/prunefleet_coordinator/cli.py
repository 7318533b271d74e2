"""The ``coordinator`` commands."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from prunefleet_coordinator.replay import ReplayedDecision
from prunefleet_coordinator.replay import replay as replay_directory
from prunefleet_shared.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Coordinate a fleet, and check what was decided.")


@app.callback()
def coordinator() -> None:
    """Coordinate a fleet, and check what was decided."""
    # With a callback, typer keeps `replay` a command of its own while it is still the only one.


@app.command()
def replay(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder, or one that holds several runs.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the decisions as JSON.")] = False,
) -> None:
    """Recompute every decision below DIR from its stored sum, and fail unless each one agrees bit for bit."""
    if not directory.is_dir():
        msg = f"{directory}: expected a folder written by a run"
        raise InputError(msg)
    decisions = replay_directory(directory)
    if not decisions:
        msg = f"{directory}: expected decisions (level-*/decision.json), found none"
        raise InputError(msg)
    typer.echo(_as_json(decisions) if as_json else _as_text(decisions))


def _as_json(decisions: list[ReplayedDecision]) -> str:
    return json.dumps([asdict(decision) for decision in decisions], indent=2)


def _as_text(decisions: list[ReplayedDecision]) -> str:
    lines = [f"{d.path}: agrees, {d.num_devices} devices, fingerprint {d.fingerprint[:16]}" for d in decisions]
    keys = sorted({d.public_key_digest[:16] for d in decisions})
    plural = "" if len(lines) == 1 else "s"
    return "\n".join([*lines, f"{len(lines)} decision{plural} replayed, all agree; signed with {', '.join(keys)}"])
