"""Rulings replay from a run's folder alone, and every tampering with one, or with what it follows from, is found."""

import json
import shutil

import pytest
from judged_player import JudgedPlayer, judged_campaign

from prunefleet_coordinator.archive import read_signed, write_run
from prunefleet_coordinator.replay import replay
from prunefleet_coordinator.store import MemoryStore
from prunefleet_shared.acceptance import RulingReason
from prunefleet_shared.campaign import CohortPolicy, SlimBase
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import ReplayError
from prunefleet_shared.testing import COORDINATOR_KEY as KEY
from prunefleet_shared.testing import TRAINER_KEY


def stored(player):
    """A store with all that a played campaign was told to save."""
    store, campaign_id = MemoryStore(), player.campaign.campaign_id
    store.save_document(campaign_id, 0, sign_document("campaign", player.campaign, KEY))
    for closing in player.closings:
        decision = sign_document("decision", closing.decision, KEY) if closing.decision else None
        ruling = sign_document("ruling", closing.ruling, KEY) if closing.ruling else None
        store.save_closing(closing.closed, closing.snapshot, decision, ruling)
    for decision in player.round.snapshot.decisions:
        slim_base = SlimBase(campaign_id, decision.level, decision.fingerprint, "00" * 32, 100)
        store.save_document(campaign_id, decision.level, sign_document("slim_base", slim_base, TRAINER_KEY))
    return store


def written(path, *, num_steps=99, canary_count=1, rolled_out=1):
    """The run of a campaign in which level 1 is rolled out, rolled back, and level 0 promoted for all."""
    cohort = CohortPolicy(size=4, quorum=3, deadline_ms=60_000, overselection_permille=1000)
    campaign = judged_campaign(2, canary_size=3, canary_count=canary_count, cohort=cohort)
    player = JudgedPlayer(campaign, lambda level, is_rollout: not is_rollout or level < rolled_out)
    for _ in range(num_steps):
        if not player.round.has_ended:
            player.step()
    write_run(path, stored(player), campaign.campaign_id)
    return path


@pytest.fixture
def run(tmp_path):
    return written(tmp_path / "run")


def resign(path, key=KEY, **changes):
    """Change fields of a signed document and sign it again, as a coordinator that lies could."""
    signed = read_signed(path)
    again = sign_document(signed.kind, {**json.loads(signed.payload), **changes}, key)
    text = json.loads(path.read_text())
    text.update(payload=again.payload.decode(), signature=again.signature.hex(), public_key=again.public_key.hex())
    path.write_text(json.dumps(text))


def edit_lanes(path, lane, change):
    total = json.loads(path.read_text())
    total["lanes"][lane] += change
    path.write_text(json.dumps(total))


def test_a_judged_run_has_the_files_that_the_docs_name_and_replays(run):
    files = {path.relative_to(run).as_posix() for path in run.rglob("*.json")}
    rulings = {f"ruling-{number}.json" for number in (1, 2, 3, 4)}
    levels = {
        f"level-{n}/{file}.json" for n in (0, 1) for file in ("sum", "decision", "slim_base", "outcome", "rollout")
    }
    assert files == {"campaign.json"} | rulings | levels
    assert [(decision.level, decision.is_promoted) for decision in replay(run)] == [(0, True), (1, False)]


@pytest.mark.parametrize("num_steps", range(1, 8))
def test_a_run_under_way_replays_at_every_step(tmp_path, num_steps):
    assert replay(written(tmp_path, num_steps=num_steps))


def test_cohorts_of_canaries_are_in_the_run_and_are_what_is_judged(tmp_path):
    run = written(tmp_path, canary_count=3)
    replay(run)
    path = run / "level-0" / "outcome_cohorts.json"
    cohorts = json.loads(path.read_text())
    cohorts["totals"][0]["lanes"][-9] -= 1  # one device of the first cohort no longer says that it held the floor
    path.write_text(json.dumps(cohorts))
    with pytest.raises(ReplayError, match="what the cohorts beside it come to"):
        replay(run)


@pytest.mark.parametrize(
    ("number", "changes", "field"),
    [
        (1, {"reason": int(RulingReason.TOO_MANY_WORSE)}, "reason"),
        (3, {"reason": int(RulingReason.HELD)}, "reason"),
        (3, {"num_worse": 0}, "num_worse"),
        (2, {"num_devices": 4}, "num_devices"),
        (2, {"max_worse": 3}, "max_worse"),
        (1, {"level": 1}, "level"),
        (1, {"number": 2}, "number"),
        (3, {"is_rollout": False}, "is_rollout"),
        (3, {"levels_held": [0, 1]}, "levels_held"),
        (4, {"level_for_all": 1}, "level_for_all"),
        (3, {"level_for_all": 0}, "level_for_all"),
        (1, {"decision_fingerprint": "00" * 32}, "decision_fingerprint"),
        (1, {"outcome_digest": "00" * 32}, "outcome_digest"),
        (1, {"campaign_id": "00" * 16}, "campaign_id"),
    ],
)
def test_a_ruling_that_does_not_follow_is_found_and_the_field_is_named(run, number, changes, field):
    resign(run / f"ruling-{number}.json", **changes)
    with pytest.raises(ReplayError, match=rf"ruling-{number}\.json: {field} does not follow"):
        replay(run)


def test_a_ruling_by_another_key_is_found(run):
    resign(run / "ruling-1.json", key=TRAINER_KEY)
    with pytest.raises(ReplayError, match="a ruling signed by the campaign's key"):
        replay(run)


def test_a_sum_that_was_made_better_is_found_by_the_ruling_on_it(run):
    edit_lanes(run / "level-1" / "rollout.json", -16, -1)  # one device less in the worst bin
    edit_lanes(run / "level-1" / "rollout.json", -9, 1)  # one more that lost nothing
    with pytest.raises(ReplayError, match=r"ruling-3\.json: num_worse does not follow"):
        replay(run)


def test_a_sum_that_no_devices_could_have_made_is_found(run):
    edit_lanes(run / "level-1" / "rollout.json", -9, 5)
    with pytest.raises(ReplayError, match="no devices could have made this sum"):
        replay(run)


def test_a_ruling_that_was_taken_away_is_found(run):
    (run / "ruling-4.json").unlink()
    with pytest.raises(ReplayError, match="4 sums of outcomes are to be ruled on, there are 3 rulings"):
        replay(run)


def test_a_bad_outcome_that_was_taken_away_with_its_ruling_is_found(run):
    (run / "ruling-3.json").rename(run / "kept.json")
    (run / "ruling-4.json").rename(run / "ruling-3.json")
    (run / "level-1" / "rollout.json").unlink()
    with pytest.raises(ReplayError, match=r"level-1/rollout\.json|ruling-3\.json"):
        replay(run)


def test_a_level_that_the_search_never_asked_for_is_found(tmp_path):
    run, other = written(tmp_path / "a", num_steps=3), written(tmp_path / "b")
    shutil.rmtree(run / "level-1")
    for number in (2, 3, 4):
        (run / f"ruling-{number}.json").unlink(missing_ok=True)
    (run / "ruling-1.json").unlink()
    (run / "level-0" / "outcome.json").unlink()
    assert replay(run)  # the first level is decided, and not measured yet
    shutil.copytree(other / "level-1", run / "level-1", ignore=lambda *_: {"outcome.json", "rollout.json"})
    with pytest.raises(ReplayError, match="level-1: level does not follow"):
        replay(run)
