"""What a coordinator is asked, to and from protobuf. Only ``wire`` uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from prunefleet_shared import messages as m
from prunefleet_shared import wire_limits as limits
from prunefleet_shared import wire_sum
from prunefleet_shared._generated.prunefleet.v1 import messages_pb2 as pb
from prunefleet_shared.acceptance import MAX_RULINGS
from prunefleet_shared.layout import MAX_LEVELS
from prunefleet_shared.messages import CoordinatorUp, OperatorUp
from prunefleet_shared.wire_limits import CHUNK_BYTES, closed, hex_of, raw_of, sized
from prunefleet_shared.wire_parts import document_in, document_to_wire, model_offset, model_total

UP_TO_WIRE: Mapping[type, Callable[[Any], Message]] = {
    m.GetCampaign: lambda up: pb.GetCampaignRequest(
        device_class=up.device_class, ended_campaign_id=raw_of(up.ended_campaign_id)
    ),
    m.CheckIn: lambda up: pb.CheckInRequest(
        campaign_id=raw_of(up.campaign_id),
        layout_fingerprint=raw_of(up.layout_fingerprint),
        readiness=up.readiness,
        rulings_heard=up.rulings_heard,
        slim_base_heard=up.slim_base_heard,
    ),
    m.FetchModel: lambda up: pb.FetchModelRequest(digest=raw_of(up.digest), offset=up.offset),
    m.AwaitDecision: lambda up: pb.AwaitDecisionRequest(campaign_id=raw_of(up.campaign_id)),
    m.UploadModel: lambda up: pb.UploadModelRequest(
        digest=raw_of(up.digest), offset=up.offset, total_bytes=up.total_bytes, chunk=up.chunk
    ),
    m.PublishSlimBase: lambda up: pb.PublishSlimBaseRequest(slim_base=document_to_wire(up.slim_base)),
    m.StartCampaign: lambda up: pb.StartCampaignRequest(campaign=document_to_wire(up.campaign)),
    m.ControlCampaign: lambda up: pb.ControlCampaignRequest(campaign_id=raw_of(up.campaign_id), control=up.control),
    m.GetStatus: lambda _: pb.GetStatusRequest(),
    **wire_sum.UP_TO_WIRE,
}
"""How each request to a coordinator becomes protobuf."""


def up_from_wire(wire: Message) -> CoordinatorUp | None:
    """What a coordinator is asked; None if ``wire`` is no such request."""
    up: CoordinatorUp | None
    match wire:
        case pb.GetCampaignRequest():
            ended_id = _id_or_empty(wire.ended_campaign_id, "ended_campaign_id")
            up = m.GetCampaign(limits.device_class(wire.device_class), ended_id)
        case pb.CheckInRequest():
            campaign_id = hex_of(wire.campaign_id, limits.ID_BYTES, "campaign_id")
            fingerprint = hex_of(wire.layout_fingerprint, limits.DIGEST_BYTES, "layout_fingerprint")
            heard = limits.bounded(wire.rulings_heard, range(MAX_RULINGS + 1), "rulings_heard")
            slim_base = limits.bounded(wire.slim_base_heard, range(MAX_LEVELS + 1), "slim_base_heard")
            readiness = closed(m.Readiness, wire.readiness, "readiness")
            up = m.CheckIn(campaign_id, fingerprint, readiness, heard, slim_base)
        case pb.FetchModelRequest():
            up = m.FetchModel(hex_of(wire.digest, limits.DIGEST_BYTES, "digest"), model_offset(wire.offset))
        case pb.AwaitDecisionRequest():
            up = m.AwaitDecision(_id_or_empty(wire.campaign_id, "campaign_id"))
        case pb.UploadModelRequest():
            chunk = sized(wire.chunk, range(1, CHUNK_BYTES + 1), "chunk")
            digest = hex_of(wire.digest, limits.DIGEST_BYTES, "digest")
            up = m.UploadModel(digest, model_offset(wire.offset), model_total(wire.total_bytes), chunk)
        case pb.PublishSlimBaseRequest():
            up = m.PublishSlimBase(document_in(wire, "slim_base"))
        case _:
            up = _operator_up_from_wire(wire) or wire_sum.up_from_wire(wire)
    return up


def _id_or_empty(raw: bytes, field: str) -> str:
    return hex_of(raw, limits.ID_BYTES, field) if raw else ""


def _operator_up_from_wire(wire: Message) -> OperatorUp | None:
    up: OperatorUp | None
    match wire:
        case pb.StartCampaignRequest():
            up = m.StartCampaign(document_in(wire, "campaign"))
        case pb.ControlCampaignRequest():
            campaign_id = hex_of(wire.campaign_id, limits.ID_BYTES, "campaign_id")
            up = m.ControlCampaign(campaign_id, closed(m.Control, wire.control, "control"))
        case pb.GetStatusRequest():
            up = m.GetStatus()
        case _:
            up = None
    return up
