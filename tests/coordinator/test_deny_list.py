"""The deny-list: in force at once, also after a restart, also while the authority is away."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from prunefleet_coordinator.deny_list import SAVE_EVERY_MS, DeniedSerials
from prunefleet_coordinator.store import MemoryStore
from prunefleet_shared.authority_messages import DenyList, ListDenied
from prunefleet_shared.errors import CarrierError, ConfigError, RejectReason, RemoteProtocolError, reject

AWAY = CarrierError("nobody there", retryable=True)


class Authority:
    """Answers with what it is told to; ``answer`` may be an error."""

    def __init__(self, answer):
        self.answer = answer
        self.num_asked = 0

    async def call(self, message):
        assert message == ListDenied()
        self.num_asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return DenyList(tuple(self.answer))


class Notes(MemoryStore):
    def __init__(self):
        super().__init__()
        self.num_saves = 0
        self.is_full = False

    def save_note(self, name, body):
        if self.is_full:
            msg = "disk full"
            raise ConfigError(msg)
        self.num_saves += 1
        super().save_note(name, body)


class House:
    def __init__(self, answer=()):
        self.authority, self.notes = Authority(answer), Notes()
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.restart()

    def restart(self):
        self.denied = DeniedSerials(self.authority, self.notes, lambda: self.time, poll_s=0.001)

    def refresh(self):
        return asyncio.run(self.denied.refresh())

    def ensure(self, timeout_s=5.0):
        asyncio.run(self.denied.ensure_list(timeout_s))

    def after(self, seconds):
        self.time += timedelta(seconds=seconds)
        return self


def test_who_is_on_the_list_is_denied_and_who_is_taken_off_is_not():
    house = House(["ab", "cd"])
    house.ensure()
    assert [house.denied.is_denied(serial) for serial in ("ab", "cd", "ef")] == [True, True, False]
    house.authority.answer = ["ef"]
    assert house.refresh()
    assert [house.denied.is_denied(serial) for serial in ("ab", "cd", "ef")] == [False, False, True]


def test_a_restart_without_the_authority_still_refuses():
    house = House(["ab"])
    house.ensure()
    house.authority.answer = AWAY
    house.after(90).restart()
    house.ensure()
    assert house.denied.is_denied("ab")
    assert house.denied.age_ms == 90_000


def test_the_last_list_stays_in_force_and_its_age_is_told():
    house = House(["ab"])
    house.ensure()
    house.authority.answer = AWAY
    assert not house.after(30).refresh()
    assert house.denied.is_denied("ab")
    assert house.denied.age_ms == 30_000


def test_without_any_list_nobody_is_let_in():
    house = House(AWAY)
    with pytest.raises(CarrierError, match="no deny-list within"):
        house.ensure(timeout_s=0.05)
    assert house.authority.num_asked > 1


def test_a_damaged_list_counts_as_none():
    house = House(AWAY)
    house.notes.save_note("deny-list", b'{"serials": 1}')
    house.restart()
    with pytest.raises(CarrierError, match="no deny-list within"):
        house.ensure(timeout_s=0.01)


@pytest.mark.parametrize("reason", [RejectReason.REVOKED, RejectReason.STRANGER, RejectReason.WRONG_ROLE])
def test_a_coordinator_that_is_refused_for_good_does_not_go_on(reason):
    house = House(reject(reason))
    with pytest.raises(RemoteProtocolError):
        house.ensure()


def test_another_refusal_is_borne():
    house = House(["ab"])
    house.ensure()
    house.authority.answer = reject(RejectReason.TOO_MANY_TRIES)
    assert not house.refresh()
    assert house.denied.is_denied("ab")


def test_a_minute_of_silence_is_logged_once_and_so_is_its_end(caplog):
    house = House(["ab"])
    house.ensure()
    house.authority.answer = AWAY
    with caplog.at_level(logging.INFO):
        for _ in range(30):
            house.after(5).refresh()
        house.authority.answer = ["ab"]
        house.refresh()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "1 min 00 s old and in force" in messages[0]
    assert "is back" in messages[1]


def test_an_unchanged_list_is_seldom_stored_again():
    house = House(["ab"])
    house.ensure()
    for _ in range(20):
        house.after(5).refresh()
    assert house.notes.num_saves == 1 + 100_000 // SAVE_EVERY_MS


def test_a_list_that_cannot_be_stored_is_in_force_all_the_same():
    house = House(["ab"])
    house.notes.is_full = True
    assert house.refresh()
    assert house.denied.is_denied("ab")
    house.notes.is_full = False
    house.refresh()
    house.restart()
    assert house.denied.is_denied("ab")


def test_run_asks_again_and_again():
    house = House(["ab"])

    async def play():
        running = asyncio.create_task(house.denied.run())
        async with asyncio.timeout(5):
            while house.authority.num_asked < 3:
                await asyncio.sleep(0.001)
        running.cancel()

    asyncio.run(play())
    assert house.denied.is_denied("ab")
