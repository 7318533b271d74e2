"""Whether a decision holds the floor: at the limit, by cohorts, with noise, and whatever devices leave unsaid."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from prunefleet_coordinator.judging import MARGIN_SIGMAS, judge, num_worse_in
from prunefleet_coordinator.testing import small_campaign
from prunefleet_shared.acceptance import LOSSES_PERMILLE, Acceptance, RulingReason, why_acceptance_impossible
from prunefleet_shared.campaign import SUM_DP, CohortPolicy, NoiseTerms, PrivacyTerms
from prunefleet_shared.errors import LocalProtocolError
from prunefleet_shared.messages import Total
from prunefleet_shared.metrics import JUDGED_OUTCOME_LANES, Outcome, outcome_vector
from prunefleet_shared.noise import lane_variances_milli
from prunefleet_shared.private_sum import noise_shares

TERMS = Acceptance(max_loss_permille=50, max_worse_permille=200)
CAMPAIGN = small_campaign(acceptance=TERMS)
NOISY = small_campaign(
    acceptance=TERMS,
    privacy=PrivacyTerms(SUM_DP, 400, NoiseTerms(8_000, 6, 2, 2_000)),
    cohort=CohortPolicy(size=400, quorum=400, deadline_ms=60_000),
)
HELD, TOO_MANY_WORSE, WITHIN_NOISE = RulingReason


def total(*gains):
    """The sum of devices that gained so much over their dense copies; None: did not finish."""
    outcomes = [Outcome(gain is not None, True, gain, None if gain is None else 0.5, gain) for gain in gains]
    lanes = sum(outcome_vector(outcome, JUDGED_OUTCOME_LANES) for outcome in outcomes)
    return Total(tuple(int(lane) for lane in lanes), len(gains))


def ruled(*totals, campaign=CAMPAIGN):
    return judge(campaign, totals).reason


# --- one sum --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gains", "num_worse", "reason"),
    [
        ([0.0] * 10, 0, HELD),
        ([-0.06] * 2 + [0.1] * 8, 2, HELD),  # as many as may be
        ([-0.06] * 3 + [0.1] * 7, 3, TOO_MANY_WORSE),
        ([-0.05] * 10, 0, HELD),  # a device may lose exactly as much
        ([-0.0501] * 10, 10, TOO_MANY_WORSE),
        ([None] * 3 + [0.4] * 7, 3, TOO_MANY_WORSE),  # who did not finish counts as worse off
        ([-1.0, None] + [1.0] * 8, 2, HELD),
        ([0.5], 0, HELD),
        ([-0.5], 1, TOO_MANY_WORSE),
    ],
)
def test_the_floor_holds_while_few_enough_devices_are_worse_off(gains, num_worse, reason):
    finding = judge(CAMPAIGN, [total(*gains)])
    assert (finding.num_worse, finding.reason) == (num_worse, reason)
    assert (finding.num_devices, finding.max_worse, finding.margin) == (len(gains), len(gains) // 5, 0)


@pytest.mark.parametrize("loss", LOSSES_PERMILLE)
def test_every_loss_that_terms_may_name_is_told_from_the_next_larger_one(loss):
    terms = replace(TERMS, max_loss_permille=loss)
    assert why_acceptance_impossible(terms, 10) is None
    assert num_worse_in(terms, total(-loss / 1000)) == 0
    assert num_worse_in(terms, total(-(loss + 1) / 1000)) == 1


def test_a_device_that_says_it_finished_and_names_no_bin_counts_as_worse_off():
    silent = outcome_vector(Outcome(True, True, 0.1, 0.5), JUDGED_OUTCOME_LANES)
    assert num_worse_in(TERMS, Total(tuple(int(lane) for lane in silent), 1)) == 1


def test_with_nothing_to_judge_by_or_nobody_judged_there_is_no_ruling():
    with pytest.raises(LocalProtocolError, match="nothing to judge by"):
        judge(small_campaign(), [total(0.0)])
    with pytest.raises(LocalProtocolError, match="0 cohorts"):
        judge(CAMPAIGN, [])


# --- several cohorts ------------------------------------------------------------------------------------------------

GOOD, BAD = total(*[0.0] * 5), total(*[-0.9] * 5)


@pytest.mark.parametrize(
    ("cohorts", "reason"),
    [
        ([GOOD, GOOD, BAD], HELD),  # a third of all devices are worse off, the median cohort is not
        ([GOOD, BAD, BAD], TOO_MANY_WORSE),
        ([GOOD, GOOD, BAD, BAD], TOO_MANY_WORSE),  # half is not enough
        ([GOOD, GOOD, GOOD, BAD, BAD], HELD),
        ([GOOD, BAD], TOO_MANY_WORSE),  # two cohorts have no middle: all devices are looked at together
        ([total(*[0.0] * 50), BAD], HELD),
    ],
)
def test_of_three_cohorts_or_more_more_than_half_must_hold_the_floor(cohorts, reason):
    findings = {judge(CAMPAIGN, order) for order in itertools.permutations(cohorts)}
    assert {finding.reason for finding in findings} == {reason}
    assert len(findings) == 1, "the order of cohorts matters"
    assert next(iter(findings)).num_cohorts == len(cohorts)


# --- noise ----------------------------------------------------------------------------------------------------------


def noisy(campaign, honest, rng):
    table, terms = JUDGED_OUTCOME_LANES, campaign.privacy.noise
    one_L = lane_variances_milli(table, terms.multiplier_milli, noise_shares(campaign))
    std_L = np.sqrt(np.asarray(one_L) / 1000 * honest.num_devices)
    lanes = [lane + round(rng.gauss(0.0, std)) for lane, std in zip(honest.lanes, std_L, strict=True)]
    return Total(tuple(lanes), honest.num_devices)


def test_noise_cannot_promote_a_decision_that_misses_the_floor():
    num_devices, rng = 400, random.Random(7)
    missed = total(*[-0.9] * 81, *[0.0] * 319)  # one more than may be
    reasons = [ruled(noisy(NOISY, missed, rng), campaign=NOISY) for _ in range(2_000)]
    assert missed.num_devices == num_devices
    assert reasons.count(HELD) <= 10  # 2.7 are expected of 2000 at three standard deviations
    assert WITHIN_NOISE in reasons


def test_a_decision_well_above_the_floor_is_promoted_through_the_noise():
    rng, fine = random.Random(8), total(*[0.0] * 4_000)
    findings = [judge(NOISY, [noisy(NOISY, fine, rng)]) for _ in range(100)]
    assert {finding.reason for finding in findings} == {HELD}
    assert findings[0].margin > 0
    assert min(finding.num_worse for finding in findings) < 0, "counts under noise may be negative"


def test_the_margin_is_so_many_standard_deviations_of_the_lanes_that_are_counted():
    one = total(*[0.0] * 100)
    lanes = lane_variances_milli(JUDGED_OUTCOME_LANES, 2_000, noise_shares(NOISY))[-11:]
    exact = MARGIN_SIGMAS * (sum(int(lane) for lane in lanes) * 100 / 1000) ** 0.5
    assert exact <= judge(NOISY, [one]).margin < exact + 1


def test_noisy_cohorts_are_looked_at_together():
    finding = judge(NOISY, [total(*[0.0] * 4_000), BAD, BAD])
    assert (finding.reason, finding.num_cohorts, finding.num_cohorts_held) == (HELD, 3, 0)


# --- terms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "terms",
    [
        Acceptance(51, 100),
        Acceptance(0, 100),
        Acceptance(50, 1000),
        Acceptance(50, -1),
        Acceptance(50, 100, "guess"),
        Acceptance(50, 100, canary_size=11),
        Acceptance(50, 100, canary_size=-1),
        Acceptance(50, 100, canary_size=3, canary_count=0),
    ],
)
def test_terms_that_nothing_could_be_judged_by_are_refused(terms):
    assert why_acceptance_impossible(terms, 10)
