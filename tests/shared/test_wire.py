"""The wire: golden bytes, every refusal, every limit. Tests quote the proto sentence that they check."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor as Field

from prunefleet_shared import wire
from prunefleet_shared import wire_limits as limits
from prunefleet_shared.acceptance import RulingReason
from prunefleet_shared.authority_messages import (
    AuthorityOffer,
    CreateTokens,
    DenyList,
    Join,
    ListMembers,
    Member,
    MemberList,
    Membership,
    Revoke,
    Revoked,
    TokenList,
)
from prunefleet_shared.documents import MAX_DOCUMENT_BYTES, SignedDocument
from prunefleet_shared.errors import LocalProtocolError, Rejection, RejectReason, RemoteProtocolError
from prunefleet_shared.messages import (
    AwaitDecision,
    Awaited,
    CampaignEnded,
    CampaignOffer,
    CheckIn,
    ComeBack,
    Contribute,
    ContributionCounted,
    Control,
    ControlCampaign,
    DecisionOffer,
    Ending,
    FetchModel,
    GetCampaign,
    Invitation,
    ModelChunk,
    Phase,
    Readiness,
    Role,
    SessionKind,
    StartCampaign,
    Stored,
    Total,
    UploadModel,
)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "wire.json").read_text())
GOOD = [v for v in VECTORS if "message" in v]
BAD = [v for v in VECTORS if "reject" in v]
ID = "0123456789abcdef" * 2
DIGEST = "ab" * 32
DOCUMENT = SignedDocument("campaign", b"{}", bytes(70), bytes(91))
FLEET, TRAINER, AUTHORITY = (f"/prunefleet.v1.{name}/" for name in ("Fleet", "Trainer", "Authority"))
ENROLMENT = "/prunefleet.v1.Enrolment/"
SERVICES = ("Fleet", "Trainer", "Operator", "Enrolment", "Authority")


def decode(vector):
    data = bytes.fromhex(vector["hex"])
    match vector["direction"]:
        case "up":
            return wire.decode_up(vector["method"], data)
        case "down":
            return wire.decode_down(vector["method"], data)
    return wire.decode_rejection(data)


def encode(vector, message):
    match vector["direction"]:
        case "up":
            return wire.encode_up(message)
        case "down":
            return wire.encode_down(vector["method"], message)
    return wire.encode_rejection(message)


@pytest.mark.parametrize("vector", GOOD, ids=lambda v: f"{v['direction']}{v['method']}")
def test_golden_bytes_are_read_and_written_again(vector):
    message = decode(vector)
    assert repr(message) == vector["message"]
    assert encode(vector, message).hex() == vector["hex"]


@pytest.mark.parametrize("vector", BAD, ids=lambda v: v["name"])
def test_bad_bytes_meet_their_reason(vector):
    with pytest.raises(RemoteProtocolError) as caught:
        decode(vector)
    assert caught.value.rejection.reason.name == vector["reject"]
    assert caught.value.rejection.expected
    assert caught.value.rejection.got


def test_golden_bytes_cover_every_message():
    seen = {(v["direction"], v["message"].split("(")[0]) for v in GOOD}
    assert seen == {
        *(("up", method.up.__name__) for method in wire.METHODS.values()),
        *(("down", down.__name__) for method in wire.METHODS.values() for down in method.downs),
        ("rejection", "Rejection"),
    }


def test_methods_are_those_of_the_services():
    pool = descriptor_pool.Default()
    services = [pool.FindServiceByName(f"prunefleet.v1.{name}") for name in SERVICES]
    assert set(wire.METHODS) == {f"/{s.full_name}/{rpc.name}" for s in services for rpc in s.methods}


def test_every_rpc_has_its_own_request_and_response():
    pool = descriptor_pool.Default()
    for name in SERVICES:
        for rpc in pool.FindServiceByName(f"prunefleet.v1.{name}").methods:
            assert (rpc.input_type.name, rpc.output_type.name) == (f"{rpc.name}Request", f"{rpc.name}Response")


def fields_in(descriptor):
    """Every field of a message, and of the messages in it."""
    for field in descriptor.fields:
        yield field
        if field.message_type is not None:
            yield from fields_in(field.message_type)


def test_the_one_string_a_device_sends_is_its_class():
    """'The one string it sends is the name of its device class'."""
    service = descriptor_pool.Default().FindServiceByName("prunefleet.v1.Fleet")
    fields = [field for rpc in service.methods for field in fields_in(rpc.input_type)]
    assert [f.name for f in fields if f.type == f.TYPE_STRING] == ["device_class"]
    assert [f.message_type.name for f in fields if f.message_type is not None] == ["RosterEntry"]
    kinds = (Field.TYPE_STRING, Field.TYPE_MESSAGE, Field.TYPE_BYTES, Field.TYPE_ENUM, Field.TYPE_UINT64)
    assert {f.type for f in fields} == {*kinds, Field.TYPE_UINT32}
    assert [f.name for f in fields if f.type == f.TYPE_UINT32] == ["rulings_heard", "slim_base_heard"]


def test_reject_reasons_have_the_numbers_of_the_proto():
    names = descriptor_pool.Default().FindEnumTypeByName("prunefleet.v1.RejectReason").values_by_name
    expected = {"REJECT_REASON_UNSPECIFIED": 0} | {f"REJECT_REASON_{r.name}": r.value for r in RejectReason}
    assert {name: value.number for name, value in names.items()} == expected


@pytest.mark.parametrize(
    ("proto", "domain"),
    [(domain.__name__, domain) for domain in (Readiness, SessionKind, Awaited, Ending, Control, Phase, RulingReason)],
)
def test_enums_have_the_numbers_of_the_proto(proto, domain):
    values = descriptor_pool.Default().FindEnumTypeByName(f"prunefleet.v1.{proto}").values
    assert sorted(v.number for v in values) == [0, *(member.value for member in domain)]


@pytest.mark.parametrize("method", wire.METHODS.values(), ids=lambda method: method.path)
def test_a_byte_too_many_is_refused_before_it_is_parsed(method):
    """'a message longer than its method's limit is TOO_LARGE, before it is parsed'."""
    for decode_one, limit in (
        (wire.decode_up, method.max_request_bytes),
        (wire.decode_down, method.max_response_bytes),
    ):
        for num_bytes, reason in ((limit + 1, "TOO_LARGE"), (limit, "MALFORMED")):
            with pytest.raises(RemoteProtocolError) as caught:
                decode_one(method.path, b"\xff" * num_bytes)
            assert caught.value.rejection.reason.name == reason


def test_a_rejection_is_bounded_too():
    with pytest.raises(RemoteProtocolError) as caught:
        wire.decode_rejection(bytes(limits.MAX_REJECTION_BYTES + 1))
    assert caught.value.rejection.reason is RejectReason.TOO_LARGE


LONGEST = replace(DOCUMENT, payload=bytes(MAX_DOCUMENT_BYTES))
LONGEST_ADDRESS = "h" * (limits.MAX_ADDRESS_CHARACTERS - 5) + ":8470"
LONGEST_MEMBERSHIP = Membership(
    (bytes(limits.MAX_CERTIFICATE_BYTES),) * 2,
    (bytes(91),) * limits.MAX_OPERATOR_KEYS,
    LONGEST_ADDRESS,
    LONGEST_ADDRESS,
    "c" * 32,
)
LONGEST_MEMBER = Member("n" * 64, Role.COORDINATOR, bytes(91), 2**63, True)


def invitation(**changed):
    return replace(Invitation(ID, SessionKind.VOTE, 0, 1, 1000), **changed)


@pytest.mark.parametrize(
    "message",
    [
        GetCampaign("a" * 32),
        Contribute(ID, bytes(limits.MAX_CONTRIBUTION_BYTES)),
        FetchModel(DIGEST, limits.MAX_MODEL_BYTES),
        UploadModel(DIGEST, limits.MAX_MODEL_BYTES, limits.MAX_MODEL_BYTES, bytes(wire.CHUNK_BYTES)),
        StartCampaign(replace(DOCUMENT, payload=bytes(MAX_DOCUMENT_BYTES))),
        Join("ab" * 8, bytes(32), bytes(limits.MAX_CERTIFICATE_BYTES)),
        CreateTokens(Role.TRAINER, "n" * 64, True, 1000, 30 * 24 * 3600, "c" * 32),
        ListMembers(Role.COORDINATOR, "n" * 64),
    ],
    ids=lambda m: type(m).__name__,
)
def test_the_longest_request_fits(message):
    assert wire.decode_up(wire.method_of(message).path, wire.encode_up(message)) == message


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("GetCampaign", CampaignOffer(replace(DOCUMENT, payload=bytes(MAX_DOCUMENT_BYTES)))),
        ("FetchModel", ModelChunk(limits.MAX_MODEL_BYTES, bytes(wire.CHUNK_BYTES))),
        ("FetchModel", ModelChunk(1, b"")),
        ("CheckIn", invitation(level=7, attempt=1000, remaining_ms=2**32 - 1)),
    ],
    ids=lambda m: type(m).__name__,
)
def test_the_longest_answer_fits(method, message):
    comes_back_the_same(FLEET + method, message)


LARGEST_TOTAL = Total((7 * limits.MAX_DEVICES,) * limits.MAX_LANES, limits.MAX_DEVICES)
LARGEST_OUTCOME = Total((limits.MAX_DEVICES,) * limits.MAX_OUTCOME_LANES, limits.MAX_DEVICES)
LONGEST_OFFER = DecisionOffer(LONGEST, replace(LONGEST, kind="decision"), LARGEST_TOTAL, (LARGEST_OUTCOME,) * 8)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (TRAINER + "AwaitDecision", LONGEST_OFFER),
        (ENROLMENT + "Join", LONGEST_MEMBERSHIP),
        (AUTHORITY + "Renew", LONGEST_MEMBERSHIP),
        (AUTHORITY + "ListDenied", DenyList(("f" * 40,) * limits.MAX_DENIED)),
        (AUTHORITY + "CreateTokens", TokenList(("t" * limits.MAX_TOKEN_CHARACTERS,) * limits.MAX_PAGE)),
        (AUTHORITY + "ListMembers", MemberList((LONGEST_MEMBER,) * limits.MAX_PAGE)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_longest_answer_of_the_other_services_fits(path, message):
    comes_back_the_same(path, message)


@pytest.mark.parametrize(
    "totals",
    [(LARGEST_OUTCOME,) * 9, (Total((0,) * (limits.MAX_OUTCOME_LANES + 1), 3),), (Total((), 3),), (Total((1,), 0),)],
    ids=["too many", "too long", "empty", "of nobody"],
)
def test_sums_of_outcomes_that_cannot_be_are_refused(totals):
    """Whoever encodes reads back what it wrote, by the rules of whoever reads it."""
    with pytest.raises(LocalProtocolError, match="MALFORMED; expected"):
        wire.encode_down(TRAINER + "AwaitDecision", replace(LONGEST_OFFER, vote_total=None, outcome_totals=totals))


def comes_back_the_same(path, message):
    assert wire.decode_down(path, wire.encode_down(path, message)) == message


@pytest.mark.parametrize(
    "message",
    [
        GetCampaign(""),
        GetCampaign("a" * 33),
        GetCampaign("a\n"),
        GetCampaign("../x"),
        CheckIn(ID.upper(), DIGEST, Readiness.READY),
        CheckIn(ID[:-2], DIGEST, Readiness.READY),
        CheckIn(ID, DIGEST, 6),
        CheckIn(ID, DIGEST, 0.5),
        CheckIn("not hex", DIGEST, Readiness.READY),
        Contribute(ID, b""),
        Contribute(ID, bytes(limits.MAX_CONTRIBUTION_BYTES + 1)),
        Contribute(ID, "text"),
        FetchModel(DIGEST, -1),
        FetchModel(DIGEST, limits.MAX_MODEL_BYTES + 1),
        UploadModel(DIGEST, 0, 0, b"x"),
        UploadModel(DIGEST, 0, 1, b""),
        UploadModel(DIGEST, 0, 1, bytes(wire.CHUNK_BYTES + 1)),
        AwaitDecision(None),
        ControlCampaign(ID, 4),
        Join("ab" * 8, bytes(31), b"request"),
        Join("ab" * 7, bytes(32), b"request"),
        Join("ab" * 8, bytes(32), b""),
        Revoke(""),
        Revoke("Device/1"),
        CreateTokens(Role.AUTHORITY, "name", False, 1, 60, ""),
        CreateTokens(Role.NEWCOMER, "name", False, 1, 60, ""),
        CreateTokens(Role.DEVICE, "name", False, 0, 60, ""),
        CreateTokens(Role.DEVICE, "name", False, 1, 59, ""),
        CreateTokens(Role.DEVICE, "name", False, 1, 60, "Class"),
        ListMembers(Role.NEWCOMER, ""),
        Stored(),
        object(),
    ],
    ids=lambda m: repr(m)[:60],
)
def test_what_breaks_the_protocol_never_leaves(message):
    with pytest.raises(LocalProtocolError):
        wire.encode_up(message)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (FLEET + "GetCampaign", CampaignOffer(replace(DOCUMENT, kind="poem"))),
        (FLEET + "GetCampaign", CampaignOffer(replace(DOCUMENT, payload=b""))),
        (FLEET + "GetCampaign", CampaignOffer(replace(DOCUMENT, payload=bytes(MAX_DOCUMENT_BYTES + 1)))),
        (FLEET + "GetCampaign", CampaignOffer(replace(DOCUMENT, signature=bytes(7)))),
        (FLEET + "GetCampaign", CampaignOffer(replace(DOCUMENT, signature=bytes(73)))),
        (FLEET + "GetCampaign", CampaignOffer(replace(DOCUMENT, public_key=bytes(90)))),
        (FLEET + "CheckIn", invitation(level=8)),
        (FLEET + "CheckIn", invitation(attempt=0)),
        (FLEET + "CheckIn", invitation(attempt=1001)),
        (FLEET + "CheckIn", invitation(remaining_ms=2**32)),
        (FLEET + "CheckIn", invitation(kind=3)),
        (FLEET + "CheckIn", Stored()),
        (FLEET + "FetchModel", ModelChunk(1, bytes(wire.CHUNK_BYTES + 1))),
        (FLEET + "FetchModel", ModelChunk(0, b"")),
        (FLEET + "Contribute", ContributionCounted("")),
        (TRAINER + "AwaitDecision", ContributionCounted(ID)),
        (TRAINER + "NoSuchMethod", Stored()),
        (ENROLMENT + "GetAuthority", AuthorityOffer(b"", 0)),
        (ENROLMENT + "GetAuthority", AuthorityOffer(b"root", -1)),
        (ENROLMENT + "Join", replace(LONGEST_MEMBERSHIP, certificates=(b"leaf",))),
        (ENROLMENT + "Join", replace(LONGEST_MEMBERSHIP, coordinator_address="h")),
        (ENROLMENT + "Join", Revoked()),
        (AUTHORITY + "ListDenied", DenyList(("0",))),
        (AUTHORITY + "ListDenied", DenyList(("xyz",))),
        (AUTHORITY + "ListDenied", DenyList(("f" * 41,))),
        (AUTHORITY + "CreateTokens", TokenList(())),
        (AUTHORITY + "ListMembers", MemberList((replace(LONGEST_MEMBER, role=Role.AUTHORITY),))),
    ],
)
def test_an_answer_that_breaks_the_protocol_never_leaves(path, message):
    with pytest.raises(LocalProtocolError):
        wire.encode_down(path, message)


@pytest.mark.parametrize("role", [Role.DEVICE, Role.TRAINER])
@pytest.mark.parametrize(
    "message", [ComeBack(0, Awaited.NOTHING), CampaignEnded(Ending.FAILED), CampaignEnded(Ending.COMPLETED)]
)
def test_both_roles_can_be_told_to_wait_or_to_stop(role, message):
    path = FLEET + "CheckIn" if role is Role.DEVICE else TRAINER + "AwaitDecision"
    assert wire.decode_down(path, wire.encode_down(path, message)) == message


@pytest.mark.parametrize("decode_one", [wire.decode_up, wire.decode_down])
def test_an_unknown_method_is_the_callers_bug(decode_one):
    with pytest.raises(LocalProtocolError):
        decode_one("/prunefleet.v1.Fleet/Delete", b"")


@pytest.mark.parametrize("reason", list(RejectReason))
def test_every_rejection_survives_the_wire(reason):
    rejection = Rejection(reason, "expected ü", "got", "remedy")
    assert wire.decode_rejection(wire.encode_rejection(rejection)) == rejection


def test_a_rejection_is_cut_and_made_printable():
    rejection = Rejection(RejectReason.LATE, "e" * 500, "\x1b[2J\ud800", "\N{GRINNING FACE}" * 300)
    data = wire.encode_rejection(rejection)
    assert len(data) <= limits.MAX_REJECTION_BYTES
    read = wire.decode_rejection(data)
    assert (read.expected, read.got) == ("e" * 200, "?[2J?")
    assert read.remedy == "\N{GRINNING FACE}" * 200


def test_a_rejection_never_repeats_what_came():
    """'never a value taken from the message that was turned down'."""
    secret = b"Planted-9F3C"  # capitals, so that it is no device class and no name
    for data in (b"\x0a" + bytes([len(secret)]) + secret, secret, b"\x7a" + bytes([len(secret)]) + secret):
        for path in {*wire.METHODS} - {AUTHORITY + "Renew"}:  # there any bytes may be a request until they are read
            with pytest.raises(RemoteProtocolError) as caught:
                wire.decode_up(path, data)
            assert secret.decode() not in str(caught.value)
