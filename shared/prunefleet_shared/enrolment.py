"""Becoming a member and staying one: join with a token, renew with the old certificate. The member's end.

Joining, in the order that matters:

1. Ask the server for its certificate without believing it, and through it for the root certificate.
2. Compare the root's hash with the token's. Until they agree nothing secret has been sent.
3. Over a new connection, which proves that its server is the root's, send the secret and a certificate request. The
   key was made here and is on disk before the request leaves, so that a lost answer is asked for again with it.
4. Believe the answer only if it is a certificate for our key, of our role, signed through to the root.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_shared.authority_messages import AuthorityOffer, GetAuthority, Join, Membership, Renew
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.documents import digest, public_bytes
from prunefleet_shared.durations import in_words
from prunefleet_shared.errors import (
    CarrierError,
    ConfigError,
    LocalProtocolError,
    RejectReason,
    RemoteProtocolError,
    reject,
)
from prunefleet_shared.grpc_link import GrpcLink, Trust
from prunefleet_shared.identity import (
    KEEPS_KEY,
    Credentials,
    create_request,
    create_signing_key,
    key_from_pem,
    key_to_pem,
    read_passport,
)
from prunefleet_shared.identity_folder import (
    IDENTITY_FILE,
    Identity,
    identity_from,
    load_identity,
    make_state_folder,
    save_identity,
)
from prunefleet_shared.join_token import JoinToken
from prunefleet_shared.messages import Down
from prunefleet_shared.roles import Role

MAX_CLOCK_ERROR_S = 300
"""How far our clock may be from the authority's: what certificates allow for, too."""
NEW_KEY_FILE = "joining.key"

T = TypeVar("T")

ToAuthority = GetAuthority | Join | Renew
BeforeSend = Callable[[ToAuthority], None]
"""Called with each message before it leaves, for a device's audit; if it raises, nothing is sent."""


def unwatched(_message: ToAuthority) -> None:
    """For members who keep no audit."""


async def join(
    token: JoinToken,
    role: Role,
    folder: Path,
    *,
    now: Callable[[], datetime],
    timeout_s: float = 30.0,
    before_send: BeforeSend = unwatched,
) -> Identity:
    """Become a member, and write ``identity.json`` below ``folder``.

    Args:
        token: What the operator handed over.
        role: What the token is for.
        folder: The state folder, made if it is not there.
        now: The time, aware.
        timeout_s: Longest wait for each of the four steps.
        before_send: Sees each message first.

    Raises:
        ConfigError: The clock is wrong, or the folder cannot be written (the user's to mend).
        RemoteProtocolError: This is another authority than the token's, or it turned the token down.
        CarrierError: It cannot be reached.
    """
    leaf_pem = await _unverified_certificate(token.address, timeout_s)
    _check_dates(leaf_pem, now())
    before_send(GetAuthority())
    offer = await _ask(token.address, Trust(leaf_pem), GetAuthority(), AuthorityOffer, timeout_s)
    root_pem = _pinned_root(token, offer)
    _check_clock(offer, now())
    make_state_folder(folder)
    key = _joining_key(folder, role)
    message = Join(token.token_id, token.secret, create_request(key))
    before_send(message)
    membership = await _ask(token.address, Trust(root_pem), message, Membership, timeout_s)
    identity = _verified(membership, key, role, root_pem)
    save_identity(folder, identity)
    (folder / NEW_KEY_FILE).unlink(missing_ok=True)
    return identity


async def renew(
    identity: Identity,
    folder: Path,
    *,
    now: Callable[[], datetime],
    timeout_s: float = 30.0,
    before_send: BeforeSend = unwatched,
) -> Identity:
    """Exchange the certificate for a fresh one, and write it down.

    Raises:
        RemoteProtocolError: The authority refused, for instance because the member is revoked.
        CarrierError: It cannot be reached.
        ConfigError: The folder cannot be written (the user's to mend).
    """
    key = identity.signing_key if identity.role in KEEPS_KEY else create_signing_key()
    message = Renew(create_request(key))
    before_send(message)
    membership = await _ask(identity.authority_address, identity.credentials, message, Membership, timeout_s)
    renewed = _verified(membership, key, identity.role, identity.credentials.ca_pem)
    if renewed.name != identity.name or renewed.valid_until <= now():
        raise _wrong_certificate(f"one for {identity.name} that holds now", f"{renewed.name} to {renewed.valid_until}")
    save_identity(folder, renewed)
    return renewed


async def _unverified_certificate(address: str, timeout_s: float) -> bytes:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.to_thread(_shown_certificate, host.strip("[]"), int(port), timeout_s)
    except (OSError, TimeoutError) as error:
        msg = f"the authority at {address} cannot be reached ({error or 'no answer in time'}); is it running?"
        raise CarrierError(msg, retryable=True) from error


def _shown_certificate(host: str, port: int, timeout_s: float) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # believed only once the root's hash agrees
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, port), timeout_s) as raw, context.wrap_socket(raw) as line:
        return ssl.DER_cert_to_PEM_cert(line.getpeercert(binary_form=True) or b"").encode()


async def _ask(
    address: str,
    credentials: Credentials | Trust,
    message: ToAuthority,
    kind: type[T],
    timeout_s: float,
) -> T:
    link = GrpcLink(address, credentials, timeout_s=timeout_s)
    try:
        answer: Down = await link.call(message)
    finally:
        await link.close()
    if isinstance(answer, kind):
        return answer
    msg = f"{type(message).__name__} was answered by a {type(answer).__name__}"
    raise LocalProtocolError(msg)


def _pinned_root(token: JoinToken, offer: AuthorityOffer) -> bytes:
    if not hmac.compare_digest(digest(offer.root_certificate), token.root_digest):
        raise reject(
            RejectReason.STRANGER,
            expected=f"the authority with root {token.root_digest[:12]}",
            got=f"root {digest(offer.root_certificate)[:12]}; nothing secret was sent",
            remedy="ask the operator for a token of this fleet, and check the address in it",
        )
    return ssl.DER_cert_to_PEM_cert(offer.root_certificate).encode()


def _check_dates(leaf_pem: bytes, now: datetime) -> None:
    """A clock that is far off would end in TLS, with words that help nobody. A hint only: nothing is believed yet."""
    try:
        leaf = x509.load_pem_x509_certificate(leaf_pem)
    except ValueError:
        raise _wrong_certificate("a server's certificate", "another") from None
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        msg = (
            f"this machine's clock says {now:%Y-%m-%d %H:%M %Z}, but the authority's certificate holds from "
            f"{leaf.not_valid_before_utc:%Y-%m-%d %H:%M} to {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; "
            "set the clock (nothing secret was sent)"
        )
        raise ConfigError(msg)


def _check_clock(offer: AuthorityOffer, now: datetime) -> None:
    error_s = now.timestamp() - offer.now_ms / 1000
    if abs(error_s) > MAX_CLOCK_ERROR_S:
        theirs = datetime.fromtimestamp(offer.now_ms / 1000, UTC).isoformat(timespec="seconds")
        direction = "fast" if error_s > 0 else "slow"
        msg = (
            f"this machine's clock is {in_words(abs(error_s))} {direction}: the authority says {theirs}; "
            "set the clock (nothing secret was sent)"
        )
        raise ConfigError(msg)


def _joining_key(folder: Path, role: Role) -> ec.EllipticCurvePrivateKey:
    """The key of an earlier try, or the one that signs our documents, or a fresh one; on disk before it is used."""
    path = folder / NEW_KEY_FILE
    if path.exists():
        return _saved_key(path)
    if role in KEEPS_KEY and (folder / IDENTITY_FILE).exists():
        return load_identity(folder, role).signing_key
    key = create_signing_key()
    write_whole(path, key_to_pem(key), mode=0o600)
    return key


def _saved_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        return key_from_pem(path.read_bytes())
    except (OSError, ConfigError) as error:
        msg = f"{path}: expected the key of an earlier try, got {type(error).__name__}; delete it and join again"
        raise ConfigError(msg) from None


def _verified(membership: Membership, key: ec.EllipticCurvePrivateKey, role: Role, root_pem: bytes) -> Identity:
    root = x509.load_pem_x509_certificate(root_pem)
    try:
        leaf, intermediate = (x509.load_der_x509_certificate(der) for der in membership.certificates)
        intermediate.verify_directly_issued_by(root)
        leaf.verify_directly_issued_by(intermediate)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _wrong_certificate("a chain to the root", f"none ({type(error).__name__})") from None
    chain = b"".join(cert.public_bytes(serialization.Encoding.PEM) for cert in (leaf, intermediate))
    passport = read_passport(chain)
    if passport.peer.role is not role or passport.public_key != public_bytes(key.public_key()):
        raise _wrong_certificate(f"a {role}'s for our key", f"a {passport.peer.role}'s")
    return identity_from(
        Credentials(chain, key_to_pem(key), root_pem),
        operator_keys=membership.operator_keys,
        coordinator_address=membership.coordinator_address,
        authority_address=membership.authority_address,
        device_class=membership.device_class,
    )


def _wrong_certificate(expected: str, got: str) -> RemoteProtocolError:
    remedy = "check that the token is for this role; if it is, tell the authority's owner"
    return reject(RejectReason.STRANGER, expected=expected, got=got, remedy=remedy)
