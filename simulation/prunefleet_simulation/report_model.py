"""The report's shape: one JSON document with a published schema (``report.schema.json``), checked by pydantic.

Everything the page shows is in here, so that ``report.json`` can be read, checked and drawn without the run.
Accuracies, gains and ratios are fractions (0.5 = 50 %), bytes are bytes, times are seconds. ``arms``, ``arms_paired``,
``devices`` and ``verdict`` exist only in a simulation: a real fleet never tells a device's accuracy.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from prunefleet_shared.metrics import NUM_BINS
from prunefleet_simulation.results import ArmName

PairName = Literal["fleet_minus_local", "fleet_minus_agnostic_local", "fleet_minus_agnostic", "fleet_minus_dense"]
SessionName = Literal["vote", "outcome"]
Effect = Literal["added", "nothing", "hurt"]

Share = Annotated[float, Field(ge=0, le=1)]
Difference = Annotated[float, Field(ge=-1, le=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Histogram = Annotated[list[Count], Field(min_length=NUM_BINS, max_length=NUM_BINS)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Arm(_Part):
    """One arm: accuracy over devices, then seeds; cost relative to the dense network."""

    accuracy_mean: Share
    accuracy_ci95_low: Share
    accuracy_ci95_high: Share
    accuracy_worst_decile: Share
    macs_ratio: Amount
    params_ratio: Amount
    latency_ratio: Amount


class Paired(_Part):
    """The fleet minus another arm on the same devices; ``share_worse`` counts losses above half a point."""

    mean: Difference
    ci95_low: Difference
    ci95_high: Difference
    share_worse: Share


class Wire(_Part):
    """Bytes of protocol messages per device and session; models and sockets as totals per seed."""

    up_bytes_per_device_session: Amount
    down_bytes_per_device_session: Amount
    model_down_bytes: Amount
    socket_up_bytes: Amount
    socket_down_bytes: Amount
    base_weight_bytes: Count | None = None


class ContributionPart(_Part):
    """A run of lanes of what one device contributes, in words and bits."""

    session: SessionName
    meaning: str
    num_lanes: Count
    num_bits: Count


class Contribution(_Part):
    """Everything one device contributes over a campaign; fixed by the campaign, whatever its data."""

    vote_bytes: Count
    outcome_bytes: Count
    num_outcomes: Count
    parts: list[ContributionPart]


class Setting(_Part):
    """What was asked for; from the signed campaign of the first seed."""

    preset: str
    model: str
    device_class: str
    privacy_mode: str
    layout_fingerprint: str
    cost_unit: str
    num_groups: Count
    num_channels: Count


class Seed(_Part):
    """One repetition."""

    seed: int
    num_devices: Count
    wall_s: Amount


class Device(_Part):
    """One simulated device under one seed; ``accepted`` says per level whether the gate kept the fleet's network."""

    seed: int
    device_id: str
    classes: list[int]
    accuracy: dict[ArmName, Share]
    num_report_images: Count
    accepted: list[bool]


class RoundOutcome(_Part):
    """A decision's outcome session, as summed; histogram edges are those of ``prunefleet_shared.metrics``."""

    tried: Count
    finished: Count
    accepted: Count
    accuracy_gain: Histogram
    latency_ratio: Histogram


class Round(_Part):
    """One level of one seed. ``gate_accept_rate`` is accepted ÷ finished; null when no device finished."""

    seed: int
    level: Count
    level_permille: Annotated[int, Field(ge=1, le=1000)]
    vote_agreement: Share
    channel_agreement: Share
    gate_accept_rate: Share | None
    outcome: RoundOutcome


class DecisionRecord(_Part):
    """A signed decision; ``signature`` and ``public_key`` are DER in hex."""

    seed: int
    level: Count
    fingerprint: str
    signature: str
    public_key: str
    widths: list[Count]
    prior: list[list[Count]]
    cost: Count
    budget: Count


class GroupTally(_Part):
    """Summed grades of a channel group: 0 to 7 × ``num_devices`` for each channel, in channel order."""

    seed: int
    group: str
    num_channels: Count
    num_devices: Count
    grade_tally: list[Count]


class Verdict(_Part):
    """Whether the fleet was worth it: ``fleet − agnostic_local``, the best a device can do without a fleet.

    ``added`` when the whole 95 % interval lies above 0, ``hurt`` when below, else ``nothing``.
    """

    fleet_added: bool
    effect: Effect
    sentence: str
    comparison: str


class Report(_Part):
    """The whole document."""

    schema_version: Literal[1] = 1
    run_id: str
    command: str
    replay_command: str
    wall_s: Amount
    notes: list[str]
    versions: dict[str, str]
    setting: Setting
    seeds: list[Seed]
    verdict: Verdict | None = None
    arms: dict[ArmName, Arm] | None = None
    arms_paired: dict[PairName, Paired] | None = None
    wire: Wire
    contribution: Contribution
    rounds: list[Round]
    decisions: list[DecisionRecord]
    topology: list[GroupTally]
    devices: list[Device] | None = None
