"""Where a member keeps who it is: one file, ``identity.json``, readable by its owner alone, replaced as a whole.

Key and certificates are in one file, so that a crash during a renewal leaves the old pair or the new one, never a
mixture.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_shared.document_file import write_whole
from prunefleet_shared.documents import public_bytes
from prunefleet_shared.errors import ConfigError, RemoteProtocolError
from prunefleet_shared.identity import Credentials, identity_of, key_from_pem
from prunefleet_shared.roles import Role

IDENTITY_FILE = "identity.json"
_JOIN_COMMANDS = {
    Role.DEVICE: "prunefleet edge join TOKEN",
    Role.TRAINER: "prunefleet trainer join TOKEN",
    Role.OPERATOR: "prunefleet campaign join TOKEN",
    Role.COORDINATOR: "prunefleet coordinator join TOKEN",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is, whom it trusts, and whom it calls.

    Attributes:
        role: What it may do.
        name: Its name in the fleet.
        credentials: Chain, key and root.
        operator_keys: Whose signatures make a campaign, DER each.
        coordinator_address: ``host:port``.
        authority_address: ``host:port`` of the authority's port for members.
        device_class: Of a device; else empty.
        valid_from: First moment at which the certificate holds.
        valid_until: Last moment.
    """

    role: Role
    name: str
    credentials: Credentials
    operator_keys: tuple[bytes, ...]
    coordinator_address: str
    authority_address: str
    device_class: str
    valid_from: datetime
    valid_until: datetime

    @property
    def signing_key(self) -> ec.EllipticCurvePrivateKey:
        """The key of the certificate; operators, coordinators and trainers sign their documents with it."""
        return key_from_pem(self.credentials.key_pem)

    @property
    def public_key(self) -> bytes:
        """DER SubjectPublicKeyInfo of :attr:`signing_key`."""
        return public_bytes(self.signing_key.public_key())


def identity_from(
    credentials: Credentials,
    *,
    operator_keys: tuple[bytes, ...],
    coordinator_address: str,
    authority_address: str,
    device_class: str,
) -> Identity:
    """An identity whose role, name and dates are those of the certificate.

    Raises:
        RemoteProtocolError: ``STRANGER``: the certificate names nobody of ours (the authority's fault).
    """
    role, name = identity_of(credentials.cert_pem)
    leaf = x509.load_pem_x509_certificate(credentials.cert_pem)
    return Identity(
        role,
        name,
        credentials,
        operator_keys,
        coordinator_address,
        authority_address,
        device_class,
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
    )


def default_state(role: Role) -> Path:
    """The state folder unless one is named: ``$PRUNEFLEET_STATE``, or one per role below the user's home."""
    named = os.environ.get("PRUNEFLEET_STATE")
    return Path(named) if named else Path.home() / ".local" / "state" / "prunefleet" / role.value


def make_state_folder(folder: Path) -> None:
    """Make the state folder, for its owner alone, unless it is there.

    Raises:
        ConfigError: It cannot be made (the user's to mend).
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        msg = f"the state folder {folder} cannot be made: {error.strerror}; name another with --state"
        raise ConfigError(msg) from None


def save_identity(folder: Path, identity: Identity) -> None:
    """Write ``identity.json`` (mode 0600), whole or not at all.

    Raises:
        ConfigError: The folder cannot be written (the user's to mend).
    """
    document = {
        "cert_pem": identity.credentials.cert_pem.decode(),
        "key_pem": identity.credentials.key_pem.decode(),
        "root_pem": identity.credentials.ca_pem.decode(),
        "operator_keys": [key.hex() for key in identity.operator_keys],
        "coordinator_address": identity.coordinator_address,
        "authority_address": identity.authority_address,
        "device_class": identity.device_class,
    }
    make_state_folder(folder)
    write_whole(folder / IDENTITY_FILE, json.dumps(document, indent=2).encode(), mode=0o600)


def load_identity(folder: Path, role: Role) -> Identity:
    """Read what :func:`save_identity` wrote.

    Raises:
        ConfigError: There is none yet, it is damaged, or it is of another role (the user's to mend).
    """
    path, join = folder / IDENTITY_FILE, _JOIN_COMMANDS.get(role, "prunefleet")
    try:
        document = json.loads(path.read_bytes())
        identity = _read(document)
    except FileNotFoundError:
        msg = f"{folder} has no identity yet; join first: {join}"
        raise ConfigError(msg) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RemoteProtocolError, ConfigError) as error:
        # The error's own words could repeat a piece of the key.
        msg = f"{path} cannot be used ({type(error).__name__}); move it away and join again: {join}"
        raise ConfigError(msg) from None
    if identity.role is not role:
        msg = f"{path} is the identity of a {identity.role}, expected a {role}; use another --state folder"
        raise ConfigError(msg)
    return identity


def _read(document: dict[str, str | list[str]]) -> Identity:
    pems = [str(document[name]).encode() for name in ("cert_pem", "key_pem", "root_pem")]
    credentials = Credentials(*pems)
    x509.load_pem_x509_certificate(credentials.ca_pem)
    if public_bytes(key_from_pem(credentials.key_pem).public_key()) != _certified_key(credentials.cert_pem):
        msg = "the key is another certificate's"
        raise ConfigError(msg)
    return identity_from(
        credentials,
        operator_keys=tuple(bytes.fromhex(key) for key in document["operator_keys"]),
        coordinator_address=str(document["coordinator_address"]),
        authority_address=str(document["authority_address"]),
        device_class=str(document["device_class"]),
    )


def _certified_key(cert_pem: bytes) -> bytes:
    key = x509.load_pem_x509_certificate(cert_pem).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
