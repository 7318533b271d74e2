"""A device's end of a private sum: five stages, each an answer in and a message out.

What it holds to, whatever the coordinator says:

1. It speaks to one roster: enough devices, all vouched for by its fleet's root, each entry signed, its own unaltered.
2. It sends its masked vector only once a threshold of devices has signed that same roster.
3. It accepts one set of survivors, large enough, itself among them, and the one it signed is the one it answers for.
4. It gives away shares only once a threshold has signed those same survivors, and of each peer one share, never both.
5. When anything is wrong, its keys are gone and this session is over for it; another has other keys.

Whoever drives it saves that the round is spent before the last message (:class:`Unmask`) leaves.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from prunefleet_shared.errors import LocalProtocolError, Rejection, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.masks import IntArray
from prunefleet_shared.secure_sum import agreement
from prunefleet_shared.secure_sum.agreement import SEALED_BYTES
from prunefleet_shared.secure_sum.context import threshold
from prunefleet_shared.secure_sum.ring import Accumulator, Ring
from prunefleet_shared.secure_sum.roster import (
    SIGNATURE_BYTES,
    Member,
    Members,
    SumIdentity,
    advert_statement,
    bad_roster,
    members_of,
    roster_digest,
    roster_statement,
    salt_of,
    survivors_statement,
    why_roster_wrong,
)
from prunefleet_shared.secure_sum.shamir import SECRET_BYTES, RandomBytes, random_secret, split
from prunefleet_shared.sum_messages import (
    Advertise,
    CertificateList,
    Confirmations,
    ConfirmSurvivors,
    Contribute,
    ContributionCounted,
    FetchCertificates,
    PeerShares,
    Roster,
    RosterEntry,
    ShareKeys,
    SumDown,
    SumUp,
    Survivors,
    Unmask,
    member_set,
    positions_in,
)


class Stage(enum.Enum):
    """Which answer a device waits for."""

    START = "start"
    ADVERTISED = "advertised"
    ASKED = "asked for certificates"
    SHARED = "shared"
    CONTRIBUTED = "contributed"
    CONFIRMED = "confirmed"
    UNMASKED = "unmasked"
    OVER = "over"


_EXPECTED: dict[Stage, type[SumDown]] = {
    Stage.ADVERTISED: Roster,
    Stage.ASKED: CertificateList,
    Stage.SHARED: PeerShares,
    Stage.CONTRIBUTED: Survivors,
    Stage.CONFIRMED: Confirmations,
    Stage.UNMASKED: ContributionCounted,
}


@dataclass(frozen=True, slots=True)
class SumTerms:
    """What a device holds a session to.

    Attributes:
        min_devices: Fewest devices in a roster and among survivors: the larger of the campaign's and the owner's.
        max_devices: Most devices in a roster: what the lanes were sized for.
        why_survivors_refused: Given the survivors' names, why this sum must not be released; None if it may be.
    """

    min_devices: int
    max_devices: int
    why_survivors_refused: Callable[[frozenset[str]], Rejection | None] = lambda _names: None


@dataclass(slots=True)
class _Secrets:
    """What must be gone when the session is: replaced as a whole, never printed."""

    mask_key: X25519PrivateKey = field(repr=False)
    mask_secret: bytes = field(repr=False)
    share_key: X25519PrivateKey = field(repr=False)
    self_mask: bytes = field(repr=False)
    vector_L: IntArray = field(repr=False)
    own_shares: bytes = field(default=b"", repr=False)
    shared_with: dict[int, bytes] = field(default_factory=dict, repr=False)
    sealed_from: dict[int, bytes] = field(default_factory=dict, repr=False)


class SecureDeviceSum:
    """One device in one session.

    Args:
        context: Digest of the session's facts (``SumContext.digest``).
        session_id: Of that session, 32 hex digits.
        ring: The lanes.
        vector_L: What is contributed, int64, one value per lane, noise included where there is any.
        identity: Whose contribution it is.
        members: Checks peers' certificates; kept from session to session.
        terms: What the session is held to.
        random_bytes: Unpredictable bytes, such as ``secrets.token_bytes``.

    Raises:
        LocalProtocolError: The vector does not fit the lanes (our bug).
    """

    def __init__(
        self,
        context: bytes,
        session_id: str,
        ring: Ring,
        vector_L: IntArray,
        *,
        identity: SumIdentity,
        members: Members,
        terms: SumTerms,
        random_bytes: RandomBytes,
    ) -> None:
        if vector_L.shape != (ring.num_lanes,):
            msg = f"a vector of {vector_L.shape} for {ring.num_lanes} lanes"
            raise LocalProtocolError(msg)
        self._context, self._session_id, self._ring = context, session_id, ring
        self._identity, self._members, self._terms = identity, members, terms
        self._random_bytes = random_bytes
        mask_secret, share_secret = random_secret(random_bytes), random_secret(random_bytes)
        mask_key, share_key = agreement.private_key(mask_secret), agreement.private_key(share_secret)
        self._secrets: _Secrets | None = _Secrets(
            mask_key, mask_secret, share_key, random_secret(random_bytes), vector_L
        )
        self._entry = self._signed_entry(mask_key, share_key)
        self._stage = Stage.START
        self._entries: tuple[RosterEntry, ...] = ()
        self._own_position = 0
        self._peers: list[Member] = []
        self._roster = self._salt = self._survivor_bits = b""
        self._senders: frozenset[int] = frozenset()
        self._survivors: frozenset[int] = frozenset()

    @property
    def stage(self) -> Stage:
        """Which answer is waited for."""
        return self._stage

    @property
    def survivor_names(self) -> frozenset[str]:
        """Names of the devices in the sum, once survivors were accepted."""
        return frozenset(self._peers[position].name for position in self._survivors)

    def start(self) -> SumUp:
        """The first message.

        Raises:
            LocalProtocolError: It was asked for already (our bug).
        """
        if self._stage is not Stage.START:
            msg = f"start() while {self._stage.value}"
            raise LocalProtocolError(msg)
        self._stage = Stage.ADVERTISED
        digest = agreement.self_mask_digest(self._held().self_mask)
        return Advertise(self._session_id, self._identity.certificates, self._entry, digest)

    def receive(self, answer: SumDown) -> SumUp | None:
        """Take the answer to the last message; returns the next, or None when nothing more is asked.

        Raises:
            RemoteProtocolError: The answer breaks a rule, named by its reason; the session is over, its keys are gone.
        """
        try:
            return self._next(answer)
        except Exception:  # our own bugs too: whatever went wrong, the keys go
            self.abort()
            raise

    def abort(self) -> None:
        """Forget every key of this session. (Python may keep copies in memory for a while; see the threat model.)"""
        self._secrets, self._stage = None, Stage.OVER

    def _next(self, answer: SumDown) -> SumUp | None:
        expected = _EXPECTED.get(self._stage)
        if expected is None or not isinstance(answer, expected):
            raise _wrong(RejectReason.OUT_OF_TURN, expected.__name__ if expected else "nothing", type(answer).__name__)
        match answer:
            case Roster(entries):
                return self._on_roster(entries)
            case CertificateList():
                return self._on_certificates(answer)
            case PeerShares():
                return self._on_peer_shares(answer)
            case Survivors(survivors):
                return self._on_survivors(survivors)
            case Confirmations():
                return self._on_confirmations(answer)
            case ContributionCounted(session_id):
                self._on_counted(session_id)
                return None

    # --- stage 1: who takes part --------------------------------------------------------------------------------------

    def _signed_entry(self, mask_key: X25519PrivateKey, share_key: X25519PrivateKey) -> RosterEntry:
        keys = (self._identity.certificate_digest, agreement.public_key(mask_key), agreement.public_key(share_key))
        unsigned = RosterEntry(*keys, signature=b"")
        return RosterEntry(*keys, signature=self._identity.sign(advert_statement(self._context, unsigned)))

    def _on_roster(self, entries: tuple[RosterEntry, ...]) -> SumUp:
        why = why_roster_wrong(entries, self._entry, self._terms.min_devices, self._terms.max_devices)
        if why:
            raise bad_roster(why)
        self._entries, self._own_position = entries, entries.index(self._entry)
        self._members.admit(self._identity.certificates[0], self._identity.certificates[1:])
        digests = (entry.certificate_digest for entry in entries)
        unknown = tuple(digest for digest in digests if self._members.get(digest) is None)
        if unknown:
            self._stage = Stage.ASKED
            return FetchCertificates(self._session_id, unknown)
        return self._share_keys()

    def _on_certificates(self, answer: CertificateList) -> SumUp:
        for certificate in answer.certificates:
            self._members.admit(certificate, answer.intermediates)
        return self._share_keys()

    # --- stage 2: shares of what hides this device --------------------------------------------------------------------

    def _share_keys(self) -> SumUp:
        self._peers = members_of(self._entries, self._members, self._context)
        self._roster = roster_digest(self._entries)
        self._salt = salt_of(self._context, self._roster)
        held, num_devices = self._held(), len(self._entries)
        self_shares, key_shares = (
            split(secret, threshold(num_devices), num_devices, self._random_bytes)
            for secret in (held.self_mask, held.mask_secret)
        )
        own = self._own_position
        held.own_shares = self_shares[own] + key_shares[own]
        sealed = [
            agreement.seal_shares(self._shared_with(peer), self._salt, own, peer, self_shares[peer] + key_shares[peer])
            for peer in range(num_devices)
            if peer != own
        ]
        self._stage = Stage.SHARED
        signature = self._identity.sign(roster_statement(self._context, self._roster))
        return ShareKeys(self._session_id, b"".join(sealed), signature)

    # --- stage 3: the masked vector -----------------------------------------------------------------------------------

    def _on_peer_shares(self, answer: PeerShares) -> SumUp:
        senders = self._positions(answer.senders)
        others = sorted(senders - {self._own_position})
        if len(senders) - len(others) != 1 or len(answer.shares) != SEALED_BYTES * len(others):
            raise _wrong(RejectReason.MALFORMED, "the shares of each sender, this device among them", "others")
        self._require_signed(senders, answer.signatures, roster_statement(self._context, self._roster), "roster")
        self._senders = senders
        pieces = _pieces(answer.shares, SEALED_BYTES)
        self._held().sealed_from = dict(zip(others, pieces, strict=True))
        self._stage = Stage.CONTRIBUTED
        return Contribute(self._session_id, self._ring.pack(self._masked(others)))

    def _masked(self, others: list[int]) -> IntArray:
        held, own = self._held(), self._own_position
        masked = Accumulator(self._ring)
        masked.add(held.vector_L)
        masked.add_mask(held.self_mask)
        for peer in others:
            secret = _agreed(held.mask_key, self._entries[peer].mask_key)
            seed = agreement.pair_seed(secret, self._salt, own, peer)
            (masked.add_mask if own < peer else masked.subtract_mask)(seed)
        return masked.lanes

    # --- stage 4: one set of survivors --------------------------------------------------------------------------------

    def _on_survivors(self, survivor_bits: bytes) -> SumUp:
        survivors, num_devices = self._positions(survivor_bits), len(self._entries)
        fewest = max(threshold(num_devices), self._terms.min_devices)
        if not survivors <= self._senders or self._own_position not in survivors or len(survivors) < fewest:
            got = f"{len(survivors)}, or others, or without this device"
            raise _wrong(RejectReason.BAD_SURVIVORS, f"at least {fewest} of the roster, this device among them", got)
        self._survivors, self._survivor_bits = survivors, survivor_bits
        refusal = self._terms.why_survivors_refused(self.survivor_names)
        if refusal:
            raise RemoteProtocolError(refusal)
        self._stage = Stage.CONFIRMED
        statement = survivors_statement(self._context, self._roster, survivor_bits)
        return ConfirmSurvivors(self._session_id, self._identity.sign(statement))

    # --- stage 5: masks off -------------------------------------------------------------------------------------------

    def _on_confirmations(self, answer: Confirmations) -> SumUp:
        confirmers = self._positions(answer.confirmers)
        if not confirmers <= self._survivors:
            raise _wrong(RejectReason.MALFORMED, "confirmations by survivors", "others")
        statement = survivors_statement(self._context, self._roster, self._survivor_bits)
        self._require_signed(confirmers, answer.signatures, statement, "survivors")
        shares = {peer: share for peer in self._senders if (share := self._share_of(peer)) is not None}
        self._secrets, self._stage = None, Stage.UNMASKED
        holders = member_set(set(shares), len(self._entries))
        return Unmask(self._session_id, holders, b"".join(shares[peer] for peer in sorted(shares)))

    def _share_of(self, peer: int) -> bytes | None:
        """This device's share of a survivor's self mask, or of a drop-out's mask key; None if it got none."""
        held = self._held()
        if peer == self._own_position:
            both: bytes | None = held.own_shares
        else:
            secret, own = self._shared_with(peer), self._own_position
            both = agreement.open_shares(secret, self._salt, peer, own, held.sealed_from[peer])
        if both is None:
            return None
        return both[:SECRET_BYTES] if peer in self._survivors else both[SECRET_BYTES:]

    def _on_counted(self, session_id: str) -> None:
        if session_id != self._session_id:
            raise _wrong(RejectReason.WRONG_SESSION, self._session_id[:12], session_id[:12])
        self.abort()

    # --- parts --------------------------------------------------------------------------------------------------------

    def _held(self) -> _Secrets:
        if self._secrets is None:
            msg = f"no keys while {self._stage.value}"
            raise LocalProtocolError(msg)
        return self._secrets

    def _shared_with(self, peer: int) -> bytes:
        known = self._held().shared_with
        if peer not in known:
            known[peer] = _agreed(self._held().share_key, self._entries[peer].share_key)
        return known[peer]

    def _positions(self, members: bytes) -> frozenset[int]:
        positions = positions_in(members, len(self._entries))
        if positions is None:
            raise _wrong(RejectReason.MALFORMED, f"a set of {len(self._entries)} members", f"{len(members)} bytes")
        return positions

    def _require_signed(self, signers: frozenset[int], signatures: bytes, statement: bytes, what: str) -> None:
        if len(signatures) != SIGNATURE_BYTES * len(signers):
            raise _wrong(RejectReason.MALFORMED, f"{len(signers)} signatures", f"{len(signatures)} bytes")
        agreeing, needed = 0, threshold(len(self._entries))
        for peer, piece in zip(sorted(signers), _pieces(signatures, SIGNATURE_BYTES), strict=True):
            agreeing += self._peers[peer].signed(statement, piece)
            if agreeing == needed:
                return
        raise _wrong(RejectReason.NO_AGREEMENT, f"{needed} signatures over the same {what}", f"{agreeing}")


def _pieces(joined: bytes, size: int) -> list[bytes]:
    return [joined[start : start + size] for start in range(0, len(joined), size)]


def _agreed(key: X25519PrivateKey, peer_key: bytes) -> bytes:
    try:
        return agreement.agree(key, peer_key)
    except ValueError:
        raise bad_roster("a key of low order") from None


def _wrong(reason: RejectReason, expected: str, got: str) -> RemoteProtocolError:
    remedy = "this device takes part in the next session; if it repeats, the coordinator is not to be trusted"
    return reject(reason, expected=expected, got=got, remedy=remedy)
