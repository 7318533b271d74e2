"""What a round orders to be offered, with the signed documents that belong to it, out of the store."""

from __future__ import annotations

from prunefleet_coordinator.events import Invite
from prunefleet_coordinator.store import Store
from prunefleet_shared.acceptance import NO_LEVEL, Ruling
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.messages import DecisionOffer, Invitation, RulingOffer, SessionKind, SlimBaseOffer, Total


class Offers:
    """Makes what is offered of stored documents.

    Args:
        store: Where they are.
        campaign_id: The campaign they belong to.
    """

    def __init__(self, store: Store, campaign_id: str) -> None:
        self._store, self._campaign_id = store, campaign_id

    def invitation(self, invite: Invite) -> Invitation:
        """An invitation; to an outcome with the decision and the slim base of its level.

        Raises:
            ConfigError: As :meth:`document`.
        """
        is_outcome = invite.kind is not SessionKind.VOTE
        return Invitation(
            session_id=invite.session_id,
            kind=invite.kind,
            level=invite.level,
            attempt=invite.attempt,
            remaining_ms=invite.remaining_ms,
            decision=self.document("decision", invite.level) if is_outcome else None,
            slim_base=self.document("slim_base", invite.level) if is_outcome else None,
        )

    def decision_offer(self, campaign_signed: SignedDocument, level: int, campaign: Campaign) -> DecisionOffer:
        """A decision for the trainer; with the sums that it steers by, if there is something to steer.

        Raises:
            ConfigError: As :meth:`document`.
        """
        return DecisionOffer(
            campaign_signed,
            self.document("decision", level),
            self._totals(SessionKind.VOTE)[0] if campaign.steering is not None else None,
            self._totals(SessionKind.OUTCOME) if campaign.num_networks > 1 else (),
        )

    def _totals(self, kind: SessionKind) -> tuple[Total, ...]:
        """The sums of all rounds of a kind so far, the oldest first."""
        snapshot = self._store.load_snapshot(self._campaign_id)
        return tuple(closed.total for closed in snapshot.closed_rounds if closed.kind is kind) if snapshot else ()

    def ruling_offer(self, ruling: Ruling) -> RulingOffer:
        """What was ruled; with the network that is for all, if there is one.

        Raises:
            ConfigError: As :meth:`document`.
        """
        level, signed = ruling.level_for_all, self.document("ruling", ruling.number)
        if level == NO_LEVEL:
            return RulingOffer(signed)
        return RulingOffer(signed, self.document("decision", level), self.document("slim_base", level))

    def slim_base_offer(self, level: int) -> SlimBaseOffer:
        """The network of a level, for a device without data.

        Raises:
            ConfigError: As :meth:`document`.
        """
        return SlimBaseOffer(self.document("decision", level), self.document("slim_base", level))

    def document(self, kind: str, number: int) -> SignedDocument:
        """A signed document of a level; a ruling, of its number.

        Raises:
            ConfigError: It is missing from the store, or the store cannot be read (the operator's to mend).
        """
        signed = self._store.load_document(self._campaign_id, kind, number)
        if signed is None:
            which = "number" if kind == "ruling" else "level"
            msg = f"campaign {self._campaign_id}: the {kind} of {which} {number} is missing from the store"
            raise ConfigError(msg)
        return signed
