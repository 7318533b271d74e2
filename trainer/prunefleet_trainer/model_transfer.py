"""Models in pieces: up to the coordinator and down from it, checked by digest."""

from __future__ import annotations

from collections.abc import Callable

from prunefleet_shared.documents import digest
from prunefleet_shared.errors import RejectReason, RemoteProtocolError, reject
from prunefleet_shared.messages import FetchModel, Link, ModelChunk, UploadModel
from prunefleet_shared.wire_limits import CHUNK_BYTES, MAX_MODEL_BYTES


async def upload_model(link: Link, model: bytes, on_sent: Callable[[int], None] | None = None) -> str:
    """Send a model piece by piece, from the start; harmless when the coordinator has it.

    Args:
        link: The line to the coordinator, of a trainer or an operator.
        model: Its safetensors file.
        on_sent: Told how many bytes have been taken, after each piece.

    Returns:
        Its digest.

    Raises:
        RemoteProtocolError: A piece was turned down.
        CarrierError: The coordinator cannot be reached.
    """
    name = digest(model)
    for offset in range(0, len(model), CHUNK_BYTES):
        piece = model[offset : offset + CHUNK_BYTES]
        await link.call(UploadModel(name, offset, len(model), piece))
        if on_sent:
            on_sent(offset + len(piece))
    return name


async def fetch_model(link: Link, model_digest: str) -> bytes:
    """A model by its digest, from the coordinator.

    Raises:
        RemoteProtocolError: There is none, or what came is not it (the coordinator's fault).
        CarrierError: The coordinator cannot be reached.
    """
    model, total_bytes = bytearray(), 1
    while len(model) < total_bytes:
        answer = await link.call(FetchModel(model_digest, len(model)))
        if not isinstance(answer, ModelChunk) or not answer.chunk:
            raise _not_it(model_digest, f"a {type(answer).__name__} without bytes")
        total_bytes = answer.total_bytes
        model += answer.chunk
        if not len(model) <= total_bytes <= MAX_MODEL_BYTES:
            raise _not_it(model_digest, f"{len(model)} of {total_bytes} bytes")
    if digest(bytes(model)) != model_digest:
        raise _not_it(model_digest, f"digest {digest(bytes(model))[:12]}")
    return bytes(model)


def _not_it(model_digest: str, got: str) -> RemoteProtocolError:
    remedy = "fetch it again; if it repeats, look at the coordinator's store"
    return reject(RejectReason.MALFORMED, expected=f"the model {model_digest[:12]}", got=got, remedy=remedy)
