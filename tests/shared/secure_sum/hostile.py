"""A coordinator that lies, alone or with colluding devices; built on an honest session whose answers it falsifies."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sum_world import CONTEXT, NOW, Session, later, root

from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.errors import RejectReason, RemoteProtocolError
from prunefleet_shared.roles import Role
from prunefleet_shared.secure_sum import agreement
from prunefleet_shared.secure_sum.context import threshold
from prunefleet_shared.secure_sum.device_end import SecureDeviceSum, _Secrets
from prunefleet_shared.secure_sum.ring import Accumulator
from prunefleet_shared.secure_sum.roster import SumIdentity, advert_statement, survivors_statement
from prunefleet_shared.secure_sum.shamir import Reconstruction
from prunefleet_shared.sum_messages import (
    CertificateList,
    Confirmations,
    FetchCertificates,
    Roster,
    RosterEntry,
    SumDown,
    SumUp,
    Survivors,
    member_set,
)

# --- who it brings along ---------------------------------------------------------------------------------------------


@cache
def impostor(kind: str) -> SumIdentity:
    """An identity that has no place in a roster, or no second one."""
    match kind:
        case "foreign":
            return SumIdentity.of(issue(create_authority(NOW), Role.DEVICE, "device-900", NOW))
        case "trainer":
            return SumIdentity.of(issue(root(), Role.TRAINER, "trainer", NOW))
        case "expired":
            return SumIdentity.of(issue(root(), Role.DEVICE, "device-901", later(-48), validity_h=24))
        case "renewed":
            return SumIdentity.of(issue(root(), Role.DEVICE, "device-001", NOW))
    return SumIdentity.of(issue(root(), Role.DEVICE, "device-902", NOW))


def signed_entry(who: SumIdentity, mask_key: bytes, share_key: bytes, context: bytes = CONTEXT) -> RosterEntry:
    """An entry as ``who`` itself would make it, of any keys."""
    entry = RosterEntry(who.certificate_digest, mask_key, share_key, b"")
    return replace(entry, signature=who.sign(advert_statement(context, entry)))


def entry_of(kind: str) -> RosterEntry:
    """A well-signed entry of an impostor."""
    return signed_entry(impostor(kind), *(public_of(f"{kind} {purpose}".encode()) for purpose in ("mask", "share")))


def public_of(label: bytes) -> bytes:
    """Some X25519 public key."""
    return agreement.public_key(agreement.private_key(hashlib.sha256(label).digest()))


def in_order(entries: Iterable[RosterEntry]) -> Roster:
    return Roster(tuple(sorted(entries, key=lambda entry: entry.certificate_digest)))


# --- lying to one device ---------------------------------------------------------------------------------------------


def told(session: Session, number: int, answer: SumDown) -> SumUp | None:
    """Tell a device ``answer``; certificates that it asks for are found, whosever they are."""
    message = session.devices[number].receive(answer)
    if isinstance(message, FetchCertificates):
        impostors = [impostor(kind) for kind in ("foreign", "trainer", "expired", "renewed", "other")]
        known = {who.certificate_digest: who.certificates[0] for who in impostors}
        known |= {digest: chain[0] for digest, chain in session.coordinator._certificates.items()}
        return session.devices[number].receive(CertificateList(tuple(known[d] for d in message.digests), ()))
    return message


def refusal(session: Session, number: int, answer: SumDown) -> RejectReason | None:
    """Why a device refuses ``answer``; None if it goes on."""
    try:
        told(session, number, answer)
    except RemoteProtocolError as error:
        return error.rejection.reason
    return None


@dataclass(frozen=True)
class Keyring:
    """What must be gone from a device when a session is over for it."""

    secrets: frozenset[bytes]
    vector: np.ndarray

    @classmethod
    def of(cls, device: SecureDeviceSum) -> Keyring:
        held = device._secrets
        assert held is not None
        shares = {held.own_shares, *held.shared_with.values(), *held.sealed_from.values()}
        whole = {held.mask_secret, held.self_mask, held.share_key.private_bytes_raw(), *shares} - {b""}
        return cls(frozenset(whole), held.vector_L)

    def left_in(self, device: SecureDeviceSum) -> list[object]:
        """What of it can still be reached from ``device``."""
        return [thing for thing in reachable(device) if self._is_secret(thing)]

    def _is_secret(self, thing: object) -> bool:
        if isinstance(thing, bytes | bytearray):
            return any(secret in thing for secret in self.secrets)
        return thing is self.vector or isinstance(thing, X25519PrivateKey | _Secrets)


def reachable(start: object) -> list[object]:
    """Every object that can be reached from ``start`` without going through code."""
    seen: dict[int, object] = {}
    waiting = [start]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, ModuleType | FunctionType | MethodType | type):
            continue
        seen[id(thing)] = thing
        waiting += gc.get_referents(thing)
    return list(seen.values())


# --- with colluding devices ------------------------------------------------------------------------------------------


def both_shares(device: SecureDeviceSum, peer: int) -> bytes:
    """What a colluding device can open: a peer's two shares."""
    held = device._secrets
    assert held is not None
    if peer == device._own_position:
        return held.own_shares
    sealed = held.sealed_from[peer]
    shares = agreement.open_shares(device._shared_with(peer), device._salt, peer, device._own_position, sealed)
    assert shares is not None
    return shares


class TwoFacedAboutSurvivors:
    """Tells honest devices different survivors, with and without a victim, to have both of the victim's secrets.

    Args:
        session: Played up to the vectors.
        colluders: Devices (by number) that give it everything and sign anything.
        told_alive: Honest devices that hear that the victim survived; the others hear that it did not.
        victim: Honest, in ``told_alive``.
    """

    def __init__(self, session: Session, colluders: set[int], told_alive: set[int], victim: int) -> None:
        self.session, self.colluders = session, colluders
        self.at = {number: position for position, number in enumerate(session.order())}
        self.victim = self.at[victim]
        everyone = frozenset(self.at.values())
        honest = set(self.at) - colluders
        self.stories = [(told_alive, everyone), (honest - told_alive, everyone - {self.victim})]

    def shares(self) -> list[dict[int, bytes]]:
        """Shares of the victim's self mask and of its mask key that it gets, by point."""
        return [self._shares_under(which, *story) for which, story in enumerate(self.stories)]

    def _shares_under(self, which: int, audience: set[int], survivors: frozenset[int]) -> dict[int, bytes]:
        bits = member_set(survivors, len(self.at))
        signatures = {}
        for number in sorted(audience):
            signatures[self.at[number]] = self.session.devices[number].receive(Survivors(bits)).signature  # type: ignore[union-attr]
        for number in self.colluders:
            device = self.session.devices[number]
            statement = survivors_statement(CONTEXT, device._roster, bits)
            if self.at[number] in survivors:
                signatures[self.at[number]] = device._identity.sign(statement)
        confirmed = b"".join(signatures[position] for position in sorted(signatures))
        answer = Confirmations(member_set(set(signatures), len(self.at)), confirmed)
        found = {self.at[c] + 1: self._half(both_shares(self.session.devices[c], self.victim), which)
                 for c in self.colluders}  # fmt: skip
        for number in audience:
            try:
                given: Any = self.session.devices[number].receive(answer)
            except RemoteProtocolError as error:
                assert error.rejection.reason is RejectReason.NO_AGREEMENT  # noqa: PT017 - others are bugs
            else:
                found[self.at[number] + 1] = given.shares[32 * self.victim : 32 * self.victim + 32]
        return found

    @staticmethod
    def _half(both: bytes, which: int) -> bytes:
        return both[32 * which : 32 * which + 32]

    def unmasked_vector(self, payload: bytes) -> np.ndarray | None:
        """The victim's own vector, if both secrets can be had."""
        reconstruction = Reconstruction(threshold(len(self.at)))
        self_mask, mask_secret = (reconstruction.secret(shares) for shares in self.shares())
        if self_mask is None or mask_secret is None:
            return None
        return unmask_one(self.session, self.victim, payload, self_mask, mask_secret)


def unmask_one(session: Session, at: int, payload: bytes, self_mask: bytes, mask_secret: bytes) -> np.ndarray:
    """A masked vector without its masks, given both of its maker's secrets."""
    device = next(iter(session.devices.values()))
    bare = Accumulator(session.ring)
    bare.add(session.ring.unpack(payload))
    bare.subtract_mask(self_mask)
    for peer, entry in enumerate(device._entries):
        if peer != at:
            secret = agreement.agree(agreement.private_key(mask_secret), entry.mask_key)
            seed = agreement.pair_seed(secret, device._salt, at, peer)
            (bare.subtract_mask if at < peer else bare.add_mask)(seed)
    return bare.lanes


def sums_of_two_rosters(vectors: np.ndarray, bits: list[int], groups: Mapping[str, set[int]], colluders: set[int]) -> (
    dict[str, np.ndarray | RejectReason]
):  # fmt: skip
    """Two rosters in one session: colluders have other keys in each, and each group of honest devices sees one.

    Returns:
        By group, its own sum with the colluders' vectors, or why its first device refused.
    """
    found: dict[str, np.ndarray | RejectReason] = {}
    for name, group in groups.items():
        seeds = {i: name if i in colluders else "honest" for i in range(len(vectors))}
        session = Session(vectors, bits, seed=seeds)
        session.stage(1)
        session.alive = group | colluders
        session.send(2)
        session.coordinator._go_on()  # an honest one would wait for a threshold
        reason = refusal(session, min(group), session.ask(min(group), session.up[2][min(group)]))
        if reason is not None:
            found[name] = reason
            continue
        honest_first = session.alive - {min(group)}
        session._next = {i: session.hear(i, session.ask(i, session.up[2][i])) for i in honest_first}
        session._next[min(group)] = None
        found[name] = _finished(session, seeds, vectors, bits, group | colluders)
    return found


def _finished(
    session: Session, seeds: Mapping[int, str], vectors: np.ndarray, bits: list[int], alive: set[int]
) -> np.ndarray:
    """The same session again, to its end: whoever is not in ``alive`` is silent from stage 2 on."""
    again = Session(vectors, bits, seed=seeds)
    return again.run({2: set(again.devices) - alive}).total()
