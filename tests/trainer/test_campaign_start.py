"""``campaign start``, and that commands are quick to begin."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from campaign_commands import CLASSES, OTHER_KEY, SPEC, WEIGHTS, made, members
from click.testing import Result
from operator_world import World, invoke

from prunefleet_shared.campaign import PLAIN, Campaign, PrivacyTerms
from prunefleet_shared.document_file import write_signed
from prunefleet_shared.documents import open_document, sign_document
from prunefleet_shared.errors import CarrierError, ConfigError, InputError, RejectReason, RemoteProtocolError, reject
from prunefleet_shared.identity_folder import save_identity
from prunefleet_shared.messages import (
    StartCampaign,
    Stored,
    UploadModel,
)
from prunefleet_shared.roles import Role
from prunefleet_shared.wire_limits import CHUNK_BYTES
from prunefleet_trainer.campaign_cli import app


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base-file.safetensors"
    path.write_bytes(WEIGHTS)
    return path


# --- start -----------------------------------------------------------------------------------------------------------


def start(world: World, folder: Path, *options: object) -> Result:
    return invoke(app, "start", folder, "--state", world.operator_state, *options)


def test_start_uploads_the_base_then_starts(world: World, tmp_path: Path, base: Path) -> None:
    campaign = made(world, tmp_path / "out", base)
    world.coordinator.answers[StartCampaign] = Stored()
    result = start(world, tmp_path / "out", "--json")
    assert json.loads(result.stdout) == {"campaign_id": campaign.campaign_id}
    kinds = [type(message) for _, message in world.coordinator.asked]
    assert kinds == [UploadModel] * -(-len(WEIGHTS) // CHUNK_BYTES) + [StartCampaign]
    assert world.coordinator.whole_uploads == [campaign.base_digest]
    assert {peer.role for peer, _ in world.coordinator.asked} == {Role.OPERATOR}


def test_the_campaigns_of_several_classes_are_started_together(world: World, tmp_path: Path, base: Path) -> None:
    members(world)
    fixed = ("create", tmp_path / "out", *CLASSES, "--model", SPEC, "--state", world.operator_state)
    assert invoke(app, *fixed, "--base", base).exit_code == 0
    world.coordinator.answers[StartCampaign] = Stored()
    result = start(world, tmp_path / "out", "--json")
    assert len(set(json.loads(result.stdout)["campaign_ids"])) == 3
    signed = [message.campaign for _, message in world.coordinator.asked if isinstance(message, StartCampaign)]
    opened = [open_document(one, "campaign", Campaign, world.operator.public_key) for one in signed]
    assert [campaign.device_class for campaign in opened] == ["camera", "meter", "phone"]


def test_a_changed_base_is_not_sent(world: World, tmp_path: Path, base: Path) -> None:
    made(world, tmp_path / "out", base)
    body = bytearray(WEIGHTS)
    body[-1] ^= 1
    (tmp_path / "out" / "base.safetensors").write_bytes(body)
    result = start(world, tmp_path / "out")
    assert isinstance(result.exception, InputError)
    assert "expected digest" in str(result.exception)
    assert world.coordinator.asked == []


def test_a_changed_or_foreign_campaign_is_not_sent(world: World, tmp_path: Path, base: Path) -> None:
    campaign = made(world, tmp_path / "out", base)
    path = tmp_path / "out" / "campaign.json"
    path.write_text(path.read_text().replace('\\"quorum\\":8', '\\"quorum\\":1'))
    assert isinstance(start(world, tmp_path / "out").exception, InputError)
    write_signed(path, sign_document("campaign", campaign, OTHER_KEY))
    result = start(world, tmp_path / "out")
    assert "no operator's of this fleet" in str(result.exception)
    path.unlink()
    assert isinstance(start(world, tmp_path / "out").exception, InputError)
    assert world.coordinator.asked == []


def test_a_refused_start_says_why(world: World, tmp_path: Path, base: Path) -> None:
    made(world, tmp_path / "out", base)
    world.coordinator.answers[StartCampaign] = reject(RejectReason.WRONG_CAMPAIGN, got="another runs for camera")
    result = start(world, tmp_path / "out")
    assert isinstance(result.exception, RemoteProtocolError)
    assert "another runs for camera" in str(result.exception)


def test_an_unreachable_coordinator_is_given_up_in_time(world: World, tmp_path: Path, base: Path) -> None:
    made(world, tmp_path / "out", base)
    world.stop_coordinator()
    result = start(world, tmp_path / "out")
    assert isinstance(result.exception, CarrierError)
    assert result.exception.exit_code == 4


def test_a_plain_campaign_for_another_machine_takes_consent(world: World, tmp_path: Path, base: Path) -> None:
    campaign = made(world, tmp_path / "out", base, "--privacy", "plain")
    assert campaign.privacy == PrivacyTerms(PLAIN, 1)
    save_identity(world.operator_state, dataclasses.replace(world.operator, coordinator_address="fleet.invalid:8470"))
    result = start(world, tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    assert "--allow-plain" in str(result.exception)
    result = start(world, tmp_path / "out", "--allow-plain")
    assert isinstance(result.exception, CarrierError), "it went on to call fleet.invalid"


def test_a_private_campaign_needs_no_consent(world: World, tmp_path: Path, base: Path) -> None:
    made(world, tmp_path / "out", base)
    save_identity(world.operator_state, dataclasses.replace(world.operator, coordinator_address="fleet.invalid:8470"))
    assert isinstance(start(world, tmp_path / "out").exception, CarrierError), "it went on to call fleet.invalid"


# --- speed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["campaign_cli", "fleet_cli", "trainer_cli", "operator_commands", "retraining"])
def test_what_an_operator_types_does_not_wait_for_torch(module: str) -> None:
    script = f"import sys, prunefleet_trainer.{module}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603
    assert result.stdout.strip() == "False"
