"""The health check: well only if the coordinator turns its own certificate down."""

import asyncio
import contextlib
import socket
from datetime import UTC, datetime

import pytest

from prunefleet_coordinator.campaigns import Campaigns
from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_coordinator.health import check_health, forget_address, note_address
from prunefleet_coordinator.store import MemoryStore
from prunefleet_coordinator.testing import FakeClock, counting_ids
from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.errors import CarrierError, ConfigError
from prunefleet_shared.identity_folder import identity_from, save_identity
from prunefleet_shared.messages import Role
from prunefleet_shared.testing import COORDINATOR_KEY


def now():
    return datetime.now(UTC)


def coordinator():
    ids, store = counting_ids(), MemoryStore()
    return Campaigns(
        store,
        store,
        operator_keys=lambda: (),
        signing_key=COORDINATOR_KEY,
        clock=FakeClock(),
        new_session_id=ids,
    )


@contextlib.asynccontextmanager
async def listening(state, service, is_denied=lambda serial: False):
    credentials = issue(create_authority(now()), Role.COORDINATOR, "coordinator", now())
    identity = identity_from(
        credentials, operator_keys=(), coordinator_address="a:1", authority_address="a:1", device_class=""
    )
    save_identity(state, identity)
    server = await start_server(service, credentials, clock=now, is_denied=is_denied)
    note_address(state, "127.0.0.1", server.port)
    try:
        yield server
    finally:
        await server.stop(0)


def test_a_coordinator_that_runs_is_well(tmp_path):
    async def play():
        async with listening(tmp_path, coordinator()) as server:
            return await check_health(tmp_path) == f"127.0.0.1:{server.port}"

    assert asyncio.run(play())


def test_a_coordinator_that_is_gone_is_not(tmp_path):
    async def play():
        async with listening(tmp_path, coordinator()):
            pass
        with pytest.raises(CarrierError):
            await check_health(tmp_path, timeout_s=2.0)
        forget_address(tmp_path)
        with pytest.raises(CarrierError, match="no coordinator runs"):
            await check_health(tmp_path)

    asyncio.run(play())


def test_a_coordinator_that_is_revoked_is_not_well(tmp_path):
    async def play():
        async with listening(tmp_path, coordinator(), is_denied=lambda serial: True):
            with pytest.raises(CarrierError, match="answered its own certificate with REVOKED"):
                await check_health(tmp_path)

    asyncio.run(play())


def test_a_port_that_says_nothing_is_given_up_in_time(tmp_path):
    async def play():
        async with listening(tmp_path, coordinator()):
            pass  # leaves an identity
        with socket.create_server(("127.0.0.1", 0)) as silent:
            note_address(tmp_path, "127.0.0.1", silent.getsockname()[1])
            with pytest.raises(CarrierError, match="DEADLINE_EXCEEDED"):
                await check_health(tmp_path, timeout_s=0.5)

    asyncio.run(play())


def test_without_an_identity_there_is_nothing_to_check(tmp_path):
    with pytest.raises(ConfigError, match="coordinator join"):
        asyncio.run(check_health(tmp_path))


@pytest.mark.parametrize(
    ("listen", "noted"),
    [("0.0.0.0", "127.0.0.1:5"), ("::", "localhost:5"), ("::1", "[::1]:5"), ("fleet.example", "fleet.example:5")],  # noqa: S104 - nothing listens
)
def test_the_address_noted_is_one_this_machine_reaches(tmp_path, listen, noted):
    note_address(tmp_path, listen, 5)
    assert (tmp_path / "listening").read_text().strip() == noted
