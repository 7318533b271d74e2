"""The privacy ledger of a campaign in mode ``sum+dp``: what its sums have cost so far, and when it must stop.

One **release** is one round: the vote, the outcomes of a level, or its rollout. Cohorts of the same round share no
device, so each device pays once, however many there are. A level's canaries and its rollout share none either, and are
counted as two all the same: the account does not rest on who was invited. A session that ended without a sum costs
nothing: nobody saw more than masked vectors, and the next attempt draws fresh noise. Choosing the next level from
earlier sums is free, too (adaptive composition: Mironov 2017, proposition 1).

The account is the one every device makes (``privacy_budget``). :func:`library_epsilon` makes it a second time, with the
accountant of the library dp-accounting, which knows nothing of ours but the noise multiplier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunefleet_shared.campaign import Campaign, NoiseTerms
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.messages import SessionKind
from prunefleet_shared.privacy_budget import ORDERS, epsilon_of, vector_divergences


@dataclass(frozen=True, slots=True)
class Release:
    """A round whose sum became known.

    Attributes:
        kind: What was summed.
        level: 0-based level of the schedule; 0 for the vote.
    """

    kind: SessionKind
    level: int = 0

    def __str__(self) -> str:
        if self.kind is SessionKind.VOTE:
            return "the vote"
        return f"the {'outcomes' if self.kind is SessionKind.OUTCOME else 'rollout'} of level {self.level}"


@dataclass(frozen=True, slots=True)
class Spending:
    """Where a campaign stands.

    Attributes:
        epsilon: Spent so far.
        replace_one_epsilon: The same, between any two data sets of a device.
        max_epsilon: Promised for the whole campaign, at the first meaning.
        delta: Of all three.
        outcomes_left: Outcome sums that may still be released.
    """

    epsilon: float
    replace_one_epsilon: float
    max_epsilon: float
    delta: float
    outcomes_left: int


def spending(campaign: Campaign, released: Sequence[Release]) -> Spending:
    """What ``released``, all of one campaign, has cost.

    Raises:
        ConfigError: The campaign adds no noise (its mode is not ``sum+dp``).
    """
    terms = _noise_terms(campaign)
    num_outcomes = sum(release.kind is not SessionKind.VOTE for release in released)
    return Spending(
        epsilon=epsilon_spent(campaign, released),
        replace_one_epsilon=epsilon_spent(campaign, released, swapped=True),
        max_epsilon=terms.epsilon_milli / 1000,
        delta=delta_of(terms),
        outcomes_left=max(0, terms.num_outcomes - num_outcomes),
    )


def why_exhausted(campaign: Campaign, released: Sequence[Release], wanted: Release) -> str | None:
    """Why the sum of ``wanted`` must not be released after ``released``; None when it may, or when there is no noise.

    Ask before a session is opened: once devices have unmasked a sum, it is spent.
    """
    terms = campaign.privacy.noise
    if terms is None:
        return None
    if wanted in released:
        return f"{wanted}: its sum is known already; a second one would count the same devices twice"
    after = [*released, wanted]
    if sum(release.kind is not SessionKind.VOTE for release in after) > terms.num_outcomes:
        return f"{wanted}: the privacy budget covers {terms.num_outcomes} outcome sums, all are released"
    epsilon, most = epsilon_spent(campaign, after), terms.epsilon_milli / 1000
    if epsilon > most:
        return f"{wanted}: epsilon would be {epsilon:.3f}, the campaign promises at most {most:g}"
    return None


def epsilon_spent(campaign: Campaign, released: Sequence[Release], *, swapped: bool = False) -> float:
    """Epsilon of ``released`` at the campaign's delta.

    Args:
        campaign: A campaign in mode ``sum+dp``.
        released: Its rounds whose sums are known.
        swapped: Between any two data sets of a device, rather than data and coins (see shared ``noise``).

    Raises:
        ConfigError: The campaign adds no noise.
    """
    terms = _noise_terms(campaign)
    total = np.zeros(len(ORDERS))
    for release in released:
        total += vector_divergences(campaign.lanes_of(release.kind), terms.multiplier_milli, swapped=swapped)
    return epsilon_of(total, delta_of(terms))


def library_epsilon(campaign: Campaign, num_releases: int) -> float:
    """Epsilon of ``num_releases`` sums as dp-accounting sees them: Gaussian mechanisms, composed by its RDP accountant.

    A second opinion on :func:`epsilon_spent`, which it should meet within 1 % where the noise is a few units or more;
    small noise in integers costs a little more than Gaussian noise. The library takes seconds to import.

    Raises:
        ConfigError: The campaign adds no noise.
    """
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    terms = _noise_terms(campaign)
    event = dp_accounting.GaussianDpEvent(terms.multiplier_milli / 1000)
    accountant = RdpAccountant().compose(dp_accounting.SelfComposedDpEvent(event, num_releases))
    return float(accountant.get_epsilon(delta_of(terms)))


def delta_of(terms: NoiseTerms) -> float:
    """Delta of the whole campaign."""
    return 10.0**-terms.delta_power


def _noise_terms(campaign: Campaign) -> NoiseTerms:
    if campaign.privacy.noise is None:
        msg = f"campaign {campaign.campaign_id}: mode {campaign.privacy.mode} adds no noise; there is no budget"
        raise ConfigError(msg)
    return campaign.privacy.noise
