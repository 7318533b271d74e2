"""Signs with the intermediate that is in the state folder now, so that a rotation needs no restart."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_coordinator.ca.files import AuthoritySettings, all_hosts, load_intermediate, load_root
from prunefleet_shared.certificates import sign_leaf
from prunefleet_shared.identity import Credentials, create_signing_key, key_to_pem
from prunefleet_shared.roles import Role

SERVER_VALIDITY_H = 24
"""The authority's own certificate lives in memory only and is made anew long before it ends."""
_SERVER_RENEWAL = timedelta(hours=SERVER_VALIDITY_H) * 2 / 3


class FolderSigner:
    """A :class:`~prunefleet_coordinator.ca.authority_service.Signer` over a state folder.

    Args:
        state: The state folder.
        validity_h: Life of a member's certificate, hours.

    Raises:
        ConfigError: The folder holds no usable authority (the owner's to mend).
    """

    def __init__(self, state: Path, validity_h: int) -> None:
        self._state = state
        self._validity_h = validity_h
        self._root_der = ssl.PEM_cert_to_DER_cert(load_root(state).decode())
        load_intermediate(state)  # better now than at the first newcomer

    @property
    def root_der(self) -> bytes:
        """The root certificate."""
        return self._root_der

    def sign(
        self, role: Role, name: str, key: ec.EllipticCurvePublicKey, now: datetime, hosts: tuple[str, ...]
    ) -> tuple[bytes, bytes]:
        """A certificate and the intermediate's, DER; raises ``ConfigError`` when the intermediate cannot be used."""
        intermediate = load_intermediate(self._state)
        leaf = sign_leaf(intermediate, role, name, key, now, validity_h=self._validity_h, hosts=hosts)
        return ssl.PEM_cert_to_DER_cert(leaf.decode()), ssl.PEM_cert_to_DER_cert(intermediate.cert_pem.decode())


class ServerCertificate:
    """The authority's own certificate, made anew when two thirds of its life are over. Called from gRPC's threads.

    Args:
        state: The state folder.
        settings: Where the authority is reached.
        now: The time, aware.
    """

    def __init__(self, state: Path, settings: AuthoritySettings, now: Callable[[], datetime]) -> None:
        self._state = state
        self._hosts = all_hosts(settings.hosts)
        self._now = now
        self._lock = threading.Lock()
        self._key = create_signing_key()
        self._made_at = now()
        self._credentials = self._make()

    def __call__(self) -> Credentials:
        """The certificate that holds now, with its key; raises ``ConfigError`` when none can be made."""
        with self._lock:
            if not timedelta() <= self._now() - self._made_at < _SERVER_RENEWAL:
                self._credentials = self._make()
            return self._credentials

    def _make(self) -> Credentials:
        intermediate = load_intermediate(self._state)
        self._made_at = self._now()
        leaf = sign_leaf(
            intermediate,
            Role.AUTHORITY,
            "authority",
            self._key.public_key(),
            self._made_at,
            validity_h=SERVER_VALIDITY_H,
            hosts=self._hosts,
        )
        return Credentials(leaf + intermediate.cert_pem, key_to_pem(self._key), load_root(self._state))
