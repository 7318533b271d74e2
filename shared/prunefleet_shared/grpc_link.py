"""A member's line to the coordinator or the authority: TLS, one gRPC call per message. Holds no rule.

Bytes are counted in an interceptor, where they are what gRPC was given and what it gave back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from prunefleet_shared import wire
from prunefleet_shared.errors import CarrierError, RemoteProtocolError
from prunefleet_shared.identity import Credentials
from prunefleet_shared.messages import Down, Up
from prunefleet_shared.meter import Direction, Meter

_MAX_REQUEST_BYTES = max(method.max_request_bytes for method in wire.METHODS.values())
_MAX_RESPONSE_BYTES = max(method.max_response_bytes for method in wire.METHODS.values())
_OPTIONS = [
    ("grpc.max_send_message_length", _MAX_REQUEST_BYTES),
    ("grpc.max_receive_message_length", _MAX_RESPONSE_BYTES),
    ("grpc.enable_http_proxy", 0),  # an environment variable must not lead a device's bytes elsewhere
    ("grpc.keepalive_time_ms", 120_000),  # load balancers cut silent connections after about four minutes
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5_000),  # the caller has a backoff of its own; gRPC's would add two minutes to it
]
_RETRYABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_HANDSHAKE_SIGNS = ("certificate", "peer name", "ssl")
"""gRPC reports a refused certificate as UNAVAILABLE; only its words tell (they contain one of these)."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a newcomer trusts, who has no certificate yet: PEM."""

    ca_pem: bytes


class GrpcLink:
    """A :class:`~prunefleet_shared.messages.Link` over one gRPC channel; connects on the first call.

    Args:
        address: ``host:port``; the host must be one that the coordinator's certificate names.
        credentials: Ours, and the root we trust; :class:`Trust` for a newcomer, who has none of its own.
        timeout_s: Longest wait for an answer; choose it above the coordinator's long poll.
        meter: Counts what is exchanged under the name in our certificate.
    """

    def __init__(
        self, address: str, credentials: Credentials | Trust, *, timeout_s: float, meter: Meter | None = None
    ) -> None:
        tls = _tls(credentials)
        name = credentials.name if isinstance(credentials, Credentials) else ""
        interceptors = [] if meter is None else [_MeterInterceptor(meter, name)]
        self._channel = grpc.aio.secure_channel(address, tls, options=_OPTIONS, interceptors=interceptors)
        self._address = address
        self._timeout_s = timeout_s

    async def call(self, message: Up) -> Down:
        """Send ``message`` and return the answer.

        Raises:
            RemoteProtocolError: The peer turned it down, with the reason, or answered what is no answer.
            CarrierError: It could not be reached, or failed; ``retryable`` says whether to try again.
            LocalProtocolError: The message breaks the protocol (our bug); nothing was sent.
        """
        method = wire.method_of(message).path
        request = wire.encode_up(message)
        try:
            response = await self._ask(method)(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _what_happened(error, self._address) from error
        return wire.decode_down(method, response)

    def _ask(self, method: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        return self._channel.unary_unary(method)

    async def close(self) -> None:
        """Close the channel; calls in flight end with a retryable :class:`CarrierError`."""
        await self._channel.close()


def _tls(credentials: Credentials | Trust) -> grpc.ChannelCredentials:
    if isinstance(credentials, Trust):
        return grpc.ssl_channel_credentials(credentials.ca_pem)
    return grpc.ssl_channel_credentials(credentials.ca_pem, credentials.key_pem, credentials.cert_pem)


def _what_happened(error: grpc.aio.AioRpcError, address: str) -> RemoteProtocolError | CarrierError:
    refusal = _refusal_in(error)
    if refusal is not None:
        try:
            return RemoteProtocolError(wire.decode_rejection(refusal))
        except RemoteProtocolError as unreadable:
            return unreadable
    details = error.details() or ""
    refused = any(sign in details.lower() for sign in _HANDSHAKE_SIGNS)
    msg = f"{address}: {error.code().name}: {details}"
    return CarrierError(msg, retryable=error.code() in _RETRYABLE and not refused)


def _refusal_in(error: grpc.aio.AioRpcError) -> bytes | None:
    for key, value in error.trailing_metadata() or ():
        if key == wire.REJECTION_METADATA_KEY and isinstance(value, bytes):
            return value
    return None


class _MeterInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, meter: Meter, peer_id: str) -> None:
        self._meter = meter
        self._peer_id = peer_id

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        method = client_call_details.method
        path = method if isinstance(method, str) else method.decode()
        self._meter.count(self._peer_id, path, Direction.UP, request)
        call = await continuation(client_call_details, request)
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            self._meter.count(self._peer_id, path, Direction.DOWN, _refusal_in(error) or b"")
            raise
        self._meter.count(self._peer_id, path, Direction.DOWN, response)
        return call
