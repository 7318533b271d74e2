"""Signed documents: campaign, decision, slim base and ruling as canonical JSON under a P-256 signature.

People read these files, replay recomputes them, and a signature must survive both, so the payload is JSON with sorted
keys, no spaces, ASCII only, and integers and strings only (floats have no canonical form). ``kind`` is signed along
with the payload, so that a document cannot be passed off as one of another kind.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import TypeAdapter, ValidationError

from prunefleet_shared.errors import ConfigError, RejectReason, reject

T = TypeVar("T")
_DOMAIN = b"prunefleet/1|"
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
"""A campaign for ResNet-50 (11,456 channels) takes about 200 kB; 20 times that is room enough."""


@dataclass(frozen=True, slots=True)
class SignedDocument:
    """A document as it travels and is stored.

    Attributes:
        kind: ``"campaign"``, ``"decision"``, ``"slim_base"`` or ``"ruling"``; part of what is signed.
        payload: Canonical JSON, ASCII.
        signature: ECDSA P-256 with SHA-256, DER.
        public_key: The signer's key, DER SubjectPublicKeyInfo.
    """

    kind: str
    payload: bytes
    signature: bytes
    public_key: bytes


def canonical_bytes(document: object) -> bytes:
    """Canonical JSON of a dataclass (or plain value) made of integers, strings, lists, mappings and sets (sorted).

    Raises:
        TypeError: It holds something without a canonical form, such as a float (a bug in the caller).
    """
    return json.dumps(_plain(document), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    msg = f"{type(value).__name__} has no canonical form"
    raise TypeError(msg)


def digest(payload: bytes) -> str:
    """SHA-256 in hex: how blobs and documents are named."""
    return hashlib.sha256(payload).hexdigest()


def sign_document(kind: str, document: object, key: ec.EllipticCurvePrivateKey) -> SignedDocument:
    """Sign ``document`` with a P-256 key; deterministic (RFC 6979), so the same input gives the same bytes."""
    payload = canonical_bytes(document)
    signature = key.sign(_signed_bytes(kind, payload), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return SignedDocument(kind, payload, signature, public_bytes(key.public_key()))


def open_document(signed: SignedDocument, kind: str, document_type: type[T], trusted_key: bytes) -> T:
    """Check the signature against ``trusted_key``, then read the payload as ``document_type``.

    Args:
        signed: What came.
        kind: What it must be.
        document_type: A frozen dataclass; unknown keys and wrong types are refused.
        trusted_key: The DER public key it must be signed with.

    Raises:
        RemoteProtocolError: ``BAD_SIGNATURE`` or ``MALFORMED`` (the sender's fault).
    """
    if signed.kind != kind or signed.public_key != trusted_key or not signature_agrees(signed):
        raise reject(
            RejectReason.BAD_SIGNATURE,
            expected=f"a {kind} signed by the campaign's key",
            got=f"a {signed.kind} by {digest(signed.public_key)[:12]}",
            remedy="fetch it again; if it repeats, tell the operator",
        )
    return read_document(signed.payload, document_type)


def signature_agrees(signed: SignedDocument) -> bool:
    """True when the signature fits the payload and the key the document itself carries."""
    try:
        key = serialization.load_der_public_key(signed.public_key)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signed.signature, _signed_bytes(signed.kind, signed.payload), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def read_document(payload: bytes, document_type: type[T]) -> T:
    """Read canonical JSON as ``document_type``, refusing unknown keys, floats and wrong types.

    Raises:
        RemoteProtocolError: ``TOO_LARGE`` or ``MALFORMED`` (the sender's fault).
    """
    if len(payload) > MAX_DOCUMENT_BYTES:
        raise reject(RejectReason.TOO_LARGE, expected=f"at most {MAX_DOCUMENT_BYTES} bytes", got=f"{len(payload)}")
    try:
        return TypeAdapter(document_type).validate_json(payload, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise reject(
            RejectReason.MALFORMED,
            expected=f"a {document_type.__name__}",
            got=f"{first['msg']} at {where or 'top'}",
        ) from None
    except ConfigError as error:  # a value that its type refuses, such as limits out of range
        raise reject(RejectReason.MALFORMED, expected=f"a {document_type.__name__}", got=str(error)) from None


def public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _signed_bytes(kind: str, payload: bytes) -> bytes:
    return _DOMAIN + kind.encode() + b"|" + payload
