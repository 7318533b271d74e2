"""What only the SQL store can get wrong: files, damage, transactions. The contract is in ``contract/test_stores``."""

import contextlib
import sqlite3

import pytest
import sqlalchemy as sa

from prunefleet_coordinator import store_tables
from prunefleet_coordinator.state import ClosedRound, Snapshot
from prunefleet_coordinator.store import SqlStore
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.messages import SessionKind, Total

SNAPSHOT = Snapshot("c", level=1)
CLOSED = ClosedRound(SessionKind.VOTE, 0, "aa", Total((1, 2), 1), ("device-1",))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


def opened(path):
    return contextlib.closing(SqlStore(f"sqlite:///{path}"))


def test_everything_survives_a_restart(path):
    with opened(path) as store:
        store.save_closing(CLOSED, SNAPSHOT)
        name = store.save_blob(b"model")
    with opened(path) as store:
        assert store.load_snapshot("c") == SNAPSHOT
        assert store.load_closed("c", SessionKind.VOTE, 0) == CLOSED
        assert store.load_blob(name, 0, 9).piece == b"model"


def test_the_log_is_written_ahead(path):
    with opened(path), contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_closing_that_fails_half_way_leaves_nothing(path, monkeypatch):
    def fail(*_):
        raise sa.exc.OperationalError("insert", {}, Exception("disk full"))

    with opened(path) as store:
        monkeypatch.setattr(store_tables, "write_document", fail)
        with pytest.raises(ConfigError, match="disk full"):
            store.save_closing(CLOSED, SNAPSHOT, SignedDocument("decision", b"{}", b"s", b"k"))
        assert store.load_snapshot("c") is None
        assert store.load_closed("c", SessionKind.VOTE, 0) is None


def test_a_file_that_is_no_database_is_the_operators_to_mend(path):
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match="file is not a database"):
        SqlStore(f"sqlite:///{path}")


def test_a_folder_that_does_not_exist_is_the_operators_to_mend(tmp_path):
    with pytest.raises(ConfigError, match="unable to open"):
        SqlStore(f"sqlite:///{tmp_path / 'nowhere' / 'store.db'}")


@pytest.mark.parametrize("url", ["nonsense", "mystery://host/db"])
def test_a_url_that_is_none_is_the_operators_to_mend(url):
    with pytest.raises(ConfigError, match="expected one like sqlite"):
        SqlStore(url)


def test_a_damaged_snapshot_is_named(path):
    with opened(path) as store:
        store.save_snapshot(SNAPSHOT)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE snapshots SET body = ?", (b'{"campaign_id": 7}',))
            connection.commit()
        with pytest.raises(ConfigError, match="damaged Snapshot"):
            store.load_snapshot("c")


def test_there_is_no_table_for_a_devices_vector(path):
    with opened(path), contextlib.closing(sqlite3.connect(path)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"campaigns", "snapshots", "sums", "documents", "notes", "blobs"}
