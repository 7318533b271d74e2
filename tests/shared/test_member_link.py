"""A member's line: when it renews, what it does when it cannot, and that no call is lost. No network, no clock."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from prunefleet_shared import member_link
from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.errors import CarrierError, ConfigError, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.identity_folder import identity_from, load_identity, save_identity
from prunefleet_shared.member_link import FIRST_PAUSE, LONGEST_PAUSE, MemberLink, renew_at
from prunefleet_shared.messages import Role

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
ROOT = create_authority(START, validity_h=24 * 365)
OPERATOR = bytes(91)
LIMIT_S = 5.0


def identity_at(now, operator_keys=(OPERATOR,), validity_h=24):
    return identity_from(
        issue(ROOT, Role.DEVICE, "device-01", now, validity_h=validity_h),
        operator_keys=operator_keys,
        coordinator_address="coordinator:8470",
        authority_address="ca:8472",
        device_class="pi-4",
    )


class Line:
    """Instead of a channel: remembers with which certificate it was opened, and whether it is closed."""

    def __init__(self, address, credentials, *, timeout_s, meter=None):
        self.address, self.credentials, self.timeout_s = address, credentials, timeout_s
        self.is_closed = False
        self.answer = asyncio.Event()
        self.answer.set()

    async def call(self, message):
        await self.answer.wait()
        if self.is_closed:
            raise CarrierError("closed", retryable=True)
        return self

    async def close(self):
        self.is_closed = True


class World:
    """A state folder, a clock that tests turn, and an authority that does as it is told."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.now = START
        self.failure = None
        self.operator_keys = (OPERATOR,)
        self.renewals = []
        save_identity(folder, identity_at(START))
        monkeypatch.setattr(member_link, "GrpcLink", Line)
        monkeypatch.setattr(member_link, "renew", self.renew)

    async def renew(self, identity, folder, *, now, timeout_s, before_send):
        self.renewals.append(self.now)
        await asyncio.sleep(0)  # others may run meanwhile
        if self.failure:
            raise self.failure
        renewed = identity_at(now(), self.operator_keys)
        save_identity(folder, renewed)
        return renewed

    def open(self, **options):
        return MemberLink(self.folder, Role.DEVICE, timeout_s=30.0, now=lambda: self.now, **options)


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path / "state", monkeypatch)


def bounded(scenario):
    return asyncio.run(asyncio.wait_for(scenario, LIMIT_S))


def test_nothing_is_renewed_before_two_thirds_of_its_life(world):
    async def scenario():
        link = world.open()
        line = await link.call("x")
        world.now = renew_at(link.identity) - timedelta(seconds=1)
        assert await link.call("x") is line
        assert world.renewals == []
        world.now += timedelta(seconds=1)
        fresh = await link.call("x")
        assert fresh is not line
        assert line.is_closed
        assert fresh.credentials == link.identity.credentials == load_identity(world.folder, Role.DEVICE).credentials
        assert world.renewals == [world.now]

    bounded(scenario())


def test_renew_at_is_two_thirds_of_the_way():
    identity = identity_at(START, validity_h=3)
    assert renew_at(identity) - identity.valid_from == 2 * (identity.valid_until - identity.valid_from) / 3


@pytest.mark.parametrize(("to_authority", "address"), [(False, "coordinator:8470"), (True, "ca:8472")])
def test_it_calls_whom_it_should(world, to_authority, address):
    line = bounded(world.open(to_authority=to_authority).call("x"))
    assert (line.address, line.timeout_s) == (address, 30.0)


def test_a_call_in_flight_outlives_the_renewal(world):
    async def scenario():
        link = world.open()
        old = await link.call("x")
        old.answer.clear()
        long_poll = asyncio.create_task(link.call("long poll"))
        await asyncio.sleep(0)
        world.now = renew_at(link.identity)
        assert await link.call("x") is not old
        assert not old.is_closed
        old.answer.set()
        assert await long_poll is old
        assert old.is_closed

    bounded(scenario())


def test_calls_at_the_same_time_renew_once(world):
    async def scenario():
        link = world.open()
        world.now = renew_at(link.identity)
        lines = await asyncio.gather(*(link.call(number) for number in range(5)))
        assert len(set(lines)) == 1
        assert len(world.renewals) == 1

    bounded(scenario())


FAILURES = [
    CarrierError("away", retryable=True),
    CarrierError("broken", retryable=False),
    ConfigError("disk full"),
    reject(RejectReason.TOO_MANY_TRIES),
]


@pytest.mark.parametrize("failure", FAILURES, ids=["away", "broken", "disk full", "refused for now"])
def test_while_it_cannot_renew_the_old_certificate_serves_and_tries_are_spaced(world, failure):
    async def scenario():
        link = world.open()
        old = await link.call("x")
        world.now, world.failure = renew_at(link.identity), failure
        until = world.now + timedelta(hours=1)
        while world.now < until:
            assert await link.call("x") is old
            world.now += timedelta(seconds=1)
        pauses = [after - before for before, after in zip(world.renewals, world.renewals[1:], strict=False)]
        assert pauses == sorted(pauses)
        assert (pauses[0], max(pauses)) == (FIRST_PAUSE, LONGEST_PAUSE)
        world.failure = None
        world.now += LONGEST_PAUSE
        assert await link.call("x") is not old
        assert old.is_closed

    bounded(scenario())


def test_a_revoked_member_is_told_at_once(world):
    async def scenario():
        link = world.open()
        world.now, world.failure = renew_at(link.identity), reject(RejectReason.REVOKED)
        with pytest.raises(RemoteProtocolError) as caught:
            await link.call("x")
        assert caught.value.rejection.reason is RejectReason.REVOKED

    bounded(scenario())


@pytest.mark.parametrize(
    ("at", "words"),
    [(START - timedelta(days=1), "set the clock"), (START + timedelta(days=1, seconds=1), "join again")],
    ids=["a day slow", "a day fast"],
)
def test_a_certificate_that_does_not_hold_now_says_what_to_do(world, at, words):
    async def scenario():
        link = world.open()
        world.now = at
        with pytest.raises(ConfigError, match=words):
            await link.call("x")
        assert world.renewals == []

    bounded(scenario())


def test_no_identity_is_the_users_to_mend(world, tmp_path):
    with pytest.raises(ConfigError, match="edge join"):
        MemberLink(tmp_path / "other", Role.DEVICE, timeout_s=1.0)


def test_close_closes_every_line(world):
    async def scenario():
        link = world.open()
        old = await link.call("x")
        old.answer.clear()
        poll = asyncio.create_task(link.call("long poll"))
        await asyncio.sleep(0)
        world.now = renew_at(link.identity)
        new = await link.call("x")
        await link.close()
        assert old.is_closed
        assert new.is_closed
        old.answer.set()
        with pytest.raises(CarrierError):
            await poll

    bounded(scenario())


# --- operators who join later ----------------------------------------------------------------------------------------


def test_who_knows_no_operator_asks_until_there_is_one(world):
    """In compose the trainer joins before the operator: without this it would refuse every campaign until it renews."""

    async def scenario():
        world.operator_keys = ()
        save_identity(world.folder, identity_at(START, operator_keys=()))
        link = world.open()
        for _ in range(60):
            await link.call("x")
            world.now += timedelta(seconds=1)
        assert 2 <= len(world.renewals) <= 6
        assert link.identity.operator_keys == ()
        world.operator_keys = (OPERATOR,)
        world.now += LONGEST_PAUSE
        await link.call("x")
        assert link.identity.operator_keys == (OPERATOR,)
        seen = len(world.renewals)
        world.now += LONGEST_PAUSE
        await link.call("x")
        assert len(world.renewals) == seen

    bounded(scenario())


def test_renewing_early_brings_a_new_operator_and_cannot_be_made_a_burden(world):
    async def scenario():
        link = world.open()
        world.operator_keys = (OPERATOR, b"\1" * 91)
        await asyncio.gather(*(link.renew_now() for _ in range(5)))
        assert link.identity.operator_keys == world.operator_keys
        assert len(world.renewals) == 1
        world.now += FIRST_PAUSE
        await link.renew_now()
        assert len(world.renewals) == 2

    bounded(scenario())


def test_renewing_early_does_not_wait_for_tries_that_were_spaced_far_apart(world):
    """Who joined long before the first operator asks seldom, until somebody waits for the answer."""

    async def scenario():
        world.operator_keys = ()
        save_identity(world.folder, identity_at(START, operator_keys=()))
        link = world.open()
        for _ in range(8):
            world.now += LONGEST_PAUSE
            await link.renew_in_time()
        world.operator_keys = (OPERATOR,)
        world.now += FIRST_PAUSE
        await link.renew_in_time()
        assert link.identity.operator_keys == ()
        await link.renew_now()
        assert link.identity.operator_keys == (OPERATOR,)

    bounded(scenario())


def test_renewing_early_does_not_fail_when_the_authority_is_away(world):
    async def scenario():
        link = world.open()
        before = link.identity
        world.failure = CarrierError("away", retryable=True)
        await link.renew_now()
        assert link.identity is before

    bounded(scenario())
