"""What a device's owner has to agree to before a campaign may run anything here."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from prunefleet_edge.policy import PrivacyPolicy, owner_policy
from prunefleet_shared.campaign import PLAIN, SUM, SUM_DP, Campaign, CohortPolicy, Level, NoiseTerms, PrivacyTerms
from prunefleet_shared.errors import ConfigError, InputError
from prunefleet_shared.layout import ChannelGroup, CostTable, CostTerm, Layout
from prunefleet_shared.noise_terms import NoiseWish, make_noise_terms
from prunefleet_shared.steering_terms import SteeringTerms

HERE, ELSEWHERE = "127.0.0.1:8470", "coordinator:8470"
CAMPAIGN = Campaign(
    campaign_id="ab" * 16,
    device_class="camera",
    privacy=PrivacyTerms(PLAIN, 1),
    model="resnet8/1x8x8/4",
    base_digest="0" * 64,
    layout=Layout((ChannelGroup("a", 4),)),
    cost_table=CostTable("macs", (CostTerm(1, (0,)),)),
    levels=(Level(500, 2),),
    public_order=((0, 1, 2, 3),),
    cohort=CohortPolicy(size=1, quorum=1, deadline_ms=60_000),
    decision_key="",
    slim_base_key="",
)
CODE = replace(CAMPAIGN, model="antigravity:fly/1x8x8/4")
STRICT, WITH_PLAIN = PrivacyPolicy(), PrivacyPolicy(allow_plain=True)


@pytest.mark.parametrize("model", ["resnet8/1x8x8/4", "timm:resnet18/3x32x32/4", "torchvision:alexnet/3x64x64/9"])
def test_networks_that_are_no_code_need_no_consent(model: str) -> None:
    owner_policy(HERE, STRICT)(replace(CAMPAIGN, model=model), 0)


@pytest.mark.parametrize("allowed", [(), ("antigravity",), ("antigravity:flying",), ("this:that",)])
def test_code_that_the_owner_did_not_name_is_refused_and_not_imported(allowed: tuple[str, ...]) -> None:
    sys.modules.pop("antigravity", None)
    with pytest.raises(ConfigError, match=r"antigravity:fly, which is not allowed.*--allow-factory antigravity:fly"):
        owner_policy(HERE, WITH_PLAIN, allowed_code=allowed)(CODE, 0)
    assert "antigravity" not in sys.modules


def test_code_that_the_owner_named_is_let_through_and_still_not_imported() -> None:
    sys.modules.pop("antigravity", None)
    owner_policy(HERE, STRICT, allowed_code=("this:that", "antigravity:fly"))(CODE, 0)
    assert "antigravity" not in sys.modules


def test_consent_to_code_is_no_consent_to_be_seen() -> None:
    with pytest.raises(ConfigError, match="--allow-plain"):
        owner_policy(ELSEWHERE, STRICT, allowed_code=("antigravity:fly",))(CODE, 0)
    owner_policy(ELSEWHERE, WITH_PLAIN, allowed_code=("antigravity:fly",))(CODE, 0)


def test_a_coordinator_elsewhere_needs_the_owners_consent() -> None:
    for address in ("coordinator:8470", "192.0.2.7:8470", "[2001:db8::1]:8470", "localhost.example:1", "127.0.0.1"):
        with pytest.raises(ConfigError, match=r"would see this device's own.*--allow-plain"):
            owner_policy(address, PrivacyPolicy())(CAMPAIGN, 0)
        owner_policy(address, PrivacyPolicy(allow_plain=True))(CAMPAIGN, 0)
    for address in ("127.0.0.1:8470", "localhost:8470", "[::1]:8470", "127.9.9.9:1"):
        owner_policy(address, PrivacyPolicy())(CAMPAIGN, 0)


@pytest.mark.parametrize("model", ["resnet8", "resnet9000/1x8x8/4", "a b:c/1x8x8/4", ""])
def test_a_network_that_this_version_does_not_know_may_pass_when_it_is_updated(model: str) -> None:
    with pytest.raises(InputError, match=r"abababababab: .*a newer version"):
        owner_policy(HERE, STRICT)(replace(CAMPAIGN, model=model), 0)


def summing(min_devices: int) -> Campaign:
    return replace(CAMPAIGN, privacy=PrivacyTerms(SUM, min_devices))


@pytest.mark.parametrize("address", [HERE, ELSEWHERE])
def test_a_private_sum_needs_no_consent_but_enough_devices(address: str) -> None:
    for num_devices in (8, 9, 1000):
        owner_policy(address, STRICT)(summing(num_devices), 0)
    for num_devices in (1, 7):
        with pytest.raises(ConfigError, match=rf"abababababab sums over as few as {num_devices} .* owner wants 8;"):
            owner_policy(address, WITH_PLAIN)(summing(num_devices), 0)


def test_how_many_devices_are_enough_is_the_owner_s_to_say() -> None:
    owner_policy(ELSEWHERE, PrivacyPolicy(min_devices=3))(summing(3), 0)
    with pytest.raises(ConfigError, match=r"owner wants 20; .*min_devices in the device's configuration, \[privacy\]"):
        owner_policy(ELSEWHERE, PrivacyPolicy(min_devices=20))(summing(19), 0)


def test_a_network_is_voted_on_so_many_times_and_no_more() -> None:
    check = owner_policy(ELSEWHERE, PrivacyPolicy(max_votes=2))
    for num_released in (0, 1):
        check(summing(8), num_released)
    with pytest.raises(ConfigError, match=r"voted 2 times, the most its owner allows; raise max_votes"):
        check(summing(8), 2)


def test_a_plain_campaign_is_over_no_sum_so_its_terms_are_not_asked_for() -> None:
    """Who agrees to be seen is not protected by how many others are, nor by how often."""
    owner_policy(ELSEWHERE, WITH_PLAIN)(CAMPAIGN, 1000)


# --- noise -----------------------------------------------------------------------------------------------------------

NOISE = make_noise_terms(CAMPAIGN.layout, 1, NoiseWish(epsilon_milli=4000, delta_power=6))


def noisy(noise: NoiseTerms | None = NOISE, mode: str = SUM_DP, num_levels: int = 1) -> Campaign:
    levels = tuple(Level(500 // 2**level, 2) for level in range(num_levels))
    return replace(CAMPAIGN, levels=levels, privacy=PrivacyTerms(mode, 8, noise))


def test_an_owner_says_how_much_a_campaign_may_tell_at_most() -> None:
    for max_epsilon in (4.0, 100.0, None):
        owner_policy(ELSEWHERE, PrivacyPolicy(max_epsilon=max_epsilon))(noisy(), 0)
    for campaign in (noisy(), summing(8)):
        with pytest.raises(
            ConfigError, match=r"no epsilon of at most 3\.999, .*mode sum\+dp .*max_epsilon .*\[privacy\]"
        ):
            owner_policy(ELSEWHERE, PrivacyPolicy(max_epsilon=3.999))(campaign, 0)


@pytest.mark.parametrize(
    ("campaign", "words"),
    [
        (noisy(replace(NOISE, multiplier_milli=NOISE.multiplier_milli // 2)), "epsilon"),
        (noisy(replace(NOISE, multiplier_milli=0)), "multiplier"),
        (noisy(replace(NOISE, epsilon_milli=10**9)), "promises nothing"),
        (noisy(replace(NOISE, delta_power=0)), "promises nothing"),
        (noisy(num_levels=2), "the budget is for 1 outcome sums, the schedule has 2 levels"),
        (noisy(None), r"noise belongs to mode sum\+dp"),
        (noisy(mode=SUM), r"noise belongs to mode sum\+dp"),
    ],
)
def test_noise_that_does_not_keep_its_promise_is_refused_whatever_the_owner_allows(
    campaign: Campaign, words: str
) -> None:
    with pytest.raises(ConfigError, match=f"does not keep its promise of noise: .*{words}"):
        owner_policy(HERE, WITH_PLAIN)(campaign, 0)


def test_which_of_several_networks_a_device_takes_is_told_only_where_the_owner_allows_it() -> None:
    several = replace(CAMPAIGN, privacy=PrivacyTerms(SUM, 8), steering=SteeringTerms((0,) * 4, (1,) * 4, 3))
    with pytest.raises(ConfigError, match=r"has 3 clusters.*this device's owner allows 1; raise max_clusters"):
        owner_policy(ELSEWHERE, STRICT)(several, 0)
    with pytest.raises(ConfigError, match="allows 2"):
        owner_policy(ELSEWHERE, PrivacyPolicy(max_clusters=2))(several, 0)
    owner_policy(ELSEWHERE, PrivacyPolicy(max_clusters=3))(several, 0)
