"""What ``prunefleet edge prune`` and ``edge retrain`` are told: options or keys of a TOML file, checked together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prunefleet_edge.byte_sizes import parse_bytes
from prunefleet_edge.threads import DEFAULT_THREADS
from prunefleet_shared.config import checked, read_values

DEFAULT_MAX_DROP = 0.01
"""Accuracy that may be lost when nothing else is asked for: one point."""
BUDGET_UNITS = ("macs", "parameters", "latency", "training-memory")
Ratio = Annotated[float, Field(gt=0.0, lt=1.0)]


class LocalSettings(BaseModel):
    """What every training on this device alone needs to know. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    out: Path
    test: str | None = None
    preset: str | None = None
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    memory_limit: str | None = None
    threads: Annotated[int, Field(ge=1, le=256)] = DEFAULT_THREADS
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @property
    def memory_limit_bytes(self) -> int | None:
        """What training may take on top of what the process holds; None without a limit."""
        return parse_bytes(self.memory_limit, "memory_limit") if self.memory_limit else None

    @property
    def recipe_name(self) -> str:
        """The preset, or the one that fits the source."""
        return self.preset or default_recipe(self.data)


class PruneSettings(LocalSettings):
    """How to prune one network on this device."""

    model: str
    out: Path = Path("pruned")
    base: Path | None = None
    scratch: bool = False
    remove: Ratio | None = None
    max_drop: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    floor: Ratio | None = None
    sparsity: Ratio | None = None
    scope: Literal["global", "layer"] = "global"
    budget_in: Literal["macs", "parameters", "latency", "training-memory"] = "macs"
    profile: Path | None = None
    plan: str = "default"
    criterion: str | None = None
    ranking: Literal["global", "per-layer"] | None = None
    steps: Annotated[int, Field(ge=1, le=100)] | None = None
    min_keep: Annotated[int, Field(ge=1, le=100_000)] = 1
    round_to: Annotated[int, Field(ge=1, le=256)] = 1
    skip: tuple[str, ...] = ()
    strategy: str | None = None
    export: tuple[Literal["onnx", "int8"], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> PruneSettings:
        goals = {"remove": self.remove, "max_drop": self.max_drop, "floor": self.floor, "sparsity": self.sparsity}
        given = [name for name, value in goals.items() if value is not None]
        if len(given) > 1:
            msg = f"{' and '.join(given)}: give one of them; each says how small the network is to become"
            raise ValueError(msg)
        if self.base and self.scratch:
            msg = "base and scratch: either start from base weights, or train the dense network here first"
            raise ValueError(msg)
        if (self.budget_in == "latency") != (self.profile is not None):
            msg = "budget_in latency and profile belong together; `prunefleet edge profile` makes the profile"
            raise ValueError(msg)
        if self.sparsity is None and self.strategy is not None:
            msg = "strategy: says how a weight-pruned network is retrained; it needs sparsity"
            raise ValueError(msg)
        return self

    @property
    def drop(self) -> float:
        """Accuracy that may be lost against the dense network, a fraction; used when no other goal is given."""
        return DEFAULT_MAX_DROP if self.max_drop is None else self.max_drop


class RetrainSettings(LocalSettings):
    """How to retrain a network that was pruned before."""

    network: Path
    code: str | None = None
    out: Path = Path("retrained")
    strategy: str = "all"
    export: tuple[Literal["onnx", "int8"], ...] = ()


def load_prune_settings(config: Path | None, options: dict[str, Any]) -> PruneSettings:
    """Settings from a TOML file (if any), overridden by the options that were given.

    Raises:
        ConfigError: A key is unknown, missing or out of range (the user's to mend).
    """
    return checked(PruneSettings, read_values(config, options))


def load_retrain_settings(config: Path | None, options: dict[str, Any]) -> RetrainSettings:
    """As :func:`load_prune_settings`, for ``edge retrain``."""
    return checked(RetrainSettings, read_values(config, options))


def default_recipe(source: str) -> str:
    """The recipe that fits a data source when none is named."""
    return "digits" if source.partition(":")[0] == "digits" else "images"
