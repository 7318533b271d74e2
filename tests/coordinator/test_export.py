"""A campaign's files out of the store: replayable, with a report that knows no device, also while it goes on."""

import contextlib
import json
from pathlib import Path

import jsonschema
import pytest

from prunefleet_coordinator import report_model
from prunefleet_coordinator.aggregation import decide
from prunefleet_coordinator.export import export_campaign, find_campaign, opened
from prunefleet_coordinator.replay import replay
from prunefleet_coordinator.state import ClosedRound, Phase, Snapshot
from prunefleet_coordinator.store import MemoryStore, SqlStore, StoredCampaign
from prunefleet_coordinator.testing import outcome_payload, random_vote, small_campaign
from prunefleet_shared.campaign import SlimBase
from prunefleet_shared.documents import sign_document
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.lanes import unpack
from prunefleet_shared.messages import SessionKind, Total
from prunefleet_shared.metrics import OUTCOME_LANES
from prunefleet_shared.testing import COORDINATOR_KEY as KEY
from prunefleet_shared.testing import TRAINER_KEY

CAMPAIGN = small_campaign()
ID = CAMPAIGN.campaign_id
SCHEMA = Path(__file__).parents[2] / "simulation" / "prunefleet_simulation" / "report.schema.json"


def total_of(vectors):
    return Total(tuple(int(lane) for lane in sum(vectors)), len(vectors))


VOTE = ClosedRound(SessionKind.VOTE, 0, "aa", total_of([random_vote(CAMPAIGN, n) for n in (1, 2)]), ("d1", "d2"))
OUTCOME = ClosedRound(
    SessionKind.OUTCOME, 0, "bb", total_of([unpack(OUTCOME_LANES, outcome_payload()) for _ in "ab"]), ("d1", "d2")
)
DECISIONS = tuple(decide(CAMPAIGN, VOTE.total, level) for level in (0, 1))
SLIM_BASE = SlimBase(ID, 0, DECISIONS[0].fingerprint, "00" * 32, 10)


def enter(store):
    store.save_campaign(StoredCampaign(ID, CAMPAIGN.device_class), sign_document("campaign", CAMPAIGN, KEY))


def close_vote(store):
    snapshot = Snapshot(ID, Phase.RETRAINING, 0, closed_rounds=(VOTE,), decisions=DECISIONS[:1])
    store.save_closing(VOTE, snapshot, sign_document("decision", DECISIONS[0], KEY))


def close_outcome(store):
    store.save_document(ID, 0, sign_document("slim_base", SLIM_BASE, TRAINER_KEY))
    rounds = (VOTE, OUTCOME)
    snapshot = Snapshot(ID, Phase.RETRAINING, 1, closed_rounds=rounds, decisions=DECISIONS, slim_bases=(SLIM_BASE,))
    store.save_closing(OUTCOME, snapshot, sign_document("decision", DECISIONS[1], KEY))


@pytest.fixture
def store(tmp_path):
    with contextlib.closing(SqlStore(f"sqlite:///{tmp_path / 'coordinator.sqlite'}")) as opened_store:
        enter(opened_store)
        yield opened_store


def exported(store, out, *, is_authority_built_in=False):
    export_campaign(store, ID, out, is_authority_built_in=is_authority_built_in)
    report = json.loads((out / "report.json").read_text())
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    return report


def test_a_campaign_under_way_is_exported_replayed_and_reported(store, tmp_path):
    close_vote(store)
    close_outcome(store)
    report = exported(store, tmp_path / "out")
    assert [decision.level for decision in replay(tmp_path / "out")] == [0, 1]
    assert not {"arms", "devices", "verdict", "wire", "seeds"} & set(report)
    assert (report["fleet"]["phase"], report["fleet"]["num_voters"]) == ("retraining", 2)
    first, second = report["rounds"]
    assert (first["outcome"]["tried"], first["outcome"]["accepted"], first["gate_accept_rate"]) == (2, 2, 1.0)
    assert second["outcome"] is None
    assert [d["fingerprint"] for d in report["decisions"]] == [d.fingerprint for d in DECISIONS]
    assert sum(tally["num_channels"] for tally in report["topology"]) == CAMPAIGN.layout.num_channels


def test_a_report_names_no_device(store, tmp_path):
    close_vote(store)
    exported(store, tmp_path / "out")
    text = "".join(path.read_text() for path in (tmp_path / "out").rglob("*.json"))
    assert '"d1"' not in text


def test_a_campaign_that_just_began_has_a_report_without_rounds(store, tmp_path):
    report = exported(store, tmp_path / "out")
    assert (report["rounds"], report["decisions"], report["fleet"]["phase"]) == ([], [], "voting")


def test_what_is_not_private_or_only_honest_but_curious_is_said(store, tmp_path):
    assert ["Not private" in note for note in exported(store, tmp_path / "a")["notes"]] == [True]
    notes = exported(store, tmp_path / "b", is_authority_built_in=True)["notes"]
    assert notes[1].startswith("Honest-but-curious only")


def test_an_export_may_be_repeated_as_the_campaign_goes_on(store, tmp_path):
    for go_on in (lambda _: None, close_vote, close_outcome):
        go_on(store)
        exported(store, tmp_path / "out")
    assert len(replay(tmp_path / "out")) == 2


class RacingStore(MemoryStore):
    """A server closes the vote the moment somebody has read for the n-th time."""

    def __init__(self, num_reads):
        super().__init__()
        self.num_reads = num_reads

    def load_closed(self, campaign_id, kind, level):
        return self._and_race(super().load_closed(campaign_id, kind, level))

    def load_snapshot(self, campaign_id):
        return self._and_race(super().load_snapshot(campaign_id))

    def _and_race(self, answer):
        self.num_reads -= 1
        if self.num_reads == 0:
            close_vote(self)
        return answer


@pytest.mark.parametrize("num_reads", range(1, 6))
def test_an_export_is_whole_although_the_server_writes_meanwhile(tmp_path, num_reads):
    store = RacingStore(num_reads)
    enter(store)
    export_campaign(store, ID, tmp_path, is_authority_built_in=False)
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["decisions"]) == len(report["rounds"])
    replay(tmp_path)


def test_a_store_in_use_can_be_read(store, tmp_path):
    close_vote(store)
    with opened(f"sqlite:///{tmp_path / 'coordinator.sqlite'}") as second:
        assert exported(second, tmp_path / "out")["fleet"]["phase"] == "retraining"
        close_outcome(store)
        assert exported(second, tmp_path / "out")["fleet"]["num_voters"] == 2


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(ConfigError, match="expected the database"), opened(f"sqlite:///{tmp_path / 'no.sqlite'}"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_campaign_the_store_does_not_have(tmp_path):
    with pytest.raises(ConfigError, match="has no campaign"):
        export_campaign(MemoryStore(), ID, tmp_path, is_authority_built_in=False)


def test_a_folder_that_cannot_be_made(store, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="choose another place"):
        export_campaign(store, ID, tmp_path / "file" / "out", is_authority_built_in=False)


def test_a_campaign_is_found_by_how_its_id_begins():
    ids = ["abc", "abd", "xyz"]
    assert find_campaign(ids, None) == "xyz"
    assert find_campaign(ids, "abd") == "abd"
    assert find_campaign(ids, "x") == "xyz"
    for wanted, words in (("ab", "got 2; there are: abc, abd"), ("q", "got 0; there are: abc, abd, xyz")):
        with pytest.raises(ConfigError, match=words):
            find_campaign(ids, wanted)
    with pytest.raises(ConfigError, match="no campaign yet"):
        find_campaign([], None)


def test_phases_of_the_report_are_those_of_a_campaign():
    assert set(report_model.PhaseName.__args__) == {phase.name.lower() for phase in Phase}
