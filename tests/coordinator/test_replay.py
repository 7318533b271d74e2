"""A run replays from its folder alone, and every tampering is found and named."""

import json
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_coordinator.aggregation import decide, margins_milli
from prunefleet_coordinator.archive import STEERING_FILE, read_signed, read_total, write_run
from prunefleet_coordinator.replay import replay
from prunefleet_coordinator.state import ClosedRound, Snapshot
from prunefleet_coordinator.store import MemoryStore
from prunefleet_coordinator.testing import outcome_payload, random_vote, small_campaign
from prunefleet_coordinator.totals import total_of
from prunefleet_shared.campaign import SlimBase
from prunefleet_shared.document_file import read_document_file, write_document
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import ReplayError
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import Phase, SessionKind, Total
from prunefleet_shared.private_sum import SessionFacts, open_coordinator_sum
from prunefleet_shared.steering_record import SteeringRecord, make_record, record_digest
from prunefleet_shared.steering_terms import SteeringTerms
from prunefleet_shared.sum_messages import Contribute
from prunefleet_shared.testing import COORDINATOR_KEY as KEY
from prunefleet_shared.testing import TRAINER_KEY

CAMPAIGN = small_campaign()
STRANGER_KEY = ec.derive_private_key(9, ec.SECP256R1())
VOTE_TOTAL = Total(
    tuple(int(a + b) for a, b in zip(random_vote(CAMPAIGN, 1), random_vote(CAMPAIGN, 2), strict=True)), 2
)


def outcome_total():
    campaign = replace(CAMPAIGN, cohort=replace(CAMPAIGN.cohort, quorum=1))
    cohort_sum = open_coordinator_sum(campaign, SessionFacts("bb", SessionKind.OUTCOME, 0, 1), None)
    cohort_sum.receive("d1", Contribute("bb", outcome_payload()))
    cohort_sum.end_stage()
    return total_of(CAMPAIGN, SessionKind.OUTCOME, cohort_sum)


def stored_run():
    """A store in which both levels were decided and the first was retrained and measured."""
    store, campaign_id = MemoryStore(), CAMPAIGN.campaign_id
    decisions = tuple(decide(CAMPAIGN, VOTE_TOTAL, level) for level in range(2))
    vote = ClosedRound(SessionKind.VOTE, 0, "aa", VOTE_TOTAL, ("d1", "d2"))
    outcome = ClosedRound(SessionKind.OUTCOME, 0, "bb", outcome_total(), ("d1",))
    slim_base = SlimBase(campaign_id, 0, decisions[0].fingerprint, "00" * 32, 5)
    store.save_document(campaign_id, 0, sign_document("campaign", CAMPAIGN, KEY))
    first = Snapshot(campaign_id, Phase.RETRAINING, 0, closed_rounds=(vote,), decisions=decisions[:1])
    store.save_closing(vote, first, sign_document("decision", decisions[0], KEY))
    store.save_snapshot(first, sign_document("slim_base", slim_base, TRAINER_KEY))
    second = Snapshot(campaign_id, Phase.RETRAINING, 1, closed_rounds=(vote, outcome), decisions=decisions)
    store.save_closing(outcome, second, sign_document("decision", decisions[1], KEY))
    return store


def steered_run(folder):
    """A run whose first slim base was steered, the trainer's record beside it."""
    num_channels = CAMPAIGN.layout.num_channels
    campaign = replace(CAMPAIGN, steering=SteeringTerms((1,) * num_channels, (1,) * num_channels))
    votes = [random_vote(campaign, seed) for seed in (1, 2)]
    total = Total(tuple(int(a + b) for a, b in zip(*votes, strict=True)), 2)
    decision = decide(campaign, total, 0)
    profiles = [grade_layout(campaign.layout, np.random.default_rng(kind).random(num_channels)) for kind in range(3)]
    record = make_record(campaign, decision, total, (0, 1, 2), np.stack(profiles))
    slim_base = SlimBase(campaign.campaign_id, 0, decision.fingerprint, "00" * 32, 5, record_digest(record))
    vote, store = ClosedRound(SessionKind.VOTE, 0, "aa", total, ("d1", "d2")), MemoryStore()
    snapshot = Snapshot(campaign.campaign_id, Phase.RETRAINING, 0, closed_rounds=(vote,), decisions=(decision,))
    store.save_document(campaign.campaign_id, 0, sign_document("campaign", campaign, KEY))
    store.save_closing(vote, snapshot, sign_document("decision", decision, KEY))
    store.save_snapshot(snapshot, sign_document("slim_base", slim_base, TRAINER_KEY))
    write_run(folder, store, campaign.campaign_id)
    write_document(folder / "level-0" / STEERING_FILE, record)
    return folder


def test_how_a_slim_base_was_steered_is_recomputed_too(tmp_path):
    (level,) = replay(steered_run(tmp_path / "run"))
    assert level.level == 0


def test_a_record_of_steering_that_does_not_follow_is_found(tmp_path):
    run = steered_run(tmp_path / "run")
    path = run / "level-0" / STEERING_FILE
    edit(path, lambda record: record["mixture"].update(explained_ppm=7))
    with pytest.raises(ReplayError, match=r"steering.json: digest does not follow"):
        replay(run)
    digest_of_the_forged = record_digest(read_document_file(path, SteeringRecord))
    resign(run / "level-0" / "slim_base.json", TRAINER_KEY, steering_digest=digest_of_the_forged)
    with pytest.raises(ReplayError, match=r"steering.json: the mixture that it states"):
        replay(run)
    path.write_text("{}")
    with pytest.raises(ReplayError, match=r"steering.json: .*SteeringRecord"):
        replay(run)


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path / "run", stored_run(), CAMPAIGN.campaign_id)
    return tmp_path / "run"


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def resign(path, key=KEY, **changes):
    """Change fields of a signed document and sign it again, as whoever holds ``key`` could."""
    signed = read_signed(path)
    again = sign_document(signed.kind, {**json.loads(signed.payload), **changes}, key)
    edit(
        path,
        lambda text: text.update(
            payload=again.payload.decode(), signature=again.signature.hex(), public_key=again.public_key.hex()
        ),
    )


def test_a_run_has_the_files_that_the_docs_name(run):
    assert sorted(path.relative_to(run).as_posix() for path in run.rglob("*.json")) == [
        "campaign.json",
        "level-0/decision.json",
        "level-0/outcome.json",
        "level-0/slim_base.json",
        "level-0/sum.json",
        "level-1/decision.json",
        "level-1/sum.json",
    ]
    assert read_total(run / "level-1" / "sum.json") == VOTE_TOTAL


def test_an_honest_run_agrees(run):
    decisions = replay(run)
    assert [(decision.path, decision.level) for decision in decisions] == [
        ("level-0/decision.json", 0),
        ("level-1/decision.json", 1),
    ]
    assert decisions[0].fingerprint == decide(CAMPAIGN, VOTE_TOTAL, 0).fingerprint


def test_many_runs_below_one_folder_are_all_replayed(run):
    write_run(run.parent / "other", stored_run(), CAMPAIGN.campaign_id)
    assert len(replay(run.parent)) == 4


def test_a_folder_without_a_run_has_nothing_to_replay(tmp_path):
    assert replay(tmp_path) == []


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("widths", [1, 1, 1]), ("cost", 1), ("num_devices", 3), ("tally_digest", "00"), ("fingerprint", "00")],
)
def test_a_decision_changed_in_any_field_and_signed_again_is_found(run, field, wrong):
    resign(run / "level-0" / "decision.json", **{field: wrong})
    with pytest.raises(ReplayError, match=rf"level-0.decision\.json: {field} does not follow.*expected .*, got "):
        replay(run)


def test_a_decision_with_two_channels_swapped_is_found(run):
    prior = json.loads(read_signed(run / "level-1" / "decision.json").payload)["prior"]
    prior[0][0], prior[0][1] = prior[0][1], prior[0][0]
    resign(run / "level-1" / "decision.json", prior=prior)
    with pytest.raises(ReplayError, match=r"level-1.decision\.json: prior"):
        replay(run)


@pytest.mark.parametrize(
    "changed",
    [
        {"rules": {"order": "public", "public_votes": 0, "near_tie_milli": 0}},
        {"rules": {"order": "mean", "public_votes": 0, "near_tie_milli": 2000}},
        {"rules": {"order": "mean", "public_votes": 9, "near_tie_milli": 0}, "public_options": [[0, 0, 0], [0, 0, 0]]},
        {"rules": {"order": "borda", "public_votes": 0, "near_tie_milli": 0}},  # the same order, by another rule
        {"public_options": [[0, 0, 0], [0, 0, 0]]},
    ],
)
def test_a_campaign_with_other_rules_signed_again_is_found(run, changed):
    resign(run / "campaign.json", **changed)
    with pytest.raises(ReplayError, match=r"level-0.decision\.json: .* does not follow"):
        replay(run)


def test_a_campaign_by_rules_that_are_none_is_found(run):
    resign(run / "campaign.json", rules={"order": "loudest", "public_votes": 0, "near_tie_milli": 0})
    with pytest.raises(ReplayError, match=r"campaign\.json: order rule: expected one of mean, .*, got 'loudest'"):
        replay(run)


def test_a_replay_tells_the_margins(run):
    assert replay(run)[0].margins_milli == margins_milli(CAMPAIGN, VOTE_TOTAL, decide(CAMPAIGN, VOTE_TOTAL, 0))


def test_a_sum_changed_by_one_vote_is_found(run):
    def move_a_grade(total):
        best = total["lanes"].index(max(total["lanes"][:16]))
        worst = total["lanes"].index(min(total["lanes"][:16]))
        total["lanes"][best] -= 1
        total["lanes"][worst] += 1  # still a sum that honest devices could have made

    edit(run / "level-0" / "sum.json", move_a_grade)
    with pytest.raises(ReplayError, match=r"level-0.decision\.json: .* does not follow"):
        replay(run)


def test_a_sum_no_devices_could_have_made_is_found(run):
    edit(run / "level-0" / "sum.json", lambda total: total.update(num_devices=5))
    with pytest.raises(ReplayError, match=r"sum\.json: no decision follows from it.*does not add up for 5 devices"):
        replay(run)


def test_a_decision_signed_by_a_stranger_is_found(run):
    resign(run / "level-0" / "decision.json", STRANGER_KEY)
    with pytest.raises(ReplayError, match=r"decision\.json: BAD_SIGNATURE"):
        replay(run)


def test_a_payload_changed_without_a_signature_is_found(run):
    edit(run / "campaign.json", lambda text: text.update(payload=text["payload"].replace("camera", "camerb")))
    with pytest.raises(ReplayError, match=r"campaign\.json: BAD_SIGNATURE"):
        replay(run)


@pytest.mark.parametrize("name", ["campaign.json", "level-1/sum.json", "level-1/decision.json"])
def test_a_missing_file_is_found(run, name):
    (run / name).unlink()
    with pytest.raises(ReplayError, match="expected a file, got No such file"):
        replay(run)


def test_a_decision_in_another_levels_folder_is_found(run):
    (run / "level-1" / "decision.json").write_bytes((run / "level-0" / "decision.json").read_bytes())
    with pytest.raises(ReplayError, match="level does not follow"):
        replay(run)


def test_a_slim_base_for_another_decision_is_found(run):
    resign(run / "level-0" / "slim_base.json", TRAINER_KEY, decision_fingerprint="00")
    with pytest.raises(ReplayError, match=r"slim_base\.json: decision_fingerprint"):
        replay(run)


def test_a_slim_base_signed_by_a_stranger_is_found(run):
    resign(run / "level-0" / "slim_base.json", STRANGER_KEY)
    with pytest.raises(ReplayError, match=r"slim_base\.json: BAD_SIGNATURE"):
        replay(run)


def test_a_slim_base_signed_by_another_than_the_campaigns_trainer_is_found(run):
    resign(run / "level-0" / "slim_base.json", STRANGER_KEY)
    with pytest.raises(ReplayError, match=r"slim_base\.json: BAD_SIGNATURE"):
        replay(run)


def test_an_impossible_outcome_is_found(run):
    edit(run / "level-0" / "outcome.json", lambda total: total["lanes"].__setitem__(0, 2))
    with pytest.raises(ReplayError, match=r"outcome\.json: no devices could have made this sum: tried"):
        replay(run)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"lanes": [1.5], "num_devices": 2}', b"\xff\xfe"])
def test_a_file_that_is_no_sum_is_named(run, body):
    (run / "level-0" / "sum.json").write_bytes(body)
    with pytest.raises(ReplayError, match=r"level-0.sum\.json: MALFORMED"):
        replay(run)
