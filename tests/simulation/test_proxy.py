"""The proxy forwards everything and counts it, whatever either end does."""

import asyncio
import contextlib
import socket

import pytest

from prunefleet_simulation.proxy import CountingProxy

LIMIT_S = 20.0


async def shout_back(reader, writer):
    """Answers every byte with two, until the client has finished."""
    with contextlib.closing(writer):
        while data := await reader.read(1000):
            writer.write(data + data)
            await writer.drain()


async def ask(port, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        writer.write(data)
        writer.write_eof()
        return await reader.read()


def bounded(scenario):
    async def run():
        async with asyncio.timeout(LIMIT_S):
            await scenario

    asyncio.run(run())


def test_both_directions_are_forwarded_and_counted():
    async def scenario():
        async with (
            await asyncio.start_server(shout_back, "127.0.0.1", 0) as server,
            CountingProxy(server.sockets[0].getsockname()[1]) as proxy,
        ):
            answers = await asyncio.gather(*(ask(proxy.port, bytes(n)) for n in (1, 1000, 300_000)))
            assert [len(answer) for answer in answers] == [2, 2000, 600_000]
            assert (proxy.up_bytes, proxy.down_bytes) == (301_001, 602_002)

    bounded(scenario())


def test_a_target_that_is_not_there_closes_the_connection():
    async def scenario():
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))  # held but not listening: a port let go could become the proxy's own
            async with CountingProxy(deaf.getsockname()[1]) as proxy:
                with contextlib.suppress(ConnectionResetError):
                    assert await ask(proxy.port, b"hello") == b""
                assert proxy.down_bytes == 0

    bounded(scenario())


def test_leaving_cuts_connections_that_are_still_open():
    async def scenario():
        async with await asyncio.start_server(shout_back, "127.0.0.1", 0) as server:
            async with CountingProxy(server.sockets[0].getsockname()[1]) as proxy:
                reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                writer.write(b"x")
                assert await reader.readexactly(2) == b"xx"
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    bounded(scenario())


def test_outside_its_context_it_has_no_port():
    with pytest.raises(RuntimeError):
        _ = CountingProxy(1).port
