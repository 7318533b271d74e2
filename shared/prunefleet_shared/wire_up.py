"""What a coordinator is asked, to and from protobuf. Only ``wire`` uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from prunefleet_shared import messages as m
from prunefleet_shared import wire_limits as limits
from prunefleet_shared import wire_sum
from prunefleet_shared._generated.prunefleet.v1 import messages_pb2 as pb
from prunefleet_shared.messages import CoordinatorUp, OperatorUp
from prunefleet_shared.wire_limits import CHUNK_BYTES, closed, hex_of, raw_of, sized
from prunefleet_shared.wire_parts import document_in, document_to_wire, model_offset, model_total

UP_TO_WIRE: Mapping[type, Callable[[Any], Message]] = {
    m.GetCampaign: lambda up: pb.GetCampaignRequest(device_class=up.device_class),
    m.CheckIn: lambda up: pb.CheckInRequest(
        campaign_id=raw_of(up.campaign_id),
        layout_fingerprint=raw_of(up.layout_fingerprint),
        readiness=up.readiness,
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
            up = m.GetCampaign(limits.device_class(wire.device_class))
        case pb.CheckInRequest():
            campaign_id = hex_of(wire.campaign_id, limits.ID_BYTES, "campaign_id")
            fingerprint = hex_of(wire.layout_fingerprint, limits.DIGEST_BYTES, "layout_fingerprint")
            up = m.CheckIn(campaign_id, fingerprint, closed(m.Readiness, wire.readiness, "readiness"))
        case pb.FetchModelRequest():
            up = m.FetchModel(hex_of(wire.digest, limits.DIGEST_BYTES, "digest"), model_offset(wire.offset))
        case pb.AwaitDecisionRequest():
            up = m.AwaitDecision(hex_of(wire.campaign_id, limits.ID_BYTES, "campaign_id") if wire.campaign_id else "")
        case pb.UploadModelRequest():
            chunk = sized(wire.chunk, range(1, CHUNK_BYTES + 1), "chunk")
            digest = hex_of(wire.digest, limits.DIGEST_BYTES, "digest")
            up = m.UploadModel(digest, model_offset(wire.offset), model_total(wire.total_bytes), chunk)
        case pb.PublishSlimBaseRequest():
            up = m.PublishSlimBase(document_in(wire, "slim_base"))
        case _:
            up = _operator_up_from_wire(wire) or wire_sum.up_from_wire(wire)
    return up


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
