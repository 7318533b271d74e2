"""``campaign create``: from options to a signed folder, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from campaign_commands import CLASSES, OTHER_KEY, SPEC, WEIGHTS, create, made, members
from cryptography.hazmat.primitives import serialization
from operator_world import World, invoke

from prunefleet_coordinator.admission import why_campaign_impossible
from prunefleet_edge.latency_table import Calibration, LayerLatency, input_grid
from prunefleet_edge.models import parse_spec
from prunefleet_edge.profile import DeviceProfile, write_profile
from prunefleet_edge.work import save_weights
from prunefleet_shared.acceptance import Acceptance
from prunefleet_shared.authority_messages import ListMembers, MemberList
from prunefleet_shared.campaign import SUM, SUM_DP, Campaign, CohortPolicy, PrivacyTerms
from prunefleet_shared.decision_rules import DecisionRules
from prunefleet_shared.document_file import read_signed
from prunefleet_shared.documents import digest, open_document
from prunefleet_shared.errors import ConfigError, InputError
from prunefleet_shared.layout import CostTerm
from prunefleet_shared.limits import Limits
from prunefleet_shared.noise_terms import why_noise_impossible
from prunefleet_shared.roles import Role
from prunefleet_trainer.campaign_cli import app
from prunefleet_trainer.campaign_folder import campaign_folders
from prunefleet_trainer.class_levels import parse_classes
from prunefleet_trainer.public import fresh


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base-file.safetensors"
    path.write_bytes(WEIGHTS)
    return path


def test_create_writes_what_was_asked_for_signed_by_the_operator(world: World, tmp_path: Path, base: Path) -> None:
    options = ("--levels", "0.5,0.25", "--cohort", 5, "--quorum", 3, "--deadline", "90s", "--overselect", 1.5)
    more = ("--max-attempts", 4, "--budget", "parameters", "--min-devices", 4)
    campaign = made(world, tmp_path / "out", base, *options, *more)
    assert (campaign.device_class, campaign.model, campaign.privacy) == ("camera", SPEC, PrivacyTerms(SUM, 4))
    assert [level.permille for level in campaign.levels] == [500, 250]
    assert campaign.cohort == CohortPolicy(5, 3, 90_000, max_attempts=4, overselection_permille=1500)
    assert campaign.cost_table.unit == "parameters"
    assert campaign.decision_key == world.coordinator_key.hex()
    assert campaign.slim_base_key == world.trainer.public_key.hex()
    written = (tmp_path / "out" / "base.safetensors").read_bytes()
    assert digest(written) == campaign.base_digest
    assert world.coordinator.asked == [], "nobody but the authority was asked"


def test_create_writes_rules_limits_and_every_budget(world: World, tmp_path: Path, base: Path) -> None:
    rules = ("--order-rule", "borda", "--public-votes", 3, "--near-tie", 1.5)
    limits = ("--min-keep", 3, "--round-to", 4, "--skip", "net.conv1", "--tie", "net.blocks.2.conv1,net.blocks.2.conv2")
    budgets = ("--budget", "macs", "--budget", "parameters", "--budget", "training-memory=100MB")
    campaign = made(world, tmp_path / "out", base, *rules, *limits, *budgets)
    assert campaign.rules == DecisionRules("borda", 3, 1500)
    tied = (("net.blocks.2.conv1", "net.blocks.2.conv2"),)
    assert campaign.limits == Limits(3, 4, frozenset({"net.conv1"}), tied)
    assert [table.unit for table in campaign.further_tables] == ["parameters", "training_bytes"]
    dense = campaign.further_tables[0].cost(campaign.layout.dense_widths)
    assert [level.further_budgets for level in campaign.levels] == [(dense * 2 // 5, 10**8), (dense // 5, 10**8)]
    assert [len(options) for options in campaign.public_options] == [len(campaign.layout.groups)] * 2
    assert why_campaign_impossible(campaign) is None


def test_several_classes_are_several_campaigns_of_one_base(world: World, tmp_path: Path, base: Path) -> None:
    members(world)
    fixed = ("create", tmp_path, *CLASSES, "--levels", "0.3", "--model", SPEC, "--state", world.operator_state)
    result = invoke(app, *fixed, "--base", base, "--gate-alternative", "fleet_widths", "--json")
    assert result.exit_code == 0, result.output
    campaigns = {
        name: open_document(
            read_signed(tmp_path / name / "campaign.json"), "campaign", Campaign, world.operator.public_key
        )
        for name in ("phone", "camera", "meter")
    }
    levels = {name: [level.permille for level in campaign.levels] for name, campaign in campaigns.items()}
    assert levels == {"phone": [500, 250], "camera": [400], "meter": [300]}
    assert {name: campaign.device_class for name, campaign in campaigns.items()} == {name: name for name in campaigns}
    assert len({campaign.campaign_id for campaign in campaigns.values()}) == 3
    assert len({campaign.base_digest for campaign in campaigns.values()}) == 1
    assert {campaign.gate.alternative for campaign in campaigns.values()} == {"fleet_widths"}
    assert [made["device_class"] for made in json.loads(result.stdout)["campaigns"]] == ["phone", "camera", "meter"]
    assert campaign_folders(tmp_path) == [tmp_path / "camera", tmp_path / "meter", tmp_path / "phone"]
    assert campaign_folders(tmp_path / "phone") == [tmp_path / "phone"]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["Phone"], "1 to 32 of a-z"),
        (["phone=a"], "expected fractions"),
        (["phone=1.5"], "expected fractions"),
        (["phone", "phone=0.5"], "each class may come once"),
    ],
)
def test_classes_that_cannot_be_read_are_refused(classes: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_classes(classes, "0.4,0.2")


def test_a_profile_is_of_one_class(world: World, tmp_path: Path, base: Path) -> None:
    fixed = ("create", tmp_path, *CLASSES, "--model", SPEC, "--state", world.operator_state)
    result = invoke(app, *fixed, "--base", base, "--budget", "latency", "--profile", base)
    assert isinstance(result.exception, ConfigError)
    assert "one class" in str(result.exception)


def profile_of(campaign: Campaign, path: Path) -> Path:
    """A profile in which every group is the input of a layer with 64 outputs, in nanoseconds by its MACs."""
    layers = [
        LayerLatency(
            group.name, (CostTerm(1, (index,)),), (CostTerm(64),), 1, grid, (64,), tuple((64 * w,) for w in grid)
        )
        for index, group in enumerate(campaign.layout.groups)
        for grid in [input_grid(group.num_channels, 8)]
    ]
    fingerprint = campaign.layout.fingerprint()
    write_profile(
        path,
        DeviceProfile(
            model=SPEC,
            layout=fingerprint,
            runtime="onnxruntime",
            machine={},
            grid=8,
            layers=tuple(layers),
            calibration=Calibration(),
            checked=(),
            dense_ns=1,
            training_bytes={},
        ),
    )
    return path


def test_create_takes_a_measured_latency_as_a_budget(world: World, tmp_path: Path, base: Path) -> None:
    profile = profile_of(made(world, tmp_path / "first", base), tmp_path / "profile.json")
    measured = ("--budget", "macs", "--budget", "latency=8us", "--profile", profile)
    campaign = made(world, tmp_path / "out", base, *measured)
    (table,) = campaign.further_tables
    assert (table.unit, campaign.levels[0].further_budgets) == ("ps", (8_000_000,))
    assert table.cost(campaign.layout.dense_widths) == 64_000 * campaign.layout.num_channels
    members(world)
    result = create(world, tmp_path / "out2", "--base", base, *measured)
    assert "latency is fitted to the profile: off by 0%" in result.stderr


def test_create_puts_noise_for_all_levels_into_the_terms_when_asked_for(
    world: World, tmp_path: Path, base: Path
) -> None:
    noisy = ("--privacy", "sum+dp", "--epsilon", 2.5, "--delta-power", 7)
    campaign = made(world, tmp_path / "out", base, *noisy, "--levels", "0.5,0.4,0.3")
    noise = campaign.privacy.noise
    assert noise is not None
    assert (campaign.privacy.mode, campaign.privacy.min_devices) == (SUM_DP, 8)
    assert (noise.epsilon_milli, noise.delta_power, noise.num_outcomes) == (2500, 7, 3)
    assert why_noise_impossible(campaign) is None, "any device will find that it keeps its promise"


def test_create_judges_nothing_unless_it_is_told_by_what(world: World, tmp_path: Path, base: Path) -> None:
    assert made(world, tmp_path / "out", base).acceptance is None


def test_create_puts_floor_search_and_canaries_into_the_terms(world: World, tmp_path: Path, base: Path) -> None:
    terms = ("--max-loss", 0.02, "--max-worse", 0.15, "--search", "bisect", "--canary", 9, "--canary-cohorts", 3)
    campaign = made(world, tmp_path / "out", base, *terms, "--levels", "0.5,0.4,0.3")
    assert campaign.acceptance == Acceptance(20, 150, "bisect", 9, 3)
    assert why_campaign_impossible(campaign) is None
    result = create(world, tmp_path / "again", "--base", base, *terms)
    assert "at most 15 % of devices lose more than 2 points" in result.output
    assert "bisect; 3 x 9 canaries first" in result.output


def test_with_canaries_noise_is_for_twice_as_many_outcome_sums(world: World, tmp_path: Path, base: Path) -> None:
    noisy = ("--privacy", "sum+dp", "--epsilon", 8, "--max-loss", 0.05, "--canary", 8)
    campaign = made(world, tmp_path / "out", base, *noisy)
    assert campaign.privacy.noise is not None
    assert campaign.privacy.noise.num_outcomes == 4
    assert why_noise_impossible(campaign) is None, "any device will find that it keeps its promise"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-loss", 0.03), "one of 5, 20, 50, 100, 150, 200, 300 thousandths"),
        (("--max-loss", 0.05, "--max-worse", 1), "0 to 999 of 1000 devices"),
        (("--max-loss", 0.05, "--search", "guess"), "descend, bisect"),
        (("--max-loss", 0.05, "--canary", 11), "canaries are 0 to 10"),
        (("--max-loss", 0.05, "--canary", 5), "a sum is over 8 devices"),
        (("--canary", 5), "say --max-loss"),
        (("--search", "bisect"), "say --max-loss"),
    ],
)
def test_terms_that_nothing_could_be_judged_by_are_refused_before_anything_is_trained(
    world: World, tmp_path: Path, base: Path, options: tuple[object, ...], words: str
) -> None:
    members(world)
    result = create(world, tmp_path / "out", "--base", base, *options)
    assert isinstance(result.exception, ConfigError)
    assert words in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_two_campaigns_have_two_ids(world: World, tmp_path: Path, base: Path) -> None:
    ids = {made(world, tmp_path / name, base).campaign_id for name in ("a", "b")}
    assert len(ids) == 2
    assert all(len(campaign_id) == 32 for campaign_id in ids)


def test_create_says_what_it_made_as_json(world: World, tmp_path: Path, base: Path) -> None:
    members(world)
    result = create(world, tmp_path / "out", "--base", base, "--json")
    document = json.loads(result.stdout)
    campaign = open_document(
        read_signed(tmp_path / "out" / "campaign.json"), "campaign", Campaign, world.operator.public_key
    )
    assert document["campaign_id"] == campaign.campaign_id
    assert document["levels"][0] == {"permille": 400, "budget": campaign.levels[0].budget}


def test_create_trains_a_base_on_public_data(world: World, tmp_path: Path) -> None:
    members(world)
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8), np.arange(24) % 4
    np.savez(tmp_path / "public.npz", x=images, y=labels)
    public = ("--public", f"npz:{tmp_path / 'public.npz'}", "--epochs", 1)
    result = create(world, tmp_path / "out", *public, "--clusters", 3, "--json")
    assert result.exit_code == 0, result.output
    assert "training a base" in result.stderr
    assert (tmp_path / "out" / "base.safetensors").exists()
    assert json.loads(result.stdout)["num_clusters"] == 3
    refused = create(world, tmp_path / "other", *public, "--clusters", 3, "--no-steering")
    assert "--clusters: parts of what lift masks tell" in str(refused.exception)


def test_of_two_trainers_one_must_be_named_and_the_revoked_do_not_count(
    world: World, tmp_path: Path, base: Path
) -> None:
    second = world.member(Role.TRAINER, "second", key=b"\x01" * 91)
    gone = world.member(Role.TRAINER, "gone", is_revoked=True)
    members(world, second, gone)
    result = create(world, tmp_path / "out", "--base", base)
    assert isinstance(result.exception, ConfigError)
    assert "second, trainer" in str(result.exception)
    assert "--trainer NAME" in str(result.exception)
    assert "gone" not in str(result.exception)
    assert not (tmp_path / "out").exists()
    assert isinstance(create(world, tmp_path / "out", "--base", base, "--trainer", "gone").exception, ConfigError)
    assert create(world, tmp_path / "out", "--base", base, "--trainer", "trainer").exit_code == 0


def test_without_a_trainer_create_says_how_to_get_one(world: World, tmp_path: Path, base: Path) -> None:
    world.authority.answers[ListMembers] = lambda message: MemberList(
        (world.member(Role.COORDINATOR),) if message.role is Role.COORDINATOR else ()
    )
    result = create(world, tmp_path / "out", "--base", base)
    assert "none has joined" in str(result.exception)
    assert "prunefleet trainer join TOKEN" in str(result.exception)


def test_create_works_offline_with_key_files(world: World, tmp_path: Path, base: Path) -> None:
    path = tmp_path / "key.pem"
    key = OTHER_KEY.public_key()
    path.write_bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    result = create(world, tmp_path / "out", "--base", base, "--decision-key", path, "--slim-base-key", path)
    assert result.exit_code == 0, result.output
    assert world.authority.asked == []
    path.write_text("no key")
    result = create(world, tmp_path / "out2", "--base", base, "--decision-key", path, "--slim-base-key", path)
    assert isinstance(result.exception, InputError)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--levels", "0.2,0.4"), "falling"),
        (("--levels", "much"), "--levels"),
        (("--levels", "0.12345"), "--levels"),
        (("--quorum", 11), "quorum: expected 1 to 10"),
        (("--cohort", 0, "--quorum", 0), "cohort"),
        (("--deadline", "soon"), "deadline"),
        (("--deadline", "8d"), "deadline"),
        (("--overselect", 0.5), "overselect"),
        (("--max-attempts", 0), "max-attempts"),
        (("--class", "Kamera 1"), "--class"),
        (("--privacy", "sum+dp", "--epsilon", 0), "epsilon"),
        (("--privacy", "sum+dp", "--delta-power", 2), "delta"),
        (("--privacy", "open"), "--privacy: expected one of plain, sum"),
        (("--min-devices", 2), "--min-devices: a sum is over 3 devices to the cohort's 10, got 2"),
        (("--min-devices", 11), "to the cohort's 10, got 11; raise --cohort, or see --privacy"),
        (("--model", "resnet8"), "resnet8/3x32x32/10"),
        (("--model", "vgg/1x8x8/4"), "no built-in network"),
        (("--clusters", 2), "give --public, and leave out --no-steering"),
        (("--budget", "euros"), "budget unit"),
        (("--budget", "macs", "--budget", "macs"), "each unit may come once"),
        (("--budget", "training-memory=64MB"), "put --budget macs before it"),
        (("--budget", "macs", "--budget", "training-memory=lots"), "a size such as 512MB"),
        (("--budget", "macs", "--budget", "training-memory=1MB"), "1000000 training_bytes cannot be met"),
        (("--budget", "macs", "--budget", "parameters=few"), "a whole number of parameters"),
        (("--budget", "latency"), "`prunefleet edge profile` makes the profile"),
        (("--profile", "profile.json"), "--budget latency and --profile belong together"),
        (("--order-rule", "loudest"), "expected one of mean, majority, borda, public, got 'loudest'"),
        (("--public-votes", -1), "public votes: expected 0 to"),
        (("--near-tie", "nan"), "near tie"),
        (("--privacy", "sum+dp", "--public-votes", 3), "weighs votes against the public order by itself"),
        (("--round-to", 0), "round_to >= 1"),
        (("--min-keep", 64), "cannot be met: the smallest widths cost"),
        (("--skip", "conv9"), "skipped groups: there is no group conv9"),
        (("--tie", "net.conv1,net.blocks.1.conv1"), "only groups of the same size"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    world: World, tmp_path: Path, base: Path, options: tuple[object, ...], words: str
) -> None:
    members(world)
    result = create(world, tmp_path / "out", "--base", base, *options)
    assert isinstance(result.exception, ConfigError), result.output
    assert words in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_campaign_is_left_alone(world: World, tmp_path: Path, base: Path) -> None:
    before = made(world, tmp_path / "out", base)
    result = create(world, tmp_path / "out", "--base", base)
    assert "choose another folder" in str(result.exception)
    after = open_document(
        read_signed(tmp_path / "out" / "campaign.json"), "campaign", Campaign, world.operator.public_key
    )
    assert after == before


def test_neither_base_nor_data_is_an_error_as_is_a_base_of_another_network(world: World, tmp_path: Path) -> None:
    members(world)
    assert "--public SOURCE" in str(create(world, tmp_path / "out").exception)
    (tmp_path / "wrong").write_bytes(save_weights(fresh(parse_spec("resnet8/3x8x8/4"), 1)))
    assert isinstance(create(world, tmp_path / "out", "--base", tmp_path / "wrong").exception, InputError)
    assert isinstance(create(world, tmp_path / "out", "--base", tmp_path / "none").exception, InputError)


def test_who_has_not_joined_is_told_to(world: World, tmp_path: Path, base: Path) -> None:
    result = create(world, tmp_path / "out", "--base", base, "--state", tmp_path / "empty")
    assert isinstance(result.exception, ConfigError)
    assert "campaign join TOKEN" in str(result.exception)
