"""Whatever comes, decoding gives a message or a RemoteProtocolError; whatever is sent comes back the same."""

from hypothesis import given
from hypothesis import strategies as st

from prunefleet_shared import wire
from prunefleet_shared.authority_messages import (
    AuthorityOffer,
    CreateTokens,
    DenyList,
    GetAuthority,
    Join,
    ListDenied,
    ListMembers,
    Member,
    MemberList,
    Membership,
    Renew,
    Revoke,
    Revoked,
    TokenList,
)
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.errors import Rejection, RejectReason, RemoteProtocolError
from prunefleet_shared.messages import (
    AwaitDecision,
    Awaited,
    CampaignEnded,
    CampaignOffer,
    CampaignStatus,
    CheckIn,
    ComeBack,
    Contribute,
    ContributionCounted,
    Control,
    ControlCampaign,
    DecisionOffer,
    Ending,
    FetchModel,
    FleetStatus,
    GetCampaign,
    GetStatus,
    Invitation,
    ModelChunk,
    Phase,
    PublishSlimBase,
    Readiness,
    Role,
    SessionKind,
    StartCampaign,
    Stored,
    Total,
    UploadModel,
)
from prunefleet_shared.sum_messages import (
    Advertise,
    CertificateList,
    Confirmations,
    ConfirmSurvivors,
    FetchCertificates,
    PeerShares,
    Roster,
    RosterEntry,
    ShareKeys,
    Survivors,
    Unmask,
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
classes = st.text("abcxyz019-", min_size=1, max_size=32)
names = st.text("abcxyz019-", min_size=1, max_size=64)
roles = st.sampled_from([Role.DEVICE, Role.TRAINER, Role.OPERATOR, Role.COORDINATOR])
entries = st.builds(RosterEntry, fixed(32), fixed(32), fixed(32), fixed(64))
member_sets = st.binary(min_size=1, max_size=125)


@st.composite
def per_member(draw, message, *pieces, has_session=False):
    """A message of a member set and, for each field, so many bytes for each member (a field may leave one out)."""
    members = draw(st.binary(min_size=1, max_size=3).filter(any))
    num_members = int.from_bytes(members).bit_count()
    fields = [draw(fixed(num_bytes * (num_members - left_out))) for num_bytes, left_out in pieces]
    return message(*([draw(ids)] if has_session else []), members, *fields)


ups = st.one_of(
    st.builds(Advertise, ids, st.lists(some_bytes, min_size=1, max_size=2).map(tuple), entries, fixed(32)),
    st.builds(FetchCertificates, ids, st.lists(fixed(32), min_size=1, max_size=20).map(tuple)),
    st.builds(ShareKeys, ids, st.integers(1, 5).flatmap(lambda n: fixed(80 * n)), fixed(64)),
    st.builds(ConfirmSurvivors, ids, fixed(64)),
    per_member(Unmask, (32, 0), has_session=True),
    st.builds(GetCampaign, classes),
    st.builds(CheckIn, ids, digests, st.sampled_from(Readiness)),
    st.builds(Contribute, ids, some_bytes),
    st.builds(FetchModel, digests, offsets),
    st.builds(AwaitDecision, ids | st.just("")),
    st.builds(UploadModel, digests, offsets, totals, some_bytes),
    st.builds(PublishSlimBase, documents),
    st.builds(StartCampaign, documents),
    st.builds(ControlCampaign, ids, st.sampled_from(Control)),
    st.just(GetStatus()),
    st.just(GetAuthority()),
    st.builds(Join, fixed(8).map(bytes.hex), fixed(32), some_bytes),
    st.builds(Renew, some_bytes),
    st.just(ListDenied()),
    st.builds(Revoke, names),
    st.builds(
        CreateTokens,
        roles,
        names,
        st.booleans(),
        st.integers(1, 1000),
        st.integers(60, 30 * 24 * 3600),
        st.just("") | classes,
    ),
    st.builds(ListMembers, st.none() | roles, st.just("") | names),
)
fleet_totals = st.builds(
    Total, st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20).map(tuple), st.integers(1, 10**6)
)
offers = st.builds(
    DecisionOffer, documents, documents, st.none() | fleet_totals, st.lists(fleet_totals, max_size=8).map(tuple)
)
waits = st.one_of(
    st.builds(ComeBack, st.integers(0, 2**32 - 1), st.sampled_from(Awaited)),
    st.builds(CampaignEnded, st.sampled_from(Ending)),
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
addresses = st.sampled_from(["coordinator:8470", "[::1]:8472", "10.0.0.7:1"])
memberships = st.builds(
    Membership,
    st.tuples(some_bytes, some_bytes),
    st.lists(fixed(91), max_size=16).map(tuple),
    addresses,
    addresses,
    st.just("") | classes,
)
serials = st.integers(1, 2**160 - 1).map("{:x}".format)
tokens = st.text("PF1abc019:.@-_", min_size=1, max_size=512)
members = st.builds(Member, names, roles, fixed(91), st.integers(0, 2**64 - 1), st.booleans())
numbers = st.integers(0, 2**32 - 1)
statuses = st.builds(
    CampaignStatus,
    ids,
    classes,
    st.sampled_from(Phase),
    st.booleans(),
    st.integers(0, 7),
    st.integers(1, 8),
    numbers,
    numbers,
    numbers,
    numbers,
    numbers,
    st.sampled_from(Awaited),
    st.integers(0, 2**64 - 1),
    st.lists(names, max_size=200).map(tuple),
)
FLEET, TRAINER, OPERATOR, ENROLMENT, AUTHORITY = (
    f"/prunefleet.v1.{name}/" for name in ("Fleet", "Trainer", "Operator", "Enrolment", "Authority")
)
STAGES = [
    FLEET + name for name in ("Advertise", "FetchCertificates", "ShareKeys", "Contribute", "ConfirmSurvivors", "Unmask")
]
downs = st.one_of(
    st.tuples(st.just(FLEET + "GetCampaign"), st.builds(CampaignOffer, documents)),
    st.tuples(st.just(ENROLMENT + "GetAuthority"), st.builds(AuthorityOffer, some_bytes, st.integers(0, 2**64 - 1))),
    st.tuples(st.sampled_from([ENROLMENT + "Join", AUTHORITY + "Renew"]), memberships),
    st.tuples(st.just(AUTHORITY + "ListDenied"), st.builds(DenyList, st.lists(serials).map(tuple))),
    st.tuples(st.just(AUTHORITY + "Revoke"), st.just(Revoked())),
    st.tuples(st.just(AUTHORITY + "CreateTokens"), st.builds(TokenList, st.lists(tokens, min_size=1).map(tuple))),
    st.tuples(st.just(AUTHORITY + "ListMembers"), st.builds(MemberList, st.lists(members, max_size=5).map(tuple))),
    st.tuples(st.sampled_from([OPERATOR + "StartCampaign", OPERATOR + "ControlCampaign"]), st.just(Stored())),
    st.tuples(
        st.just(OPERATOR + "GetStatus"),
        st.builds(FleetStatus, st.lists(statuses, max_size=3).map(tuple), numbers, st.booleans()),
    ),
    st.tuples(st.just(FLEET + "CheckIn"), invitations | waits),
    st.tuples(st.just(FLEET + "Contribute"), st.builds(Survivors, member_sets)),
    st.tuples(st.sampled_from([FLEET + "Contribute", FLEET + "Unmask"]), st.builds(ContributionCounted, ids)),
    st.tuples(st.just(FLEET + "Advertise"), st.builds(Roster, st.lists(entries, min_size=2, max_size=5).map(tuple))),
    st.tuples(
        st.just(FLEET + "FetchCertificates"),
        st.builds(
            CertificateList, st.lists(some_bytes, min_size=1, max_size=5).map(tuple), st.lists(some_bytes).map(tuple)
        ),
    ),
    st.tuples(st.just(FLEET + "ShareKeys"), per_member(PeerShares, (80, 1), (64, 0))),
    st.tuples(st.just(FLEET + "ConfirmSurvivors"), per_member(Confirmations, (64, 0))),
    st.tuples(st.sampled_from(STAGES), st.builds(ComeBack, numbers, st.sampled_from(Awaited))),
    st.tuples(st.just(FLEET + "FetchModel"), st.builds(ModelChunk, totals, some_bytes)),
    st.tuples(st.just(TRAINER + "AwaitDecision"), offers | waits),
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


@given(ups.filter(wire.encode_up), st.data())  # some say all by being asked, in no bytes
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
