"""The server's gRPC end: TLS in, one call of the service per message, refusals out. Holds no rule.

Coordinator and authority both listen through it. Methods come from ``wire.METHODS``; anything else is UNIMPLEMENTED.
The client certificate is read again on every call, and held against the deny-list, because an open connection outlives
both.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import grpc
import grpc.aio

from prunefleet_shared import wire
from prunefleet_shared.errors import CarrierError, ConfigError, Rejection, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.identity import Credentials, Passport, read_passport
from prunefleet_shared.messages import Peer, Role, Service
from prunefleet_shared.wire_methods import COORDINATOR_SERVICES, ENROLMENT

_log = logging.getLogger(__name__)
_Context = grpc.aio.ServicerContext[bytes, bytes]
_Reply = Callable[[bytes, _Context], Awaitable[bytes]]

ANSWER_TIMEOUT_S = 120.0
"""Longest time a call may take here, whatever deadline the peer set; long polls stay well below."""

STOP_GRACE_S = 5.0
_REVOKED_REMEDY = "ask the operator for a new join token"
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
        RejectReason.UNKNOWN_TOKEN: grpc.StatusCode.UNAUTHENTICATED,
        RejectReason.USED_TOKEN: grpc.StatusCode.UNAUTHENTICATED,
        RejectReason.EXPIRED_TOKEN: grpc.StatusCode.UNAUTHENTICATED,
        RejectReason.REVOKED: grpc.StatusCode.PERMISSION_DENIED,
        RejectReason.TOO_MANY_TRIES: grpc.StatusCode.RESOURCE_EXHAUSTED,
        RejectReason.OUT_OF_TURN: _PRECONDITION,
        RejectReason.BAD_ROSTER: _PRECONDITION,
        RejectReason.NO_AGREEMENT: _PRECONDITION,
        RejectReason.BAD_SURVIVORS: _PRECONDITION,
        RejectReason.TOO_ALIKE: _PRECONDITION,
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
    credentials: Credentials | Callable[[], Credentials],
    *,
    clock: Callable[[], datetime],
    host: str = "127.0.0.1",
    port: int = 0,
    services: Sequence[str] = COORDINATOR_SERVICES,
    is_denied: Callable[[str], bool] = lambda _serial: False,
) -> RunningServer:
    """Listen for members with certificates of the credentials' root.

    Args:
        service: Answers.
        credentials: The server's certificate and key; a function is asked again at every handshake, in a thread of
            gRPC's, so that a renewed certificate takes effect without a restart.
        clock: The time (aware) at which a client certificate must be valid.
        host: Address to listen on.
        port: 0 lets the system choose.
        services: Full names of the services to serve.
        is_denied: Whether the certificate with this serial number (lower-case hex) is on the deny-list.

    Raises:
        ConfigError: The port cannot be bound (the user's to mend).
    """
    read = functools.lru_cache(_MAX_CACHED_PASSPORTS)(read_passport)

    def peer_of(context: _Context) -> Peer:
        # Parsing a certificate costs more than the rest of a call; whether it still holds is never cached.
        passport = _passport_of(context, read)
        peer = passport.peer_at(clock())
        if is_denied(passport.serial):
            raise reject(RejectReason.REVOKED, got=f"{peer.role} {peer.peer_id}", remedy=_REVOKED_REMEDY)
        return peer

    return await _listen(_Methods(service, services, peer_of), _tls(credentials, asks_clients=True), host, port)


async def start_join_server(
    service: Service, credentials: Credentials | Callable[[], Credentials], *, host: str, port: int = 0
) -> RunningServer:
    """Listen for newcomers, who have no certificate yet: the ``Enrolment`` service only.

    Args:
        service: Answers; it sees the caller's address as ``peer_id``.
        credentials: As for :func:`start_server`.
        host: Address to listen on.
        port: 0 lets the system choose.

    Raises:
        ConfigError: The port cannot be bound (the user's to mend).
    """
    return await _listen(_Methods(service, (ENROLMENT,), _newcomer), _tls(credentials, asks_clients=False), host, port)


async def _listen(methods: _Methods, tls: grpc.ServerCredentials, host: str, port: int) -> RunningServer:
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers([methods])
    address = f"[{host}]" if ":" in host else host
    try:
        bound_port = server.add_secure_port(f"{address}:{port}", tls)
    except RuntimeError as error:
        msg = f"port: cannot listen on {address}:{port}; is another server running?"
        raise ConfigError(msg) from error
    await server.start()
    return RunningServer(bound_port, server)


def _tls(credentials: Credentials | Callable[[], Credentials], *, asks_clients: bool) -> grpc.ServerCredentials:
    shown = credentials() if callable(credentials) else credentials

    def configuration() -> grpc.ServerCertificateConfiguration:
        root = shown.ca_pem if asks_clients else None
        return grpc.ssl_server_certificate_configuration([(shown.key_pem, shown.cert_pem)], root)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        current = credentials() if callable(credentials) else credentials
        if current == shown:
            # gRPC frees the configuration that a new one replaces while another handshake may be using it: a server
            # that handed over the same certificate at every handshake died (SIGSEGV) of a few hundred at once.
            return None
        shown = current
        return configuration()

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        fetch,  # type: ignore[arg-type]  # the stubs leave out that None means: as before
        require_client_authentication=asks_clients,
    )


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name may lead anywhere


class _Methods(grpc.GenericRpcHandler):
    """Finds a method by its path; bytes in, bytes out."""

    def __init__(self, service: Service, services: Sequence[str], peer_of: Callable[[_Context], Peer]) -> None:
        self._service = service
        self._peer_of = peer_of
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            path: grpc.unary_unary_rpc_method_handler(self._reply_to(path))
            for path, method in wire.METHODS.items()
            if method.service in services
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handlers.get(handler_call_details.method)

    def _reply_to(self, method: str) -> _Reply:
        async def reply(request: bytes, context: _Context) -> bytes:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    response = await wire.answer(self._service, self._peer_of(context), method, request)
                    self._peer_of(context)  # a long poll may outlast a certificate, or a revocation
                    if wire.METHODS[method].is_answer_compressed:
                        context.set_compression(grpc.Compression.Gzip)
                        await context.send_initial_metadata(())  # without it, this version of gRPC compresses nothing
                    return response
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


def _newcomer(context: _Context) -> Peer:
    """Who has no certificate is known by its address only (``ipv4:10.0.0.7:51034`` without the port)."""
    return Peer(context.peer().rpartition(":")[0], Role.NEWCOMER)


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
