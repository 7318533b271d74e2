"""Strangers, garbage and bugs at the coordinator's door: each is turned away, and the next device is served."""

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509

from prunefleet_coordinator import grpc_carrier
from prunefleet_coordinator.grpc_carrier import STATUS_OF, start_join_server, start_server
from prunefleet_shared import wire
from prunefleet_shared.authority_messages import AuthorityOffer, GetAuthority
from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.errors import CarrierError, ConfigError, RejectReason, RemoteProtocolError
from prunefleet_shared.grpc_link import GrpcLink, Trust
from prunefleet_shared.messages import Contribute, ContributionCounted, Peer, PublishSlimBase, Role

ID = "ab" * 16
CALL = Contribute(ID, b"contribution")
PATH = wire.method_of(CALL).path
CHECK_IN = "/prunefleet.v1.Fleet/CheckIn"
LIMIT_S = 30.0


class Counter:
    """A service that counts every contribution."""

    calls = 0

    async def handle(self, peer, message):
        self.calls += 1
        return ContributionCounted(message.session_id)


class World:
    """A running server, the authority it trusts, and a clock that tests may turn."""

    def __init__(self, service):
        self.service = service
        self.ahead = timedelta()
        self.authority = create_authority(datetime.now(UTC))
        self.server = None

    def now(self):
        return datetime.now(UTC) + self.ahead

    def credentials(self, role=Role.DEVICE, authority=None, **options):
        return issue(authority or self.authority, role, "device-01", datetime.now(UTC), **options)

    @contextlib.asynccontextmanager
    async def link(self, credentials=None, timeout_s=LIMIT_S / 2):
        link = GrpcLink(f"127.0.0.1:{self.server.port}", credentials or self.credentials(), timeout_s=timeout_s)
        try:
            yield link
        finally:
            await link.close()

    async def raw_call(self, path, data, channel_credentials=None):
        """A peer that does not use our encoder; gives status and the refusal, if one came."""
        own = self.credentials()
        tls = channel_credentials or grpc.ssl_channel_credentials(own.ca_pem, own.key_pem, own.cert_pem)
        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.server.port}", tls, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path)(data, timeout=LIMIT_S / 2)
        refusal = dict(caught.value.trailing_metadata() or ()).get(wire.REJECTION_METADATA_KEY)
        return caught.value.code(), refusal and wire.decode_rejection(refusal)

    async def still_serves(self):
        async with self.link() as link:
            return await link.call(CALL) == ContributionCounted(ID)


def in_world(scenario, service=None):
    """Run ``scenario(world)`` against a fresh server; afterwards an honest device must still be served."""

    async def run():
        world = World(service or Counter())
        world.server = await start_server(world.service, world.credentials(Role.COORDINATOR), clock=world.now)
        try:
            async with asyncio.timeout(LIMIT_S):
                await scenario(world)
                if service is None:
                    assert await world.still_serves()
        finally:
            await world.server.stop(0)

    asyncio.run(run())


def test_an_honest_device_is_served():
    async def scenario(world):
        assert await world.still_serves()
        assert world.service.calls == 1

    in_world(scenario)


def test_without_a_client_certificate_nobody_gets_in():
    async def scenario(world):
        server_only = grpc.ssl_channel_credentials(world.authority.cert_pem)
        code, refusal = await world.raw_call(PATH, wire.encode_up(CALL), server_only)
        assert (code, refusal, world.service.calls) == (grpc.StatusCode.UNAVAILABLE, None, 0)

    in_world(scenario)


def test_a_certificate_of_another_authority_does_not_get_in():
    async def scenario(world):
        foreign = world.credentials(authority=create_authority(datetime.now(UTC)))
        async with world.link(replace(foreign, ca_pem=world.authority.cert_pem)) as link:
            with pytest.raises(CarrierError):
                await link.call(CALL)
        assert world.service.calls == 0

    in_world(scenario)


def test_a_device_does_not_talk_to_a_coordinator_of_another_authority():
    async def scenario(world):
        foreign = create_authority(datetime.now(UTC))
        async with world.link(replace(world.credentials(), ca_pem=foreign.cert_pem)) as link:
            with pytest.raises(CarrierError, match="CERTIFICATE_VERIFY_FAILED") as caught:
                await link.call(CALL)
        assert not caught.value.retryable
        assert world.service.calls == 0

    in_world(scenario)


def test_a_device_does_not_talk_to_another_device_that_plays_coordinator():
    async def scenario():
        world = World(Counter())
        world.server = await start_server(world.service, world.credentials(Role.DEVICE), clock=world.now)
        try:
            async with world.link() as link:
                with pytest.raises(CarrierError) as caught:
                    await link.call(CALL)
        finally:
            await world.server.stop(0)
        assert not caught.value.retryable
        assert world.service.calls == 0

    asyncio.run(scenario())


def test_an_expired_certificate_does_not_get_in():
    async def scenario(world):
        long_ago = datetime.now(UTC) - timedelta(hours=3)
        expired = issue(world.authority, Role.DEVICE, "device-01", long_ago, validity_h=1)
        async with world.link(expired) as link:
            with pytest.raises(CarrierError):
                await link.call(CALL)
        assert world.service.calls == 0

    in_world(scenario)


def test_a_certificate_that_expires_on_an_open_connection_is_refused():
    async def scenario(world):
        async with world.link(world.credentials(validity_h=1)) as link:
            await link.call(CALL)
            world.ahead = timedelta(hours=2)
            with pytest.raises(RemoteProtocolError) as caught:
                await link.call(CALL)
            world.ahead = timedelta()
        assert caught.value.rejection.reason is RejectReason.STRANGER
        assert world.service.calls == 1

    in_world(scenario)


def test_the_coordinators_own_certificate_is_no_client():
    async def scenario(world):
        async with world.link(world.credentials(Role.COORDINATOR)) as link:
            with pytest.raises((CarrierError, RemoteProtocolError)):
                await link.call(CALL)
        assert world.service.calls == 0

    in_world(scenario)


@pytest.mark.parametrize(
    ("path", "data", "status", "reason"),
    [
        (PATH, b"\xff\xff garbage", grpc.StatusCode.INVALID_ARGUMENT, RejectReason.MALFORMED),
        (PATH, b"", grpc.StatusCode.INVALID_ARGUMENT, RejectReason.MALFORMED),
        (PATH, wire.encode_up(CALL)[:-1], grpc.StatusCode.INVALID_ARGUMENT, RejectReason.MALFORMED),
        (PATH, wire.encode_up(CALL) + b"\x7a\x01x", grpc.StatusCode.INVALID_ARGUMENT, RejectReason.UNKNOWN_FIELD),
        (CHECK_IN, bytes(1025), grpc.StatusCode.INVALID_ARGUMENT, RejectReason.TOO_LARGE),
        (PATH, bytes(2 * 1024**2), grpc.StatusCode.INVALID_ARGUMENT, RejectReason.TOO_LARGE),
        (PATH, bytes(5 * 1024**2), grpc.StatusCode.RESOURCE_EXHAUSTED, None),
        (wire.method_of(PublishSlimBase(None)).path, b"", grpc.StatusCode.PERMISSION_DENIED, RejectReason.WRONG_ROLE),
        ("/prunefleet.v1.Fleet/Delete", b"", grpc.StatusCode.UNIMPLEMENTED, None),
        ("/prunefleet.v2.Fleet/CheckIn", b"", grpc.StatusCode.UNIMPLEMENTED, None),
    ],
)
def test_garbage_is_refused_with_its_reason(path, data, status, reason):
    async def scenario(world):
        code, refusal = await world.raw_call(path, data)
        assert (code, refusal and refusal.reason) == (status, reason)
        assert world.service.calls == 0

    in_world(scenario)


def test_a_bug_says_nothing_to_the_peer_and_everything_to_the_operator(caplog):
    class Buggy:
        async def handle(self, peer, message):
            raise KeyError("private-detail")

    async def scenario(world):
        async with world.link() as link:
            with pytest.raises(CarrierError, match="INTERNAL") as caught:
                await link.call(CALL)
        assert not caught.value.retryable
        assert "private-detail" not in str(caught.value)
        reference = str(caught.value).rsplit(" ", 1)[-1]
        (record,) = [r for r in caplog.records if r.name == grpc_carrier.__name__]
        assert reference in record.getMessage()
        assert record.exc_info[0] is KeyError

    with caplog.at_level(logging.ERROR, logger=grpc_carrier.__name__):
        in_world(scenario, Buggy())


def test_a_store_that_fails_for_now_asks_the_peer_to_come_again():
    class Full:
        async def handle(self, peer, message):
            raise CarrierError("disk full", retryable=True)

    async def scenario(world):
        async with world.link() as link:
            with pytest.raises(CarrierError, match="UNAVAILABLE") as caught:
                await link.call(CALL)
        assert caught.value.retryable

    in_world(scenario, Full())


def test_an_answer_that_is_none_is_a_bug_too():
    class Confused:
        async def handle(self, peer, message):
            return message

    async def scenario(world):
        async with world.link() as link:
            with pytest.raises(CarrierError, match="INTERNAL"):
                await link.call(CALL)

    in_world(scenario, Confused())


class Silent:
    async def handle(self, peer, message):
        await asyncio.Event().wait()


def test_a_silent_coordinator_costs_a_device_its_timeout_and_no_more():
    async def scenario(world):
        async with world.link(timeout_s=0.2) as link:
            with pytest.raises(CarrierError, match="DEADLINE_EXCEEDED") as caught:
                await link.call(CALL)
        assert caught.value.retryable

    in_world(scenario, Silent())


def test_a_service_that_hangs_is_cut_off_whatever_the_device_would_wait(monkeypatch):
    monkeypatch.setattr(grpc_carrier, "ANSWER_TIMEOUT_S", 0.05)

    async def scenario(world):
        async with world.link() as link:
            with pytest.raises(CarrierError, match="took too long") as caught:
                await link.call(CALL)
        assert caught.value.retryable

    in_world(scenario, Silent())


def test_a_coordinator_that_is_not_there_is_worth_a_retry():
    async def scenario():
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))  # held but not listening, so that nobody else answers there
            link = GrpcLink(f"127.0.0.1:{deaf.getsockname()[1]}", World(Counter()).credentials(), timeout_s=LIMIT_S)
            with pytest.raises(CarrierError) as caught:
                await link.call(CALL)
            await link.close()
        assert caught.value.retryable

    asyncio.run(scenario())


@pytest.mark.parametrize("lingers", [0, 1], ids=["reset", "closed"])
def test_a_coordinator_that_is_killed_during_the_handshake_is_worth_a_retry(lingers):
    """A broken line is no refusal: a device that took it for one would end for good when its coordinator restarts."""

    async def reset(reader, writer):
        await reader.read(10_000)  # the client's hello
        linger = struct.pack("ii", 1, lingers)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async def scenario():
        server = await asyncio.start_server(reset, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        link = GrpcLink(f"127.0.0.1:{port}", World(Counter()).credentials(), timeout_s=LIMIT_S)
        with pytest.raises(CarrierError) as caught:
            await link.call(CALL)
        await link.close()
        server.close()
        assert caught.value.retryable, str(caught.value)

    asyncio.run(scenario())


def shown_serial(port):
    """Serial number of the certificate that the server shows to a new connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), LIMIT_S) as raw, context.wrap_socket(raw) as line:
        return x509.load_der_x509_certificate(line.getpeercert(binary_form=True)).serial_number


def serial_of(credentials):
    return x509.load_pem_x509_certificate(credentials.cert_pem).serial_number


def test_a_renewed_server_certificate_takes_effect_without_a_restart():
    """A coordinator's certificate lives for days, its process for months; open connections are not cut."""

    async def scenario():
        world = World(Counter())
        current = [world.credentials(Role.COORDINATOR)]
        world.server = await start_server(world.service, lambda: current[0], clock=world.now)
        try:
            async with world.link() as link:
                await link.call(CALL)
                assert await asyncio.to_thread(shown_serial, world.server.port) == serial_of(current[0])
                current.insert(0, world.credentials(Role.COORDINATOR))
                assert await asyncio.to_thread(shown_serial, world.server.port) == serial_of(current[0])
                await link.call(CALL)
            assert await world.still_serves()
        finally:
            await world.server.stop(0)

    asyncio.run(scenario())


def test_a_server_certificate_that_cannot_be_had_for_now_leaves_the_old_one(caplog):
    async def scenario():
        world = World(Counter())
        first, is_broken = world.credentials(Role.COORDINATOR), []

        def current():
            if is_broken:
                raise ConfigError("disk away")
            return first

        world.server = await start_server(world.service, current, clock=world.now)
        try:
            is_broken.append(True)
            assert await world.still_serves()
            assert await asyncio.to_thread(shown_serial, world.server.port) == serial_of(first)
        finally:
            await world.server.stop(0)

    asyncio.run(scenario())


def test_a_newcomer_is_known_by_its_address_without_the_port():
    """Each connection has a port of its own: a limit by address and port would limit nobody."""
    seen = []

    class Enrolment:
        async def handle(self, peer, message):
            seen.append(peer)
            return AuthorityOffer(b"root", 0)

    async def scenario():
        world = World(Enrolment())
        server = await start_join_server(world.service, world.credentials(Role.AUTHORITY), host="127.0.0.1")
        try:
            for host in ("127.0.0.1", "127.0.0.1", "localhost"):
                link = GrpcLink(f"{host}:{server.port}", Trust(world.authority.cert_pem), timeout_s=LIMIT_S)
                await link.call(GetAuthority())
                await link.close()
        finally:
            await server.stop(0)

    asyncio.run(scenario())
    assert seen == [Peer("ipv4:127.0.0.1", Role.NEWCOMER)] * 3


def test_a_second_server_on_the_same_port_is_the_users_to_mend():
    async def scenario(world):
        with pytest.raises(ConfigError, match="port"):
            await start_server(
                world.service, world.credentials(Role.COORDINATOR), clock=world.now, port=world.server.port
            )

    in_world(scenario)


def test_every_reason_has_a_status_that_no_carrier_would_retry():
    assert set(STATUS_OF) == set(RejectReason)
    assert grpc.StatusCode.OK not in STATUS_OF.values()
    assert not {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED} & set(STATUS_OF.values())
