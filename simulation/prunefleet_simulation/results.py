"""What a simulation measured, before it becomes a report: plain records, one per seed and device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from prunefleet_coordinator.report_model import ArmName
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.messages import Total
from prunefleet_shared.metrics import OutcomeTally
from prunefleet_shared.steering_record import SteeringRecord

ARMS: tuple[ArmName, ...] = get_args(ArmName)
"""Report order. Every pruned arm is evaluated at the schedule's last level, at equal MACs."""


@dataclass(frozen=True, slots=True)
class DeviceResult:
    """One device under one seed (simulation only: a real fleet never tells).

    Attributes:
        device_id: Its name in the certificate.
        classes: Labels in its private data.
        accuracy: Top-1 on its report split by arm, fractions.
        num_report_images: Size of that split.
        accepted: Per level, whether the gate kept the fleet's network.
    """

    device_id: str
    classes: tuple[int, ...]
    accuracy: dict[str, float]
    num_report_images: int
    accepted: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class ArmCost:
    """Cost of an arm's network relative to the dense one (mean over devices where they differ)."""

    macs_ratio: float
    params_ratio: float
    latency_ratio: float


@dataclass(frozen=True, slots=True)
class LevelResult:
    """One round: the decision at one level, how it went, in sums, and how its slim base was steered."""

    decision: Decision
    signed_decision: SignedDocument
    outcome: OutcomeTally
    steering: SteeringRecord | None = None


@dataclass(frozen=True, slots=True)
class WireTotals:
    """Bytes over a whole seed, all devices; protocol messages as serialised, model downloads apart, TCP apart."""

    protocol_up_bytes: int
    protocol_down_bytes: int
    model_down_bytes: int
    socket_up_bytes: int
    socket_down_bytes: int
    num_sessions: int


@dataclass(frozen=True, slots=True)
class SeedResult:
    """Everything one seed measured."""

    seed: int
    campaign: Campaign
    vote_total: Total
    levels: tuple[LevelResult, ...]
    devices: tuple[DeviceResult, ...]
    arm_costs: dict[str, ArmCost]
    wire: WireTotals
    wall_s: float


@dataclass(frozen=True, slots=True)
class RunResult:
    """A whole run.

    Attributes:
        run_id: Name of the run's folder.
        preset: Name of the preset, or how the data was given.
        command: The command line that made it.
        notes: Sentences the report must show (where base and public part came from, what is not private).
        seeds: One result per seed.
        versions: Package name to version, plus ``python``, ``os``, ``cpu``, ``cores``, ``ram_gb``.
        wall_s: Time from start to finish.
        is_retrained: Whether slim bases were retrained on public data.
    """

    run_id: str
    preset: str
    command: str
    notes: tuple[str, ...]
    seeds: tuple[SeedResult, ...]
    versions: dict[str, str] = field(default_factory=dict)
    wall_s: float = 0.0
    is_retrained: bool = True
