"""The coordinator's gRPC end: mutual TLS in, one call of the service per message, refusals out. Holds no rule.

Methods come from ``wire.METHODS``; anything else is UNIMPLEMENTED. The client certificate is read again on every call,
because an open connection outlives it.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import grpc
import grpc.aio

from prunefleet_shared import wire
from prunefleet_shared.errors import CarrierError, ConfigError, Rejection, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.identity import Credentials, Passport, read_passport
from prunefleet_shared.messages import Service

_log = logging.getLogger(__name__)
_Context = grpc.aio.ServicerContext[bytes, bytes]
_Reply = Callable[[bytes, _Context], Awaitable[bytes]]

ANSWER_TIMEOUT_S = 120.0
"""Longest time a call may take here, whatever deadline the peer set; long polls stay well below."""

STOP_GRACE_S = 5.0
_MAX_CACHED_PASSPORTS = 4096
_MAX_REQUEST_BYTES = max(method.max_request_bytes for method in wire.METHODS.values())
_MAX_RESPONSE_BYTES = max(method.max_response_bytes for method in wire.METHODS.values())
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", _MAX_RESPONSE_BYTES),
    ("grpc.max_concurrent_streams", 16),  # per connection; an honest device has one call open
    ("grpc.max_connection_age_ms", 600_000),  # a connection must not outlive its certificates by much
    ("grpc.max_connection_age_grace_ms", 150_000),  # a long poll may finish first
    ("grpc.max_connection_idle_ms", 300_000),  # sleeping devices cost nothing
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 60_000),  # half of what our devices do
    ("grpc.so_reuseport", 0),  # a second server on this port must fail, not share
]

_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
STATUS_OF: Mapping[RejectReason, grpc.StatusCode] = MappingProxyType(
    {
        RejectReason.MALFORMED: _INVALID,
        RejectReason.TOO_LARGE: _INVALID,
        RejectReason.UNKNOWN_FIELD: _INVALID,
        RejectReason.STRANGER: grpc.StatusCode.UNAUTHENTICATED,
        RejectReason.WRONG_CAMPAIGN: _PRECONDITION,
        RejectReason.WRONG_LAYOUT: _PRECONDITION,
        RejectReason.WRONG_SESSION: grpc.StatusCode.NOT_FOUND,
        RejectReason.NOT_INVITED: grpc.StatusCode.PERMISSION_DENIED,
        RejectReason.WRONG_LENGTH: _INVALID,
        RejectReason.OUT_OF_RANGE: _INVALID,
        RejectReason.DUPLICATE: grpc.StatusCode.ALREADY_EXISTS,
        RejectReason.LATE: _PRECONDITION,  # not DEADLINE_EXCEEDED: that would invite a retry
        RejectReason.WRONG_ROLE: grpc.StatusCode.PERMISSION_DENIED,
        RejectReason.WRONG_DECISION: _PRECONDITION,
        RejectReason.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        RejectReason.BAD_SIGNATURE: _INVALID,
    }
)
"""The gRPC status of every refusal; the refusal itself travels in the trailing metadata."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that listens.

    Attributes:
        port: Where; the one that was asked for, or the one the system chose for 0.
    """

    port: int
    _server: grpc.aio.Server

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Take no more calls, give those in flight ``grace_s`` seconds, then cut them off."""
        await self._server.stop(grace_s)


async def start_server(
    service: Service,
    credentials: Credentials,
    *,
    clock: Callable[[], datetime],
    host: str = "127.0.0.1",
    port: int = 0,
    allow_remote: bool = False,
) -> RunningServer:
    """Listen for devices and trainers with certificates of ``credentials.ca_pem``.

    Args:
        service: Answers.
        credentials: The coordinator's certificate and key.
        clock: The time (aware) at which a client certificate must be valid.
        host: Address to listen on.
        port: 0 lets the system choose.
        allow_remote: Must be true for a host that other machines can reach: in ``plain`` mode the coordinator sees each
            contribution, so a fleet that is not on this machine takes an explicit decision.

    Raises:
        ConfigError: The host is remote without ``allow_remote``, or the port cannot be bound (the user's to mend).
    """
    if not (allow_remote or _is_loopback(host)):
        msg = f"host: expected an address of this machine only, got {host}; allow remote devices explicitly"
        raise ConfigError(msg)
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers([_Methods(service, clock)])
    tls = grpc.ssl_server_credentials(
        [(credentials.key_pem, credentials.cert_pem)], credentials.ca_pem, require_client_auth=True
    )
    address = f"[{host}]" if ":" in host else host
    try:
        bound_port = server.add_secure_port(f"{address}:{port}", tls)
    except RuntimeError as error:
        msg = f"port: cannot listen on {address}:{port}; is another coordinator running?"
        raise ConfigError(msg) from error
    await server.start()
    return RunningServer(bound_port, server)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name may lead anywhere


class _Methods(grpc.GenericRpcHandler):
    """Finds a method by its path; bytes in, bytes out."""

    def __init__(self, service: Service, clock: Callable[[], datetime]) -> None:
        self._service = service
        self._clock = clock
        # Parsing a certificate costs more than the rest of a call; whether it still holds is never cached.
        self._passport_of = functools.lru_cache(_MAX_CACHED_PASSPORTS)(read_passport)
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            path: grpc.unary_unary_rpc_method_handler(self._reply_to(path)) for path in wire.METHODS
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handlers.get(handler_call_details.method)

    def _reply_to(self, method: str) -> _Reply:
        async def reply(request: bytes, context: _Context) -> bytes:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    peer = _passport_of(context, self._passport_of).peer_at(self._clock())
                    return await wire.answer(self._service, peer, method, request)
            except RemoteProtocolError as error:
                refusal = error.rejection
            except TimeoutError:
                refusal = None
            except CarrierError as error:  # a store that fails for now: the peer should come again
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            except Exception:  # noqa: BLE001  # whatever it was, the peer learns nothing and the server lives on
                return await _fail(context, method)
            return await _refuse(context, refusal)

        return reply


def _passport_of(context: _Context, read: Callable[[bytes], Passport]) -> Passport:
    certificates = list(context.auth_context().get("x509_pem_cert", []))
    if len(certificates) != 1:
        raise reject(RejectReason.STRANGER, expected="one client certificate", got=f"{len(certificates)}")
    return read(certificates[0])


async def _refuse(context: _Context, refusal: Rejection | None) -> bytes:
    """End the call; with a refusal in the trailing metadata, or because it took too long."""
    if refusal is None:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "took too long; try again")
    trailer = ((wire.REJECTION_METADATA_KEY, wire.encode_rejection(refusal)),)
    await context.abort(STATUS_OF[refusal.reason], refusal.reason.name, trailer)


async def _fail(context: _Context, method: str) -> bytes:
    reference = secrets.token_hex(4)
    _log.exception("internal error reference=%s method=%s", reference, method)
    await context.abort(grpc.StatusCode.INTERNAL, f"internal error; the operator's log has it as {reference}")
