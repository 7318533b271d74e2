"""Only few kinds of message get out, only with identifiers and sealed integers in them, and all on record; those of a
private sum are in ``test_egress_sum``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from prunefleet_edge.device import Vote
from prunefleet_edge.egress import Egress, EgressRecord, outcome_vector, vote_vector
from prunefleet_shared.campaign import SUM, SUM_DP, Campaign, PrivacyTerms
from prunefleet_shared.documents import digest
from prunefleet_shared.errors import EgressError, LocalProtocolError
from prunefleet_shared.lanes import grade_lane, lift_lane, unpack, width_lane
from prunefleet_shared.masks import grade_layout
from prunefleet_shared.messages import (
    AwaitDecision,
    CheckIn,
    FetchModel,
    GetCampaign,
    Readiness,
    SessionKind,
    UploadModel,
)
from prunefleet_shared.metrics import OUTCOME_LANES, Outcome
from prunefleet_shared.noise_terms import NoiseWish, make_noise_terms
from prunefleet_shared.private_sum import SessionFacts
from prunefleet_shared.steering_terms import SteeringTerms
from prunefleet_shared.sum_messages import Contribute, ContributionCounted, Unmask
from prunefleet_shared.testing import ScriptedLink, run_simulated, tiny_campaign

CAMPAIGN = tiny_campaign()
ID, DIGEST = "ab" * 16, "cd" * 32
COUNTED = ContributionCounted(ID)


def a_vote() -> Vote:
    scores = np.random.default_rng(5).random(CAMPAIGN.layout.num_channels)
    return Vote(grade_layout(CAMPAIGN.layout, scores), np.array([[0, 7], [3, 4]]))


class Desk:
    """An egress whose line and records can be looked at."""

    def __init__(self) -> None:
        self.link = ScriptedLink([COUNTED] * 9)
        self.records: list[EgressRecord] = []
        self.egress = Egress(self.link, audit=self.records.append, utc_now=lambda: datetime(2026, 1, 2, tzinfo=UTC))

    def send(self, message: Any) -> None:
        run_simulated(self.egress.send(message))

    def contribute(self, kind: SessionKind, payload: bytes) -> None:
        """Send a sealed contribution the way a campaign of mode plain does."""
        self.send(self.egress.open_sum(CAMPAIGN, SessionFacts(ID, kind, 0, 1), payload, None).start())


def test_a_vote_becomes_the_lane_table() -> None:
    vote = a_vote()
    blocks = CAMPAIGN.vote_lanes.split(vote_vector(CAMPAIGN, vote))
    assert blocks[grade_lane("conv1")].tolist() == vote.grades_C[:8].tolist()
    assert blocks[grade_lane("conv2")].tolist() == vote.grades_C[8:].tolist()
    options = [[int(blocks[width_lane(level, g)].argmax()) for g in ("conv1", "conv2")] for level in (0, 1)]
    assert options == [[0, 7], [3, 4]]


def test_a_noisy_vote_says_one_bit_of_each_channel() -> None:
    """The better half of each group, and no grade: the less is said, the less noise hides it."""
    noise = make_noise_terms(CAMPAIGN.layout, len(CAMPAIGN.levels), NoiseWish(8000, 6))
    campaign, vote = tiny_campaign(privacy=PrivacyTerms(SUM_DP, 3, noise)), a_vote()
    vector = vote_vector(campaign, vote)
    Desk().egress.seal(campaign, SessionKind.VOTE, vector)
    blocks = campaign.vote_lanes.split(vector)
    for group, part in zip(CAMPAIGN.layout.groups, CAMPAIGN.layout.slices(), strict=True):
        kept = blocks[grade_lane(group.name)]
        assert (set(kept), kept.sum()) == ({0, 1}, group.num_channels // 2)
        assert vote.grades_C[part][kept == 1].min() > vote.grades_C[part][kept == 0].max()
    plain = CAMPAIGN.vote_lanes.split(vote_vector(CAMPAIGN, vote))
    for level, group in ((0, "conv1"), (1, "conv2")):
        assert blocks[width_lane(level, group)].tolist() == plain[width_lane(level, group)].tolist()


STEERED = tiny_campaign(steering=SteeringTerms((5,) * 24, (1,) * 24))


def a_steered_vote() -> Vote:
    return replace(a_vote(), lifts_C=grade_layout(CAMPAIGN.layout, np.random.default_rng(6).random(24)))


def test_where_a_campaign_steers_a_vote_has_a_lift_mask_too() -> None:
    vote = a_steered_vote()
    vector = vote_vector(STEERED, vote)
    Desk().egress.seal(STEERED, SessionKind.VOTE, vector)
    blocks = STEERED.vote_lanes.split(vector)
    assert [*blocks[lift_lane("conv1")], *blocks[lift_lane("conv2")]] == list(vote.lifts_C)  # type: ignore[arg-type]
    assert [*blocks[grade_lane("conv1")], *blocks[grade_lane("conv2")]] == list(vote.grades_C)
    assert STEERED.vote_lanes.num_lanes == CAMPAIGN.vote_lanes.num_lanes + 24


def test_with_noise_a_lift_mask_has_one_bit_for_a_channel() -> None:
    noise = make_noise_terms(CAMPAIGN.layout, len(CAMPAIGN.levels), NoiseWish(8000, 6), steering=CAMPAIGN.steering)
    campaign = replace(STEERED, privacy=PrivacyTerms(SUM_DP, 3, noise))
    blocks = campaign.vote_lanes.split(vote_vector(campaign, a_steered_vote()))
    for name, num_channels in (("conv1", 8), ("conv2", 16)):
        assert (set(blocks[lift_lane(name)]), blocks[lift_lane(name)].sum()) == ({0, 1}, num_channels // 2)


@pytest.mark.parametrize(
    ("campaign", "vote"),
    [
        (STEERED, a_vote()),
        (CAMPAIGN, a_steered_vote()),
        (STEERED, replace(a_vote(), lifts_C=a_vote().grades_C[:-1])),
        (STEERED, replace(a_vote(), lifts_C=a_vote().grades_C.astype(np.float64))),
    ],
    ids=["no lift mask", "not asked for", "a channel missing", "floats"],
)
def test_a_lift_mask_goes_out_only_where_it_is_asked_for(campaign: Campaign, vote: Vote) -> None:
    with pytest.raises(EgressError):
        vote_vector(campaign, vote)


@pytest.mark.parametrize(
    "vote",
    [
        Vote(a_vote().grades_C[:-1], a_vote().options_LG),
        Vote(a_vote().grades_C, a_vote().options_LG[:1]),
        Vote(a_vote().grades_C, np.array([[0, 8], [3, 4]])),
        Vote(a_vote().grades_C, np.array([[0, -1], [3, 4]])),
        Vote(a_vote().grades_C.astype(np.float64), a_vote().options_LG),  # type: ignore[arg-type]
    ],
    ids=["grades missing", "level missing", "option too high", "option negative", "floats"],
)
def test_a_vote_that_does_not_fit_is_refused(vote: Vote) -> None:
    with pytest.raises(EgressError):
        vote_vector(CAMPAIGN, vote)


def test_what_was_sealed_gets_out_and_is_on_record() -> None:
    desk = Desk()
    vector = vote_vector(CAMPAIGN, a_vote())
    payload = desk.egress.seal(CAMPAIGN, SessionKind.VOTE, vector)
    assert unpack(CAMPAIGN.vote_lanes, payload).tolist() == vector.tolist()
    desk.contribute(SessionKind.VOTE, payload)
    assert desk.link.sent == [Contribute(ID, payload)]
    expected = "vote in campaign c0c0c0c0c0c0, to session abababababab"
    when = "2026-01-02T00:00:00+00:00"
    assert desk.records == [EgressRecord("Contribute", len(payload), digest(payload), when, expected)]


def test_every_message_is_on_record_in_words() -> None:
    desk = Desk()
    for message in (GetCampaign("camera"), CheckIn(ID, DIGEST, Readiness.READY), FetchModel(DIGEST, 7)):
        desk.send(message)
    assert [record.kind for record in desk.records] == ["GetCampaign", "CheckIn", "FetchModel"]
    assert [record.words for record in desk.records] == [
        "request for the campaign of class camera",
        "check-in to campaign abababababab",
        "request for model cdcdcdcdcdcd from byte 7",
    ]


@dataclass(frozen=True)
class CheckInWithExtras(CheckIn):
    weights: bytes = b"secret"


SEALED_ELSEWHERE = Desk().egress.seal(CAMPAIGN, SessionKind.OUTCOME, outcome_vector(Outcome(finished=False)))


@pytest.mark.parametrize(
    "message",
    [
        AwaitDecision(ID),
        UploadModel(DIGEST, 0, 3, b"abc"),
        CheckInWithExtras(ID, DIGEST, Readiness.READY),
        b"raw bytes",
        GetCampaign("a cat sat on the mat"),
        GetCampaign("x" * 65),
        CheckIn(ID, DIGEST.upper(), Readiness.READY),
        CheckIn(ID + "\n", DIGEST, Readiness.READY),
        CheckIn(ID, DIGEST, 3.14),  # type: ignore[arg-type]
        FetchModel("../etc/passwd", 0),
        FetchModel(DIGEST, -1),
        FetchModel(DIGEST, 0.5),  # type: ignore[arg-type]
        Contribute(ID, b"\0" * CAMPAIGN.vote_lanes.packed_bytes),
        Contribute(ID, SEALED_ELSEWHERE),
        Contribute(ID, bytearray(SEALED_ELSEWHERE)),  # type: ignore[arg-type]
        Unmask(ID, b"\x01", b"\0" * 32),
    ],
    ids=lambda message: type(message).__name__,
)
def test_anything_else_is_refused_and_nothing_is_sent(message: Any) -> None:
    desk = Desk()
    with pytest.raises(EgressError, match="refusing to send"):
        desk.send(message)
    assert desk.link.sent == []
    assert desk.records == []


@pytest.mark.parametrize("spoil", [lambda v: v * 1.0, lambda v: v[:-1], lambda v: v * 0, lambda v: v - 1])
def test_a_vector_that_breaks_the_lane_table_is_not_sealed(spoil: Any) -> None:
    with pytest.raises(EgressError):
        Desk().egress.seal(CAMPAIGN, SessionKind.VOTE, spoil(vote_vector(CAMPAIGN, a_vote())))


@pytest.mark.parametrize("mode", [SUM, "homomorphic"])
def test_a_mode_that_is_not_plain_or_not_known_lets_no_plain_contribution_out(mode: str) -> None:
    desk, campaign = Desk(), tiny_campaign(privacy=PrivacyTerms(mode, 3))
    payload = desk.egress.seal(campaign, SessionKind.VOTE, vote_vector(campaign, a_vote()))
    with pytest.raises(LocalProtocolError, match="needs a certificate"):
        desk.egress.open_sum(campaign, SessionFacts(ID, SessionKind.VOTE, 0, 1), payload, None)
    with pytest.raises(EgressError, match="no sum that was opened here"):
        desk.send(Contribute(ID, payload))


def test_what_was_not_sealed_here_opens_no_sum() -> None:
    desk = Desk()
    sealed = desk.egress.seal(CAMPAIGN, SessionKind.VOTE, vote_vector(CAMPAIGN, a_vote()))
    flipped = bytes([sealed[0] ^ 1]) + sealed[1:]
    for payload in (SEALED_ELSEWHERE, flipped, b""):
        with pytest.raises(EgressError, match="not sealed"):
            desk.contribute(SessionKind.OUTCOME, payload)
    assert desk.link.sent == []


def test_a_stored_payload_is_sealed_again_only_if_it_is_a_vector() -> None:
    desk = Desk()
    desk.egress.seal_again(CAMPAIGN, SessionKind.OUTCOME, SEALED_ELSEWHERE)
    desk.contribute(SessionKind.OUTCOME, SEALED_ELSEWHERE)
    assert desk.link.sent == [Contribute(ID, SEALED_ELSEWHERE)]
    for tampered in (b"\xff" * OUTCOME_LANES.packed_bytes, SEALED_ELSEWHERE + b"\0", b"weights"):
        with pytest.raises(EgressError, match="no such thing"):
            desk.egress.seal_again(CAMPAIGN, SessionKind.OUTCOME, tampered)


def test_nothing_is_sent_when_the_audit_fails() -> None:
    link = ScriptedLink([COUNTED])

    def full_disk(record: EgressRecord) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        run_simulated(Egress(link, audit=full_disk).send(GetCampaign("camera")))
    assert link.sent == []
