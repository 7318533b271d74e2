"""A private sum through the one way out: its last message leaves, on record; none older, no other, never the vector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sum_fleet import CAMPAIGN, FACTS, STAGES, Others, another, honest_vector, keys, play

from prunefleet_edge.egress import Egress, EgressRecord
from prunefleet_shared import wire
from prunefleet_shared.documents import digest
from prunefleet_shared.errors import EgressError
from prunefleet_shared.lanes import pack
from prunefleet_shared.messages import Awaited, ComeBack, SumUp
from prunefleet_shared.private_sum import DeviceSum, ring_of
from prunefleet_shared.sum_messages import Contribute, said_bytes
from prunefleet_shared.testing import ScriptedLink, run_simulated

LATER = ComeBack(1000, Awaited.DEVICES)
VECTOR = honest_vector(0)
WORDS = [
    "public keys for the sum of a masked vote",
    "request for certificates of devices in the sum of a masked vote",
    "encrypted shares of keys for the sum of a masked vote",
    "masked vote",
    "signature over the devices in the sum of a masked vote",
    "shares that take masks off the sum of a masked vote",
]


class Desk:
    """An egress with a sealed vote; its line and its records can be looked at."""

    def __init__(self) -> None:
        self.link = ScriptedLink([LATER] * 20)
        self.records: list[EgressRecord] = []
        self.egress = Egress(self.link, audit=self.records.append, utc_now=lambda: datetime(2026, 1, 2, tzinfo=UTC))
        self.payload = self.egress.seal(CAMPAIGN, FACTS.kind, VECTOR)

    def open(self, session: int = 7, seed: int = 0) -> DeviceSum:
        return self.egress.open_sum(CAMPAIGN, another(session), self.payload, keys(0, seed))

    def send(self, message: SumUp) -> None:
        run_simulated(self.egress.send(message))

    def refuses(self, message: SumUp) -> None:
        num_sent = len(self.link.sent)
        with pytest.raises(EgressError, match="no sum that was opened here has made it"):
            self.send(message)
        assert len(self.link.sent) == num_sent == len(self.records)


def played(desk: Desk, session: int = 7, seed: int = 0) -> Iterator[SumUp]:
    return play(desk.open(session, seed), Others(another(session)))


def test_every_stage_leaves_and_is_on_record_with_its_words_and_size() -> None:
    desk = Desk()
    for message in played(desk):
        desk.send(message)
    assert [type(message).__name__ for message in desk.link.sent] == STAGES == [r.kind for r in desk.records]
    to = "in campaign c0c0c0c0c0c0, to session 000000000000"
    assert [record.words for record in desk.records] == [f"{words} {to}" for words in WORDS]
    for message, record in zip(desk.link.sent, desk.records, strict=True):
        said = said_bytes(message)  # type: ignore[arg-type]
        assert (record.payload_bytes, record.digest) == (len(said), digest(said))
        assert record.payload_bytes > 0


def test_a_message_may_be_said_again_until_it_is_answered() -> None:
    desk = Desk()
    for message in played(desk):
        desk.send(message)
        desk.send(message)
    assert desk.link.sent[::2] == desk.link.sent[1::2]
    assert len(desk.records) == 2 * len(STAGES)


def test_only_the_last_message_of_the_sum_leaves_and_no_copy_of_it() -> None:
    desk, older = Desk(), list[SumUp]()
    for message in played(desk):
        desk.refuses(replace(message))
        desk.refuses(replace(message, session_id="cd" * 16))
        for outdated in older:
            desk.refuses(outdated)
        desk.send(message)
        older.append(message)
    assert len(older) == len(STAGES)
    desk.refuses(older[-1])


def test_what_another_sum_made_is_refused() -> None:
    """A device's own, whose egress is another; and an older one of the same egress."""
    desk, elsewhere = Desk(), Desk()
    desk.refuses(elsewhere.open().start())
    older, first = desk.open(1), desk.open(1)
    desk.refuses(older.start())
    newer = desk.open(2)
    desk.refuses(first.start())
    message = newer.start()
    first.abort()
    desk.send(message)


def test_an_aborted_sum_says_nothing_more() -> None:
    desk = Desk()
    cohort_sum = desk.open()
    message = cohort_sum.start()
    cohort_sum.abort()
    desk.refuses(message)


def test_the_vector_itself_never_leaves_in_mode_sum() -> None:
    """Neither as it is sealed nor as the ring packs it, in none of the bytes of all stages; masks are drawn anew."""
    desk, masked = Desk(), []
    in_ring = ring_of(CAMPAIGN, CAMPAIGN.vote_lanes)
    canaries = {pack(CAMPAIGN.vote_lanes, VECTOR), in_ring.pack(VECTOR)}
    assert desk.payload in canaries
    for session, seed in ((1, 1), (2, 2)):
        for message in played(desk, session, seed):
            desk.send(message)
            masked += [message.payload] if isinstance(message, Contribute) else []
    sent = b"".join(wire.encode_up(message) for message in desk.link.sent)
    assert not any(canary in sent or canary.hex().encode() in sent for canary in canaries)
    assert not any(canary[start : start + 12] in sent for canary in canaries for start in range(len(canary) - 11))
    assert len(masked) == len(set(masked)) == 2
    assert {len(payload) for payload in masked} == {in_ring.packed_bytes}


def test_the_others_sum_holds_the_sealed_vector() -> None:
    """Or the test above could pass because something else was sent."""
    desk = Desk()
    others = Others(another(7))
    for message in play(desk.open(), others):
        desk.send(message)
    total = others.coordinator.close()
    assert total.tolist() == (VECTOR + sum(honest_vector(number) for number in (1, 2, 3))).tolist()
