"""The authority's folders: the root, which should be offline, and the state, with which it works.

``ROOT/``: ``root.key`` (0600) and ``root.pem``. Needed to initialise and to rotate, never to serve.
``STATE/``: ``root.pem``; ``generation``, a link to a folder with ``intermediate.pem`` and ``intermediate.key`` (0600);
``authority.json``, written last, so that it is there only when the rest is. A rotation makes a new folder and replaces
the link: key and certificate never disagree, whenever it is interrupted.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from prunefleet_shared import wire_limits
from prunefleet_shared.certificates import LOCAL_HOSTS, Authority, create_authority, create_intermediate
from prunefleet_shared.document_file import read_document_file, write_document, write_whole
from prunefleet_shared.documents import public_bytes
from prunefleet_shared.errors import ConfigError, InputError, RemoteProtocolError
from prunefleet_shared.identity import key_from_pem
from prunefleet_shared.identity_folder import make_state_folder

ROOT_VALIDITY_H = 10 * 365 * 24
INTERMEDIATE_VALIDITY_H = 365 * 24
MAX_VALIDITY_H = 7 * 24
"""Longest life of a member's certificate: what a stolen one is worth without a deny-list."""

DEFAULT_COORDINATOR_PORT, DEFAULT_JOIN_PORT, DEFAULT_MEMBERS_PORT = 8470, 8471, 8472
_SETTINGS, _GENERATION = "authority.json", "generation"


@dataclass(frozen=True, slots=True)
class AuthoritySettings:
    """What ``authority.json`` says.

    Attributes:
        hosts: At which the authority is reached; the first one is written into tokens.
        coordinator_address: ``host:port``, told to every member.
        join_port: For newcomers.
        members_port: For members.
        validity_h: Life of a member's certificate, 1 to 168 hours.
    """

    hosts: tuple[str, ...]
    coordinator_address: str
    join_port: int = DEFAULT_JOIN_PORT
    members_port: int = DEFAULT_MEMBERS_PORT
    validity_h: int = MAX_VALIDITY_H

    @property
    def join_address(self) -> str:
        """``host:port`` for newcomers."""
        return f"{_bracketed(self.hosts[0])}:{self.join_port}"

    @property
    def members_address(self) -> str:
        """``host:port`` for members."""
        return f"{_bracketed(self.hosts[0])}:{self.members_port}"

    @property
    def coordinator_host(self) -> str:
        """The host in :attr:`coordinator_address`."""
        return self.coordinator_address.rpartition(":")[0].strip("[]")


def check_settings(settings: AuthoritySettings) -> None:
    """Raise ``ConfigError`` (the user's to mend) unless members could use these settings."""
    if not settings.hosts:
        msg = "host: expected at least one name or address at which the authority is reached, got none"
        raise ConfigError(msg)
    if not 1 <= settings.validity_h <= MAX_VALIDITY_H:
        msg = f"validity: expected 1 to {MAX_VALIDITY_H} hours, got {settings.validity_h}"
        raise ConfigError(msg)
    for name, address in (("coordinator", settings.coordinator_address), ("host", settings.join_address)):
        try:
            wire_limits.address(address, name)
        except RemoteProtocolError:
            msg = f"{name}: expected a name or address as in host:port, got {address!r}"
            raise ConfigError(msg) from None


def init_authority(state: Path, root_folder: Path, settings: AuthoritySettings, now: datetime) -> None:
    """Make root, intermediate and settings; a root that is in ``root_folder`` already is used.

    Raises:
        ConfigError: There is an authority in ``state`` already, or a folder cannot be written (the user's to mend).
    """
    check_settings(settings)
    if is_initialised(state):
        msg = f"{state} holds an authority already; use another --state, or `prunefleet ca rotate`"
        raise ConfigError(msg)
    make_state_folder(state)  # before the root, which may be below it: parents would be open to everyone
    make_state_folder(root_folder)
    if not (root_folder / "root.pem").exists():
        root = create_authority(now, validity_h=ROOT_VALIDITY_H)
        write_whole(root_folder / "root.key", root.key_pem, mode=0o600)
        write_whole(root_folder / "root.pem", root.cert_pem)
    _new_generation(state, _load_root_with_key(root_folder), now)
    save_settings(state, settings)


def rotate_intermediate(state: Path, root_folder: Path, now: datetime) -> None:
    """Replace the intermediate; certificates that the old one signed stay valid, and a server that runs takes it up.

    Raises:
        ConfigError: The root is not in ``root_folder``, is another one, or ``state`` cannot be used (the user's).
    """
    load_settings(state)
    root = _load_root_with_key(root_folder)
    if x509.load_pem_x509_certificate(root.cert_pem) != x509.load_pem_x509_certificate(load_root(state)):
        msg = f"{root_folder}: expected the root of {state}, got another one; members trust only theirs"
        raise ConfigError(msg)
    _new_generation(state, root, now)


def is_initialised(state: Path) -> bool:
    """True when ``state`` holds an authority."""
    return (state / _SETTINGS).exists()


def load_settings(state: Path) -> AuthoritySettings:
    """The settings in ``state``.

    Raises:
        ConfigError: There are none, or they are damaged (the user's to mend).
    """
    if not is_initialised(state):
        msg = f"{state} holds no authority yet; make one: prunefleet ca init --host HOST --coordinator HOST:PORT"
        raise ConfigError(msg)
    try:
        settings = read_document_file(state / _SETTINGS, AuthoritySettings)
    except InputError as error:
        raise ConfigError(str(error)) from None
    check_settings(settings)
    return settings


def save_settings(state: Path, settings: AuthoritySettings) -> None:
    """Write ``authority.json``.

    Raises:
        ConfigError: It cannot be written (the user's to mend).
    """
    write_document(state / _SETTINGS, settings)


def load_root(state: Path) -> bytes:
    """The root certificate, PEM.

    Raises:
        ConfigError: It is missing or damaged (the user's to mend).
    """
    return _read(state / "root.pem", x509.load_pem_x509_certificate)


def load_intermediate(state: Path) -> Authority:
    """The intermediate, with its key.

    Raises:
        ConfigError: It is missing or damaged, or the root did not sign it (the user's to mend).
    """
    folder = (state / _GENERATION).resolve()  # once, so that both files are of one generation
    intermediate = _load_pair(folder / "intermediate.pem", folder / "intermediate.key")
    certificate = x509.load_pem_x509_certificate(intermediate.cert_pem)
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(load_root(state)))
    except (ValueError, TypeError, InvalidSignature):
        msg = f"{folder}: expected an intermediate of the root in {state}, got another one's; restore a backup"
        raise ConfigError(msg) from None
    return intermediate


def _load_root_with_key(root_folder: Path) -> Authority:
    return _load_pair(root_folder / "root.pem", root_folder / "root.key")


def _load_pair(cert_path: Path, key_path: Path) -> Authority:
    pair = Authority(_read(cert_path, x509.load_pem_x509_certificate), _read(key_path, key_from_pem))
    key = key_from_pem(pair.key_pem).public_key()
    certificate = x509.load_pem_x509_certificate(pair.cert_pem)
    if public_bytes(key) != public_bytes(certificate.public_key()):  # type: ignore[arg-type]  # bytes of any key differ
        msg = f"{key_path}: expected the key of {cert_path.name}, got another one's; restore a backup"
        raise ConfigError(msg)
    return pair


def _read(path: Path, parse: Callable[[bytes], object]) -> bytes:
    try:
        content = path.read_bytes()
        parse(content)
    except OSError as error:
        msg = f"{path}: expected a file of the authority, got {error.strerror}; give the folder that holds it"
        raise ConfigError(msg) from None
    except (ValueError, ConfigError):
        msg = f"{path} is damaged; restore a backup"
        raise ConfigError(msg) from None
    return content


def _new_generation(state: Path, root: Authority, now: datetime) -> None:
    intermediate = create_intermediate(root, now, validity_h=INTERMEDIATE_VALIDITY_H)
    name = f"{_GENERATION}-{now:%Y%m%d}-{secrets.token_hex(4)}"
    folder = state / name
    make_state_folder(folder)
    write_whole(folder / "intermediate.key", intermediate.key_pem, mode=0o600)
    write_whole(folder / "intermediate.pem", intermediate.cert_pem)
    write_whole(state / "root.pem", root.cert_pem)
    link = state / f".{name}"
    try:
        link.symlink_to(name, target_is_directory=True)
        link.replace(state / _GENERATION)
        _sync_folder(state)
    except OSError as error:
        msg = f"{state}: cannot switch to the new intermediate: {error.strerror}"
        raise ConfigError(msg) from None


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def all_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """``hosts`` and this machine's own, each once: a server is also asked from beside it, for its health."""
    return tuple(dict.fromkeys((*hosts, *LOCAL_HOSTS)))
