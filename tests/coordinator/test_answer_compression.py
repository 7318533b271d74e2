"""One answer travels compressed, a roster's certificates; what unpacks to too much is refused, either way."""

import asyncio
import contextlib
from datetime import UTC, datetime

import grpc
import pytest

from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_shared import wire
from prunefleet_shared.certificates import create_authority, create_intermediate, issue
from prunefleet_shared.errors import CarrierError
from prunefleet_shared.grpc_link import GrpcLink
from prunefleet_shared.messages import CheckIn, FetchModel, ModelChunk, Readiness, Role
from prunefleet_shared.secure_sum.roster import SumIdentity
from prunefleet_shared.sum_messages import CertificateList, FetchCertificates

ID, DIGEST = "ab" * 16, "cd" * 32
FETCH = FetchCertificates(ID, (bytes(32),))
BOMB = bytes(64 * 1024**2)  # as gzip, 64 kB
NOW = datetime.now(UTC)
LIMIT_S = 30.0


class CountingProxy:
    """Forwards bytes between a client and ``port``; counts those that come down."""

    def __init__(self, port):
        self.port, self.down_bytes = port, 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.forward, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_):
        self.server.close()

    @property
    def address(self):
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def forward(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(self.pump(reader, far_writer), self.pump(far_reader, writer, counts=True))

    async def pump(self, reader, writer, *, counts=False):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.down_bytes += len(data) if counts else 0
                writer.write(data)
                await writer.drain()
        writer.close()


class Script:
    """A service with one answer for each kind of request; remembers what it was asked."""

    def __init__(self, *answers):
        self.answers, self.seen = {type(request): answer for request, answer in answers}, []

    async def handle(self, peer, message):
        self.seen.append(message)
        return self.answers[type(message)]


def in_world(scenario, service):
    """Run ``scenario(port, device's credentials)`` against a server."""

    async def run():
        root = create_authority(NOW)
        own = issue(root, Role.COORDINATOR, "coordinator", NOW)
        server = await start_server(service, own, clock=lambda: datetime.now(UTC))
        try:
            async with asyncio.timeout(LIMIT_S):
                return await scenario(server.port, issue(root, Role.DEVICE, "device-01", NOW))
        finally:
            await server.stop(0)

    return asyncio.run(run())


def bytes_down(service, *requests):
    """Bytes on the wire that each request costs, TLS and all, on a connection that is open."""

    async def scenario(port, credentials):
        costs = []
        async with CountingProxy(port) as proxy:
            link = GrpcLink(proxy.address, credentials, timeout_s=LIMIT_S)
            for request in (FetchModel(DIGEST, 0), *requests):  # the first opens the connection
                before = proxy.down_bytes
                assert await link.call(request) == service.answers[type(request)]
                costs.append(proxy.down_bytes - before)
            await link.close()
        return costs[1:]

    return in_world(scenario, service)


def hundred_certificates():
    intermediate = create_intermediate(create_authority(NOW), NOW, validity_h=24)
    devices = (issue(intermediate, Role.DEVICE, f"device-{number:02d}", NOW) for number in range(100))
    return CertificateList(tuple(SumIdentity.of(device).certificates[0] for device in devices), ())


def test_certificates_travel_compressed_and_nothing_else_does():
    """Compression tells by its length what is in a message: only what is public may be compressed."""
    certificates, model = hundred_certificates(), ModelChunk(10**6, bytes(200_000))
    service = Script((FETCH, certificates), (FetchModel(DIGEST, 0), model))
    fetched, chunk = bytes_down(service, FETCH, FetchModel(DIGEST, 0))
    serialised = len(wire.encode_down("/prunefleet.v1.Fleet/FetchCertificates", certificates))
    assert fetched < 0.5 * serialised  # 0.40 was measured
    assert chunk > len(model.chunk)


class Bomber(grpc.GenericRpcHandler):
    """A coordinator that answers anything with a little that unpacks to a lot."""

    def service(self, handler_call_details):
        async def reply(request, context):
            context.set_compression(grpc.Compression.Gzip)
            await context.send_initial_metadata(())
            return BOMB

        return grpc.unary_unary_rpc_method_handler(reply)


def test_a_device_does_not_unpack_an_answer_beyond_its_limit():
    async def scenario():
        root = create_authority(NOW)
        own = issue(root, Role.COORDINATOR, "coordinator", NOW)
        server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
        server.add_generic_rpc_handlers([Bomber()])
        tls = grpc.ssl_server_credentials([(own.key_pem, own.cert_pem)], root.cert_pem, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", tls)
        await server.start()
        async with CountingProxy(port) as proxy:
            link = GrpcLink(proxy.address, issue(root, Role.DEVICE, "device-01", NOW), timeout_s=LIMIT_S)
            with pytest.raises(CarrierError, match="larger than max"):
                await link.call(FETCH)
            await link.close()
        await server.stop(0)
        assert proxy.down_bytes < 1024**2  # it came compressed: the limit is on what it unpacks to

    asyncio.run(scenario())


def test_a_coordinator_does_not_unpack_a_request_beyond_its_limit():
    service = Script()

    async def scenario(port, own):
        tls = grpc.ssl_channel_credentials(own.ca_pem, own.key_pem, own.cert_pem)
        options = [("grpc.max_send_message_length", -1)]
        path = wire.method_of(CheckIn(ID, DIGEST, Readiness.READY)).path
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", tls, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path)(BOMB, compression=grpc.Compression.Gzip, timeout=LIMIT_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    in_world(scenario, service)
    assert service.seen == []
