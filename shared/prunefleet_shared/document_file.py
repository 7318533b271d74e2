"""Documents as readable files: canonical values, one member a line, for people to read and diff.

A signed document is JSON with its payload as text inside, so that a person can read it and a signature survives it.
What is signed is the text within.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prunefleet_shared.documents import SignedDocument, canonical_bytes, read_document
from prunefleet_shared.errors import ConfigError, InputError, RemoteProtocolError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _SignedText:
    kind: str
    payload: str
    signature: str
    public_key: str


def write_signed(path: Path, signed: SignedDocument) -> None:
    """Write a signed document to ``path``; the file is whole or absent, whatever happens.

    Raises:
        ConfigError: It cannot be written (the user's to mend).
    """
    text = _SignedText(signed.kind, signed.payload.decode(), signed.signature.hex(), signed.public_key.hex())
    write_document(path, text)


def read_signed(path: Path) -> SignedDocument:
    """A signed document from its file; its signature is not checked yet.

    Raises:
        InputError: The file is missing, unreadable or no signed document (the user's to mend).
    """
    text = read_document_file(path, _SignedText)
    try:
        signature, public_key = bytes.fromhex(text.signature), bytes.fromhex(text.public_key)
    except ValueError:
        msg = f"{path}: expected hex digits in signature and public_key"
        raise InputError(msg) from None
    return SignedDocument(text.kind, text.payload.encode(), signature, public_key)


def write_document(path: Path, document: object) -> None:
    """Write a dataclass of integers, strings, lists and mappings to ``path``, whole or not at all.

    Raises:
        ConfigError: It cannot be written (the user's to mend).
        TypeError: It holds something without a canonical form (a bug in the caller).
    """
    members = json.loads(canonical_bytes(document))
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in members.items())
    write_whole(path, f"{{\n{lines}\n}}\n".encode("ascii"))


def read_document_file(path: Path, document_type: type[T]) -> T:
    """A document from its file; unknown keys and wrong types are refused.

    Raises:
        InputError: The file is missing, unreadable or no such document (the user's to mend).
    """
    try:
        return read_document(path.read_bytes(), document_type)
    except OSError as error:
        msg = f"{path}: expected a file, got {error.strerror}"
        raise InputError(msg) from None
    except RemoteProtocolError as error:
        msg = f"{path}: {error}"
        raise InputError(msg) from None


def write_whole(path: Path, body: bytes, mode: int = 0o644) -> None:
    """Write ``body`` to ``path``, on disk under that name only when it is complete.

    Args:
        path: Replaced when it exists; its folder must exist.
        body: The content.
        mode: Permissions; 0o600 for secrets.

    Raises:
        ConfigError: It cannot be written (the user's to mend).
    """
    try:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600 from the start
    except OSError as error:
        raise _unwritable(path, error) from None
    temporary = Path(name)
    try:
        with os.fdopen(number, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(body)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)  # nothing is left of a failed or interrupted write


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: expected to write there, got {error.strerror}; choose another folder or make room")
