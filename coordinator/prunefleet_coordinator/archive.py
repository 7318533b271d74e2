"""A campaign's run as a folder of readable files, complete enough to recompute every decision from (see ``replay``).

::

    DIR/campaign.json            signed: what was asked
    DIR/level-0/sum.json         the votes' total, as it was when level 0 was decided
    DIR/level-0/decision.json    signed: what followed from it
    DIR/level-0/slim_base.json   signed: the trainer's answer
    DIR/level-0/outcome.json     the outcomes' total, once measured
    DIR/level-1/...

A signed document is JSON with its payload as text inside, so that a person can read it and a signature survives it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prunefleet_coordinator.store import Store
from prunefleet_shared.documents import SignedDocument, canonical_bytes, read_document
from prunefleet_shared.errors import RemoteProtocolError, ReplayError
from prunefleet_shared.messages import SessionKind
from prunefleet_shared.private_sum import Total

CAMPAIGN_FILE = "campaign.json"
SUM_FILE = "sum.json"
DECISION_FILE = "decision.json"
SLIM_BASE_FILE = "slim_base.json"
OUTCOME_FILE = "outcome.json"
LEVEL_FOLDER = "level-"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _SignedText:
    kind: str
    payload: str
    signature: str
    public_key: str


def write_run(directory: Path, store: Store, campaign_id: str) -> None:
    """Write all that ``store`` knows of a campaign below ``directory``; may be called again as the campaign goes on.

    Args:
        directory: Created if need be; files of the same names are replaced.
        store: The coordinator's.
        campaign_id: Which campaign.

    Raises:
        ConfigError: The store cannot be read (the operator's to mend).
    """
    directory.mkdir(parents=True, exist_ok=True)
    _write_signed(directory / CAMPAIGN_FILE, store.load_document(campaign_id, "campaign", 0))
    vote = store.load_closed(campaign_id, SessionKind.VOTE, 0)
    snapshot = store.load_snapshot(campaign_id)
    for decision in snapshot.decisions if snapshot else ():
        level = decision.level
        folder = directory / f"{LEVEL_FOLDER}{level}"
        folder.mkdir(exist_ok=True)
        outcome = store.load_closed(campaign_id, SessionKind.OUTCOME, level)
        _write_total(folder / SUM_FILE, vote.total if vote else None)
        _write_signed(folder / DECISION_FILE, store.load_document(campaign_id, "decision", level))
        _write_signed(folder / SLIM_BASE_FILE, store.load_document(campaign_id, "slim_base", level))
        _write_total(folder / OUTCOME_FILE, outcome.total if outcome else None)


def read_signed(path: Path) -> SignedDocument:
    """A signed document from its file; its signature is not checked yet.

    Raises:
        ReplayError: The file is missing, unreadable or no signed document.
    """
    text = _read(path, _SignedText)
    try:
        signature, public_key = bytes.fromhex(text.signature), bytes.fromhex(text.public_key)
        return SignedDocument(text.kind, text.payload.encode(), signature, public_key)
    except ValueError:
        msg = f"{path}: expected hex digits in signature and public_key"
        raise ReplayError(msg) from None


def read_total(path: Path) -> Total:
    """A sum from its file.

    Raises:
        ReplayError: The file is missing, unreadable or no sum.
    """
    return _read(path, Total)


def _read(path: Path, document_type: type[T]) -> T:
    try:
        return read_document(path.read_bytes(), document_type)
    except OSError as error:
        msg = f"{path}: expected a file, got {error.strerror}"
        raise ReplayError(msg) from None
    except RemoteProtocolError as error:
        msg = f"{path}: {error}"
        raise ReplayError(msg) from None


def _write_signed(path: Path, signed: SignedDocument | None) -> None:
    if signed:
        text = _SignedText(signed.kind, signed.payload.decode(), signed.signature.hex(), signed.public_key.hex())
        _write(path, text)


def _write_total(path: Path, total: Total | None) -> None:
    if total:
        _write(path, total)


def _write(path: Path, document: object) -> None:
    # Canonical values, one member a line: for people to read and diff. What is signed is the text within.
    members = json.loads(canonical_bytes(document))
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in members.items())
    path.write_text(f"{{\n{lines}\n}}\n", encoding="ascii")
