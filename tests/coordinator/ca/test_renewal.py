"""A member's line renews its certificate at two thirds of its life, loses no call, and says what is wrong."""

import asyncio
import contextlib
import logging
import socket
from datetime import timedelta

import pytest
from authority_world import make_state, running

from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_shared import member_link
from prunefleet_shared.authority_messages import DenyList, ListDenied
from prunefleet_shared.enrolment import join
from prunefleet_shared.errors import CarrierError, ConfigError, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.identity_folder import load_identity
from prunefleet_shared.member_link import MemberLink
from prunefleet_shared.messages import Contribute, ContributionCounted, Role

DAYS = timedelta(days=1)


class Coordinator:
    """Counts contributions, each after a moment in which the line may be renewed; knows who called with what."""

    def __init__(self):
        self.calls = 0
        self.is_held = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def handle(self, peer, message):
        self.is_held.set()
        await self.go_on.wait()
        self.calls += 1
        return ContributionCounted(message.session_id)


def contribution(number):
    return Contribute(f"{number:032x}", b"x")


class Fleet:
    """Authority, coordinator, and a device with a line whose clock tests may turn."""

    def __init__(self, world, tmp_path):
        self.world = world
        self.tmp_path = tmp_path
        self.ahead = timedelta()
        self.service = Coordinator()
        self.denied = set()

    def now(self):
        return self.world.now() + self.ahead

    @contextlib.asynccontextmanager
    async def device(self, role=Role.DEVICE):
        await self.member(Role.OPERATOR)  # who knows no operator renews before its time
        coordinator = await self.member(Role.COORDINATOR)
        server = await start_server(
            self.service,
            coordinator.credentials,
            clock=self.world.now,
            port=self.coordinator_port(),
            is_denied=lambda serial: serial in self.denied,
        )
        await self.member(role)
        link = MemberLink(self.tmp_path / role, role, timeout_s=10.0, now=self.now)
        try:
            yield link
        finally:
            await link.close()
            await server.stop(0)

    def coordinator_port(self):
        return int(self.world.authority._service._settings.coordinator_address.rpartition(":")[2])

    async def member(self, role):
        return await join(self.world.token(role, f"{role}-01"), role, self.tmp_path / role, now=self.world.now)


def play(tmp_path, scenario):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    state = make_state(tmp_path / "ca", coordinator_address=f"localhost:{port}")

    async def run(world):
        fleet = Fleet(world, tmp_path)
        async with fleet.device() as link:
            await scenario(fleet, link)

    running(state, run)


def test_it_renews_when_two_thirds_are_over_and_not_before(tmp_path):
    async def scenario(fleet, link):
        first = link.identity
        life = first.valid_until - first.valid_from
        fleet.ahead = life * 0.65
        await link.call(contribution(1))
        assert link.identity == first
        fleet.ahead = life * 0.68
        await link.call(contribution(2))
        assert link.identity.valid_until >= first.valid_until
        assert link.identity.public_key != first.public_key
        assert load_identity(tmp_path / "device", Role.DEVICE) == link.identity
        assert fleet.service.calls == 2

    play(tmp_path, scenario)


def test_calls_in_flight_survive_the_renewal(tmp_path):
    async def scenario(fleet, link):
        fleet.service.go_on.clear()
        early = [asyncio.create_task(link.call(contribution(number))) for number in range(3)]
        await fleet.service.is_held.wait()
        before = link.identity
        fleet.ahead = 5 * DAYS
        late = [asyncio.create_task(link.call(contribution(number))) for number in range(3, 6)]
        while link.identity == before:
            await asyncio.sleep(0.01)
        fleet.service.go_on.set()
        answers = await asyncio.gather(*early, *late)
        assert answers == [ContributionCounted(f"{number:032x}") for number in range(6)]
        log = fleet.world.authority._store.load_log()
        assert [line.event for line in log].count("renew") == 1, "six calls, one renewal"
        assert len(link._num_calls) == 1, "the old line is closed"

    play(tmp_path, scenario)


def test_while_the_authority_is_away_the_old_certificate_does(tmp_path, caplog, monkeypatch):
    tries = []

    async def unreachable(identity, folder, **options):
        tries.append(1)
        raise CarrierError("away", retryable=True)

    async def scenario(fleet, link):
        with monkeypatch.context() as patch:
            patch.setattr(member_link, "renew", unreachable)
            fleet.ahead = 5 * DAYS
            for number in range(5):
                await link.call(contribution(number))
            assert len(tries) == 1, "not at every call"
            for pause_s in (5, 10, 20):
                fleet.ahead += timedelta(seconds=pause_s + 0.1)
                await link.call(contribution(9))
            assert len(tries) == 4
            assert fleet.service.calls == 8
        fleet.ahead += timedelta(hours=1)
        before = link.identity
        await link.call(contribution(10))
        assert link.identity != before
        assert "holds until" in caplog.text

    with caplog.at_level(logging.WARNING):
        play(tmp_path, scenario)


def test_a_full_disk_at_the_renewal_costs_no_call(tmp_path, monkeypatch):
    async def full(*_, **__):
        raise ConfigError("no space left")

    async def scenario(fleet, link):
        monkeypatch.setattr(member_link, "renew", full)
        fleet.ahead = 5 * DAYS
        await link.call(contribution(1))
        assert load_identity(tmp_path / "device", Role.DEVICE) == link.identity

    play(tmp_path, scenario)


def test_a_revoked_member_is_told_so_at_its_renewal(tmp_path):
    async def scenario(fleet, link):
        fleet.world.authority._service.revoke("device-01")
        fleet.ahead = 5 * DAYS
        with pytest.raises(RemoteProtocolError) as caught:
            await link.call(contribution(1))
        assert caught.value.rejection.reason is RejectReason.REVOKED
        assert fleet.service.calls == 0

    play(tmp_path, scenario)


def test_an_authority_that_is_confused_does_not_stop_the_fleet(tmp_path, monkeypatch):
    async def confused(*_, **__):
        raise reject(RejectReason.MALFORMED, got="something")

    async def scenario(fleet, link):
        monkeypatch.setattr(member_link, "renew", confused)
        fleet.ahead = 5 * DAYS
        await link.call(contribution(1))

    play(tmp_path, scenario)


@pytest.mark.parametrize(("ahead", "words"), [(8 * DAYS, "join again"), (-DAYS, "set the clock")])
def test_a_certificate_that_does_not_hold_now_says_what_to_do(tmp_path, ahead, words):
    async def scenario(fleet, link):
        fleet.ahead = ahead
        with pytest.raises(ConfigError, match=words):
            await link.call(contribution(1))
        assert fleet.service.calls == 0
        fleet.ahead = timedelta()
        await link.call(contribution(1))

    play(tmp_path, scenario)


def test_a_line_to_the_authority_renews_too(tmp_path):
    async def scenario(fleet, _link):
        link = MemberLink(tmp_path / "coordinator", Role.COORDINATOR, timeout_s=10.0, now=fleet.now, to_authority=True)
        before = link.identity
        assert await link.call(ListDenied()) == DenyList(())
        fleet.ahead = 5 * DAYS
        assert await link.call(ListDenied()) == DenyList(())
        assert link.identity.credentials.cert_pem != before.credentials.cert_pem
        assert link.identity.public_key == before.public_key
        await link.close()

    play(tmp_path, scenario)


def test_a_line_that_is_closed_under_a_call_ends_it(tmp_path):
    async def scenario(fleet, link):
        fleet.service.go_on.clear()
        call = asyncio.create_task(link.call(contribution(1)))
        await fleet.service.is_held.wait()
        await link.close()
        with pytest.raises((CarrierError, asyncio.CancelledError)):
            await call

    play(tmp_path, scenario)
