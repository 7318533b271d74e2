"""The same marks in mode sum: no byte of any stage carries one, nor a vector, nor does a length tell devices apart.

That the scanner finds marks that are there is ``test_leaks``'s to show.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from leak_world import IN_SUM, MIN_DEVICES, Overheard, Scanner, campaign_files, canaries, planted, play, weights_too

from prunefleet_coordinator.store import SqlStore
from prunefleet_edge.egress import vote_vector
from prunefleet_shared import wire
from prunefleet_shared.documents import digest
from prunefleet_shared.lanes import pack
from prunefleet_shared.masks import IntArray
from prunefleet_shared.messages import SessionKind, SumUp
from prunefleet_shared.private_sum import ring_of
from prunefleet_shared.sum_messages import Advertise, said_bytes

STAGES = ("Advertise", "FetchCertificates", "ShareKeys", "Contribute", "ConfirmSurvivors", "Unmask")
_, CAMPAIGN = campaign_files(IN_SUM)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("summed")


@pytest.fixture(scope="module")
def overheard(folder: Path) -> Overheard:
    return play(folder, planted, IN_SUM)


@pytest.fixture(scope="module")
def scanner(folder: Path, overheard: Overheard) -> Scanner:
    return weights_too(canaries(), folder)


def vector_of(overheard: Overheard, number: int) -> IntArray:
    return vote_vector(CAMPAIGN, overheard.votes[number])


def in_all_forms(vector: IntArray) -> tuple[bytes, ...]:
    """A vote as it is sealed, and as the sum's lanes would carry it without masks."""
    return pack(CAMPAIGN.vote_lanes, vector), ring_of(CAMPAIGN, CAMPAIGN.vote_lanes).pack(vector)


def test_nothing_planted_is_in_any_byte_a_device_sent(overheard: Overheard, scanner: Scanner) -> None:
    sent = [data for _, data in overheard.up["device-0"]]
    assert [scanner.found(data) for data in sent] == [set()] * len(sent)
    assert scanner.found(b"".join(sent)) == set(), "nor across messages"


def test_everybody_went_through_every_stage_of_both_sums(overheard: Overheard) -> None:
    assert len(overheard.up) == MIN_DEVICES
    for sent in overheard.up.values():
        methods = [method for method, _ in sent]
        assert set(methods) == {"GetCampaign", "FetchModel", "CheckIn", *STAGES}
        assert [method for method in dict.fromkeys(methods) if method in STAGES] == list(STAGES)
        assert {stage: methods.count(stage) for stage in ("Contribute", "Unmask")} == {"Contribute": 2, "Unmask": 2}


def test_no_vote_is_in_any_byte_sent_or_stored(folder: Path, overheard: Overheard) -> None:
    """Runs of sixteen bytes of it would do, too: the rest of a vote is no less private than the whole."""
    stored = b"".join(path.read_bytes() for path in sorted(folder.glob("coordinator.sqlite*")))
    assert stored
    sent = b"".join(data for device in overheard.up.values() for _, data in device)
    for number in range(2):
        for vote in in_all_forms(vector_of(overheard, number)):
            pieces = {vote[start : start + 16] for start in range(len(vote) - 15)}
            assert len(pieces) > 20
            assert not any(piece in sent or piece in stored for piece in pieces if len(set(piece)) > 6)


def test_what_the_coordinator_stores_is_the_sum_of_all_votes(folder: Path, overheard: Overheard) -> None:
    store = SqlStore(f"sqlite:///{folder / 'coordinator.sqlite'}")
    closed = store.load_closed(CAMPAIGN.campaign_id, SessionKind.VOTE, 0)
    store.close()
    assert closed is not None
    assert closed.total.num_devices == MIN_DEVICES
    total = sum(vector_of(overheard, number) for number in range(MIN_DEVICES))
    assert np.array_equal(closed.total.lanes, total)


def test_all_messages_of_a_kind_have_one_length_whoever_sends_them(overheard: Overheard) -> None:
    """Certificates aside, which are no secret: their own signatures are a byte or two longer or shorter."""
    lengths: dict[str, set[int]] = defaultdict(set)
    for sent in overheard.up.values():
        for method, data in sent:
            message = wire.decode_up(f"/prunefleet.v1.Fleet/{method}", data)
            certificates = message.certificates if isinstance(message, Advertise) else ()
            lengths[method].add(len(data) - sum(len(certificate) for certificate in certificates))
    kinds_of_contribution = 2  # vote and outcome
    assert {method: len(found) for method, found in lengths.items() if method in STAGES} == {
        stage: kinds_of_contribution if stage == "Contribute" else 1 for stage in STAGES
    }
    masked = {data for sent in overheard.up.values() for method, data in sent if method == "Contribute"}
    assert len(masked) == 2 * MIN_DEVICES, "what is in them differs, or this would prove nothing"


def test_the_owner_s_audit_lists_every_message(overheard: Overheard) -> None:
    for name, sent in overheard.up.items():
        records = overheard.audits[name]
        assert [record.kind for record in records] == [method for method, _ in sent]
        for record, (method, data) in zip(records, sent, strict=True):
            message = wire.decode_up(f"/prunefleet.v1.Fleet/{method}", data)
            if isinstance(message, SumUp):
                said = said_bytes(message)
                assert (record.payload_bytes, record.digest) == (len(said), digest(said))
