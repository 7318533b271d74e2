"""What a campaign promises, in numbers that follow from it and in words that do not promise more."""

import json
import math
from dataclasses import asdict, replace

import pytest

from prunefleet_coordinator.privacy_report import describe, privacy_lines
from prunefleet_coordinator.testing import small_campaign
from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.campaign import PLAIN, SUM, SUM_DP, CohortPolicy, NoiseTerms, PrivacyTerms
from prunefleet_shared.lanes import vote_lanes
from prunefleet_shared.metrics import OUTCOME_LANES
from prunefleet_shared.privacy_budget import multiplier_milli_for
from prunefleet_shared.steering_terms import SteeringTerms

VOTE_LANES = vote_lanes(small_campaign().layout, 2, is_noisy=True)
MULTIPLIER_MILLI = multiplier_milli_for([VOTE_LANES, OUTCOME_LANES, OUTCOME_LANES], 2.0, 1e-6)


def campaign_in(mode, *, epsilon_milli=2_000, multiplier_milli=MULTIPLIER_MILLI, min_devices=40, quorum=30):
    noise = NoiseTerms(epsilon_milli, 6, 2, multiplier_milli) if mode == SUM_DP else None
    return small_campaign(
        privacy=PrivacyTerms(mode, min_devices, noise),
        cohort=CohortPolicy(size=100, quorum=quorum, deadline_ms=60_000),
    )


def report_of(mode, *, built_in=False, **changes):
    return describe(campaign_in(mode, **changes), is_authority_built_in=built_in)


def text_of(report):
    return " ".join(line.strip() for line in privacy_lines(report))


def test_a_sum_of_few_canaries_is_the_smallest_that_is_promised():
    campaign = campaign_in(SUM, min_devices=3, quorum=50)
    assert describe(campaign, is_authority_built_in=False).smallest.num_devices == 50
    with_canaries = replace(campaign, acceptance=Acceptance(50, 100, canary_size=10))
    assert describe(with_canaries, is_authority_built_in=False).smallest.num_devices == 5


def test_which_network_a_device_takes_is_told_of_where_there_are_several():
    num_channels = small_campaign().layout.num_channels
    terms = SteeringTerms((1,) * num_channels, (1,) * num_channels, 3)
    clustered = describe(replace(campaign_in(SUM), steering=terms), is_authority_built_in=False)
    assert "Devices choose among 4 networks by their own images." in text_of(clustered)
    assert "Devices choose among" not in text_of(report_of(SUM))


def test_the_cohorts_numbers_follow_from_the_protocol():
    report = report_of(SUM)
    assert (report.largest.num_devices, report.largest.threshold, report.largest.max_colluders) == (100, 67, 33)
    assert report.largest.max_dropouts == 33
    assert (report.smallest.num_devices, report.smallest.threshold, report.smallest.max_dropouts) == (40, 27, 0)


@pytest.mark.parametrize(("min_devices", "quorum", "smallest"), [(40, 30, 40), (20, 80, 80)])
def test_the_fewest_devices_are_what_both_quorum_and_privacy_ask_for(min_devices, quorum, smallest):
    report = report_of(SUM, min_devices=min_devices, quorum=quorum)
    assert report.smallest.num_devices == smallest
    assert report.largest.max_dropouts == 100 - max(67, smallest)


def test_noise_is_stated_with_what_it_costs_and_what_it_buys():
    noise = report_of(SUM_DP).noise
    assert 1.99 < noise.real_epsilon <= noise.epsilon == 2.0
    assert noise.real_epsilon < noise.replace_one_epsilon < 2 * noise.real_epsilon
    assert noise.honest_devices == 20
    of_each_part = MULTIPLIER_MILLI / 1000 * math.sqrt(3) * math.sqrt(100 / 20)  # the vote has three parts
    assert noise.channel_std == pytest.approx(of_each_part * math.sqrt(33) / 2, abs=0.06)  # 33 channels
    assert noise.width_std == pytest.approx(of_each_part * math.sqrt(3), abs=0.06)  # three groups in a level


@pytest.mark.parametrize("mode", [PLAIN, SUM, SUM_DP])
@pytest.mark.parametrize("built_in", [True, False])
def test_a_newcomer_can_read_it_and_a_program_too(mode, built_in):
    report = report_of(mode, built_in=built_in)
    lines = privacy_lines(report)
    assert 5 <= len(lines) <= 30
    assert max(map(len, lines)) <= 100
    assert lines[0].endswith(f"privacy mode {mode}.")
    assert json.loads(json.dumps(asdict(report)))["mode"] == mode
    assert "which devices took part" in " ".join(lines)


def test_plain_promises_nothing():
    text = text_of(report_of(PLAIN, built_in=True))
    assert "The coordinator sees what each device says" in text
    assert "learns sums" not in text
    assert "CAUTION" not in text


def test_an_exact_sum_is_not_called_anonymous():
    text = text_of(report_of(SUM))
    assert "A sum is over 40 to 100 devices, never fewer." in text
    assert "can check the guess against the sum" in text
    assert "13 of 40, 33 of 100 devices" in text
    assert "psilon" not in text


def test_noise_is_explained_in_odds():
    report = report_of(SUM_DP)
    text = text_of(report)
    assert "Epsilon 2.00 at delta 10^-6" in text
    assert f"within a factor of {math.exp(report.noise.real_epsilon):.3g}" in text
    assert "exact" not in text
    assert "WARNING" not in text
    assert "weak" not in text


def test_a_broken_promise_and_a_weak_one_are_called_so():
    broken = text_of(report_of(SUM_DP, epsilon_milli=1_000))
    assert "WARNING: the campaign promises epsilon 1; its noise does not keep that." in broken
    weak = text_of(report_of(SUM_DP, epsilon_milli=60_000, multiplier_milli=MULTIPLIER_MILLI // 4))
    assert "This is weak" in weak
    assert "WARNING" not in weak


@pytest.mark.parametrize("mode", [SUM, SUM_DP])
def test_a_built_in_authority_takes_the_promise_back(mode):
    apart, built_in = (text_of(report_of(mode, built_in=built_in)) for built_in in (False, True))
    assert "honest but curious" in built_in
    assert "honest but curious" not in apart
    assert "authority apart from the coordinator" in apart
    assert ("1 part in 20" in built_in) == (mode == SUM_DP)
