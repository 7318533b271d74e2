"""The coordinator's end of a private sum: gathers each stage, hands out what was gathered, and takes the masks off.

A stage ends when everyone it waits for has spoken, or at its deadline with enough (``end_stage``). Asked too early, the
answer is None: not yet, say it again. Any message may be repeated; a device that missed a stage hears LATE.

It checks what an honest device would trip over (certificates, entries, lengths). What only a device can judge is left
to devices. It holds masked vectors only as their running sum.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from prunefleet_shared.errors import LocalProtocolError, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.masks import IntArray
from prunefleet_shared.secure_sum import agreement
from prunefleet_shared.secure_sum.agreement import SEALED_BYTES
from prunefleet_shared.secure_sum.context import most_colluders, threshold
from prunefleet_shared.secure_sum.ring import Accumulator, Ring
from prunefleet_shared.secure_sum.roster import (
    Member,
    Members,
    advert_statement,
    roster_digest,
    roster_statement,
    salt_of,
    survivors_statement,
)
from prunefleet_shared.secure_sum.shamir import SECRET_BYTES
from prunefleet_shared.secure_sum.stages import CohortRule, Stage, SumFailedError
from prunefleet_shared.secure_sum.unmasking import Masking, take_masks_off
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


@dataclass(slots=True)
class _Advertised:
    advert: Advertise
    member: Member


@dataclass(slots=True)
class _Gathered:
    """What came in, by position in the roster."""

    shares: dict[int, ShareKeys] = field(default_factory=dict)
    vectors: set[int] = field(default_factory=set)
    confirmations: dict[int, bytes] = field(default_factory=dict)
    unmasked: dict[int, dict[int, bytes]] = field(default_factory=dict)  # owner of the share → whose share → share


class SecureCoordinatorSum:
    """The coordinator in one session.

    Args:
        context: Digest of the session's facts.
        session_id: 32 hex digits.
        ring: The lanes.
        rule: How many devices it takes.
        members: Checks certificates.
    """

    def __init__(self, context: bytes, session_id: str, ring: Ring, rule: CohortRule, members: Members) -> None:
        self._context, self._session_id, self._ring, self._rule = context, session_id, ring, rule
        self._members = members
        self._adverts: dict[str, _Advertised] = {}
        self._key_owner: dict[bytes, str] = {}
        self._certificates: dict[bytes, tuple[bytes, ...]] = {}
        self._roster_names: list[str] = []
        self._position: dict[str, int] = {}
        self._entries: tuple[RosterEntry, ...] = ()
        self._roster = self._salt = self._survivor_bits = b""
        self._gathered = _Gathered()
        self._senders: frozenset[int] = frozenset()
        self._survivors: frozenset[int] = frozenset()
        self._masked = Accumulator(ring)
        self._stage = Stage.ADVERTS

    @property
    def stage(self) -> Stage:
        """What is being gathered."""
        return self._stage

    @property
    def joined(self) -> frozenset[str]:
        """Devices whose advert has arrived; once the roster is closed, its devices."""
        return frozenset(self._adverts)

    def is_open_to(self, device_id: str) -> bool:  # noqa: ARG002 - a device that lost its keys may advertise again
        """Whether a device may begin: until the roster is closed."""
        return self._stage is Stage.ADVERTS

    @property
    def contributors(self) -> frozenset[str]:
        """Devices whose vector has arrived: the sum's, once it is done."""
        return self._names(self._gathered.vectors)

    @property
    def spent(self) -> frozenset[str]:
        """Devices that have given their shares away: they never speak in this round again."""
        return self._names(set(self._gathered.unmasked))

    @property
    def awaited(self) -> frozenset[str]:
        """Devices of the roster that have not spoken in this stage; empty while adverts come in."""
        gathered = self._gathered
        waited_for: dict[Stage, tuple[frozenset[int], set[int]]] = {
            Stage.SHARES: (frozenset(self._position.values()), set(gathered.shares)),
            Stage.VECTORS: (self._senders, gathered.vectors),
            Stage.CONFIRMATIONS: (self._survivors, set(gathered.confirmations)),
            Stage.UNMASKING: (self._survivors, set(gathered.unmasked)),
        }
        everyone, spoken = waited_for.get(self._stage, (frozenset(), set()))
        return self._names(everyone - spoken)

    def receive(self, device_id: str, message: SumUp) -> SumDown | None:
        """Take a device's message; returns its answer, or None while the stage goes on.

        Raises:
            RemoteProtocolError: It breaks a rule (the device's fault); nothing has changed.
        """
        match message:
            case Advertise():
                answer = self._on_advertise(device_id, message)
            case FetchCertificates(digests=digests):
                answer = self._certificate_list(device_id, digests)
            case ShareKeys():
                answer = self._on_shares(self._at(device_id), message)
            case Contribute(payload=payload):
                answer = self._on_vector(self._at(device_id), payload)
            case ConfirmSurvivors(signature=signature):
                answer = self._on_confirmation(self._at(device_id), signature)
            case Unmask():
                answer = self._on_unmask(self._at(device_id), message)
        return answer

    def end_stage(self) -> None:
        """The stage's deadline has passed: go on with those who spoke.

        Raises:
            SumFailedError: They are too few; the session is over.
        """
        gathered, needed = self._gathered, threshold(max(len(self._entries), 1))
        spoken, fewest = {
            Stage.ADVERTS: (len(self._adverts), self._rule.fewest),
            Stage.SHARES: (len(gathered.shares), max(needed, self._rule.fewest)),
            Stage.VECTORS: (len(gathered.vectors), max(needed, self._rule.fewest)),
            Stage.CONFIRMATIONS: (len(gathered.confirmations), needed),
            Stage.UNMASKING: (len(gathered.unmasked), max(needed, len(gathered.unmasked) + 1)),
            Stage.DONE: (1, 1),
        }[self._stage]
        if spoken < fewest:
            msg = f"{spoken} devices in stage {self._stage.name.lower()}, where {fewest} are needed"
            raise SumFailedError(msg, self._dealers_of_bad_shares() if self._stage is Stage.UNMASKING else frozenset())
        self._go_on()

    def close(self) -> IntArray:
        """The sum over :attr:`contributors`, int64, each lane from 0 below its power of two.

        Raises:
            SumFailedError: Shares give a key that is not the one advertised: whoever made or returned them lied.
            LocalProtocolError: The session is not done (our bug).
        """
        if self._stage is not Stage.DONE:
            msg = f"close() while {self._stage.name.lower()}"
            raise LocalProtocolError(msg)
        liar = take_masks_off(self._masked, self._masking(), {at: self._shares_of(at) for at in self._senders})
        if liar is not None:
            msg = f"the shares of {self._roster_names[liar]} do not give what it advertised"
            raise SumFailedError(msg)
        return self._masked.lanes

    def _masking(self) -> Masking:
        digests = [self._adverts[name].advert.self_mask_digest for name in self._roster_names]
        return Masking(
            self._entries, self._salt, digests, self._senders, self._survivors, threshold(len(self._entries))
        )

    def _go_on(self) -> None:
        """Close the stage that is being gathered and open the next."""
        gathered = self._gathered
        match self._stage:
            case Stage.ADVERTS:
                self._close_roster()
            case Stage.SHARES:
                self._senders = frozenset(gathered.shares)
            case Stage.VECTORS:
                self._survivors = frozenset(gathered.vectors)
                self._survivor_bits = member_set(self._survivors, len(self._entries))
            case _:
                pass
        self._stage = Stage(min(self._stage + 1, Stage.DONE))

    # --- stage 1 ------------------------------------------------------------------------------------------------------

    def _on_advertise(self, device_id: str, advert: Advertise) -> SumDown | None:
        if self._stage > Stage.ADVERTS:
            admitted = self._adverts.get(device_id)
            if admitted is None or admitted.advert != advert:
                raise _late()
            return Roster(self._entries)
        known = self._adverts.get(device_id)
        if known is None or known.advert != advert:
            # A device that was restarted has lost its keys; until the roster is closed it may bring others.
            self._adverts[device_id] = _Advertised(advert, self._admitted(device_id, advert))
        if len(self._adverts) < self._rule.size:
            return None
        self._go_on()
        return Roster(self._entries)

    def _admitted(self, device_id: str, advert: Advertise) -> Member:
        leaf, *intermediates = advert.certificates
        entry, digest = advert.entry, hashlib.sha256(leaf).digest()
        member = self._members.get(digest)
        if member is None or member.intermediates != tuple(intermediates):  # these too will be handed to peers
            member = self._members.admit(leaf, intermediates)
        keys = {entry.mask_key, entry.share_key}
        others = (self._key_owner.get(key, device_id) for key in keys)
        are_own = len(keys) == 2 and {*others} == {device_id} and all(map(agreement.is_usable, keys))
        if (member.name, entry.certificate_digest) != (device_id, digest) or not are_own:
            raise reject(RejectReason.MALFORMED, expected="an entry with the caller's certificate and keys of its own")
        if not member.signed(advert_statement(self._context, entry), entry.signature):
            raise reject(
                RejectReason.BAD_SIGNATURE, expected="an entry signed for this session", remedy="check in again"
            )
        self._key_owner.update(dict.fromkeys(keys, device_id))
        return member

    def _close_roster(self) -> None:
        by_digest = sorted((known.advert.entry.certificate_digest, name) for name, known in self._adverts.items())
        self._roster_names = [name for _, name in by_digest]
        self._position = {name: position for position, name in enumerate(self._roster_names)}
        self._entries = tuple(self._adverts[name].advert.entry for _, name in by_digest)
        self._certificates = {digest: self._adverts[name].advert.certificates for digest, name in by_digest}
        self._roster = roster_digest(self._entries)
        self._salt = salt_of(self._context, self._roster)

    def _certificate_list(self, device_id: str, digests: tuple[bytes, ...]) -> CertificateList:
        self._at(device_id)
        if len(set(digests)) != len(digests) or not set(digests) <= set(self._certificates):
            raise reject(RejectReason.NOT_FOUND, expected="digests of this session's roster", remedy="check in again")
        chains = [self._certificates[digest] for digest in digests]
        intermediates = sorted({certificate for chain in chains for certificate in chain[1:]})
        return CertificateList(tuple(chain[0] for chain in chains), tuple(intermediates))

    # --- stage 2 ------------------------------------------------------------------------------------------------------

    def _on_shares(self, position: int, message: ShareKeys) -> SumDown | None:
        if self._stage > Stage.SHARES:
            return self._shares_for(position, message)
        num_devices = len(self._entries)
        expected = SEALED_BYTES * (num_devices - 1)
        if len(message.shares) != expected:
            raise reject(RejectReason.WRONG_LENGTH, expected=f"{expected} bytes", got=f"{len(message.shares)}")
        if self._gathered.shares.get(position) != message:
            # Peers count only good signatures: with a bad one among the last threshold, all of them would quit.
            statement = roster_statement(self._context, self._roster)
            if not self._member(position).signed(statement, message.signature):
                raise reject(RejectReason.BAD_SIGNATURE, expected="the roster of this session, signed")
            self._gathered.shares[position] = message
        if len(self._gathered.shares) < num_devices:
            return None
        self._go_on()
        return self._shares_for(position, message)

    def _shares_for(self, position: int, message: ShareKeys) -> PeerShares:
        if position not in self._senders or self._gathered.shares[position] != message:
            raise _late()
        senders = sorted(self._senders)
        sealed = [_piece_for(position, sender, self._gathered.shares[sender].shares) for sender in senders]
        signatures = [self._gathered.shares[sender].signature for sender in senders]
        return PeerShares(member_set(self._senders, len(self._entries)), b"".join(sealed), b"".join(signatures))

    # --- stage 3 ------------------------------------------------------------------------------------------------------

    def _on_vector(self, position: int, payload: bytes) -> SumDown | None:
        is_in = position in self._gathered.vectors
        if self._stage < Stage.VECTORS or position not in self._senders or (self._stage > Stage.VECTORS and not is_in):
            raise _late() if self._stage >= Stage.VECTORS else _too_early(self._stage)
        if not is_in:
            self._masked.add(self._ring.unpack(payload))
            self._gathered.vectors.add(position)
        if self._stage is Stage.VECTORS and self._gathered.vectors == self._senders:
            self._go_on()
        return Survivors(self._survivor_bits) if self._stage > Stage.VECTORS else None

    # --- stage 4 ------------------------------------------------------------------------------------------------------

    def _on_confirmation(self, position: int, signature: bytes) -> SumDown | None:
        if position not in self._survivors:
            raise _late() if self._stage >= Stage.CONFIRMATIONS else _too_early(self._stage)
        if self._stage is Stage.CONFIRMATIONS:
            statement = survivors_statement(self._context, self._roster, self._survivor_bits)
            if not self._member(position).signed(statement, signature):
                raise reject(RejectReason.BAD_SIGNATURE, expected="the survivors of this session, signed")
            self._gathered.confirmations[position] = signature
            if len(self._gathered.confirmations) >= threshold(len(self._entries)):
                self._go_on()
        if self._stage <= Stage.CONFIRMATIONS:
            return None
        confirmed = self._gathered.confirmations
        signatures = b"".join(confirmed[confirmer] for confirmer in sorted(confirmed))
        return Confirmations(member_set(set(confirmed), len(self._entries)), signatures)

    # --- stage 5 ------------------------------------------------------------------------------------------------------

    def _on_unmask(self, position: int, message: Unmask) -> SumDown | None:
        if self._stage < Stage.UNMASKING:
            raise _too_early(self._stage)
        holders = positions_in(message.holders, len(self._entries))
        is_possible = position in self._survivors and holders is not None and holders <= self._senders
        if holders is None or not is_possible or len(message.shares) != SECRET_BYTES * len(holders):
            raise reject(RejectReason.MALFORMED, expected="one share for each holder among the senders")
        shares = (message.shares[start : start + SECRET_BYTES] for start in range(0, len(message.shares), SECRET_BYTES))
        if self._stage is Stage.UNMASKING:
            self._gathered.unmasked.setdefault(position, dict(zip(sorted(holders), shares, strict=True)))
            if self._can_unmask():
                self._go_on()
        return ContributionCounted(self._session_id)

    def _can_unmask(self) -> bool:
        needed = threshold(len(self._entries))
        if len(self._gathered.unmasked) < needed:
            return False
        return all(len(self._shares_of(position)) >= needed for position in self._senders)

    def _dealers_of_bad_shares(self) -> frozenset[str]:
        """Devices whose shares more others could not open than may collude: fewer could be framing an honest one."""
        num_answers, most_framing = len(self._gathered.unmasked), most_colluders(len(self._entries))
        missing = {position: num_answers - len(self._shares_of(position)) for position in self._senders}
        return self._names({position for position, num_missing in missing.items() if num_missing > most_framing})

    def _shares_of(self, position: int) -> dict[int, bytes]:
        """Shares of one device's secret by point (the holder's position, from 1)."""
        unmasked = self._gathered.unmasked
        return {holder + 1: shares[position] for holder, shares in unmasked.items() if position in shares}

    # --- parts --------------------------------------------------------------------------------------------------------

    def _at(self, device_id: str) -> int:
        if self._stage is Stage.ADVERTS:
            raise _too_early(self._stage)
        position = self._position.get(device_id)
        if position is None:
            raise _late()
        return position

    def _member(self, position: int) -> Member:
        return self._adverts[self._roster_names[position]].member

    def _names(self, positions: frozenset[int] | set[int]) -> frozenset[str]:
        return frozenset(self._roster_names[position] for position in positions)


def _piece_for(receiver: int, sender: int, shares: bytes) -> bytes:
    """What ``sender`` encrypted to ``receiver``: it lists everyone but itself."""
    if receiver == sender:
        return b""
    start = SEALED_BYTES * (receiver - (1 if sender < receiver else 0))
    return shares[start : start + SEALED_BYTES]


def _late() -> RemoteProtocolError:
    return reject(RejectReason.LATE, remedy="check in again; the next session takes this device")


def _too_early(stage: Stage) -> RemoteProtocolError:
    return reject(RejectReason.OUT_OF_TURN, expected=f"a message of stage {stage.name.lower()}", got="a later one")
