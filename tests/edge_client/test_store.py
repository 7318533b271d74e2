"""One contract for both stores, and what only a file can get wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from prunefleet_edge.device_state import Contribution, DeviceState, Release
from prunefleet_edge.store import DeviceStore, MemoryDeviceStore, SqliteDeviceStore
from prunefleet_shared.errors import ConfigError, LocalProtocolError
from prunefleet_shared.messages import SessionKind

CAMPAIGN, OTHER = "c0" * 16, "d1" * 16
PAYLOAD_HEX = "feedfacecafebeef" * 8
VOTE = Contribution(SessionKind.VOTE, 0, "", "ab" * 16, 1, PAYLOAD_HEX)
FIRST, SECOND = Release(("a", "b", "c")), Release(("c", "d", "e"))
SPENT = DeviceState(CAMPAIGN, spent=("vote",))


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DeviceStore]:
    made: DeviceStore = MemoryDeviceStore() if request.param == "memory" else SqliteDeviceStore(tmp_path / "device.db")
    yield made
    made.close()


def test_nothing_was_saved_yet(store: DeviceStore) -> None:
    assert store.load(CAMPAIGN) is None


def test_what_was_saved_last_is_loaded(store: DeviceStore) -> None:
    store.save(DeviceState(CAMPAIGN, contribution=VOTE))
    state = DeviceState(CAMPAIGN, spent=("outcome/0",), contribution=VOTE)
    store.save(state)
    store.save(DeviceState(OTHER))
    assert store.load(CAMPAIGN) == state
    assert store.load(OTHER) == DeviceState(OTHER)


def test_a_closed_round_takes_the_contribution_with_it(store: DeviceStore) -> None:
    state = DeviceState(CAMPAIGN, contribution=VOTE)
    store.save(state)
    store.save(state.closing("vote"))
    assert store.load(CAMPAIGN) == DeviceState(CAMPAIGN, spent=("vote",))


@pytest.mark.parametrize(
    "forgetful", [DeviceState(CAMPAIGN), DeviceState(CAMPAIGN, ("vote",), VOTE)], ids=["forgets", "speaks"]
)
def test_a_spent_round_stays_spent(store: DeviceStore, forgetful: DeviceState) -> None:
    spent = DeviceState(CAMPAIGN, spent=("vote",))
    store.save(spent)
    with pytest.raises(LocalProtocolError, match="stays spent"):
        store.save(forgetful)
    assert store.load(CAMPAIGN) == spent


def test_what_was_said_elsewhere_is_forgotten_and_never_said_again(store: DeviceStore) -> None:
    here = DeviceState(CAMPAIGN, contribution=VOTE)
    store.save(here)
    store.save(DeviceState(OTHER, spent=("outcome/0",), contribution=VOTE))
    store.save(DeviceState("e2" * 16))
    store.forget_others(CAMPAIGN)
    assert store.load(CAMPAIGN) == here
    assert store.load(OTHER) == DeviceState(OTHER, spent=("outcome/0", "vote"))
    assert store.load("e2" * 16) == DeviceState("e2" * 16)


def test_releases_are_kept_in_their_order_whatever_campaign_and_network_they_were_of(store: DeviceStore) -> None:
    assert store.releases() == ()
    store.save(SPENT, FIRST)
    store.save(DeviceState(OTHER, spent=("vote",)), SECOND)
    store.save(DeviceState("e2" * 16, spent=("vote",)), Release(("x", "y", "z")))
    store.save(SPENT.closing("outcome/0"))
    store.forget_others("e2" * 16)
    assert store.releases() == (frozenset("abc"), frozenset("cde"), frozenset("xyz"))


def test_a_release_of_a_state_that_is_refused_is_not_kept(store: DeviceStore) -> None:
    store.save(SPENT)
    with pytest.raises(LocalProtocolError, match="stays spent"):
        store.save(DeviceState(CAMPAIGN), FIRST)
    assert store.releases() == ()


def test_releases_survive_the_process(tmp_path: Path) -> None:
    store = SqliteDeviceStore(tmp_path / "device.db")
    store.save(SPENT, FIRST)
    store.close()
    again = SqliteDeviceStore(tmp_path / "device.db")
    again.save(DeviceState(OTHER, spent=("vote",)), SECOND)
    assert again.releases() == (frozenset("abc"), frozenset("cde"))
    again.close()


@pytest.mark.parametrize("table", ["device_state", "release"])
def test_state_and_release_are_written_together_or_not_at_all(tmp_path: Path, table: str) -> None:
    """A trigger makes the write to either table fail, as a disk may at any page."""
    store = SqliteDeviceStore(tmp_path / "device.db")
    before = DeviceState(CAMPAIGN, contribution=VOTE)
    store.save(before)
    fail = "BEGIN SELECT RAISE(ABORT, 'a bad block'); END"
    store._connection.execute(f"CREATE TRIGGER bad_block BEFORE INSERT ON {table} {fail}")
    with pytest.raises(ConfigError, match="a bad block"):
        store.save(before.closing("vote"), FIRST)
    assert store.load(CAMPAIGN) == before
    assert store.releases() == ()
    store._connection.execute("DROP TRIGGER bad_block")
    store.save(before.closing("vote"), FIRST)
    assert (store.load(CAMPAIGN), store.releases()) == (SPENT, (frozenset("abc"),))
    store.close()


def test_a_file_of_the_first_schema_is_taken_over(tmp_path: Path) -> None:
    """Made by hand as it was before sums were private: states, no releases."""
    state = DeviceState(CAMPAIGN, spent=("outcome/0",), contribution=VOTE)
    connection = sqlite3.connect(tmp_path / "device.db", isolation_level=None)
    connection.execute("CREATE TABLE device_state (campaign_id TEXT PRIMARY KEY, document BLOB NOT NULL) STRICT")
    connection.execute("INSERT INTO device_state VALUES (?, ?)", (CAMPAIGN, state.to_bytes()))
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    store = SqliteDeviceStore(tmp_path / "device.db")
    assert (store.load(CAMPAIGN), store.releases()) == (state, ())
    store.save(state.closing("vote"), FIRST)
    assert store.releases() == (frozenset("abc"),)
    assert store._connection.execute("PRAGMA user_version").fetchone() == (2,)
    store.close()


def test_what_was_forgotten_leaves_no_trace_on_the_disk(tmp_path: Path) -> None:
    store = SqliteDeviceStore(tmp_path / "device.db")
    store.save(DeviceState(OTHER, contribution=VOTE))
    store.forget_others(CAMPAIGN)
    assert not any(b"feedface" in file.read_bytes() for file in tmp_path.iterdir())
    store.close()


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    store = SqliteDeviceStore(tmp_path / "device.db")
    before = DeviceState(CAMPAIGN, contribution=VOTE)
    store.save(before)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ConfigError, match="full; make room on the disk; nothing was sent"):
        store.save(DeviceState(CAMPAIGN, contribution=replace(VOTE, payload_hex="ab" * 10_000)))
    assert store.load(CAMPAIGN) == before
    store.close()


def test_a_damaged_page_is_found_when_the_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    store = SqliteDeviceStore(path)
    for number in range(200):
        store.save(DeviceState(f"{number:032x}", contribution=VOTE))
    store.close()
    body = bytearray(path.read_bytes())
    body[3 * 4096 : 3 * 4096 + 200] = b"\xff" * 200
    path.write_bytes(body)
    with pytest.raises(ConfigError, match="it is damaged: restore it"):
        SqliteDeviceStore(path)


def test_a_file_survives_and_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "device.db"
    path.touch(mode=0o644)
    store = SqliteDeviceStore(path)
    store.save(DeviceState(CAMPAIGN, contribution=VOTE))
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    store.close()
    again = SqliteDeviceStore(path)
    assert again.load(CAMPAIGN) == DeviceState(CAMPAIGN, contribution=VOTE)
    again.close()


def test_a_deleted_contribution_leaves_no_trace_on_the_disk(tmp_path: Path) -> None:
    store = SqliteDeviceStore(tmp_path / "device.db")
    store.save(DeviceState(CAMPAIGN, contribution=VOTE))
    assert PAYLOAD_HEX.encode() in (tmp_path / "device.db").read_bytes()
    store.save(DeviceState(CAMPAIGN, contribution=VOTE).closing("vote"))
    for file in tmp_path.iterdir():  # the journal too, and while the store is open: a crash may come now
        assert b"feedface" not in file.read_bytes(), file.name
    store.close()


def test_two_processes_cannot_share_a_file(tmp_path: Path) -> None:
    first = SqliteDeviceStore(tmp_path / "device.db")
    with pytest.raises(ConfigError, match="another process"):
        SqliteDeviceStore(tmp_path / "device.db")
    first.close()


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be taken for one " * 20)
    for path in (tmp_path / "text.db", tmp_path / "missing" / "device.db"):
        with pytest.raises(ConfigError, match="cannot be used"):
            SqliteDeviceStore(path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "device.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="schema 99"):
        SqliteDeviceStore(tmp_path / "device.db")


def test_a_damaged_state_is_the_users_to_mend(tmp_path: Path) -> None:
    SqliteDeviceStore(tmp_path / "device.db").close()
    connection = sqlite3.connect(tmp_path / "device.db", isolation_level=None)
    connection.execute("INSERT INTO device_state VALUES (?, ?)", (CAMPAIGN, b"{}"))
    connection.close()
    store = SqliteDeviceStore(tmp_path / "device.db")
    with pytest.raises(ConfigError, match="damaged"):
        store.load(CAMPAIGN)
    store.close()
