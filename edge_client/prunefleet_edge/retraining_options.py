"""Which strategy retrains a network on the device, and its numbers, as data. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from prunefleet_shared.errors import ConfigError

STRATEGIES = ("none", "survivors", "regrow", "all", "anchored", "distilled")
"""See the classes in ``retraining``."""
FLEET_STRATEGIES = tuple(name for name in STRATEGIES if name != "regrow")
"""What a fleet's slim network can be retrained by."""


@dataclass(frozen=True, slots=True)
class RetrainingOptions:
    """How a device retrains; the numbers matter to the strategy they belong to and to no other.

    Attributes:
        strategy: One of :data:`STRATEGIES`.
        anchor_weight: ``anchored``: how hard weights are pulled back, at least 0 (loss per squared distance, halved).
        temperature: ``distilled``: of both softmaxes, above 0.
        distilled_ratio: ``distilled``: fraction of the loss that is the teacher's, in [0, 1].
        regrow_ratio: ``regrow``: fraction of the gaps that are filled, in (0, 1].
    """

    strategy: str = "all"
    anchor_weight: float = 0.1
    temperature: float = 2.0
    distilled_ratio: float = 0.5
    regrow_ratio: float = 1.0

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ConfigError: No such strategy, or a number out of range (the user's to mend).
        """
        check_strategy_name(self.strategy)
        for is_right, name, expected in (
            (self.anchor_weight >= 0, "anchor_weight", "at least 0"),
            (self.temperature > 0, "temperature", "above 0"),
            (0 <= self.distilled_ratio <= 1, "distilled_ratio", "a fraction in [0, 1]"),
            (0 < self.regrow_ratio <= 1, "regrow_ratio", "a fraction above 0, at most 1"),
        ):
            if not is_right:
                msg = f"retraining.{name}: expected {expected}, got {getattr(self, name)}"
                raise ConfigError(msg)


def check_strategy_name(name: str) -> None:
    """Refuse a name without a strategy.

    Raises:
        ConfigError: There is none (the user's to mend).
    """
    if name not in STRATEGIES:
        msg = f"retraining.strategy: expected one of {', '.join(STRATEGIES)}, got {name!r}"
        raise ConfigError(msg)


def check_for_slim(options: RetrainingOptions) -> None:
    """Refuse what makes no sense on a network that lost whole channels.

    Raises:
        ConfigError: ``regrow`` (the owner's to mend).
    """
    if options.strategy == "regrow":
        msg = (
            "retraining.strategy: regrow fills the gaps that weight pruning left, and a fleet's slim network has none: "
            f"its channels are gone; expected one of {', '.join(FLEET_STRATEGIES)}"
        )
        raise ConfigError(msg)


PLAIN = RetrainingOptions()
"""Everything moves, as fine-tuning always did."""
