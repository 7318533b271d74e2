"""Many TLS handshakes at once, before anybody has said who they are: the server must live through them.

Run as a program it is that server: a crash of gRPC's own code would take the tests with it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import grpc
import pytest

from prunefleet_coordinator.grpc_carrier import start_server
from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.messages import Down, Peer, Role, Up

NUM_HANDSHAKES, NUM_CALLERS = 2000, 12
LIMIT_S = 30.0


def now() -> datetime:
    return datetime.now(UTC)


class Nobody:
    async def handle(self, peer: Peer, message: Up) -> Down:
        raise AssertionError


async def serve() -> None:
    credentials = issue(create_authority(now()), Role.COORDINATOR, "coordinator", now())
    server = await start_server(Nobody(), lambda: credentials, clock=now)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def test_a_certificate_is_handed_to_grpc_once_and_again_only_when_it_was_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority, fetchers = create_authority(now()), []
    current = issue(authority, Role.COORDINATOR, "coordinator", now())
    renewed = issue(authority, Role.COORDINATOR, "coordinator", now())
    make = grpc.dynamic_ssl_server_credentials

    def remember(first: object, fetch: Callable[[], object], **options: bool) -> object:
        fetchers.append(fetch)
        return make(first, fetch, **options)

    async def play() -> None:
        server = await start_server(Nobody(), lambda: current, clock=now)
        await server.stop(0)

    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", remember)
    asyncio.run(play())
    (fetch,) = fetchers
    assert fetch() is None
    current = renewed
    assert fetch() is not None
    assert fetch() is None


def test_a_storm_of_handshakes_does_not_kill_the_server() -> None:
    """gRPC frees a certificate that is replaced while another handshake uses it; a few hundred of them were enough."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:  # noqa: S603
        assert server.stdout is not None
        port = int(server.stdout.readline())
        callers = [threading.Thread(target=call, args=(port, server)) for _ in range(NUM_CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        code = server.poll()
        server.kill()
    assert code is None, f"the server ended with {code}"


def call(port: int, server: subprocess.Popen[str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    give_up_s = time.monotonic() + LIMIT_S
    for _ in range(NUM_HANDSHAKES // NUM_CALLERS):
        if server.poll() is not None or time.monotonic() > give_up_s:
            return
        try:
            with socket.create_connection(("127.0.0.1", port), 2.0) as raw, context.wrap_socket(raw):
                pass
        except OSError:
            pass  # without a certificate of ours nobody is let in; all that counts is that the server goes on


if __name__ == "__main__":
    asyncio.run(serve())
