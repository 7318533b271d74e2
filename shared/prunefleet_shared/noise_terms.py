"""What a campaign's noise terms must satisfy, and how they are made. Coordinator and every device check them alike."""

from __future__ import annotations

from dataclasses import dataclass

from prunefleet_shared.acceptance import MAX_RULINGS, Acceptance
from prunefleet_shared.campaign import Campaign, NoiseTerms
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.lanes import vote_lanes
from prunefleet_shared.layout import MAX_LEVELS, Layout
from prunefleet_shared.messages import SessionKind
from prunefleet_shared.metrics import outcome_lanes
from prunefleet_shared.privacy_budget import MAX_EPSILON, MAX_MULTIPLIER_MILLI, multiplier_milli_for, why_overspent
from prunefleet_shared.steering_terms import SteeringTerms

DELTA_POWERS = range(3, 13)


@dataclass(frozen=True, slots=True)
class NoiseWish:
    """How private a campaign in mode ``sum+dp`` shall be.

    Attributes:
        epsilon_milli: Epsilon of the whole campaign, in thousandths.
        delta_power: Delta is ``10 ** -delta_power``.
    """

    epsilon_milli: int
    delta_power: int


def make_noise_terms(
    layout: Layout,
    num_levels: int,
    wish: NoiseWish,
    acceptance: Acceptance | None = None,
    steering: SteeringTerms | None = None,
) -> NoiseTerms:
    """Terms that cover one vote and the outcome of every level, with as little noise as the wish needs.

    With canaries, an outcome is summed twice: among them, and in the rollout.

    Raises:
        ConfigError: Epsilon or delta are out of range (the operator's to mend).
    """
    if not 1 <= wish.epsilon_milli <= 1000 * MAX_EPSILON or wish.delta_power not in DELTA_POWERS:
        msg = f"noise: expected epsilon 0.001 to {MAX_EPSILON:g} and delta 1e-3 to 1e-12"
        raise ConfigError(msg)
    num_outcomes = num_levels * (2 if acceptance and acceptance.canary_size else 1)
    num_networks = steering.num_networks if steering else 1
    outcome_table = outcome_lanes(is_judged=acceptance is not None, num_networks=num_networks)
    vote_table = vote_lanes(layout, num_levels, is_noisy=True, is_steered=steering is not None)
    tables = [vote_table, *[outcome_table] * num_outcomes]
    multiplier_milli = multiplier_milli_for(tables, wish.epsilon_milli / 1000, 10.0**-wish.delta_power)
    return NoiseTerms(wish.epsilon_milli, wish.delta_power, num_outcomes, multiplier_milli)


def why_noise_impossible(campaign: Campaign) -> str | None:
    """Why a campaign's noise terms are out of range, or do not keep what they promise; None if there is no noise."""
    terms = campaign.privacy.noise
    if terms is None:
        return None
    if not 1 <= terms.epsilon_milli <= 1000 * MAX_EPSILON or terms.delta_power not in DELTA_POWERS:
        return f"noise of epsilon {terms.epsilon_milli / 1000:g}, delta 10^-{terms.delta_power} promises nothing"
    most = MAX_RULINGS if campaign.has_canaries else MAX_LEVELS
    if not 1 <= terms.num_outcomes <= most or not 1 <= terms.multiplier_milli <= MAX_MULTIPLIER_MILLI:
        return f"a budget covers 1 to {most} outcome sums, with a noise multiplier of 0.001 to 1000"
    if terms.num_outcomes < len(campaign.levels):  # devices rely on it: a coordinator that lies would not stop in time
        return f"the budget is for {terms.num_outcomes} outcome sums, the schedule has {len(campaign.levels)} levels"
    outcome_table = campaign.lanes_of(SessionKind.OUTCOME)
    tables = [campaign.lanes_of(SessionKind.VOTE), *[outcome_table] * terms.num_outcomes]
    return why_overspent(tables, terms.multiplier_milli, terms.epsilon_milli / 1000, 10.0**-terms.delta_power)
