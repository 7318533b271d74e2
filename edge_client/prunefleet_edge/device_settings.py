"""What ``prunefleet edge run`` is told: keys of ``edge.toml`` or options of the command line, checked together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from prunefleet_edge.device_process import DeviceOptions
from prunefleet_edge.policy import MAX_VOTES, MIN_DEVICES, PrivacyPolicy
from prunefleet_edge.prune_settings import default_recipe
from prunefleet_edge.recipes import check_recipe_name
from prunefleet_edge.retraining_options import PLAIN, RetrainingOptions, check_for_slim
from prunefleet_edge.threads import DEFAULT_THREADS
from prunefleet_shared.config import checked, read_values
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.steering_terms import MAX_CLUSTERS


class RetrainingTable(BaseModel):
    """The table ``[retraining]``; ranges are those of :class:`RetrainingOptions`. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: str = PLAIN.strategy
    anchor_weight: float = PLAIN.anchor_weight
    temperature: float = PLAIN.temperature
    distilled_ratio: float = PLAIN.distilled_ratio


class PrivacyTable(BaseModel):
    """The table ``[privacy]``: what the owner lets a coordinator learn. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_devices: Annotated[int, Field(ge=3, le=1000)] = MIN_DEVICES
    max_votes: Annotated[int, Field(ge=1, le=1_000_000)] = MAX_VOTES
    max_epsilon: Annotated[float, Field(gt=0, le=100)] | None = None
    max_clusters: Annotated[int, Field(ge=1, le=MAX_CLUSTERS)] = 1
    reply_slot_s: Annotated[float, Field(ge=0, le=3600)] = 10.0


class DeviceSettings(BaseModel):
    """A device's settings. Unknown keys are refused.

    Attributes:
        data: Where its images are, see ``data_source``; ``none``: it has none, and only takes networks.
        state: Its state folder; None: the default one.
        token_dir: Where to claim a join token from.
        device_class: The class whose campaigns to join (key ``class``); empty takes the identity's.
        allow_plain: The owner agrees to campaigns that are not private.
        allow_factory: Each ``package.module:factory`` that a campaign's network may be made by.
        once: End after one campaign.
        threads: torch's.
        preset: Name of the recipe for fine-tuning; None: the one that fits the source.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    state: Path | None = None
    token_dir: Path | None = None
    device_class: str = Field(default="", alias="class")
    allow_plain: bool = False
    allow_factory: tuple[str, ...] = ()
    once: bool = False
    threads: Annotated[int, Field(ge=1, le=256)] = DEFAULT_THREADS
    preset: str | None = None
    retraining: RetrainingTable = RetrainingTable()
    privacy: PrivacyTable = PrivacyTable()

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return self.preset or default_recipe(self.data)

    def options(self) -> DeviceOptions:
        """The same for the device's process.

        Raises:
            ConfigError: No such recipe or strategy, or one that makes no sense here (the owner's to mend).
        """
        check_recipe_name(self.recipe)
        retraining = RetrainingOptions(**self.retraining.model_dump())
        check_for_slim(retraining)
        return DeviceOptions(
            self.data,
            self.device_class,
            self.recipe,
            self.threads,
            PrivacyPolicy(self.allow_plain, **self.privacy.model_dump()),
            self.once,
            self.allow_factory,
            retraining,
        )


def load_device_settings(config: Path | None, options: dict[str, Any], strategy: str | None) -> DeviceSettings:
    """Settings from a TOML file (if any), overridden by the options that were given.

    Args:
        config: The file.
        options: By key; None means: not given.
        strategy: ``retraining.strategy``; None: not given.

    Raises:
        ConfigError: A key is unknown, missing or out of range (the owner's to mend).
    """
    values = read_values(config, options)
    table = values.get("retraining", {})
    if not isinstance(table, dict):
        msg = f"retraining: expected a table [retraining] with a key strategy, got {table!r}"
        raise ConfigError(msg)
    given = {} if strategy is None else {"strategy": strategy}
    return checked(DeviceSettings, values | {"retraining": checked(RetrainingTable, table | given)})
