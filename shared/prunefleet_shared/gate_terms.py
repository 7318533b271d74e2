"""What the gate sets the fleet's network against: named in the signed campaign, so that all its devices do the same."""

from __future__ import annotations

from dataclasses import dataclass

from prunefleet_shared.errors import ConfigError

OWN, FLEET_WIDTHS = "own", "fleet_widths"
ALTERNATIVES = (OWN, FLEET_WIDTHS)
"""``own``: the device's own widths at the level's budgets. ``fleet_widths``: its own channels at the fleet's widths."""


@dataclass(frozen=True, slots=True)
class GateTerms:
    """How devices decide between the fleet's network and their own.

    Attributes:
        alternative: One of :data:`ALTERNATIVES`. With ``fleet_widths`` every device ends with the same widths, whatever
            its gate says, so that one compiled artefact serves them all.
    """

    alternative: str = OWN

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ConfigError: There is no such alternative.
        """
        if self.alternative not in ALTERNATIVES:
            msg = f"gate alternative: expected one of {', '.join(ALTERNATIVES)}, got {self.alternative[:40]!r}"
            raise ConfigError(msg)


DEFAULT_GATE = GateTerms()
"""Against what the device would do without a fleet."""
