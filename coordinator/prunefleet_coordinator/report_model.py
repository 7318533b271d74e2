"""The report's shape: one JSON document with a published schema (``report.schema.json``), checked by pydantic.

Everything the page shows is in here, so that ``report.json`` can be read, checked and drawn without the run.
Accuracies, gains and ratios are fractions (0.5 = 50 %), bytes are bytes, times are seconds.

Two kinds of run are told in it. A *simulation* has ``seeds`` (repetitions), ``arms``, ``arms_paired``, ``devices``,
``verdict`` and ``wire``. A *real fleet* has none of them, because it never tells a device's accuracy and nobody but the
devices could count their bytes; it has ``fleet`` instead. What both have follows from signed documents and sums alone.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from prunefleet_shared.metrics import NUM_BINS

ArmName = Literal["dense", "agnostic", "agnostic_local", "local", "fleet_widths", "fleet"]
PairName = Literal[
    "fleet_minus_local",
    "fleet_minus_agnostic_local",
    "fleet_minus_agnostic",
    "fleet_minus_fleet_widths",
    "fleet_minus_dense",
]
SessionName = Literal["vote", "outcome"]
Effect = Literal["added", "nothing", "hurt"]
PhaseName = Literal["voting", "retraining", "measuring", "rolling_out", "completed", "failed", "stopped"]
"""The phases of a campaign by their names in lower case."""
RulingReasonName = Literal["held", "too_many_worse", "within_noise"]

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
    """What was asked for, from the signed campaign (of the first seed).

    ``preset`` and ``is_retrained`` (whether slim bases were retrained on public data) are the simulation's.
    """

    preset: str | None = None
    is_retrained: bool | None = None
    model: str
    device_class: str
    privacy_mode: str
    layout_fingerprint: str
    cost_unit: str
    num_groups: Count
    num_channels: Count
    order_rule: str
    public_votes: Count
    near_tie_milli: Count
    gate_alternative: str


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


class NetworkCount(_Part):
    """Of one network of a slim base: devices that tried it and rejected it, and that kept it."""

    rejected: Count
    kept: Count


class RoundOutcome(_Part):
    """A decision's outcome session, as summed; histogram edges are those of ``prunefleet_shared.metrics``.

    ``networks``, in a campaign with clusters: the one for all, then that of each cluster.
    """

    tried: Count
    finished: Count
    accepted: Count
    accuracy_gain: Histogram
    latency_ratio: Histogram
    gain_over_dense: Histogram | None = None
    networks: list[NetworkCount] | None = None


class RulingRecord(_Part):
    """What was ruled of a decision, by its canaries and, if there was one, by its rollout."""

    is_rollout: bool
    is_promoted: bool
    reason: RulingReasonName
    num_devices: Count
    num_worse: int
    max_worse: Count


class Round(_Part):
    """One level that was decided (of one seed, in a simulation).

    ``outcome`` is null until the outcome session has closed, ``rulings`` where nothing is judged. ``gate_accept_rate``
    is accepted ÷ finished; null when no device finished.
    """

    seed: int | None = None
    level: Count
    level_permille: Annotated[int, Field(ge=1, le=1000)]
    vote_agreement: Share
    channel_agreement: Share
    gate_accept_rate: Share | None
    outcome: RoundOutcome | None
    rulings: list[RulingRecord] | None = None


class SteeringFacts(_Part):
    """What a level's sum told of what the fleet sees, and so how public images were drawn (``steering_record``).

    ``weights`` has a share for each kind of public images; ``explained`` says how much of the sum they explain,
    ``by_chance`` how much of a shifted sum. ``on_fleet`` is the share that fell on classes that some device has; only a
    simulation knows. ``clusters`` has the kinds of each part that got a network of its own.
    """

    seed: int | None = None
    level: Count
    weights: list[Share]
    explained: Share
    by_chance: Share
    is_confident: bool
    on_fleet: Share | None = None
    clusters: list[list[Count]] | None = None


class DecisionRecord(_Part):
    """A signed decision; ``signature`` and ``public_key`` are DER in hex.

    ``margins_milli`` says for each group by how much the votes prefer the last kept channel to the first one left out,
    in thousandths of one device's largest possible say; null where none is left out. It follows from the sum.
    """

    seed: int | None = None
    level: Count
    fingerprint: str
    signature: str
    public_key: str
    widths: list[Count]
    prior: list[list[Count]]
    cost: Count
    budget: Count
    margins_milli: list[int | None]


class GroupTally(_Part):
    """Summed grades of a channel group: 0 to 7 × ``num_devices`` for each channel, in channel order."""

    seed: int | None = None
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


class FleetFacts(_Part):
    """Where a real campaign stands.

    Attributes:
        campaign_id: Which campaign.
        phase: What is going on, or how it ended.
        is_paused: The operator has paused it.
        num_levels: Levels of its schedule.
        num_voters: Devices in the vote's sum; 0 until it is closed.
        cohort_size: Contributions at which a session closes.
        quorum: Contributions without which a session is given up.
        max_attempts: Sessions given up in a round before the campaign fails.
        deadline_s: Longest time of a session.
        is_authority_built_in: The coordinator's operator could make up devices: honest-but-curious only.
    """

    campaign_id: str
    phase: PhaseName
    is_paused: bool
    num_levels: Count
    num_voters: Count
    cohort_size: Count
    quorum: Count
    max_attempts: Count
    deadline_s: Amount
    is_authority_built_in: bool


class Report(_Part):
    """The whole document. ``command`` made the run; ``replay_command`` recomputes its decisions."""

    schema_version: Literal[1] = 1
    run_id: str
    command: str | None = None
    replay_command: str
    wall_s: Amount | None = None
    notes: list[str]
    versions: dict[str, str]
    setting: Setting
    fleet: FleetFacts | None = None
    seeds: list[Seed] | None = None
    verdict: Verdict | None = None
    arms: dict[ArmName, Arm] | None = None
    arms_paired: dict[PairName, Paired] | None = None
    wire: Wire | None = None
    contribution: Contribution
    rounds: list[Round]
    decisions: list[DecisionRecord]
    topology: list[GroupTally]
    steering: list[SteeringFacts] | None = None
    devices: list[Device] | None = None


def report_json(report: Report) -> str:
    """The document as ``report.json``: one line per device, round or decision, so that it can be read and compared.

    Keys that this kind of run does not have are left out.
    """
    lines = []
    for key, value in report.model_dump(mode="json").items():
        if value is None:
            continue
        if isinstance(value, list) and value:
            items = ",\n".join(f"    {json.dumps(item, ensure_ascii=False)}" for item in value)
            lines.append(f"  {json.dumps(key)}: [\n{items}\n  ]")
        else:
            text = json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n  ")
            lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def report_schema() -> str:
    """JSON Schema (2020-12) of ``report.json``, as text."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Report.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
