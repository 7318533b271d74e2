"""The privacy ledger: what sums have cost, and that the campaign stops where its promise ends."""

import itertools
from dataclasses import replace

import pytest

from prunefleet_coordinator.accounting import Release, epsilon_spent, library_epsilon, spending, why_exhausted
from prunefleet_coordinator.admission import why_campaign_impossible
from prunefleet_coordinator.testing import small_campaign
from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.campaign import SUM, SUM_DP, CohortPolicy, NoiseTerms, PrivacyTerms
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.lanes import vote_lanes
from prunefleet_shared.messages import SessionKind
from prunefleet_shared.metrics import OUTCOME_LANES
from prunefleet_shared.noise_terms import NoiseWish, make_noise_terms
from prunefleet_shared.privacy_budget import multiplier_milli_for

VOTE_LANES = vote_lanes(small_campaign().layout, 2, is_noisy=True)
VOTE, FIRST, SECOND, THIRD = (
    Release(SessionKind.VOTE),
    *(Release(SessionKind.OUTCOME, level) for level in range(3)),
)


def noisy_campaign(epsilon_milli=4_000, num_outcomes=2, multiplier_milli=None):
    tables = [VOTE_LANES, *[OUTCOME_LANES] * num_outcomes]
    multiplier = multiplier_milli or multiplier_milli_for(tables, epsilon_milli / 1000, 1e-6)
    terms = PrivacyTerms(SUM_DP, 8, NoiseTerms(epsilon_milli, 6, num_outcomes, multiplier))
    return small_campaign(privacy=terms)


def test_everything_the_budget_covers_may_be_released_and_spends_it():
    campaign = noisy_campaign()
    released = []
    for release in (VOTE, FIRST, SECOND):
        assert why_exhausted(campaign, released, release) is None
        released.append(release)
    state = spending(campaign, released)
    assert 3.99 < state.epsilon <= state.max_epsilon == 4.0
    assert (state.delta, state.outcomes_left) == (pytest.approx(1e-6), 0)
    assert state.replace_one_epsilon > state.epsilon


def test_one_outcome_more_is_refused_by_number():
    why = why_exhausted(noisy_campaign(), [VOTE, FIRST, SECOND], THIRD)
    assert why == "the outcomes of level 2: the privacy budget covers 2 outcome sums, all are released"


def test_the_same_round_is_never_released_twice():
    for released, wanted in (([VOTE], VOTE), ([VOTE, FIRST], FIRST)):
        assert "known already" in (why_exhausted(noisy_campaign(), released, wanted) or "")


@pytest.mark.parametrize("search", ["descend", "bisect"])
def test_canaries_and_rollout_of_a_level_are_two_releases_and_all_of_them_are_paid_for(search):
    acceptance = Acceptance(50, 100, search, canary_size=8)
    plain = small_campaign(cohort=CohortPolicy(size=20, quorum=10, deadline_ms=60_000))
    noise = make_noise_terms(plain.layout, 2, NoiseWish(4_000, 6), acceptance)
    campaign = replace(plain, acceptance=acceptance, privacy=PrivacyTerms(SUM_DP, 8, noise))
    assert why_campaign_impossible(campaign) is None
    rollouts = [Release(SessionKind.ROLLOUT, level) for level in (1, 0)]
    released = []
    for release in (VOTE, FIRST, SECOND, *rollouts):
        assert why_exhausted(campaign, released, release) is None
        released.append(release)
    assert 3.9 < epsilon_spent(campaign, released) <= 4.0
    assert spending(campaign, released).outcomes_left == 0
    assert "rollout of level 1: its sum is known already" in (why_exhausted(campaign, released, rollouts[0]) or "")


def test_a_judged_campaign_pays_for_the_lanes_that_it_is_judged_by():
    layout, wish = small_campaign().layout, NoiseWish(4_000, 6)
    judged = make_noise_terms(layout, 2, wish, Acceptance(50, 100))
    assert judged.num_outcomes == make_noise_terms(layout, 2, wish).num_outcomes == 2
    campaign = small_campaign(acceptance=Acceptance(50, 100), privacy=PrivacyTerms(SUM_DP, 3, judged))
    assert why_campaign_impossible(campaign) is None
    assert epsilon_spent(campaign, [VOTE, FIRST, SECOND]) <= 4.0


def test_too_little_noise_stops_the_campaign_before_the_promise_is_broken():
    honest = noisy_campaign()
    noise = replace(honest.privacy.noise, multiplier_milli=honest.privacy.noise.multiplier_milli * 3 // 4)
    campaign = noisy_campaign(multiplier_milli=noise.multiplier_milli)
    released = []
    for release in (VOTE, FIRST, SECOND):
        why = why_exhausted(campaign, released, release)
        if why:
            break
        released.append(release)
    assert why is not None
    assert "the campaign promises at most 4" in why
    assert epsilon_spent(campaign, released) <= 4.0 < epsilon_spent(campaign, [*released, release])


def test_epsilon_only_grows_and_the_order_of_releases_does_not_matter():
    campaign = noisy_campaign()
    releases = [VOTE, FIRST, SECOND]
    spent = [epsilon_spent(campaign, releases[:count]) for count in range(4)]
    assert spent[0] == 0.0
    assert all(less < more for less, more in itertools.pairwise(spent))
    assert epsilon_spent(campaign, [SECOND, VOTE, FIRST]) == pytest.approx(spent[3], rel=1e-12)


def test_composition_is_adaptive_but_not_free():
    """Three sums cost more than one and less than three times one."""
    campaign = noisy_campaign()
    one, three = (epsilon_spent(campaign, releases) for releases in ([VOTE], [VOTE, FIRST, SECOND]))
    assert 1.3 * one < three < 3 * one


@pytest.mark.parametrize(("epsilon_milli", "tolerance"), [(500, 0.01), (1_000, 0.01), (4_000, 0.05)])
def test_the_library_comes_to_the_same_account(epsilon_milli, tolerance):
    """At epsilon 4 the few lanes of an outcome get noise of a few units, which hides a little better than Gaussian."""
    campaign = noisy_campaign(epsilon_milli)
    spent = epsilon_spent(campaign, [VOTE, FIRST, SECOND])
    assert library_epsilon(campaign, 3) == pytest.approx(spent, rel=tolerance)


def test_campaigns_without_noise_have_no_budget():
    campaign = small_campaign(privacy=PrivacyTerms(SUM, 8))
    assert why_exhausted(campaign, [VOTE, FIRST], FIRST) is None
    with pytest.raises(ConfigError, match="mode sum adds no noise"):
        epsilon_spent(campaign, [VOTE])
    with pytest.raises(ConfigError, match="no budget"):
        library_epsilon(campaign, 1)
