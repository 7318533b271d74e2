"""What a simulation is told: options of the command line or keys of a TOML file, checked together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prunefleet_shared.campaign import PLAIN, SUM_DP, PrivacyTerms
from prunefleet_shared.config import checked, read_values
from prunefleet_shared.decision_rules import MAX_PUBLIC_VOTES, DecisionRules, why_rules_impossible
from prunefleet_shared.gate_terms import GateTerms
from prunefleet_shared.limits import Limits
from prunefleet_shared.noise_terms import NoiseWish
from prunefleet_shared.steering_terms import MAX_CLUSTERS
from prunefleet_simulation.partition import parse_partition
from prunefleet_simulation.presets import PRESETS, Preset

DELTA_POWER = 6


class Settings(BaseModel):
    """A simulation's settings. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str = "digits"
    devices: Annotated[int, Field(ge=2, le=1000)] = 10
    levels: Annotated[tuple[float, ...], Field(min_length=1, max_length=8)] = (0.4, 0.2)
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1, max_length=100)] = (1, 2, 3)
    out: Path = Path("runs")
    data: str | None = None
    public: str | None = None
    base: Path | None = None
    model: str | None = None
    partition: str = "classes"
    images_per_device: Annotated[int, Field(ge=8)] | None = None
    budget: Literal["macs", "parameters"] = "macs"
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    votes: Literal["taylor", "public_l1"] = "taylor"
    privacy: Literal["sum", "sum+dp", "plain"] = "sum"
    min_devices: Annotated[int, Field(ge=3, le=1000)] = 8
    epsilon: Annotated[float, Field(gt=0, le=100)] = 8.0
    steering: bool = True
    clusters: Annotated[int, Field(ge=1, le=MAX_CLUSTERS)] = 1
    public_retraining: bool = True
    gate_alternative: Literal["own", "fleet_widths"] = "own"
    order_rule: Literal["mean", "majority", "borda", "public"] = "mean"
    public_votes: Annotated[int, Field(ge=0, le=MAX_PUBLIC_VOTES)] = 0
    near_tie: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    min_keep: Annotated[int, Field(ge=0, le=100_000)] = 0
    round_to: Annotated[int, Field(ge=1, le=256)] = 1

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.preset not in PRESETS:
            msg = f"preset: expected one of {', '.join(PRESETS)}, got {self.preset!r}"
            raise ValueError(msg)
        if self.preset == "images" and self.data is None:
            msg = "preset images needs data, for example --data npz:PATH"
            raise ValueError(msg)
        if (self.public or self.base) and self.data is None:
            msg = "public and base belong to data of your own; give --data npz:PATH too"
            raise ValueError(msg)
        if self.base and not self.base.is_file():
            msg = f"base: there is no file {self.base}"
            raise ValueError(msg)
        if self.privacy != "plain" and self.devices < self.min_devices:
            msg = (
                f"devices: a private sum is over at least {self.min_devices} devices, got {self.devices}; simulate "
                "more, or lower min_devices (of three, two that collude know the third's vote), or use privacy plain"
            )
            raise ValueError(msg)
        in_range = all(0.001 <= level <= 0.999 for level in self.levels)  # false for NaN, too
        if not in_range or list(self.levels_permille) != sorted(set(self.levels_permille), reverse=True):
            msg = f"levels: expected falling fractions between 0 and 1, such as 0.4,0.2, got {list(self.levels)}"
            raise ValueError(msg)
        if self.clusters > 1 and not self.is_steered:
            msg = "clusters: parts of what lift masks tell of the fleet; they need steering and public_retraining"
            raise ValueError(msg)
        if why := why_rules_impossible(self.rules, is_noisy=self.privacy == SUM_DP):
            raise ValueError(why)
        if len(set(self.seeds)) != len(self.seeds):
            msg = f"seeds: each may come once, got {list(self.seeds)}"
            raise ValueError(msg)
        return self

    @property
    def levels_permille(self) -> tuple[int, ...]:
        """The levels in thousandths of the dense cost."""
        return tuple(round(level * 1000) for level in self.levels)

    @property
    def privacy_terms(self) -> PrivacyTerms:
        """What the coordinator may learn."""
        return PrivacyTerms(PLAIN, 1) if self.privacy == PLAIN else PrivacyTerms(self.privacy, self.min_devices)

    @property
    def noise(self) -> NoiseWish | None:
        """How much noise hides each device, in mode ``sum+dp``; delta is one in a million."""
        return NoiseWish(round(1000 * self.epsilon), DELTA_POWER) if self.privacy == SUM_DP else None

    @property
    def rules(self) -> DecisionRules:
        """How a decision follows from the votes."""
        return DecisionRules(self.order_rule, self.public_votes, round(1000 * self.near_tie))

    @property
    def limits(self) -> Limits:
        """What every choice of widths must leave."""
        return Limits(self.min_keep, self.round_to)

    @property
    def gate(self) -> GateTerms:
        """What devices set the fleet's network against."""
        return GateTerms(self.gate_alternative)

    @property
    def is_steered(self) -> bool:
        """Whether devices are asked for lift masks: of no use where nothing is retrained."""
        return self.steering and self.public_retraining

    @property
    def recipe(self) -> Preset:
        """The preset; data of one's own is trained as images unless a preset was named."""
        return PRESETS[self.preset]


def load_settings(config: Path | None, options: dict[str, Any]) -> Settings:
    """Settings from a TOML file (if any), overridden by the options that were given.

    Args:
        config: The file.
        options: By name; None means: not given.

    Raises:
        ConfigError: The file cannot be read, a key is unknown, or a value is out of range (the user's to mend).
    """
    values = read_values(config, options)
    if values.get("data") is not None:
        values.setdefault("preset", "images")
    settings = checked(Settings, values)
    parse_partition(settings.partition)
    return settings
