"""Models going down in pieces (bases, slim bases) and coming up from operator and trainer, within bounds and checked.

A model is named by the SHA-256 (hex) of its file. Going up, the pieces of one model come in order; a piece sent twice
(its answer was lost) is taken twice without harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prunefleet_coordinator.store import Blobs
from prunefleet_shared.documents import digest
from prunefleet_shared.errors import RejectReason, reject
from prunefleet_shared.messages import FetchModel, ModelChunk, UploadModel
from prunefleet_shared.wire_limits import CHUNK_BYTES, MAX_MODEL_BYTES

_START_AGAIN = "upload again from offset 0"
MAX_UPLOADS = 4
"""At once, each from another member; a further one takes the place of the one begun first."""


@dataclass(slots=True)
class _Upload:
    digest: str
    total_bytes: int
    body: bytearray = field(default_factory=bytearray, repr=False)


class Models:
    """Serves stored models and puts uploaded ones together.

    One upload at a time from each member, kept in memory until it is whole; few at once, so that memory has a bound. A
    piece at offset 0 begins again.

    Args:
        blobs: Where whole models are kept.
        max_model_bytes: Largest model taken.
    """

    def __init__(self, blobs: Blobs, max_model_bytes: int = MAX_MODEL_BYTES) -> None:
        self._blobs = blobs
        self._max_model_bytes = max_model_bytes
        self._uploads: dict[str, _Upload] = {}

    def num_bytes(self, model_digest: str) -> int | None:
        """Size of a stored model; None if there is none of this digest."""
        piece = self._blobs.load_blob(model_digest, 0, 0)
        return None if piece is None else piece.total_bytes

    def chunk(self, message: FetchModel) -> ModelChunk:
        """The piece asked for, at most ``CHUNK_BYTES`` long.

        Raises:
            RemoteProtocolError: ``NOT_FOUND``: no such model, or nothing at this offset (the device's fault).
        """
        piece = self._blobs.load_blob(message.digest, message.offset, CHUNK_BYTES) if message.offset >= 0 else None
        if piece is None or message.offset >= piece.total_bytes:
            raise reject(RejectReason.NOT_FOUND, got=f"{message.digest[:12]} at {message.offset}")
        return ModelChunk(piece.total_bytes, piece.piece)

    def receive(self, peer_id: str, message: UploadModel) -> None:
        """Take a piece from a member, and store the model with its last one.

        Raises:
            RemoteProtocolError: ``TOO_LARGE`` or ``MALFORMED`` (the sender's fault). The upload is as before, except
                that a model which turns out not to match its digest is dropped.
        """
        self._check_bounds(message)
        if self.num_bytes(message.digest) is not None:
            return
        upload = self._begun(peer_id, message) if message.offset == 0 else self._continued(peer_id, message)
        upload.body[message.offset :] = message.chunk
        if len(upload.body) == upload.total_bytes:
            self._store_whole(self._uploads.pop(peer_id))

    def _store_whole(self, upload: _Upload) -> None:
        body = bytes(upload.body)
        if digest(body) != upload.digest:
            expected, got = upload.digest[:12], digest(body)[:12]
            raise reject(RejectReason.MALFORMED, expected=expected, got=got, remedy=_START_AGAIN)
        self._blobs.save_blob(body)

    def _check_bounds(self, message: UploadModel) -> None:
        if message.total_bytes > self._max_model_bytes:
            expected = f"at most {self._max_model_bytes} bytes"
            raise reject(RejectReason.TOO_LARGE, expected=expected, got=str(message.total_bytes))
        if len(message.chunk) > CHUNK_BYTES:
            expected = f"pieces of at most {CHUNK_BYTES} bytes"
            raise reject(RejectReason.TOO_LARGE, expected=expected, got=str(len(message.chunk)))
        if not message.chunk or message.offset < 0 or message.offset + len(message.chunk) > message.total_bytes:
            got = f"{len(message.chunk)} bytes at {message.offset}"
            raise reject(RejectReason.MALFORMED, expected=f"a piece of {message.total_bytes} bytes", got=got)

    def _begun(self, peer_id: str, message: UploadModel) -> _Upload:
        self._uploads.pop(peer_id, None)
        if len(self._uploads) == MAX_UPLOADS:
            del self._uploads[next(iter(self._uploads))]
        self._uploads[peer_id] = _Upload(message.digest, message.total_bytes)
        return self._uploads[peer_id]

    def _continued(self, peer_id: str, message: UploadModel) -> _Upload:
        upload = self._uploads.get(peer_id)
        if upload is None or (message.digest, message.total_bytes) != (upload.digest, upload.total_bytes):
            got = f"{message.digest[:12]} at {message.offset}"
            raise reject(RejectReason.MALFORMED, expected="the upload begun last", got=got, remedy=_START_AGAIN)
        if message.offset > len(upload.body):
            expected = f"offset {len(upload.body)}"
            raise reject(RejectReason.MALFORMED, expected=expected, got=str(message.offset), remedy=_START_AGAIN)
        return upload
