"""From what the participants of one seed know to a :class:`~prunefleet_simulation.results.SeedResult`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunefleet_coordinator.store import Store
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.documents import read_document
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.messages import SessionKind, Total
from prunefleet_shared.meter import Meter
from prunefleet_shared.metrics import read_outcome
from prunefleet_shared.steering_record import SteeringRecord
from prunefleet_simulation.jobs import ArmResult
from prunefleet_simulation.results import ArmCost, DeviceResult, LevelResult, SeedResult, WireTotals
from prunefleet_simulation.simulated_device import SimulatedDevice


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one seed: messages by the interceptor's meter, TCP by the proxy."""

    meter: Meter
    socket_up_bytes: int
    socket_down_bytes: int


def gather_results(
    seed: int,
    campaign: Campaign,
    store: Store,
    devices: Sequence[SimulatedDevice],
    agnostic: Sequence[tuple[ArmResult, ArmResult]],
    steering: Mapping[int, SteeringRecord],
    traffic: Traffic,
    wall_s: float,
) -> SeedResult:
    """Collect what was stored, measured and counted.

    Raises:
        LocalProtocolError: A campaign that ended well lacks a sum or a decision (a bug).
    """
    arms = [_arms(device, pair, len(campaign.levels)) for device, pair in zip(devices, agnostic, strict=True)]
    levels = tuple(_level(store, campaign, level, steering.get(level)) for level in range(len(campaign.levels)))
    return SeedResult(
        seed=seed,
        campaign=campaign,
        vote_total=_total(store, campaign, SessionKind.VOTE, 0),
        levels=levels,
        devices=tuple(_device(number, device, arms[number]) for number, device in enumerate(devices)),
        arm_costs={arm: _mean_cost([one[arm].cost for one in arms]) for arm in arms[0]},
        wire=_wire(traffic, 1 + len(campaign.levels)),
        wall_s=wall_s,
    )


def _arms(device: SimulatedDevice, agnostic: tuple[ArmResult, ArmResult], num_levels: int) -> dict[str, ArmResult]:
    last = device.levels.get(num_levels - 1)
    if device.dense is None or last is None or last.local is None:
        msg = "a device ended its campaign without having voted and tried the last decision"
        raise LocalProtocolError(msg)
    return {
        "dense": device.dense,
        "agnostic": agnostic[0],
        "agnostic_local": agnostic[1],
        "local": last.local,
        **({} if last.fleet_widths is None else {"fleet_widths": last.fleet_widths}),
        "fleet": last.fleet,
    }


def _device(number: int, device: SimulatedDevice, arms: dict[str, ArmResult]) -> DeviceResult:
    return DeviceResult(
        device_id=f"device-{number:02d}",
        classes=tuple(int(label) for label in np.unique(device.pools.own.labels)),
        accuracy={arm: result.accuracy for arm, result in arms.items()},
        num_report_images=len(device.pools.report),
        accepted=tuple(device.levels[level].outcome.accepted for level in sorted(device.levels)),
    )


def _level(store: Store, campaign: Campaign, level: int, steering: SteeringRecord | None) -> LevelResult:
    signed = store.load_document(campaign.campaign_id, "decision", level)
    if signed is None:
        msg = f"no decision is stored for level {level}"
        raise LocalProtocolError(msg)
    outcome = _total(store, campaign, SessionKind.OUTCOME, level)
    tally = read_outcome(outcome.lanes, campaign.lanes_of(SessionKind.OUTCOME))
    return LevelResult(read_document(signed.payload, Decision), signed, tally, steering)


def _total(store: Store, campaign: Campaign, kind: SessionKind, level: int) -> Total:
    closed = store.load_closed(campaign.campaign_id, kind, level)
    if closed is None:
        msg = f"no {kind.name.lower()} sum is stored for level {level}"
        raise LocalProtocolError(msg)
    return closed.total


def _mean_cost(costs: Sequence[ArmCost]) -> ArmCost:
    return ArmCost(
        float(np.mean([cost.macs_ratio for cost in costs])),
        float(np.mean([cost.params_ratio for cost in costs])),
        float(np.mean([cost.latency_ratio for cost in costs])),
    )


def _wire(traffic: Traffic, num_sessions: int) -> WireTotals:
    messages = traffic.meter.traffic()
    return WireTotals(
        protocol_up_bytes=messages.up_bytes,
        protocol_down_bytes=messages.down_bytes,
        model_down_bytes=messages.model_bytes,
        socket_up_bytes=traffic.socket_up_bytes,
        socket_down_bytes=traffic.socket_down_bytes,
        num_sessions=num_sessions,
    )
