"""Join tokens: what a newcomer is handed, once, to become a member.

The text pins the authority (the form of k3s: the hash is compared before the secret is sent)::

    PF1<SHA-256 of the root certificate>::<token id>.<secret>@<host:port>

>>> token = JoinToken("ab" * 32, "01" * 8, bytes(32), "ca.example:8471")
>>> JoinToken.parse(token.text()) == token
True
>>> "secret" in repr(token)
False
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from prunefleet_shared.errors import ConfigError, RemoteProtocolError
from prunefleet_shared.wire_limits import TOKEN_SECRET_BYTES, address

_TEXT = re.compile(r"PF1(?P<root>[0-9a-f]{64})::(?P<id>[0-9a-f]{16})\.(?P<secret>[A-Za-z0-9_-]{43})@(?P<address>[^@]+)")

MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class JoinToken:
    """One join token.

    Attributes:
        root_digest: SHA-256 (hex) of the authority's root certificate, DER.
        token_id: 16 hex digits.
        secret: 32 bytes; never printed.
        address: ``host:port`` of the authority's port for newcomers.
    """

    root_digest: str
    token_id: str
    secret: bytes = field(repr=False)
    address: str

    def text(self) -> str:
        """The one line that is handed over. Whoever has it can join in its place: treat it as a password."""
        secret = base64.urlsafe_b64encode(self.secret).rstrip(b"=").decode()
        return f"PF1{self.root_digest}::{self.token_id}.{secret}@{self.address}"

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Read :meth:`text`; white space around it is taken for a slip of the mouse.

        Raises:
            ConfigError: It is no join token (the user's to mend); the text is not repeated.
        """
        match = _TEXT.fullmatch(text.strip())
        try:
            secret = base64.urlsafe_b64decode(match["secret"] + "=") if match else b""
        except binascii.Error:
            secret = b""
        if match is None or len(secret) != TOKEN_SECRET_BYTES or not _is_address(match["address"]):
            msg = (
                f"this is no join token ({len(text.strip())} characters); expected one line as "
                "PF1<hash>::<id>.<secret>@<host:port>, as `prunefleet fleet tokens` prints it"
            )
            raise ConfigError(msg)
        return cls(match["root"], match["id"], secret, match["address"])


def _is_address(text: str) -> bool:
    try:
        address(text, "address")
    except RemoteProtocolError:
        return False
    return int(text.rpartition(":")[2]) <= MAX_PORT
