"""The carrier without a network: simulations and tests use the same bytes as real devices do.

Every message is encoded, counted, decoded and checked exactly as gRPC would have it. An exception of the service that
is no rejection is a bug and passes straight through, so that a simulation stops where it happened.
"""

from __future__ import annotations

from prunefleet_shared import wire
from prunefleet_shared.errors import RemoteProtocolError
from prunefleet_shared.messages import Down, Peer, Service, Up
from prunefleet_shared.meter import Direction, Meter


class MemoryLink:
    """A :class:`~prunefleet_shared.messages.Link` to a service in this process, speaking as ``peer``.

    It adds no waiting of its own: a call takes as long as the service, which bounds its waits.
    """

    def __init__(self, service: Service, peer: Peer, meter: Meter | None = None) -> None:
        self._service = service
        self._peer = peer
        self._meter = meter

    async def call(self, message: Up) -> Down:
        """Send ``message`` and return the answer.

        Raises:
            RemoteProtocolError: The service turned it down, with the reason.
            LocalProtocolError: The message breaks the protocol (the caller's bug); nothing was sent.
        """
        method = wire.method_of(message).path
        request = wire.encode_up(message)
        self._count(method, Direction.UP, request)
        try:
            response = await wire.answer(self._service, self._peer, method, request)
        except RemoteProtocolError as error:
            refusal = wire.encode_rejection(error.rejection)
            self._count(method, Direction.DOWN, refusal)
            raise RemoteProtocolError(wire.decode_rejection(refusal)) from error
        self._count(method, Direction.DOWN, response)
        return wire.decode_down(method, response)

    def _count(self, method: str, direction: Direction, data: bytes) -> None:
        if self._meter is not None:
            self._meter.count(self._peer.peer_id, method, direction, data)
