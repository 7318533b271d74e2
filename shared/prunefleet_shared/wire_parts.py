"""Parts that several messages have: documents, models' offsets and sizes, waits. Only ``wire`` uses it."""

from __future__ import annotations

from google.protobuf.message import Message

from prunefleet_shared import wire_limits as limits
from prunefleet_shared._generated.prunefleet.v1 import messages_pb2 as pb
from prunefleet_shared.documents import MAX_DOCUMENT_BYTES, SignedDocument
from prunefleet_shared.messages import Awaited, ComeBack
from prunefleet_shared.wire_limits import closed, malformed, sized

_KINDS = {
    "campaign": pb.DOCUMENT_KIND_CAMPAIGN,
    "decision": pb.DOCUMENT_KIND_DECISION,
    "slim_base": pb.DOCUMENT_KIND_SLIM_BASE,
    "ruling": pb.DOCUMENT_KIND_RULING,
}
_KIND_NAMES: dict[int, str] = {number: name for name, number in _KINDS.items()}


def document_to_wire(document: SignedDocument) -> pb.SignedDocument:
    """A document as protobuf."""
    return pb.SignedDocument(
        kind=_KINDS.get(document.kind, pb.DOCUMENT_KIND_UNSPECIFIED),
        payload=document.payload,
        signature=document.signature,
        public_key=document.public_key,
    )


def document_in(holder: Message, name: str) -> SignedDocument:
    """The document in a field; raises ``MALFORMED`` unless it is there and has the right sizes."""
    if not holder.HasField(name):
        raise malformed(f"a {name}", "none")
    wire: pb.SignedDocument = getattr(holder, name)
    if wire.kind not in _KIND_NAMES:
        raise malformed("kind, a DocumentKind", "unset or an unknown number")
    return SignedDocument(
        _KIND_NAMES[wire.kind],
        sized(wire.payload, range(1, MAX_DOCUMENT_BYTES + 1), "payload"),
        sized(wire.signature, limits.SIGNATURE_BYTES, "signature"),
        sized(wire.public_key, limits.PUBLIC_KEY_BYTES, "public_key"),
    )


def come_back_to_wire(come_back: ComeBack) -> pb.ComeBack:
    """A wait as protobuf."""
    return pb.ComeBack(after_ms=come_back.after_ms, awaited=come_back.awaited.value)  # type: ignore[arg-type]


def come_back_from_wire(wire: pb.ComeBack) -> ComeBack:
    """A wait; raises ``MALFORMED`` for an unknown ``awaited``."""
    return ComeBack(wire.after_ms, closed(Awaited, wire.awaited, "awaited"))


def which_answer(wire: Message) -> str:
    """Which alternative of an answer is set; raises ``MALFORMED`` if none is."""
    which: str | None = wire.WhichOneof("answer")
    if which is None:
        raise malformed("one answer", "none")
    return which


def model_offset(value: int) -> int:
    """``value`` itself; raises ``MALFORMED`` past the largest model."""
    return limits.bounded(value, range(limits.MAX_MODEL_BYTES + 1), "offset")


def model_total(value: int) -> int:
    """``value`` itself; raises ``MALFORMED`` unless a model can have that many bytes."""
    return limits.bounded(value, range(1, limits.MAX_MODEL_BYTES + 1), "total_bytes")
