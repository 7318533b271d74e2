"""One contract for every store; a new store only has to appear in the fixture ``store``."""

import contextlib
from dataclasses import replace

import pytest

from prunefleet_coordinator.aggregation import decide
from prunefleet_coordinator.state import ClosedRound, Snapshot
from prunefleet_coordinator.store import BlobPiece, MemoryStore, SqlStore, StoredCampaign
from prunefleet_coordinator.testing import random_vote, small_campaign
from prunefleet_shared.acceptance import Ruling, RulingReason
from prunefleet_shared.campaign import SlimBase
from prunefleet_shared.documents import SignedDocument, digest
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.messages import Phase, SessionKind, Total

CAMPAIGN = small_campaign()
TOTAL = Total(tuple(int(lane) for lane in random_vote(CAMPAIGN, 1)), 1)
CLOSED = ClosedRound(SessionKind.VOTE, 0, "aa", TOTAL, ("device-1",))
AT_START = Snapshot(CAMPAIGN.campaign_id, attempts_opened=2, attempts_failed=1)
DECIDED = Snapshot(
    CAMPAIGN.campaign_id,
    phase=Phase.RETRAINING,
    level=1,
    closed_rounds=(CLOSED,),
    decisions=(decide(CAMPAIGN, TOTAL, 0),),
    slim_bases=(SlimBase(CAMPAIGN.campaign_id, 0, "f", "m", 10),),
)
SIGNED = SignedDocument("decision", b"{}", b"signature", b"key")


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    if request.param == "memory":
        yield MemoryStore()
    else:
        with contextlib.closing(SqlStore(f"sqlite:///{tmp_path / 'store.db'}")) as opened:
            yield opened


def test_an_empty_store_knows_nothing(store):
    assert store.load_snapshot(CAMPAIGN.campaign_id) is None
    assert store.load_closed(CAMPAIGN.campaign_id, SessionKind.VOTE, 0) is None
    assert store.load_document(CAMPAIGN.campaign_id, "decision", 0) is None
    assert store.load_blob("00", 0, 10) is None


def test_the_last_snapshot_is_the_one_that_counts(store):
    store.save_snapshot(AT_START)
    store.save_snapshot(DECIDED)
    assert store.load_snapshot(CAMPAIGN.campaign_id) == DECIDED


def test_campaigns_do_not_see_each_other(store):
    store.save_snapshot(AT_START)
    store.save_snapshot(Snapshot("another"))
    assert store.load_snapshot(CAMPAIGN.campaign_id) == AT_START


def test_a_closing_keeps_sum_snapshot_and_decision(store):
    store.save_closing(CLOSED, DECIDED, SIGNED)
    assert store.load_snapshot(CAMPAIGN.campaign_id) == DECIDED
    assert store.load_closed(CAMPAIGN.campaign_id, SessionKind.VOTE, 0) == CLOSED
    assert store.load_document(CAMPAIGN.campaign_id, "decision", DECIDED.level) == SIGNED


def test_a_closing_keeps_the_ruling_on_it_under_its_number(store):
    ruling = SignedDocument("ruling", b"{}", b"signature", b"key")
    last = Ruling("c", 2, 0, "00", True, RulingReason.HELD, 3, 0, 1, 0, 1, 1, "00", (0,), 0)
    judged = replace(DECIDED, rulings=(replace(last, number=1), last))
    store.save_closing(CLOSED, judged, None, ruling)
    assert store.load_document(CAMPAIGN.campaign_id, "ruling", 2) == ruling
    assert store.load_document(CAMPAIGN.campaign_id, "ruling", 1) is None
    assert store.load_snapshot(CAMPAIGN.campaign_id) == judged


def test_outcome_and_rollout_of_a_level_are_two_rounds(store):
    for kind in (SessionKind.OUTCOME, SessionKind.ROLLOUT):
        store.save_closing(replace(CLOSED, kind=kind), DECIDED)
        assert store.load_closed(CAMPAIGN.campaign_id, kind, 0).kind is kind
    with pytest.raises(LocalProtocolError, match="ROLLOUT sum of level 0"):
        store.save_closing(replace(CLOSED, kind=SessionKind.ROLLOUT), DECIDED)


def test_a_round_is_stored_once_and_the_second_try_changes_nothing(store):
    store.save_closing(CLOSED, DECIDED, SIGNED)
    other = SignedDocument("decision", b"[]", b"other", b"key")
    with pytest.raises(LocalProtocolError, match="VOTE sum of level 0"):
        store.save_closing(CLOSED, AT_START, other)
    assert store.load_snapshot(CAMPAIGN.campaign_id) == DECIDED
    assert store.load_document(CAMPAIGN.campaign_id, "decision", DECIDED.level) == SIGNED


def test_a_document_is_filed_with_the_snapshot_it_belongs_to(store):
    slim_base = SignedDocument("slim_base", b"{}", b"signature", b"key")
    store.save_snapshot(DECIDED, slim_base)
    store.save_document(CAMPAIGN.campaign_id, 0, SIGNED)
    assert store.load_document(CAMPAIGN.campaign_id, "slim_base", 1) == slim_base
    assert store.load_document(CAMPAIGN.campaign_id, "decision", 0) == SIGNED
    assert store.load_document(CAMPAIGN.campaign_id, "decision", 1) is None


def test_a_model_comes_back_in_pieces(store):
    body = bytes(range(256)) * 5
    name = store.save_blob(body)
    assert name == store.save_blob(body) == digest(body)
    for offset in (0, 1, 500, 1000, 1280, 1500):
        assert store.load_blob(name, offset, 500) == BlobPiece(len(body), body[offset : offset + 500])


def test_campaigns_are_listed_as_they_were_entered(store):
    entered = [StoredCampaign(name, "camera") for name in ("b", "a", "c")]
    for campaign in entered:
        store.save_campaign(campaign, SignedDocument("campaign", campaign.campaign_id.encode(), b"s", b"k"))
    store.save_campaign(entered[0], SignedDocument("campaign", b"another document", b"s", b"k"))
    assert store.list_campaigns() == tuple(entered)
    assert store.load_document("b", "campaign", 0).payload == b"b"


def test_the_last_note_of_a_name_is_kept(store):
    assert store.load_note("deny-list") is None
    for body in (b"one", b"two"):
        store.save_note("deny-list", body)
    store.save_note("other", b"three")
    assert store.load_note("deny-list") == b"two"
