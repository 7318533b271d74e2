"""What the authority keeps on disk: tokens as hashes, every certificate, and a log of what it issued, in SQLite.

The server and the ``ca`` commands may write at the same time: every transaction takes the write lock at its start, so
that what it has read still holds when it writes. The log can only grow: triggers refuse to change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from prunefleet_shared.errors import ConfigError
from prunefleet_shared.roles import Role

_BUSY_TIMEOUT_S = 10.0
_METADATA = sa.MetaData()
_TOKENS = sa.Table(
    "tokens",
    _METADATA,
    sa.Column("token_id", sa.String(16), primary_key=True),
    sa.Column("secret_digest", sa.String(64), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("is_group", sa.Boolean, nullable=False),
    sa.Column("device_class", sa.String(32), nullable=False),
    sa.Column("hosts", sa.String, nullable=False),
    sa.Column("expires_at_ms", sa.Integer, nullable=False),
    sa.Column("used_by", sa.String(64)),
    sa.Column("used_name", sa.String(64)),
)
_CERTIFICATES = sa.Table(
    "certificates",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("serial", sa.String(40), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("name", sa.String(64), nullable=False, index=True),
    sa.Column("public_key", sa.LargeBinary, nullable=False),
    sa.Column("device_class", sa.String(32), nullable=False),
    sa.Column("hosts", sa.String, nullable=False),
    sa.Column("not_after_ms", sa.Integer, nullable=False),
    sa.Column("revoked_at_ms", sa.Integer, index=True),
)
_LOG = sa.Table(
    "issue_log",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("at_ms", sa.Integer, nullable=False),
    sa.Column("event", sa.String(16), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("detail", sa.String(64), nullable=False),
)
_TRIGGERS = [
    sa.text(
        f"CREATE TRIGGER IF NOT EXISTS issue_log_no_{verb.lower()} BEFORE {verb} ON issue_log "
        "BEGIN SELECT RAISE(ABORT, 'the issue log only grows'); END"
    )
    for verb in ("UPDATE", "DELETE")
]


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token, without its secret.

    Attributes:
        token_id: 16 hex digits.
        secret_digest: SHA-256 (hex) of the secret.
        role: What it lets in.
        name: Of the new member, or with ``is_group`` what its name starts with.
        is_group: The new member gets a name of its own.
        device_class: Of a device; may be empty.
        hosts: At which a new coordinator is reached.
        expires_at_ms: Since 1970 (UTC).
        used_by: SHA-256 (hex) of the key that it let in; None while unused.
        used_name: The name that it gave.
    """

    token_id: str
    secret_digest: str
    role: Role
    name: str
    is_group: bool
    device_class: str
    hosts: tuple[str, ...]
    expires_at_ms: int
    used_by: str | None = None
    used_name: str | None = None


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A certificate that was issued; times in ms since 1970 (UTC).

    Attributes:
        serial: Lower-case hex.
        role: What it allows.
        name: Whom it names.
        public_key: DER.
        device_class: Of a device; may be empty.
        hosts: At which a server is reached.
        not_after_ms: Its last moment.
        revoked_at_ms: When it was put on the deny-list; None if it is not.
    """

    serial: str
    role: Role
    name: str
    public_key: bytes
    device_class: str
    hosts: tuple[str, ...]
    not_after_ms: int
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the issue log: ``token``, ``join``, ``renew`` or ``revoke``, with a serial number or token id."""

    at_ms: int
    event: str
    role: str
    name: str
    detail: str


class AuthorityStore:
    """Tokens, certificates and log in one SQLite file.

    Every method raises ``ConfigError`` when the file cannot be used (disk full, corrupt: the owner's to mend).

    Args:
        path: The file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_TIMEOUT_S})
        sa.event.listen(self._engine, "connect", _make_durable)
        sa.event.listen(self._engine, "begin", _lock_for_writing)
        try:
            with self._transaction() as connection:
                _METADATA.create_all(connection)
                for trigger in _TRIGGERS:
                    connection.execute(trigger)
        except ConfigError:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # --- tokens

    def save_tokens(self, tokens: Sequence[StoredToken], at_ms: int) -> None:
        """File fresh tokens."""
        with self._transaction() as connection:
            for token in tokens:
                connection.execute(_TOKENS.insert().values(**_row(token)))
                _write_log(connection, LogLine(at_ms, "token", token.role, token.name, token.token_id))

    def load_token(self, token_id: str) -> StoredToken | None:
        """A token; None if there is none of this id."""
        with self._transaction() as connection:
            row = connection.execute(sa.select(_TOKENS).filter_by(token_id=token_id)).mappings().one_or_none()
        return None if row is None else StoredToken(**_values(row))

    def save_joined(self, token: StoredToken, key_digest: str, certificate: StoredCertificate, at_ms: int) -> bool:
        """Mark ``token`` as used by this key and file the certificate; False, and nothing, if another was first."""
        unused = sa.or_(_TOKENS.c.used_by.is_(None), _TOKENS.c.used_by == key_digest)
        mark = sa.update(_TOKENS).where(_TOKENS.c.token_id == token.token_id, unused)
        with self._transaction() as connection:
            result = connection.execute(mark.values(used_by=key_digest, used_name=certificate.name))
            if result.rowcount != 1:
                return False
            _write_certificate(connection, "join", certificate, at_ms)
        return True

    # --- certificates

    def save_renewed(self, certificate: StoredCertificate, at_ms: int) -> bool:
        """File a renewed certificate; False, and nothing, if the member was revoked."""
        with self._transaction() as connection:
            latest = _latest(connection, certificate.name)
            if latest is None or latest.revoked_at_ms is not None:
                return False
            _write_certificate(connection, "renew", certificate, at_ms)
        return True

    def load_latest(self, name: str) -> StoredCertificate | None:
        """The certificate issued last for ``name``; None if there is none."""
        with self._transaction() as connection:
            return _latest(connection, name)

    def is_key_revoked(self, public_key: bytes) -> bool:
        """True when a certificate for this key was revoked."""
        return self._exists(_CERTIFICATES.c.public_key == public_key, _CERTIFICATES.c.revoked_at_ms.is_not(None))

    def has_key(self, name: str, public_key: bytes) -> bool:
        """True when ``name`` has a certificate for this key that is not revoked."""
        c = _CERTIFICATES.c
        return self._exists(c.name == name, c.public_key == public_key, c.revoked_at_ms.is_(None))

    def is_denied(self, serial: str) -> bool:
        """True when the certificate with this serial number is revoked."""
        return self._exists(_CERTIFICATES.c.serial == serial, _CERTIFICATES.c.revoked_at_ms.is_not(None))

    def list_denied(self, now_ms: int) -> tuple[str, ...]:
        """Serial numbers of revoked certificates that have not expired, in order of issue."""
        c = _CERTIFICATES.c
        query = sa.select(c.serial).where(c.revoked_at_ms.is_not(None), c.not_after_ms >= now_ms).order_by(c.number)
        with self._transaction() as connection:
            return tuple(connection.execute(query).scalars())

    def revoke(self, name: str, at_ms: int) -> int:
        """Revoke every certificate of ``name``; how many there are (0: nobody has this name)."""
        c = _CERTIFICATES.c
        with self._transaction() as connection:
            latest = _latest(connection, name)
            if latest is None:
                return 0
            revoke = sa.update(_CERTIFICATES).where(c.name == name, c.revoked_at_ms.is_(None))
            connection.execute(revoke.values(revoked_at_ms=at_ms))
            _write_log(connection, LogLine(at_ms, "revoke", latest.role, name, latest.serial))
            count = connection.execute(sa.select(sa.func.count()).select_from(_CERTIFICATES).where(c.name == name))
            return int(count.scalar_one())

    def list_members(self, role: Role | None, after_name: str, limit: int) -> tuple[StoredCertificate, ...]:
        """The latest certificate of each name, by name."""
        c = _CERTIFICATES.c
        latest = sa.select(sa.func.max(c.number)).group_by(c.name)
        query = sa.select(_CERTIFICATES).where(c.number.in_(latest), c.name > after_name)
        if role is not None:
            query = query.where(c.role == role.value)
        with self._transaction() as connection:
            rows = connection.execute(query.order_by(c.name).limit(limit)).mappings().all()
        return tuple(_certificate(row) for row in rows)

    def list_keys(self, role: Role, limit: int) -> tuple[bytes, ...]:
        """Keys of all members of ``role`` that are not revoked, the latest first; also of expired certificates."""
        c = _CERTIFICATES.c
        query = sa.select(c.public_key).where(c.role == role.value, c.revoked_at_ms.is_(None))
        query = query.group_by(c.public_key).order_by(sa.func.max(c.number).desc()).limit(limit)
        with self._transaction() as connection:
            return tuple(bytes(key) for key in connection.execute(query).scalars())

    def load_log(self) -> tuple[LogLine, ...]:
        """The issue log, oldest first."""
        columns = [_LOG.c[name] for name in LogLine.__slots__]
        with self._transaction() as connection:
            rows = connection.execute(sa.select(*columns).order_by(_LOG.c.number)).mappings().all()
        return tuple(LogLine(**row) for row in rows)

    def _exists(self, *conditions: sa.ColumnElement[bool]) -> bool:
        query = sa.select(sa.literal(1)).where(sa.exists().where(*conditions))
        with self._transaction() as connection:
            return connection.execute(query).one_or_none() is not None

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """A transaction, committed at the end, undone by any exception."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or type(error).__name__  # never its text: it may repeat parameters
            msg = f"{self._path} cannot be used: {cause}; make room, or restore a backup of the authority's state"
            raise ConfigError(msg) from None


def _latest(connection: sa.Connection, name: str) -> StoredCertificate | None:
    query = sa.select(_CERTIFICATES).filter_by(name=name).order_by(_CERTIFICATES.c.number.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _certificate(row)


def _write_certificate(connection: sa.Connection, event: str, certificate: StoredCertificate, at_ms: int) -> None:
    connection.execute(_CERTIFICATES.insert().values(**_row(certificate)))
    _write_log(connection, LogLine(at_ms, event, certificate.role, certificate.name, certificate.serial))


def _write_log(connection: sa.Connection, line: LogLine) -> None:
    connection.execute(_LOG.insert().values(**asdict(line)))


def _row(stored: StoredToken | StoredCertificate) -> dict[str, Any]:
    return asdict(stored) | {"role": stored.role.value, "hosts": " ".join(stored.hosts)}


def _values(row: sa.RowMapping) -> dict[str, Any]:
    values = dict(row)
    return values | {"role": Role(values["role"]), "hosts": tuple(values["hosts"].split())}


def _certificate(row: sa.RowMapping) -> StoredCertificate:
    values = _values(row)
    del values["number"]
    return StoredCertificate(**values)


def _make_durable(connection: Any, _record: object) -> None:
    """Write-ahead log with a flush at every commit: what was answered survives a power cut."""
    connection.isolation_level = None  # SQLAlchemy begins transactions, not the driver
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _lock_for_writing(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
