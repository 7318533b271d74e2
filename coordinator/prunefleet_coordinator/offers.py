"""What a round orders to be offered, with the signed documents that belong to it, out of the store."""

from __future__ import annotations

from prunefleet_coordinator.events import Invite
from prunefleet_coordinator.store import Store
from prunefleet_shared.acceptance import NO_LEVEL, Ruling
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.messages import DecisionOffer, Invitation, RulingOffer, SessionKind, SlimBaseOffer


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
        """A decision for the trainer; with the sum that it follows from, if there is something to steer.

        Raises:
            ConfigError: As :meth:`document`.
        """
        is_steered = campaign.steering is not None
        vote = self._store.load_closed(self._campaign_id, SessionKind.VOTE, 0) if is_steered else None
        return DecisionOffer(campaign_signed, self.document("decision", level), vote.total if vote else None)

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
