"""Whatever comes, decoding gives a message or a RemoteProtocolError; whatever is sent comes back the same."""

from hypothesis import given
from hypothesis import strategies as st

from prunefleet_shared import wire
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.errors import Rejection, RejectReason, RemoteProtocolError
from prunefleet_shared.messages import (
    AwaitDecision,
    Awaited,
    CampaignEnded,
    CampaignOffer,
    CheckIn,
    ComeBack,
    Contribute,
    ContributionCounted,
    DecisionOffer,
    FetchModel,
    GetCampaign,
    Invitation,
    ModelChunk,
    PublishSlimBase,
    Readiness,
    SessionKind,
    Stored,
    UploadModel,
)
from prunefleet_shared.wire_limits import MAX_MODEL_BYTES


def fixed(num_bytes):
    return st.binary(min_size=num_bytes, max_size=num_bytes)


ids, digests = fixed(16).map(bytes.hex), fixed(32).map(bytes.hex)
offsets, totals = st.integers(0, MAX_MODEL_BYTES), st.integers(1, MAX_MODEL_BYTES)
documents = st.builds(
    SignedDocument,
    st.sampled_from(["campaign", "decision", "slim_base"]),
    st.binary(min_size=1, max_size=300),
    st.binary(min_size=8, max_size=72),
    fixed(91),
)
some_bytes = st.binary(min_size=1, max_size=300)
ups = st.one_of(
    st.builds(GetCampaign, st.text("abcxyz019-", min_size=1, max_size=32)),
    st.builds(CheckIn, ids, digests, st.sampled_from(Readiness)),
    st.builds(Contribute, ids, some_bytes),
    st.builds(FetchModel, digests, offsets),
    st.builds(AwaitDecision, ids),
    st.builds(UploadModel, digests, offsets, totals, some_bytes),
    st.builds(PublishSlimBase, documents),
)
waits = st.one_of(
    st.builds(ComeBack, st.integers(0, 2**32 - 1), st.sampled_from(Awaited)),
    st.builds(CampaignEnded, st.booleans()),
)
invitations = st.builds(
    Invitation,
    ids,
    st.sampled_from(SessionKind),
    st.integers(0, 7),
    st.integers(1, 1000),
    st.integers(0, 2**32 - 1),
    st.none() | documents,
    st.none() | documents,
)
FLEET, TRAINER = "/prunefleet.v1.Fleet/", "/prunefleet.v1.Trainer/"
downs = st.one_of(
    st.tuples(st.just(FLEET + "GetCampaign"), st.builds(CampaignOffer, documents)),
    st.tuples(st.just(FLEET + "CheckIn"), invitations | waits),
    st.tuples(st.just(FLEET + "Contribute"), st.builds(ContributionCounted, ids)),
    st.tuples(st.just(FLEET + "FetchModel"), st.builds(ModelChunk, totals, some_bytes)),
    st.tuples(st.just(TRAINER + "AwaitDecision"), st.builds(DecisionOffer, documents) | waits),
    st.tuples(st.sampled_from([TRAINER + "UploadModel", TRAINER + "PublishSlimBase"]), st.just(Stored())),
)
texts = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=200)
rejections = st.builds(Rejection, st.sampled_from(RejectReason), texts, texts, texts)
methods = st.sampled_from(list(wire.METHODS))


def read_or_refused(read, *arguments):
    """True when ``read`` gave a message; False when it refused; any other exception fails the test."""
    try:
        read(*arguments)
    except RemoteProtocolError:
        return False
    return True


@given(ups)
def test_requests_come_back_the_same(message):
    assert wire.decode_up(wire.method_of(message).path, wire.encode_up(message)) == message


@given(downs)
def test_answers_come_back_the_same(method_and_message):
    method, message = method_and_message
    assert wire.decode_down(method, wire.encode_down(method, message)) == message


@given(rejections)
def test_rejections_come_back_the_same(rejection):
    assert wire.decode_rejection(wire.encode_rejection(rejection)) == rejection


@given(methods, st.binary(max_size=400))
def test_random_bytes_are_read_or_refused(method, data):
    read_or_refused(wire.decode_up, method, data)
    read_or_refused(wire.decode_down, method, data)
    read_or_refused(wire.decode_rejection, data)


@given(ups, st.data())
def test_a_flipped_bit_is_read_or_refused(message, data):
    raw = bytearray(wire.encode_up(message))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    for method in wire.METHODS:
        read_or_refused(wire.decode_up, method, bytes(raw))


@given(downs, st.data())
def test_a_truncated_answer_is_read_or_refused(method_and_message, data):
    method, message = method_and_message
    raw = wire.encode_down(method, message)
    read_or_refused(wire.decode_down, method, raw[: data.draw(st.integers(0, len(raw)))])


@given(ups, st.integers(16, 2**20), some_bytes)
def test_an_added_field_is_always_refused(message, number, smuggled):
    """'a message with a field that its receiver does not know is rejected'."""
    tag = _varint(number << 3 | 2)
    raw = wire.encode_up(message) + tag + _varint(len(smuggled)) + smuggled
    assert not read_or_refused(wire.decode_up, wire.method_of(message).path, raw)


def _varint(value):
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
