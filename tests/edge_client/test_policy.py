"""What a device's owner has to agree to before a campaign may run anything here."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from prunefleet_edge.policy import owner_policy
from prunefleet_shared.campaign import Campaign, CohortPolicy, Level
from prunefleet_shared.errors import ConfigError, InputError
from prunefleet_shared.layout import ChannelGroup, CostTable, CostTerm, Layout
from prunefleet_shared.private_sum import PLAIN

HERE, ELSEWHERE = "127.0.0.1:8470", "coordinator:8470"
CAMPAIGN = Campaign(
    campaign_id="ab" * 16,
    device_class="camera",
    privacy_mode=PLAIN,
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


@pytest.mark.parametrize("model", ["resnet8/1x8x8/4", "timm:resnet18/3x32x32/4", "torchvision:alexnet/3x64x64/9"])
def test_networks_that_are_no_code_need_no_consent(model: str) -> None:
    owner_policy(HERE, allow_plain=False)(replace(CAMPAIGN, model=model))


@pytest.mark.parametrize("allowed", [(), ("antigravity",), ("antigravity:flying",), ("this:that",)])
def test_code_that_the_owner_did_not_name_is_refused_and_not_imported(allowed: tuple[str, ...]) -> None:
    sys.modules.pop("antigravity", None)
    with pytest.raises(ConfigError, match=r"antigravity:fly, which is not allowed.*--allow-factory antigravity:fly"):
        owner_policy(HERE, allow_plain=True, allowed_code=allowed)(CODE)
    assert "antigravity" not in sys.modules


def test_code_that_the_owner_named_is_let_through_and_still_not_imported() -> None:
    sys.modules.pop("antigravity", None)
    owner_policy(HERE, allow_plain=False, allowed_code=("this:that", "antigravity:fly"))(CODE)
    assert "antigravity" not in sys.modules


def test_consent_to_code_is_no_consent_to_be_seen() -> None:
    with pytest.raises(ConfigError, match="--allow-plain"):
        owner_policy(ELSEWHERE, allow_plain=False, allowed_code=("antigravity:fly",))(CODE)
    owner_policy(ELSEWHERE, allow_plain=True, allowed_code=("antigravity:fly",))(CODE)


@pytest.mark.parametrize("model", ["resnet8", "resnet9000/1x8x8/4", "a b:c/1x8x8/4", ""])
def test_a_network_that_this_version_does_not_know_may_pass_when_it_is_updated(model: str) -> None:
    with pytest.raises(InputError, match=r"abababababab: .*a newer version"):
        owner_policy(HERE, allow_plain=False)(replace(CAMPAIGN, model=model))
