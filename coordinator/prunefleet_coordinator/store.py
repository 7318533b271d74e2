"""What the coordinator keeps on disk: where each campaign stands, sums of closed rounds, signed documents, models.

A device's own vector is never stored; there is no table it would fit in. A closing (sum, snapshot, signed decision) is
one transaction. The sum of a round can be stored once: the primary key refuses a second, should all else fail.

:class:`SqlStore` runs on SQLAlchemy Core: SQLite (write-ahead log) by default, PostgreSQL by URL.
:class:`MemoryStore` is the same without a disk, for tests and the simulation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from prunefleet_coordinator.state import ClosedRound, Snapshot
from prunefleet_coordinator.store_tables import (
    BLOBS,
    CAMPAIGNS,
    DOCUMENTS,
    METADATA,
    NOTES,
    SNAPSHOTS,
    SUMS,
    replace,
    write_document,
    write_snapshot,
)
from prunefleet_shared.documents import SignedDocument, canonical_bytes, digest, read_document
from prunefleet_shared.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from prunefleet_shared.messages import SessionKind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredCampaign:
    """A campaign that was started here; where it stands is in its snapshot."""

    campaign_id: str
    device_class: str


@dataclass(frozen=True, slots=True)
class BlobPiece:
    """A piece of a stored model: at most as long as asked for, empty past its end."""

    total_bytes: int
    piece: bytes


class Store(Protocol):
    """State of campaigns. Every ``save`` is one transaction: all of it is there afterwards, or nothing.

    ``signed`` is filed under its own kind and the snapshot's level. Every method raises ``ConfigError`` when the
    store cannot be used (disk full, file corrupt: the operator's to mend).
    """

    def save_campaign(self, campaign: StoredCampaign, signed: SignedDocument) -> None:
        """Enter a campaign, with its signed document; again, it changes nothing."""
        ...

    def list_campaigns(self) -> tuple[StoredCampaign, ...]:
        """All campaigns, in the order in which they were entered."""
        ...

    def load_snapshot(self, campaign_id: str) -> Snapshot | None:
        """Where the campaign stands; None if it never began."""
        ...

    def save_snapshot(self, snapshot: Snapshot, signed: SignedDocument | None = None) -> None:
        """Replace the campaign's snapshot and, with it, file a signed document."""
        ...

    def save_closing(
        self,
        closed: ClosedRound,
        snapshot: Snapshot,
        signed: SignedDocument | None = None,
        ruling: SignedDocument | None = None,
    ) -> None:
        """Store a round's sum, the snapshot after it, the signed decision it led to and the signed ruling on it.

        A ruling is filed under its number, in place of a level.

        Raises:
            LocalProtocolError: The round already has a sum (our bug: it would have been counted twice).
        """
        ...

    def load_closed(self, campaign_id: str, kind: SessionKind, level: int) -> ClosedRound | None:
        """A round's sum; None while it is open."""
        ...

    def save_document(self, campaign_id: str, level: int, signed: SignedDocument) -> None:
        """File a signed document under campaign, its kind, and level (0 for the campaign itself)."""
        ...

    def load_document(self, campaign_id: str, kind: str, level: int) -> SignedDocument | None:
        """A signed document; None if there is none."""
        ...

    def save_note(self, name: str, body: bytes) -> None:
        """Keep ``body`` under ``name``, in place of what was there: what is not any campaign's."""
        ...

    def load_note(self, name: str) -> bytes | None:
        """What was kept under ``name``; None if nothing was."""
        ...


class Blobs(Protocol):
    """Models by the SHA-256 (hex) of their bytes."""

    def save_blob(self, body: bytes) -> str:
        """Store ``body`` and return its digest; storing it again changes nothing."""
        ...

    def load_blob(self, blob_digest: str, offset: int, length: int) -> BlobPiece | None:
        """``length`` bytes from ``offset``; None if there is no such blob."""
        ...


class MemoryStore:
    """Store and blobs in dictionaries; gone with the process."""

    def __init__(self) -> None:
        self._snapshots: dict[str, Snapshot] = {}
        self._closed: dict[tuple[str, SessionKind, int], ClosedRound] = {}
        self._documents: dict[tuple[str, str, int], SignedDocument] = {}
        self._campaigns: dict[str, StoredCampaign] = {}
        self._notes: dict[str, bytes] = {}
        self._blobs: dict[str, bytes] = {}

    def save_campaign(self, campaign: StoredCampaign, signed: SignedDocument) -> None:
        """See :class:`Store`."""
        if campaign.campaign_id not in self._campaigns:
            self._campaigns[campaign.campaign_id] = campaign
            self.save_document(campaign.campaign_id, 0, signed)

    def list_campaigns(self) -> tuple[StoredCampaign, ...]:
        """See :class:`Store`."""
        return tuple(self._campaigns.values())

    def load_snapshot(self, campaign_id: str) -> Snapshot | None:
        """See :class:`Store`."""
        return self._snapshots.get(campaign_id)

    def save_snapshot(self, snapshot: Snapshot, signed: SignedDocument | None = None) -> None:
        """See :class:`Store`."""
        self._snapshots[snapshot.campaign_id] = snapshot
        if signed:
            self.save_document(snapshot.campaign_id, snapshot.level, signed)

    def save_closing(
        self,
        closed: ClosedRound,
        snapshot: Snapshot,
        signed: SignedDocument | None = None,
        ruling: SignedDocument | None = None,
    ) -> None:
        """See :class:`Store`."""
        key = (snapshot.campaign_id, closed.kind, closed.level)
        if key in self._closed:
            raise _stored_twice(closed, snapshot.campaign_id)
        self._closed[key] = closed
        self.save_snapshot(snapshot, signed)
        if ruling:
            self.save_document(snapshot.campaign_id, len(snapshot.rulings), ruling)

    def load_closed(self, campaign_id: str, kind: SessionKind, level: int) -> ClosedRound | None:
        """See :class:`Store`."""
        return self._closed.get((campaign_id, kind, level))

    def save_document(self, campaign_id: str, level: int, signed: SignedDocument) -> None:
        """See :class:`Store`."""
        self._documents[campaign_id, signed.kind, level] = signed

    def load_document(self, campaign_id: str, kind: str, level: int) -> SignedDocument | None:
        """See :class:`Store`."""
        return self._documents.get((campaign_id, kind, level))

    def save_note(self, name: str, body: bytes) -> None:
        """See :class:`Store`."""
        self._notes[name] = body

    def load_note(self, name: str) -> bytes | None:
        """See :class:`Store`."""
        return self._notes.get(name)

    def save_blob(self, body: bytes) -> str:
        """See :class:`Blobs`."""
        blob_digest = digest(body)
        self._blobs[blob_digest] = body
        return blob_digest

    def load_blob(self, blob_digest: str, offset: int, length: int) -> BlobPiece | None:
        """See :class:`Blobs`."""
        body = self._blobs.get(blob_digest)
        return None if body is None else BlobPiece(len(body), body[offset : offset + length])


class SqlStore:
    """Store and blobs in one SQL database.

    Args:
        url: SQLAlchemy URL, such as ``sqlite:///coordinator.db``.

    Raises:
        ConfigError: The database cannot be opened, or is none.
    """

    def __init__(self, url: str) -> None:
        try:
            self._engine = sa.create_engine(url)
        except (ArgumentError, ImportError) as error:
            msg = f"the store's URL is not usable ({error}); expected one like sqlite:///coordinator.db"
            raise ConfigError(msg) from None
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _make_durable)
        try:
            with self._transaction() as connection:
                METADATA.create_all(connection)
        except ConfigError:
            self.close()
            raise

    def check(self) -> None:
        """Read the whole database once, so that damage shows at the start and not in the middle of a campaign.

        Raises:
            ConfigError: It is damaged (the operator's to mend).
        """
        if self._engine.dialect.name != "sqlite":
            return
        with self._transaction() as connection:
            found = connection.execute(sa.text("PRAGMA quick_check(1)")).scalar_one()
        if found != "ok":
            msg = f"the store {self._name} is damaged: {str(found).splitlines()[0]}; restore a backup"
            raise ConfigError(msg)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def save_campaign(self, campaign: StoredCampaign, signed: SignedDocument) -> None:
        """See :class:`Store`."""
        columns = (CAMPAIGNS.c.campaign_id,)
        with self._transaction() as connection:
            query = sa.select(*columns).filter_by(campaign_id=campaign.campaign_id)
            if connection.execute(query).one_or_none() is None:
                row = {"campaign_id": campaign.campaign_id, "device_class": campaign.device_class}
                connection.execute(CAMPAIGNS.insert().values(**row))
                write_document(connection, campaign.campaign_id, 0, signed)

    def list_campaigns(self) -> tuple[StoredCampaign, ...]:
        """See :class:`Store`."""
        query = sa.select(CAMPAIGNS.c.campaign_id, CAMPAIGNS.c.device_class).order_by(CAMPAIGNS.c.position)
        with self._transaction() as connection:
            return tuple(StoredCampaign(*row) for row in connection.execute(query))

    def load_snapshot(self, campaign_id: str) -> Snapshot | None:
        """See :class:`Store`."""
        body = self._load_body(SNAPSHOTS, campaign_id=campaign_id)
        return None if body is None else self._read(body, Snapshot)

    def save_snapshot(self, snapshot: Snapshot, signed: SignedDocument | None = None) -> None:
        """See :class:`Store`."""
        with self._transaction() as connection:
            write_snapshot(connection, snapshot, signed)

    def save_closing(
        self,
        closed: ClosedRound,
        snapshot: Snapshot,
        signed: SignedDocument | None = None,
        ruling: SignedDocument | None = None,
    ) -> None:
        """See :class:`Store`."""
        row = {"campaign_id": snapshot.campaign_id, "kind": int(closed.kind), "level": closed.level}
        with self._transaction() as connection:
            try:
                connection.execute(SUMS.insert().values(**row, body=canonical_bytes(closed)))
            except IntegrityError:
                raise _stored_twice(closed, snapshot.campaign_id) from None
            write_snapshot(connection, snapshot, signed)
            if ruling:
                write_document(connection, snapshot.campaign_id, len(snapshot.rulings), ruling)

    def load_closed(self, campaign_id: str, kind: SessionKind, level: int) -> ClosedRound | None:
        """See :class:`Store`."""
        body = self._load_body(SUMS, campaign_id=campaign_id, kind=int(kind), level=level)
        return None if body is None else self._read(body, ClosedRound)

    def save_document(self, campaign_id: str, level: int, signed: SignedDocument) -> None:
        """See :class:`Store`."""
        with self._transaction() as connection:
            write_document(connection, campaign_id, level, signed)

    def load_document(self, campaign_id: str, kind: str, level: int) -> SignedDocument | None:
        """See :class:`Store`."""
        columns = (DOCUMENTS.c.payload, DOCUMENTS.c.signature, DOCUMENTS.c.public_key)
        query = sa.select(*columns).filter_by(campaign_id=campaign_id, kind=kind, level=level)
        with self._transaction() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else SignedDocument(kind, *row)

    def save_note(self, name: str, body: bytes) -> None:
        """See :class:`Store`."""
        with self._transaction() as connection:
            replace(connection, NOTES, {"name": name}, {"body": body})

    def load_note(self, name: str) -> bytes | None:
        """See :class:`Store`."""
        return self._load_body(NOTES, name=name)

    def save_blob(self, body: bytes) -> str:
        """See :class:`Blobs`."""
        blob_digest = digest(body)
        with self._transaction() as connection:
            replace(connection, BLOBS, {"digest": blob_digest}, {"body": body})
        return blob_digest

    def load_blob(self, blob_digest: str, offset: int, length: int) -> BlobPiece | None:
        """See :class:`Blobs`."""
        body = BLOBS.c.body
        # The database cuts the piece out (SQL counts from 1), so that a large model never has to fit into memory.
        piece = sa.func.substr(body, offset + 1, length, type_=sa.LargeBinary)
        query = sa.select(sa.func.length(body), piece).filter_by(digest=blob_digest)
        with self._transaction() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else BlobPiece(int(row[0]), bytes(row[1]))

    def _load_body(self, table: sa.Table, **key: str | int) -> bytes | None:
        with self._transaction() as connection:
            return connection.execute(sa.select(table.c.body).filter_by(**key)).scalar_one_or_none()

    def _read(self, body: bytes, document_type: type[T]) -> T:
        try:
            return read_document(body, document_type)
        except RemoteProtocolError as error:
            msg = f"the store {self._name} holds a damaged {document_type.__name__}: {error}; restore a backup"
            raise ConfigError(msg) from None

    @property
    def _name(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """A transaction, committed at the end, undone by any exception."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            msg = f"the store {self._name} cannot be used: {cause}; check that it exists, is writable and is a database"
            raise ConfigError(msg) from None


def _make_durable(connection: Any, _record: object) -> None:
    """Write-ahead log with a flush at every commit: what was announced survives a power cut."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _stored_twice(closed: ClosedRound, campaign_id: str) -> LocalProtocolError:
    return LocalProtocolError(f"campaign {campaign_id}: the {closed.kind.name} sum of level {closed.level} is stored")
