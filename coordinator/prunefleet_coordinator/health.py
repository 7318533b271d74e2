"""Whether a coordinator is well: it calls itself, with its own certificate, and expects to be turned down.

The refusal proves that TLS, event loop and handlers are alive, and it changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

from prunefleet_shared.document_file import write_whole
from prunefleet_shared.errors import CarrierError, RejectReason, RemoteProtocolError
from prunefleet_shared.grpc_link import GrpcLink
from prunefleet_shared.identity_folder import load_identity
from prunefleet_shared.messages import GetStatus
from prunefleet_shared.roles import Role

TIMEOUT_S = 5.0
_ADDRESS_FILE = "listening"


def note_address(state: Path, host: str, port: int) -> None:
    """Write down where this coordinator listens, for :func:`check_health`.

    Raises:
        ConfigError: The state folder cannot be written (the operator's to mend).
    """
    write_whole(state / _ADDRESS_FILE, f"{_reachable(host)}:{port}\n".encode(), mode=0o600)


def forget_address(state: Path) -> None:
    """The coordinator no longer listens."""
    (state / _ADDRESS_FILE).unlink(missing_ok=True)


async def check_health(state: Path, timeout_s: float = TIMEOUT_S) -> str:
    """Call the coordinator that runs with this state folder.

    Returns:
        The address at which it answered.

    Raises:
        CarrierError: It does not run, does not answer in time, or answers as no coordinator would.
        ConfigError: The state folder holds no identity (the operator's to mend).
    """
    identity = load_identity(state, Role.COORDINATOR)
    address = _noted(state)
    link = GrpcLink(address, identity.credentials, timeout_s=timeout_s)
    try:
        answer = await link.call(GetStatus())
    except RemoteProtocolError as error:
        if error.rejection.reason is RejectReason.WRONG_ROLE:
            return address
        msg = f"the coordinator at {address} answered its own certificate with {error}"
        raise CarrierError(msg, retryable=False) from error
    finally:
        await link.close()
    msg = f"the coordinator at {address} answered its own certificate with a {type(answer).__name__}"
    raise CarrierError(msg, retryable=False)


def is_healthy(state: Path) -> str:
    """:func:`check_health`, for a command line."""
    return asyncio.run(check_health(state))


def _noted(state: Path) -> str:
    try:
        return (state / _ADDRESS_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        msg = f"no coordinator runs with the state folder {state}; start one: prunefleet coordinator serve"
        raise CarrierError(msg, retryable=True) from None


def _reachable(host: str) -> str:
    """Where this machine itself reaches a server that listens on ``host``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "localhost"
    return host if address.version == 4 else f"[{host}]"
