"""The authority's rules: who gets a certificate, for what, and who is denied. Answers both services of the proto.

It takes nothing from a newcomer but a key whose possession is proved. Role, name, hosts and dates are its own. A
certificate is in the store before it is answered.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from prunefleet_coordinator.ca.files import AuthoritySettings, all_hosts
from prunefleet_coordinator.ca.rate_limit import FailureLimit
from prunefleet_coordinator.ca.store import AuthorityStore, StoredCertificate, StoredToken
from prunefleet_coordinator.ca.tokens import TokenOrder, check_order, make_tokens
from prunefleet_shared import authority_messages as m
from prunefleet_shared import wire_limits
from prunefleet_shared.documents import digest, public_bytes
from prunefleet_shared.errors import (
    CarrierError,
    ConfigError,
    LocalProtocolError,
    RejectReason,
    RemoteProtocolError,
    reject,
)
from prunefleet_shared.identity import KEEPS_KEY, read_request
from prunefleet_shared.messages import Down, Peer, Role, Up

_log = logging.getLogger(__name__)
_NO_DIGEST = digest(b"")
_MAY_BE_ORDERED_BY_OPERATORS = frozenset({Role.DEVICE, Role.TRAINER})


class Signer(Protocol):
    """Signs members' certificates."""

    @property
    def root_der(self) -> bytes:
        """The root certificate."""
        ...

    def sign(
        self, role: Role, name: str, key: ec.EllipticCurvePublicKey, now: datetime, hosts: tuple[str, ...]
    ) -> tuple[bytes, bytes]:
        """A certificate and the intermediate's, DER.

        Raises:
            ConfigError: The intermediate cannot be used (the owner's to mend).
        """
        ...


class AuthorityService:
    """A :class:`~prunefleet_shared.messages.Service` for newcomers and members.

    Args:
        store: Tokens, certificates, log.
        signer: Makes certificates.
        settings: Addresses that members are told.
        now: The time, aware.
        failures: Counts wrong tokens.
        random_bytes: That many unpredictable bytes.
    """

    def __init__(
        self,
        store: AuthorityStore,
        signer: Signer,
        settings: AuthoritySettings,
        *,
        now: Callable[[], datetime],
        failures: FailureLimit,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._signer = signer
        self._settings = settings
        self._now = now
        self._failures = failures
        self._random_bytes = random_bytes

    def advertise(self, settings: AuthoritySettings) -> None:
        """Tell members these addresses from now on."""
        self._settings = settings

    async def handle(self, peer: Peer, message: Up) -> Down:
        """Answer ``message``.

        Raises:
            RemoteProtocolError: Refused, with the reason.
            CarrierError: The store cannot be used for now; nothing was issued.
        """
        try:
            return self._answer(peer, message)
        except ConfigError:
            _log.exception("event=store_failed")
            msg = "the authority cannot use its files for now; its log says why"
            raise CarrierError(msg, retryable=True) from None

    def _answer(self, peer: Peer, message: Up) -> Down:
        down: Down
        match message:
            case m.GetAuthority():
                down = m.AuthorityOffer(self._signer.root_der, self._now_ms())
            case m.Join():
                down = self._join(peer, message)
            case m.Renew(request):
                down = self._renew(peer, request)
            case m.ListDenied():
                down = m.DenyList(self._store.list_denied(self._now_ms()))
            case m.Revoke(name):
                down = self._revoke(peer, name)
            case m.CreateTokens():
                down = self._create_tokens(message)
            case m.ListMembers(role, after_name):
                down = m.MemberList(
                    tuple(map(_member, self._store.list_members(role, after_name, wire_limits.MAX_PAGE)))
                )
            case _:
                msg = f"no authority is asked a {type(message).__name__}"
                raise LocalProtocolError(msg)
        return down

    def is_denied(self, serial: str) -> bool:
        """True when the certificate with this serial number is revoked; raises ``CarrierError`` like :meth:`handle`."""
        try:
            return self._store.is_denied(serial)
        except ConfigError:
            _log.exception("event=store_failed")
            msg = "the authority cannot use its files for now; its log says why"
            raise CarrierError(msg, retryable=True) from None

    # --- joining

    def _join(self, peer: Peer, message: m.Join) -> m.Membership:
        if self._failures.is_exhausted(peer.peer_id):
            raise reject(
                RejectReason.TOO_MANY_TRIES,
                expected="fewer wrong tokens from this address",
                got="too many",
                remedy="wait a minute, then try once with a good token",
            )
        token = self._open_token(peer, message)
        key = read_request(message.certificate_request)
        if self._store.is_key_revoked(public_bytes(key)):
            raise _revoked("a key that was revoked (move identity.json away, so that a new one is made)")
        name = token.used_name or self._name_for(token)
        self._check_name(name, token.role)
        certificates, stored = self._issue(token.role, name, key, token.device_class, token.hosts)
        if not self._store.save_joined(token, _key_digest(key), stored, self._now_ms()):
            raise _used()
        _log.info("event=joined role=%s name=%s serial=%s token=%s", token.role, name, stored.serial, token.token_id)
        return self._membership(certificates, stored)

    def _open_token(self, peer: Peer, message: m.Join) -> StoredToken:
        """The token, if its secret is right and it may let this key in; every failure counts against the address."""
        token = self._store.load_token(message.token_id)
        # Compared before anything is said about the token, and for unknown ones too, so that all take the same time.
        is_right = hmac.compare_digest(digest(message.secret), token.secret_digest if token else _NO_DIGEST)
        if token is None or not is_right:
            failure = _turned_down(RejectReason.UNKNOWN_TOKEN, "a join token of this fleet", "none")
        elif token.used_by not in {None, _key_digest(read_request(message.certificate_request))}:
            failure = _used()
        elif self._now_ms() > token.expires_at_ms:
            failure = _turned_down(RejectReason.EXPIRED_TOKEN, "a token in time", "an old one")
        else:
            return token
        self._failures.count_failure(peer.peer_id)
        reason = failure.rejection.reason.name
        _log.warning("event=join_refused reason=%s token=%s from=%s", reason, message.token_id, peer.peer_id)
        raise failure

    def _name_for(self, token: StoredToken) -> str:
        if not token.is_group:
            return token.name
        while True:  # ends: a name is taken with a chance of at most members / 2**32
            name = f"{token.name}-{self._random_bytes(4).hex()}"
            if self._store.load_latest(name) is None:
                return name

    def _check_name(self, name: str, role: Role) -> None:
        """A name belongs to one role for ever, so that revoking it means one member."""
        latest = self._store.load_latest(name)
        if latest is not None and latest.role is not role:
            raise reject(
                RejectReason.WRONG_ROLE,
                expected=f"a name that is no {latest.role}'s",
                got=f"a token that makes it a {role}",
                remedy="ask the operator for a token with another name",
            )

    # --- members

    def _renew(self, peer: Peer, request: bytes) -> m.Membership:
        key = read_request(request)
        latest = self._store.load_latest(peer.peer_id)
        if latest is None or latest.role is not peer.role or self._store.is_key_revoked(public_bytes(key)):
            raise _revoked("one that was revoked")
        if peer.role in KEEPS_KEY and not self._store.has_key(peer.peer_id, public_bytes(key)):
            raise reject(
                RejectReason.MALFORMED,
                expected=f"the {peer.role}'s own key, which also signs documents",
                got="another key",
                remedy="renew with the key in identity.json",
            )
        certificates, stored = self._issue(peer.role, peer.peer_id, key, latest.device_class, latest.hosts)
        if not self._store.save_renewed(stored, self._now_ms()):
            raise _revoked("one that was revoked")
        _log.info("event=renewed role=%s name=%s serial=%s", peer.role, peer.peer_id, stored.serial)
        return self._membership(certificates, stored)

    def _revoke(self, peer: Peer, name: str) -> m.Revoked:
        self.revoke(name)
        _log.warning("event=revoked name=%s by=%s", name, peer.peer_id)
        return m.Revoked()

    def revoke(self, name: str) -> None:
        """Put every certificate of ``name`` on the deny-list.

        Raises:
            RemoteProtocolError: ``NOT_FOUND``: nobody has this name.
        """
        if not self._store.revoke(name, self._now_ms()):
            remedy = "list the members"
            raise reject(RejectReason.NOT_FOUND, expected="the name of a member", got="another", remedy=remedy)

    def _create_tokens(self, message: m.CreateTokens) -> m.TokenList:
        if message.role not in _MAY_BE_ORDERED_BY_OPERATORS:
            raise reject(
                RejectReason.WRONG_ROLE,
                expected="a token for a device or a trainer",
                got=f"one for a {message.role}",
                remedy="make it on the authority's machine: prunefleet ca token",
            )
        order = TokenOrder(
            message.role, message.name, message.is_group, message.num_tokens, message.valid_for_s, message.device_class
        )
        return m.TokenList(self.create_tokens(order))

    def create_tokens(self, order: TokenOrder) -> tuple[str, ...]:
        """Make join tokens, of any role; the texts are shown once and kept as hashes.

        Raises:
            RemoteProtocolError: ``OUT_OF_RANGE`` or ``WRONG_ROLE``: the order's fault.
            ConfigError: The store cannot be used (the owner's to mend).
        """
        check_order(order)
        if not order.is_group:
            self._check_name(order.name, order.role)
        if order.role is Role.COORDINATOR and not order.hosts:
            order = replace(order, hosts=(self._settings.coordinator_host,))
        address, now_ms = self._settings.join_address, self._now_ms()
        made = make_tokens(order, self._signer.root_der, address, now_ms, self._random_bytes)
        self._store.save_tokens([stored for _, stored in made], now_ms)
        _log.info("event=tokens_made role=%s name=%s count=%d", order.role, order.name, order.count)
        return tuple(token.text() for token, _ in made)

    # --- certificates

    def _issue(
        self, role: Role, name: str, key: ec.EllipticCurvePublicKey, device_class: str, hosts: tuple[str, ...]
    ) -> tuple[tuple[bytes, bytes], StoredCertificate]:
        leaf_der, intermediate_der = self._signer.sign(role, name, key, self._now(), all_hosts(hosts))
        leaf = x509.load_der_x509_certificate(leaf_der)
        not_after_ms = round(leaf.not_valid_after_utc.timestamp() * 1000)
        serial, public_key = f"{leaf.serial_number:x}", public_bytes(key)
        stored = StoredCertificate(serial, role, name, public_key, device_class, hosts, not_after_ms)
        return (leaf_der, intermediate_der), stored

    def _membership(self, certificates: tuple[bytes, bytes], stored: StoredCertificate) -> m.Membership:
        return m.Membership(
            certificates,
            self._store.list_keys(Role.OPERATOR, wire_limits.MAX_OPERATOR_KEYS),
            self._settings.coordinator_address,
            self._settings.members_address,
            stored.device_class,
        )

    def _now_ms(self) -> int:
        return round(self._now().timestamp() * 1000)


def _member(certificate: StoredCertificate) -> m.Member:
    is_revoked = certificate.revoked_at_ms is not None
    return m.Member(certificate.name, certificate.role, certificate.public_key, certificate.not_after_ms, is_revoked)


def _key_digest(key: ec.EllipticCurvePublicKey) -> str:
    return digest(public_bytes(key))


def _used() -> RemoteProtocolError:
    return _turned_down(RejectReason.USED_TOKEN, "a token of your own", "a used one")


def _revoked(got: str) -> RemoteProtocolError:
    return _turned_down(RejectReason.REVOKED, "a member in good standing", got)


def _turned_down(reason: RejectReason, expected: str, got: str) -> RemoteProtocolError:
    return reject(reason, expected=expected, got=got, remedy="ask the operator for a new join token")
