"""The trainer waits, works, signs and publishes; what it does not trust it does not work on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_shared.campaign import Campaign, Decision, SlimBase
from prunefleet_shared.documents import digest, open_document, public_bytes, sign_document
from prunefleet_shared.errors import CarrierError, LocalProtocolError, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.messages import (
    AwaitDecision,
    Awaited,
    CampaignEnded,
    ComeBack,
    ContributionCounted,
    DecisionOffer,
    Ending,
    PublishSlimBase,
    Stored,
    Total,
    UploadModel,
)
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    TRAINER_KEY,
    TRAINER_PUBLIC,
    Answer,
    ScriptedLink,
    SimClock,
    run_simulated,
    tiny_campaign,
    tiny_decision,
)
from prunefleet_shared.wire_limits import CHUNK_BYTES
from prunefleet_trainer.runner import Retrained, SteeringSums, TrainerRunner

CAMPAIGN = tiny_campaign()
DECISION = tiny_decision(CAMPAIGN)
OPERATOR_KEY = ec.derive_private_key(17, ec.SECP256R1())
OPERATOR_PUBLIC = public_bytes(OPERATOR_KEY.public_key())
ORDER = sign_document("campaign", CAMPAIGN, OPERATOR_KEY)
OFFER = DecisionOffer(ORDER, sign_document("decision", DECISION, COORDINATOR_KEY))
ASK = AwaitDecision(CAMPAIGN.campaign_id)
DONE, STORED = CampaignEnded(Ending.COMPLETED), Stored()


class Trainer:
    """A runner over a script; ``retrain`` gives ``model`` and remembers what for."""

    def __init__(self, script: Iterable[Answer], model: bytes = b"slim") -> None:
        self.link = ScriptedLink(script)
        self.clock = SimClock()
        self.asked: list[Decision] = []
        self.sums: list[SteeringSums | None] = []
        self.is_retrained = True
        self._model = model

    async def _retrain(self, campaign: Campaign, decision: Decision, sums: SteeringSums | None) -> Retrained:
        assert campaign == CAMPAIGN
        self.asked.append(decision)
        self.sums.append(sums)
        return Retrained(self._model, "5e" * 32 if sums else "", self.is_retrained)

    def run(self, campaign_id: str = CAMPAIGN.campaign_id) -> Ending:
        runner = TrainerRunner(
            self.link,
            campaign_id,
            operator_keys=lambda: [OPERATOR_PUBLIC],
            signing_key=TRAINER_KEY,
            retrain=self._retrain,
            sleep=self.clock.sleep,
        )
        return run_simulated(runner.run(), self.clock)

    @property
    def uploads(self) -> list[UploadModel]:
        return [message for message in self.link.sent if isinstance(message, UploadModel)]

    @property
    def published(self) -> list[SlimBase]:
        documents = [message.slim_base for message in self.link.sent if isinstance(message, PublishSlimBase)]
        return [open_document(signed, "slim_base", SlimBase, TRAINER_PUBLIC) for signed in documents]


def test_waits_as_long_as_it_is_told_then_works_and_asks_again() -> None:
    waits = [ComeBack(1500, Awaited.DEVICES), ComeBack(2500, Awaited.DEVICES)]
    trainer = Trainer([*waits, OFFER, STORED, STORED, ComeBack(1000, Awaited.DEVICES), DONE])
    assert trainer.run() is Ending.COMPLETED
    assert trainer.clock() == pytest.approx(5.0)
    assert trainer.asked == [DECISION]
    kinds = [type(message) for message in trainer.link.sent]
    assert kinds == [AwaitDecision] * 3 + [UploadModel, PublishSlimBase] + [AwaitDecision] * 2
    assert {message for message in trainer.link.sent if isinstance(message, AwaitDecision)} == {ASK}


@pytest.mark.parametrize("ending", Ending)
def test_ends_with_the_campaign_and_says_how(ending: Ending) -> None:
    trainer = Trainer([CampaignEnded(ending)])
    assert trainer.run() is ending
    assert trainer.asked == []


@pytest.mark.parametrize("num_bytes", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7])
def test_pieces_cover_the_model_in_order_under_its_digest(num_bytes: int) -> None:
    model = bytes(index % 251 for index in range(num_bytes))
    pieces = -(-num_bytes // CHUNK_BYTES)
    trainer = Trainer([OFFER, *[STORED] * (pieces + 1), DONE], model)
    trainer.run()
    assert len(trainer.uploads) == pieces
    received = b""
    for upload in trainer.uploads:
        assert upload.offset == len(received)
        assert 1 <= len(upload.chunk) <= CHUNK_BYTES
        assert (upload.digest, upload.total_bytes) == (digest(model), num_bytes)
        received += upload.chunk
    assert received == model
    assert isinstance(trainer.link.sent[pieces + 1], PublishSlimBase), "the document comes when the bytes are there"


def test_the_document_names_the_decision_and_the_model_and_is_signed() -> None:
    trainer = Trainer([OFFER, STORED, STORED, DONE], b"a slim base")
    trainer.run()
    expected = SlimBase(CAMPAIGN.campaign_id, DECISION.level, DECISION.fingerprint, digest(b"a slim base"), 11)
    assert trainer.published == [expected]


def test_a_steered_slim_base_names_the_record_of_its_steering() -> None:
    total = Total((3, 1, 2), 4)
    outcomes = (Total((5, 4), 5), Total((6, 6), 6))
    offer = replace(OFFER, vote_total=total, outcome_totals=outcomes)
    trainer = Trainer([offer, STORED, STORED, DONE], b"a slim base")
    trainer.run()
    assert trainer.sums == [SteeringSums(total, outcomes)]
    assert trainer.published[0].steering_digest == "5e" * 32


def test_a_base_that_was_only_pruned_says_so() -> None:
    trainer = Trainer([OFFER, STORED, STORED, DONE], b"a slim base")
    trainer.is_retrained = False
    trainer.run()
    assert not trainer.published[0].is_retrained


def test_every_level_gets_its_own_slim_base() -> None:
    second = tiny_decision(CAMPAIGN, level=1)
    offers = [
        OFFER,
        STORED,
        STORED,
        DecisionOffer(ORDER, sign_document("decision", second, COORDINATOR_KEY)),
        STORED,
        STORED,
    ]
    trainer = Trainer([*offers, DONE])
    trainer.run()
    assert trainer.asked == [DECISION, second]
    assert [slim_base.level for slim_base in trainer.published] == [0, 1]
    assert [slim_base.decision_fingerprint for slim_base in trainer.published] == [d.fingerprint for d in trainer.asked]


GOOD = OFFER.decision


@pytest.mark.parametrize(
    "signed",
    [
        sign_document("decision", DECISION, TRAINER_KEY),
        sign_document("slim_base", DECISION, COORDINATOR_KEY),
        replace(GOOD, signature=GOOD.signature[:-1] + bytes([GOOD.signature[-1] ^ 1])),
        replace(GOOD, payload=GOOD.payload.replace(b'"level":0', b'"level":1')),
        replace(GOOD, signature=b""),
    ],
    ids=["another key", "another kind", "another signature", "another level", "none"],
)
def test_a_decision_that_does_not_verify_is_not_worked_on(signed: object) -> None:
    assert signed != GOOD
    trainer = Trainer([DecisionOffer(ORDER, signed)])
    with pytest.raises(RemoteProtocolError) as caught:
        trainer.run()
    assert caught.value.rejection.reason is RejectReason.BAD_SIGNATURE
    assert trainer.asked == []
    assert trainer.link.sent == [ASK]


def test_a_signed_document_that_is_no_decision_is_refused() -> None:
    campaign = sign_document("decision", CAMPAIGN, COORDINATOR_KEY)
    trainer = Trainer([DecisionOffer(ORDER, campaign)])
    with pytest.raises(RemoteProtocolError) as caught:
        trainer.run()
    assert caught.value.rejection.reason is RejectReason.MALFORMED
    assert trainer.asked == []


def test_an_answer_out_of_place_is_refused() -> None:
    trainer = Trainer([ContributionCounted("ab" * 16)])
    with pytest.raises(LocalProtocolError, match="AwaitDecision was answered by a ContributionCounted"):
        trainer.run()


@pytest.mark.parametrize("error", [reject(RejectReason.WRONG_DECISION), CarrierError("gone", retryable=True)])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_errors_of_the_line_reach_the_caller_and_nothing_more_is_sent(error: Exception, at: int) -> None:
    trainer = Trainer([*[OFFER, STORED, STORED][:at], error])
    with pytest.raises(type(error)) as caught:
        trainer.run()
    assert caught.value is error
    assert len(trainer.link.sent) == at + 1
