"""SIGKILL to a real coordinator process at seeded random moments: nothing is lost, doubled or asked for twice.

15 kills by default; ``PRUNEFLEET_KILLS=50`` is the long form (a minute, several on a busy machine).
``killable_coordinator`` has the fleet.
"""

from __future__ import annotations

import asyncio
import json
import os
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from killable_coordinator import COHORT, QUORUM, KillWorld

from prunefleet_coordinator.state import ClosedRound
from prunefleet_coordinator.store import SqlStore
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.lanes import unpack
from prunefleet_shared.messages import Ending, SessionKind
from prunefleet_shared.metrics import read_outcome

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer imports names that click 8.5 deprecates
    from prunefleet_shared import cli

NUM_KILLS = int(os.environ.get("PRUNEFLEET_KILLS", "15"))
LIMIT_S = 60.0 + 4.0 * NUM_KILLS


@pytest.mark.timeout(LIMIT_S + 30)
def test_a_coordinator_killed_at_any_moment_counts_everybody_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = play(tmp_path, NUM_KILLS, seed=1)
    store = SqlStore(f"sqlite:///{world.state / 'coordinator.sqlite'}")
    try:
        for campaign in world.campaigns:
            check_campaign(world, campaign, store)
        check_what_was_announced(world, store)
    finally:
        store.close()
    check_what_was_asked(world)
    check_exports(world, capsys)


def play(folder: Path, num_kills: int, seed: int) -> KillWorld:
    async def run() -> KillWorld:
        world = KillWorld(folder, num_kills, seed)
        async with asyncio.timeout(LIMIT_S):
            await world.run()
        return world

    return asyncio.run(run())


def check_campaign(world: KillWorld, campaign: Campaign, store: SqlStore) -> None:
    rounds = [(SessionKind.VOTE, 0), *((SessionKind.OUTCOME, level) for level in range(len(campaign.levels)))]
    for kind, level in rounds:
        closed = store.load_closed(campaign.campaign_id, kind, level)
        assert closed is not None, f"{kind.name} of level {level} was never closed"
        check_sum(world, campaign, closed)


def check_sum(world: KillWorld, campaign: Campaign, closed: ClosedRound) -> None:
    """The stored sum is that of exactly one contribution from each of its contributors."""
    table = campaign.lanes_of(closed.kind)
    payloads = [world.said[name, closed.session_id] for name in closed.contributors]
    assert all(len(different) == 1 for different in payloads), "a device said two things in one session"
    expected = sum(unpack(table, payload) for different in payloads for payload in different)
    assert np.array_equal(closed.total.lanes, expected)
    assert QUORUM <= closed.total.num_devices == len(closed.contributors) <= COHORT
    told = {name for name, session in world.counted if session == closed.session_id}
    assert told <= set(closed.contributors), "somebody was told that it counted, and did not"
    if closed.kind is SessionKind.OUTCOME:
        outcome = read_outcome(np.asarray(closed.total.lanes))
        assert outcome.tried == outcome.finished == sum(outcome.accuracy_gain) == len(closed.contributors)


def check_what_was_announced(world: KillWorld, store: SqlStore) -> None:
    """Whatever decision or slim base anybody ever saw is the one that is stored."""
    for (kind, campaign_id, level), payloads in world.announced.items():
        stored = store.load_document(campaign_id, kind, level)
        assert stored is not None
        assert payloads == {stored.payload}, f"{kind} of level {level} was announced before it was stored"


def check_what_was_asked(world: KillWorld) -> None:
    twice = {what: times for what, times in world.asked.items() if times > 1}
    assert not twice, "a device worked again for what it had answered"
    assert set(world.endings) <= {Ending.COMPLETED}
    attempts: dict[tuple[str, int, int, int], set[str]] = defaultdict(set)
    said: dict[tuple[str, str, int, int], set[bytes]] = defaultdict(set)
    for session_id, (campaign_id, to) in world.sessions.items():
        attempts[campaign_id, to.kind, to.level, to.attempt].add(session_id)
    for (name, session_id), payloads in world.said.items():
        campaign_id, to = world.sessions[session_id]
        said[name, campaign_id, to.kind, to.level] |= payloads
    assert all(len(sessions) == 1 for sessions in attempts.values()), "an attempt was opened twice"
    assert all(len(different) == 1 for different in said.values()), "a device said two things in one round"


def check_exports(world: KillWorld, capsys: pytest.CaptureFixture[str]) -> None:
    for campaign in world.campaigns:
        out = world.folder / "runs" / campaign.campaign_id
        state = ["--state", str(world.state)]
        assert cli.run(["coordinator", "export", campaign.campaign_id[:12], "--out", str(out), *state]) == 0
        report = json.loads((out / "report.json").read_text())
        assert report["fleet"]["phase"] == "completed"
        assert [entry["outcome"]["tried"] >= QUORUM for entry in report["rounds"]] == [True, True]
    capsys.readouterr()
    assert cli.run(["coordinator", "replay", str(world.folder / "runs"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2 * len(world.campaigns)
