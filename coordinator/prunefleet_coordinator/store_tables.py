"""The tables of the coordinator's database, and how rows of them are written within a transaction."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from prunefleet_coordinator.state import Snapshot
from prunefleet_shared.documents import SignedDocument, canonical_bytes

METADATA = sa.MetaData()
CAMPAIGNS = sa.Table(
    "campaigns",
    METADATA,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("campaign_id", sa.String(64), nullable=False, unique=True),
    sa.Column("device_class", sa.String(32), nullable=False),
)
NOTES = sa.Table(
    "notes",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
SNAPSHOTS = sa.Table(
    "snapshots",
    METADATA,
    sa.Column("campaign_id", sa.String(64), primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
SUMS = sa.Table(
    "sums",
    METADATA,
    sa.Column("campaign_id", sa.String(64), primary_key=True),
    sa.Column("kind", sa.Integer, primary_key=True),
    sa.Column("level", sa.Integer, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
DOCUMENTS = sa.Table(
    "documents",
    METADATA,
    sa.Column("campaign_id", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("level", sa.Integer, primary_key=True),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("public_key", sa.LargeBinary, nullable=False),
)
BLOBS = sa.Table(
    "blobs",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)


def write_snapshot(connection: sa.Connection, snapshot: Snapshot, signed: SignedDocument | None) -> None:
    """Replace a campaign's snapshot and, with it, file a signed document under the snapshot's level."""
    replace(connection, SNAPSHOTS, {"campaign_id": snapshot.campaign_id}, {"body": canonical_bytes(snapshot)})
    if signed:
        write_document(connection, snapshot.campaign_id, snapshot.level, signed)


def write_document(connection: sa.Connection, campaign_id: str, level: int, signed: SignedDocument) -> None:
    """File a signed document under campaign, its kind, and level."""
    values = {"payload": signed.payload, "signature": signed.signature, "public_key": signed.public_key}
    replace(connection, DOCUMENTS, {"campaign_id": campaign_id, "kind": signed.kind, "level": level}, values)


def replace(connection: sa.Connection, table: sa.Table, key: dict[str, Any], values: dict[str, Any]) -> None:
    """Write the row of ``key``, in place of what was there."""
    connection.execute(sa.delete(table).filter_by(**key))
    connection.execute(table.insert().values(**key, **values))
