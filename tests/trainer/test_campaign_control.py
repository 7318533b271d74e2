"""An operator asks where campaigns stand, and pauses, resumes and stops them; over real gRPC with mutual TLS."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from types import SimpleNamespace

import pytest
from click.testing import Result
from operator_world import World, campaign_status, invoke
from rich.console import Console

from prunefleet_shared.acceptance import RulingReason
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.messages import (
    Awaited,
    Control,
    ControlCampaign,
    FleetStatus,
    GetStatus,
    Phase,
    RulingStatus,
    Stored,
)
from prunefleet_trainer import membership, operator_commands
from prunefleet_trainer.campaign_cli import app
from prunefleet_trainer.status_table import HONEST_BUT_CURIOUS


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = dataclasses.replace(membership.PATIENCE, first_s=0.01, max_s=0.02, give_up_after_s=0.05)
    monkeypatch.setattr(membership.PatientLink.__init__, "__defaults__", (policy,))


LIVE, ENDED = campaign_status("ab" * 16), campaign_status("cd" * 16, Phase.COMPLETED)


def told(world: World, *campaigns: object, age_ms: int = 2000, is_built_in: bool = False) -> None:
    world.coordinator.answers[GetStatus] = FleetStatus(campaigns, age_ms, is_built_in)


def control(world: World, *arguments: object) -> Result:
    world.coordinator.answers[ControlCampaign] = Stored()
    return invoke(app, *arguments, "--state", world.operator_state)


def test_status_tells_people_what_is_awaited_since_when_and_from_whom(world: World) -> None:
    paused = campaign_status("ef" * 16, Phase.RETRAINING, is_paused=True, attempt=0, awaited=Awaited.OPERATOR)
    told(world, LIVE, ENDED, paused)
    text = " ".join(invoke(app, "status", "--state", world.operator_state).stdout.split())
    for words in ("abababab", "voting 1/2 1 3/10 6 1 min 30 s", "completed"):
        assert words in text
    for words in ("retraining, paused", "deny-list 2 s old"):
        assert words in text
    assert "abababab has waited 30 s for devices: camera-1, camera-2" in text
    assert "efefefef has waited 30 s for the operator" in text
    assert HONEST_BUT_CURIOUS not in text


HELD = RulingStatus(0, False, RulingReason.HELD, 30, 1, 3)
MISSED = RulingStatus(1, True, RulingReason.TOO_MANY_WORSE, 90, 12, 9)
UNSURE = RulingStatus(1, False, RulingReason.WITHIN_NOISE, 30, -1, 3)


def test_status_tells_what_was_ruled_and_why(world: World) -> None:
    told(world, campaign_status("ab" * 16, Phase.ROLLING_OUT, rulings=(HELD, MISSED, UNSURE)))
    text = " ".join(invoke(app, "status", "--state", world.operator_state).stdout.split())
    assert "rolling out" in text
    assert "abababab level 1 promoted by its canaries: 1 of 30 devices worse off, 3 may be" in text
    assert "abababab level 2 rolled back by the rollout: 12 of 90 devices worse off, 9 may be" in text
    assert "level 2 rolled back by its canaries: -1 of 30 devices worse off, 3 may be, and noise may hide more" in text


def test_rulings_are_told_to_machines(world: World) -> None:
    told(world, campaign_status("ab" * 16, rulings=(HELD, MISSED)))
    document = json.loads(invoke(app, "status", "--json", "--state", world.operator_state).stdout)
    held, missed = document["campaigns"][0]["rulings"]
    assert held == {**dataclasses.asdict(HELD), "reason": "held", "is_promoted": True}
    assert (missed["reason"], missed["is_promoted"], missed["is_rollout"]) == ("too_many_worse", False, True)


def test_status_warns_of_a_built_in_authority_and_of_an_old_deny_list(world: World) -> None:
    told(world, age_ms=600_000, is_built_in=True)
    text = " ".join(invoke(app, "status", "--state", world.operator_state).stdout.split())
    assert HONEST_BUT_CURIOUS in text
    assert "is the authority running?" in text
    assert "campaign create" in text


def test_status_tells_machines_all_of_it(world: World) -> None:
    told(world, LIVE)
    document = json.loads(invoke(app, "status", "--json", "--state", world.operator_state).stdout)
    assert document["campaigns"][0] == {
        **dataclasses.asdict(LIVE),
        "phase": "voting",
        "awaited": "devices",
        "awaited_ids": ["camera-1", "camera-2"],
        "rulings": [],
    }
    assert (document["deny_list_age_ms"], document["authority_is_built_in"]) == (2000, False)


def test_watching_outlives_a_coordinator_that_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told(world, LIVE)
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 1:
            world.stop_coordinator()
        if len(rests) == 3:
            raise KeyboardInterrupt

    shown: list[str] = []

    def update(_live: object, table: object, *, refresh: bool) -> None:
        assert refresh
        console = Console(width=80)
        with console.capture() as capture:
            console.print(table)
        shown.append(capture.get())

    monkeypatch.setattr(operator_commands.Live, "update", update)
    monkeypatch.setattr(operator_commands, "asyncio", SimpleNamespace(sleep=rest))
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(operator_commands.watch_status(world.operator_state, 2.0))
    assert rests == [2.0] * 3
    assert ["trying again" in text for text in shown] == [False, True, True]
    assert all("abababab" in text for text in shown), "what was known last stays on the screen"


@pytest.mark.parametrize(
    ("command", "meant"), [("pause", Control.PAUSE), ("resume", Control.RESUME), ("stop", Control.STOP)]
)
def test_control_needs_no_id_when_one_campaign_is_live(world: World, command: str, meant: Control) -> None:
    told(world, LIVE, ENDED)
    result = control(world, command)
    assert result.exit_code == 0, result.output
    assert world.coordinator.messages(ControlCampaign) == [ControlCampaign("ab" * 16, meant)]


def test_control_takes_the_beginning_of_an_id(world: World) -> None:
    other = campaign_status("ac" * 16)
    told(world, LIVE, other)
    assert json.loads(control(world, "stop", "AC", "--json").stdout) == {"campaign_id": "ac" * 16, "done": "stopped"}
    assert world.coordinator.messages(ControlCampaign) == [ControlCampaign("ac" * 16, Control.STOP)]
    for arguments in (("stop", "a"), ("stop",)):
        result = control(world, *arguments)
        assert isinstance(result.exception, ConfigError)
        assert "abababab" in str(result.exception)
        assert "acacacac" in str(result.exception)
    assert "'ff'" in str(control(world, "stop", "ff").exception)
    told(world, ENDED)
    assert "no campaign is live" in str(control(world, "stop").exception)
    assert len(world.coordinator.messages(ControlCampaign)) == 1
