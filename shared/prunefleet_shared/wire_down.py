"""What a coordinator answers, to and from protobuf. Only ``wire`` uses it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from prunefleet_shared import messages as m
from prunefleet_shared import wire_limits as limits
from prunefleet_shared import wire_sum
from prunefleet_shared._generated.prunefleet.v1 import messages_pb2 as pb
from prunefleet_shared.acceptance import MAX_RULINGS, RulingReason
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.layout import MAX_LEVELS
from prunefleet_shared.messages import CoordinatorDown
from prunefleet_shared.wire_limits import CHUNK_BYTES, closed, hex_of, raw_of, sized
from prunefleet_shared.wire_parts import (
    come_back_from_wire,
    come_back_to_wire,
    document_in,
    document_to_wire,
    model_total,
    which_answer,
)


def down_to_wire(response_type: type[Any], down: CoordinatorDown) -> Message:
    """An answer of a coordinator as protobuf."""
    wire: Message
    match down:
        case m.CampaignOffer(document):
            wire = pb.GetCampaignResponse(campaign=document_to_wire(document))
        case m.Invitation() | m.RulingOffer() | m.SlimBaseOffer():
            wire = _news_to_wire(down)
        case m.ModelChunk(total_bytes, chunk):
            wire = pb.FetchModelResponse(total_bytes=total_bytes, chunk=chunk)
        case m.DecisionOffer():
            wire = pb.AwaitDecisionResponse(offer=_offer_to_wire(down))
        case m.ComeBack():
            wire = response_type(come_back=come_back_to_wire(down))
        case m.CampaignEnded(ending):
            ended = pb.CampaignEnded(ending=ending.value)  # type: ignore[arg-type]
            wire = response_type(campaign_ended=ended)
        case m.FleetStatus():
            wire = _status_to_wire(down)
        case m.Stored():
            wire = response_type()
        case _:
            wire = wire_sum.down_to_wire(response_type, down)
    return wire


def down_from_wire(wire: Message) -> CoordinatorDown | None:
    """What a coordinator answers; None if ``wire`` is no such answer."""
    down: CoordinatorDown | None
    match wire:
        case pb.FetchModelResponse():
            chunk = sized(wire.chunk, range(CHUNK_BYTES + 1), "chunk")
            down = m.ModelChunk(model_total(wire.total_bytes), chunk)
        case pb.GetCampaignResponse() | pb.CheckInResponse() | pb.AwaitDecisionResponse():
            down = _alternative_from_wire(wire)
        case (
            pb.UploadModelResponse()
            | pb.PublishSlimBaseResponse()
            | pb.StartCampaignResponse()
            | pb.ControlCampaignResponse()
        ):
            down = m.Stored()
        case pb.GetStatusResponse():
            down = _status_from_wire(wire)
        case _:
            down = wire_sum.down_from_wire(wire)
    return down


def _alternative_from_wire(
    wire: pb.GetCampaignResponse | pb.CheckInResponse | pb.AwaitDecisionResponse,
) -> CoordinatorDown:
    which = which_answer(wire)
    if which == "campaign":
        return m.CampaignOffer(document_in(wire, which))
    return _PARTS[which](getattr(wire, which))


def _news_to_wire(news: m.Invitation | m.RulingOffer | m.SlimBaseOffer) -> pb.CheckInResponse:
    match news:
        case m.Invitation():
            return pb.CheckInResponse(invitation=_invitation_to_wire(news))
        case m.RulingOffer():
            return pb.CheckInResponse(ruling=_ruling_to_wire(news))
        case m.SlimBaseOffer(decision, slim_base):
            offer = pb.SlimBaseOffer(decision=document_to_wire(decision), slim_base=document_to_wire(slim_base))
            return pb.CheckInResponse(slim_base=offer)


def _offer_to_wire(offer: m.DecisionOffer) -> pb.DecisionOffer:
    return pb.DecisionOffer(
        campaign=document_to_wire(offer.campaign),
        decision=document_to_wire(offer.decision),
        vote_total=None if offer.vote_total is None else _total_to_wire(offer.vote_total),
        outcome_totals=[_total_to_wire(total) for total in offer.outcome_totals],
    )


def _offer_from_wire(wire: pb.DecisionOffer) -> m.DecisionOffer:
    limits.bounded(len(wire.outcome_totals), range(MAX_LEVELS + 1), "outcome_totals")
    return m.DecisionOffer(
        document_in(wire, "campaign"),
        document_in(wire, "decision"),
        _total_from_wire(wire.vote_total, limits.MAX_LANES) if wire.HasField("vote_total") else None,
        tuple(_total_from_wire(total, limits.MAX_OUTCOME_LANES) for total in wire.outcome_totals),
    )


def _total_to_wire(total: m.Total) -> pb.Total:
    return pb.Total(lanes=total.lanes, num_devices=total.num_devices)


def _total_from_wire(wire: pb.Total, max_lanes: int) -> m.Total:
    limits.bounded(len(wire.lanes), range(1, max_lanes + 1), "a total's lanes, of as many as there are")
    num_devices = limits.bounded(wire.num_devices, range(1, limits.MAX_DEVICES + 1), "num_devices")
    return m.Total(tuple(wire.lanes), num_devices)


def _invitation_to_wire(invitation: m.Invitation) -> pb.Invitation:
    return pb.Invitation(
        session_id=raw_of(invitation.session_id),
        kind=invitation.kind.value,  # type: ignore[arg-type]  # the numbers are the wire's
        level=invitation.level,
        attempt=invitation.attempt,
        remaining_ms=invitation.remaining_ms,
        decision=_document_or_none(invitation.decision),
        slim_base=_document_or_none(invitation.slim_base),
    )


def _ruling_to_wire(offer: m.RulingOffer) -> pb.RulingOffer:
    return pb.RulingOffer(
        ruling=document_to_wire(offer.ruling),
        decision=_document_or_none(offer.decision),
        slim_base=_document_or_none(offer.slim_base),
    )


def _document_or_none(document: SignedDocument | None) -> pb.SignedDocument | None:
    return None if document is None else document_to_wire(document)


def _decision_and_slim_base(
    wire: pb.Invitation | pb.RulingOffer,
) -> tuple[SignedDocument | None, SignedDocument | None]:
    return (
        document_in(wire, "decision") if wire.HasField("decision") else None,
        document_in(wire, "slim_base") if wire.HasField("slim_base") else None,
    )


def _invitation_from_wire(wire: pb.Invitation) -> m.Invitation:
    return m.Invitation(
        hex_of(wire.session_id, limits.ID_BYTES, "session_id"),
        closed(m.SessionKind, wire.kind, "kind"),
        limits.bounded(wire.level, range(MAX_LEVELS), "level"),
        limits.bounded(wire.attempt, range(1, limits.MAX_ATTEMPT + 1), "attempt"),
        wire.remaining_ms,
        *_decision_and_slim_base(wire),
    )


def _status_to_wire(status: m.FleetStatus) -> pb.GetStatusResponse:
    return pb.GetStatusResponse(
        campaigns=[_campaign_to_wire(campaign) for campaign in status.campaigns],
        deny_list_age_ms=status.deny_list_age_ms,
        authority_is_built_in=status.authority_is_built_in,
    )


def _campaign_to_wire(status: m.CampaignStatus) -> pb.CampaignStatus:
    values = {field.name: getattr(status, field.name) for field in dataclasses.fields(status)}
    rulings = [_ruling_status_to_wire(ruling) for ruling in status.rulings]
    return pb.CampaignStatus(**(values | {"campaign_id": raw_of(status.campaign_id), "rulings": rulings}))


def _ruling_status_to_wire(ruling: m.RulingStatus) -> pb.RulingStatus:
    return pb.RulingStatus(**{field.name: getattr(ruling, field.name) for field in dataclasses.fields(ruling)})


def _status_from_wire(wire: pb.GetStatusResponse) -> m.FleetStatus:
    limits.bounded(len(wire.campaigns), range(limits.MAX_CAMPAIGNS + 1), "campaigns")
    campaigns = tuple(_campaign_from_wire(campaign) for campaign in wire.campaigns)
    return m.FleetStatus(campaigns, wire.deny_list_age_ms, wire.authority_is_built_in)


def _campaign_from_wire(wire: pb.CampaignStatus) -> m.CampaignStatus:
    limits.bounded(len(wire.awaited_ids), range(limits.MAX_AWAITED_IDS + 1), "awaited_ids")
    limits.bounded(len(wire.rulings), range(MAX_RULINGS + 1), "rulings")
    return m.CampaignStatus(
        campaign_id=hex_of(wire.campaign_id, limits.ID_BYTES, "campaign_id"),
        device_class=limits.device_class(wire.device_class),
        phase=closed(m.Phase, wire.phase, "phase"),
        is_paused=wire.is_paused,
        level=limits.bounded(wire.level, range(MAX_LEVELS), "level"),
        num_levels=limits.bounded(wire.num_levels, range(1, MAX_LEVELS + 1), "num_levels"),
        attempt=wire.attempt,
        num_contributions=wire.num_contributions,
        quorum=wire.quorum,
        cohort_size=wire.cohort_size,
        remaining_ms=wire.remaining_ms,
        awaited=closed(m.Awaited, wire.awaited, "awaited"),
        awaited_for_ms=wire.awaited_for_ms,
        awaited_ids=tuple(limits.member_name(name, "awaited_ids") for name in wire.awaited_ids),
        rulings=tuple(_ruling_status_from_wire(ruling) for ruling in wire.rulings),
    )


def _ruling_status_from_wire(wire: pb.RulingStatus) -> m.RulingStatus:
    return m.RulingStatus(
        level=limits.bounded(wire.level, range(MAX_LEVELS), "level"),
        is_rollout=wire.is_rollout,
        reason=closed(RulingReason, wire.reason, "reason"),
        num_devices=wire.num_devices,
        num_worse=wire.num_worse,
        max_worse=wire.max_worse,
    )


_PARTS: Mapping[str, Callable[[Any], CoordinatorDown]] = {
    "offer": _offer_from_wire,
    "invitation": _invitation_from_wire,
    "ruling": lambda part: m.RulingOffer(document_in(part, "ruling"), *_decision_and_slim_base(part)),
    "slim_base": lambda part: m.SlimBaseOffer(document_in(part, "decision"), document_in(part, "slim_base")),
    "come_back": come_back_from_wire,
    "campaign_ended": lambda part: m.CampaignEnded(closed(m.Ending, part.ending, "ending")),
}
"""What each alternative of an answer becomes."""
