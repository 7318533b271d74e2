"""Counts every byte between two ends of a TCP connection, TLS and HTTP/2 included.

Stands on loopback between devices and coordinator; what ``Meter`` counts is the messages inside. ::

    async with CountingProxy(server.port) as proxy:
        link = GrpcLink(f"127.0.0.1:{proxy.port}", ...)
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

_PIECE_BYTES = 64 * 1024
_CONNECT_TIMEOUT_S = 10.0


class CountingProxy:
    """An async context manager that forwards connections on ``port`` to ``target_port``, both on loopback.

    Attributes:
        up_bytes: Bytes from clients to the target, all connections together.
        down_bytes: Bytes from the target to clients.
    """

    def __init__(self, target_port: int) -> None:
        self.up_bytes = 0
        self.down_bytes = 0
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Where to connect; the system chose it.

        Raises:
            RuntimeError: The proxy is not running (the caller's bug).
        """
        if self._server is None:
            msg = "enter the proxy's context first"
            raise RuntimeError(msg)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._server = None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Our own task instead of the one asyncio would make, so that leaving the context can end it.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            with contextlib.closing(target_writer):
                await asyncio.gather(self._pump_up(reader, target_writer), self._pump_down(target_reader, writer))

    async def _pump_up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE_BYTES):
            self.up_bytes += len(data)
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def _pump_down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE_BYTES):
            self.down_bytes += len(data)
            writer.write(data)
            await writer.drain()
        writer.write_eof()
