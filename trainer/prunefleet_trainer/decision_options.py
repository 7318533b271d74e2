"""Options of ``campaign create`` that say what becomes of votes, and how they are read. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from prunefleet_edge.byte_sizes import parse_bytes
from prunefleet_shared.decision_rules import DecisionRules, why_rules_impossible
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.gate_terms import OWN
from prunefleet_shared.limits import Limits
from prunefleet_trainer.create_options import ClustersOption, SteeringOption, UnlabelledOption

MACS, PARAMETERS, TRAINING_MEMORY, LATENCY = "macs", "parameters", "training-memory", "latency"
BUDGET_UNITS = (MACS, PARAMETERS, TRAINING_MEMORY, LATENCY)
_PS_PER = {"ns": 10**3, "us": 10**6, "ms": 10**9, "s": 10**12}
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s?(ns|us|ms|s)", re.ASCII)


@dataclass(frozen=True, slots=True)
class BudgetWish:
    """A budget that an operator asks for.

    Attributes:
        unit: One of :data:`BUDGET_UNITS`.
        amount: The same at every level, in the cost table's unit (training memory: bytes, latency: picoseconds);
            None: the level's fraction of what the dense network costs.
    """

    unit: str
    amount: int | None = None


def decision_options(  # noqa: PLR0913 - one argument per option
    *,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="What levels are fractions of: macs (default), parameters, training-memory, latency; again for a "
            "budget that holds as well. UNIT=AMOUNT is the same at every level: training-memory=64MB."
        ),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="For a budget of latency: written by `edge profile` on a device of the class.")
    ] = None,
    order_rule: Annotated[
        str, typer.Option(help="How channels are ordered: mean of grades, majority, borda over cohorts, public.")
    ] = "mean",
    public_votes: Annotated[int, typer.Option(help="As how many devices the public order counts.")] = 0,
    near_tie: Annotated[
        float,
        typer.Option(help="Below this lead at the cut, in devices' say, the public order decides."),
    ] = 0.0,
    min_keep: Annotated[int, typer.Option(help="Channels every group keeps at least.")] = 0,
    round_to: Annotated[int, typer.Option(help="Widths are multiples of this, or dense.")] = 1,
    skip: Annotated[list[str] | None, typer.Option(help="A group that is never pruned; again for more.")] = None,
    tie: Annotated[
        list[str] | None, typer.Option(help="Groups of one width, with commas between; again for more such sets.")
    ] = None,
    gate_alternative: Annotated[
        str,
        typer.Option(
            help="What devices hold the fleet's network against: own; fleet_widths, for one artefact for all."
        ),
    ] = OWN,
    steering: SteeringOption = True,
    clusters: ClustersOption = 1,
    unlabelled: UnlabelledOption = False,
) -> None:
    """The options; a command takes them over with ``option_sets.with_options_of``."""


def parse_budgets(texts: Sequence[str] | None, profile: Path | None) -> tuple[BudgetWish, ...]:
    """The budgets asked for, the one that names the levels first.

    Raises:
        ConfigError: A unit or an amount cannot be read, a unit comes twice, the first has an amount, or latency and
            profile do not come together (the user's to mend).
    """
    wishes = tuple(_parse_budget(text) for text in texts or [MACS])
    units = [wish.unit for wish in wishes]
    if len(set(units)) != len(units):
        msg = f"--budget: each unit may come once, got {', '.join(units)}"
        raise ConfigError(msg)
    if wishes[0].amount is not None:
        msg = "--budget: the first is what levels are fractions of, and takes no amount; put --budget macs before it"
        raise ConfigError(msg)
    if (LATENCY in units) != (profile is not None):
        msg = "--budget latency and --profile belong together; `prunefleet edge profile` makes the profile"
        raise ConfigError(msg)
    return wishes


def _parse_budget(text: str) -> BudgetWish:
    unit, has_amount, amount = text.partition("=")
    if unit not in BUDGET_UNITS:
        msg = f"budget unit {unit!r} is unknown; expected one of {', '.join(BUDGET_UNITS)}"
        raise ConfigError(msg)
    return BudgetWish(unit, _parse_amount(unit, amount) if has_amount else None)


def _parse_amount(unit: str, text: str) -> int:
    name = f"--budget {unit}"
    if unit == TRAINING_MEMORY:
        return parse_bytes(text, name)
    if unit == LATENCY:
        match = _TIME.fullmatch(text.strip())
        picoseconds = round(float(match[1]) * _PS_PER[match[2]]) if match else 0
        if picoseconds < 1:
            msg = f"{name}: expected a time such as 2.5ms or 800us, got {text!r}"
            raise ConfigError(msg)
        return picoseconds
    if not re.fullmatch(r"[1-9][0-9]{0,17}", text, re.ASCII):
        msg = f"{name}: expected a whole number of {unit}, got {text!r}"
        raise ConfigError(msg)
    return int(text)


def parse_rules(order_rule: str, public_votes: int, near_tie: float, *, is_noisy: bool) -> DecisionRules:
    """The rules asked for; ``near_tie`` is in devices.

    Raises:
        ConfigError: They cannot be followed (the user's to mend).
    """
    milli = round(1000 * near_tie) if abs(near_tie) < 10**9 else -1
    rules = DecisionRules(order_rule, public_votes, milli)
    why = why_rules_impossible(rules, is_noisy=is_noisy)
    if why:
        msg = f"--order-rule, --public-votes, --near-tie: {why}"
        raise ConfigError(msg)
    return rules


def parse_limits(
    min_keep: int, round_to: int, skip: Sequence[str] | None = None, tie: Sequence[str] | None = None
) -> Limits:
    """The limits asked for; whether the network has such groups is not known yet.

    Raises:
        ConfigError: A number is out of range (the user's to mend).
    """
    tied = tuple(tuple(name.strip() for name in names.split(",")) for names in tie or ())
    return Limits(min_keep, round_to, frozenset(skip or ()), tied)
