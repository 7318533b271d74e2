"""What every ``… join TOKEN`` command does; prints nothing secret."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from prunefleet_shared.documents import digest
from prunefleet_shared.enrolment import BeforeSend, join, unwatched
from prunefleet_shared.errors import ConfigError, RejectReason, RemoteProtocolError
from prunefleet_shared.identity_folder import IDENTITY_FILE, Identity, load_identity
from prunefleet_shared.join_token import JoinToken
from prunefleet_shared.member_link import utc_now
from prunefleet_shared.roles import Role

TOKEN_VARIABLE = "PRUNEFLEET_TOKEN"  # noqa: S105 - the variable's name
TOKEN_SUFFIX = ".token"  # noqa: S105 - of a file's name
_SPENT = frozenset({RejectReason.UNKNOWN_TOKEN, RejectReason.USED_TOKEN, RejectReason.EXPIRED_TOKEN})


def join_command(
    role: Role, token: str | None, token_dir: Path | None, state: Path, before_send: BeforeSend = unwatched
) -> Identity:
    """Join with a token; a member whose certificate holds stays who it is, and the token stays unused.

    Args:
        role: What the token must be for.
        token: Its text; ``-`` reads a line from standard input; None takes ``$PRUNEFLEET_TOKEN``.
        token_dir: Where to claim one of several ``*.token`` files instead.
        state: The state folder.
        before_send: Sees each message before it leaves.

    Raises:
        ConfigError: No token, or an unusable one, or the folder cannot be written (the user's to mend).
        RemoteProtocolError: The authority turned it down, or is another than the token's.
        CarrierError: It cannot be reached.
    """
    present = _present(role, state)
    if present is not None:
        return present
    if token is not None or token_dir is None:
        return _join(role, JoinToken.parse(_given(token)), state, before_send)
    claim = _claim(token_dir, state)
    claimed = _read_claim(claim)
    try:
        identity = _join(role, claimed, state, before_send)
    except RemoteProtocolError as error:
        if error.rejection.reason in _SPENT:
            _put_aside(claim)
        raise
    claim.unlink(missing_ok=True)
    return identity


def _join(role: Role, token: JoinToken, state: Path, before_send: BeforeSend) -> Identity:
    return asyncio.run(join(token, role, state, now=utc_now, before_send=before_send))


def _present(role: Role, state: Path) -> Identity | None:
    if not (state / IDENTITY_FILE).exists():
        return None
    identity = load_identity(state, role)
    return identity if utc_now() <= identity.valid_until else None


def _given(token: str | None) -> str:
    if token == "-":  # noqa: S105 - no password: it says where the token is read from
        return sys.stdin.readline()
    text = token or os.environ.get(TOKEN_VARIABLE, "")
    if not text:
        msg = f"expected a join token: as the argument, as - on standard input, or in ${TOKEN_VARIABLE}"
        raise ConfigError(msg)
    return text


def _claim(token_dir: Path, state: Path) -> Path:
    """A token file that is ours alone: renamed, which one of many claimants can do; our own of an earlier try first.

    Several members may share a machine, so the claim names the state folder too.
    """
    mine = f".claimed-{socket.gethostname()}-{digest(str(state.resolve()).encode())[:8]}"
    try:
        claimed = sorted(token_dir.glob(f"*{mine}"))
        if claimed:
            return claimed[0]
        for path in sorted(token_dir.glob(f"*{TOKEN_SUFFIX}")):
            try:
                return path.rename(path.with_suffix(mine))
            except FileNotFoundError:
                continue  # somebody else was faster
    except OSError as error:
        msg = f"{token_dir}: cannot claim a join token: {error.strerror}"
        raise ConfigError(msg) from None
    msg = f"{token_dir}: expected a file *{TOKEN_SUFFIX} to claim, found none; ask the operator for more tokens"
    raise ConfigError(msg)


def _read_claim(claim: Path) -> JoinToken:
    try:
        return JoinToken.parse(claim.read_text(encoding="ascii", errors="replace"))
    except OSError as error:
        msg = f"{claim}: expected a join token, got {error.strerror}"
        raise ConfigError(msg) from None
    except ConfigError as error:
        msg = f"{_put_aside(claim)}: {error}"
        raise ConfigError(msg) from None


def _put_aside(claim: Path) -> Path:
    """Rename a claim that will never serve, so that the next try takes another token."""
    return claim.replace(claim.with_suffix(".refused"))
