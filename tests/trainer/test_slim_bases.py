"""Slim bases by a child process: made once, kept, made again when damaged; and a trainer that is killed."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from operator_world import World
from serving_trainer import (
    FILES,
    LATER,
    SPEC,
    STORED,
    real_campaign,
)

from prunefleet_edge.ranking import masks_by_order
from prunefleet_shared.campaign import SlimBase
from prunefleet_shared.document_file import write_document
from prunefleet_shared.documents import canonical_bytes, digest, open_document, sign_document
from prunefleet_shared.errors import (
    ConfigError,
    InputError,
    PrunefleetError,
    RejectReason,
    RemoteProtocolError,
    reject,
)
from prunefleet_shared.identity_folder import save_identity
from prunefleet_shared.messages import (
    AwaitDecision,
    DecisionOffer,
    FetchModel,
    ModelChunk,
    PublishSlimBase,
    Total,
    UploadModel,
)
from prunefleet_shared.testing import (
    COORDINATOR_KEY,
    Answer,
    ScriptedLink,
    tiny_decision,
)
from prunefleet_trainer import retraining, trainer_cli
from prunefleet_trainer.model_folder import ModelFolder
from prunefleet_trainer.public import prune_base
from prunefleet_trainer.retrain_job import RetrainOrder, cache_key
from prunefleet_trainer.retraining import ChildRetraining, RetrainPlan
from prunefleet_trainer.runner import Retrained, SteeringSums

# --- bases and slim bases --------------------------------------------------------------------------------------------


CAMPAIGN = real_campaign()
DECISION = tiny_decision(CAMPAIGN)


@pytest.fixture
def public(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    path = tmp_path / "public.npz"
    np.savez(path, x=rng.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8), y=np.arange(24) % 4)
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.safetensors"
    path.write_bytes(FILES.weights)
    return path


def plan(tmp_path: Path, public: Path, base: Path | None = None) -> RetrainPlan:
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    return RetrainPlan(f"npz:{public}", state, base, epochs=1)


def no_child(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Orders that would have been carried out."""
    orders: list[Path] = []

    async def carry_out(order: Path) -> None:
        orders.append(order)
        document = json.loads(order.read_text())
        ModelFolder(Path(document["cache"])).save(cache_key(DECISION), b"made by nobody")

    monkeypatch.setattr(retraining, "_run_child", carry_out)
    return orders


def retrain(link: ScriptedLink, the_plan: RetrainPlan, said: list[str] | None = None) -> bytes:
    retraining_ = ChildRetraining(link, the_plan, [].append if said is None else said.append)
    return asyncio.run(retraining_(CAMPAIGN, DECISION, None)).model


def test_another_campaign_s_slim_base_is_not_taken_for_ours() -> None:
    """Two campaigns may come to the same decision from the same votes, and steer in different ways."""
    other = replace(DECISION, campaign_id="cd" * 16)
    assert other.fingerprint == DECISION.fingerprint
    assert cache_key(other) != cache_key(DECISION)


def test_a_child_makes_the_slim_base_and_a_second_trainer_finds_it(
    tmp_path: Path, public: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = retrain(ScriptedLink([]), plan(tmp_path, public, base))
    assert 0 < len(first) < len(FILES.weights)
    orders = no_child(monkeypatch)
    said: list[str] = []
    assert retrain(ScriptedLink([]), plan(tmp_path, public, base), said) == first
    assert orders == []
    assert "sending it again" in said[0]


def test_without_public_data_the_base_is_pruned_and_not_trained(tmp_path: Path, public: Path, base: Path) -> None:
    without = replace(plan(tmp_path, public, base), public=None)
    made = asyncio.run(
        ChildRetraining(ScriptedLink([]), without, print)(CAMPAIGN, DECISION, SteeringSums(Total((1,), 2)))
    )
    masks = masks_by_order(DECISION.prior, DECISION.widths)
    assert made == Retrained(prune_base(SPEC, FILES.weights, masks), is_retrained=False)
    assert retrain(ScriptedLink([]), plan(tmp_path, public, base)) != made.model, "public data that came later are used"
    again = asyncio.run(ChildRetraining(ScriptedLink([]), without, print)(CAMPAIGN, DECISION, None))
    assert again == made, "and what they made is not taken for the pruned base"


@pytest.mark.parametrize("options", [{}, {"public": "npz:nowhere", "no_public": True}])
def test_public_data_are_given_or_said_to_be_missing(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--no-public"):
        trainer_cli.run_trainer(**options)


def test_a_damaged_slim_base_is_made_again(
    tmp_path: Path, public: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = no_child(monkeypatch)
    retrain(ScriptedLink([]), plan(tmp_path, public, base))
    (path,) = (tmp_path / "state" / "slim_bases").iterdir()
    path.write_bytes(b"made by nobodY")
    assert retrain(ScriptedLink([]), plan(tmp_path, public, base)) == b"made by nobody"
    assert len(orders) == 2


def test_without_a_file_the_base_is_fetched_once_and_kept(
    tmp_path: Path, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = no_child(monkeypatch)
    retrain(ScriptedLink([], [FILES.weights]), plan(tmp_path, public))
    kept = Path(json.loads(orders[0].read_text())["base"])
    assert kept.read_bytes() == FILES.weights
    next((tmp_path / "state" / "slim_bases").iterdir()).unlink()
    retrain(ScriptedLink([]), plan(tmp_path, public))  # a script that is over: nothing may be fetched
    assert len(orders) == 2


def test_a_base_of_another_digest_is_not_used(
    tmp_path: Path, public: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = no_child(monkeypatch)
    base.write_bytes(b"another base")
    said: list[str] = []
    retrain(ScriptedLink([], [FILES.weights]), plan(tmp_path, public, base), said)
    used = Path(json.loads(orders[0].read_text())["base"])
    assert digest(used.read_bytes()) == CAMPAIGN.base_digest
    assert "not the base of campaign 0f0f0f0f" in said[0]


@pytest.mark.parametrize(
    "chunk",
    [ModelChunk(4, b"evil"), ModelChunk(4, b""), ModelChunk(3, b"evil"), ModelChunk(2**40, b"evil"), STORED],
    ids=["another", "empty", "too much", "endless", "no chunk"],
)
def test_a_coordinator_that_sends_another_base_is_not_believed(tmp_path: Path, public: Path, chunk: Answer) -> None:
    with pytest.raises(RemoteProtocolError, match="MALFORMED"):
        retrain(ScriptedLink([chunk]), plan(tmp_path, public))
    assert list((tmp_path / "state").rglob("*.safetensors")) == []


@pytest.mark.parametrize(("name", "digits"), [("fingerprint", 64), ("campaign_id", 32)])
def test_a_name_that_is_a_path_becomes_no_file(
    name: str, digits: int, tmp_path: Path, public: Path, base: Path
) -> None:
    evil = replace(DECISION, **{name: "../../../evil"})
    with pytest.raises(RemoteProtocolError, match=f"{digits} hex digits"):
        asyncio.run(ChildRetraining(ScriptedLink([]), plan(tmp_path, public, base), print)(CAMPAIGN, evil, None))


def test_a_network_that_is_code_is_made_only_if_it_was_allowed(
    tmp_path: Path, public: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code makes the very network that the campaign's base belongs to; what differs is who named it."""
    lines = ["from prunefleet_edge.models.resnet import CifarResNet", "def build(num_classes, in_channels):"]
    (tmp_path / "our_network.py").write_text("\n".join([*lines, "    return CifarResNet(1, in_channels, num_classes)"]))
    monkeypatch.chdir(tmp_path)
    campaign = replace(CAMPAIGN, model=SPEC.replace("resnet8", "our_network:build"))
    refused = plan(tmp_path, public, base)
    allowed = replace(refused, allowed_code=("our_network:build",))
    with pytest.raises(PrunefleetError, match="not allowed"):
        asyncio.run(ChildRetraining(ScriptedLink([]), refused, print)(campaign, DECISION, None))
    assert asyncio.run(ChildRetraining(ScriptedLink([]), allowed, print)(campaign, DECISION, None))


def test_what_is_wrong_with_the_data_is_said_by_the_parent(tmp_path: Path, public: Path, base: Path) -> None:
    np.savez(public, x=np.zeros((24, 9, 9, 1), dtype=np.uint8), y=np.arange(24) % 4)
    with pytest.raises(InputError, match="9x9x1"):
        retrain(ScriptedLink([]), plan(tmp_path, public, base))


def write_order(tmp_path: Path, public: Path, base: Path, epochs: int) -> Path:
    order = RetrainOrder(
        campaign=canonical_bytes(CAMPAIGN).decode(),
        decision=canonical_bytes(DECISION).decode(),
        base=str(base),
        public=f"npz:{public}",
        recipe="digits",
        epochs=epochs,
        threads=1,
        cache=str(tmp_path / "cache"),
    )
    write_document(tmp_path / "order.json", order)
    return tmp_path / "order.json"


def test_the_child_ends_with_its_parent(tmp_path: Path, public: Path, base: Path) -> None:
    command = [sys.executable, "-m", "prunefleet_trainer.retrain_job", str(write_order(tmp_path, public, base, 10**6))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as child:  # noqa: S603
        assert child.stdin is not None
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1)
        child.stdin.close()  # what the system does when the parent is killed
        assert child.wait(20) == 1


def test_cancelled_work_leaves_no_child(tmp_path: Path, public: Path, base: Path) -> None:
    async def cancel() -> int:
        children: list[asyncio.subprocess.Process] = []
        real = asyncio.create_subprocess_exec

        async def watched(*arguments: str, **options: object) -> asyncio.subprocess.Process:
            children.append(await real(*arguments, **options))
            return children[0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "create_subprocess_exec", watched)
            work = asyncio.ensure_future(retraining._run_child(write_order(tmp_path, public, base, 10**6)))
            while not children:
                await asyncio.sleep(0.01)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        assert children[0].returncode is not None
        return children[0].returncode

    assert asyncio.run(cancel()) == -signal.SIGTERM


# --- the command, killed ---------------------------------------------------------------------------------------------


def start_trainer(world: World, public: Path) -> subprocess.Popen[str]:
    script = "from prunefleet_trainer.trainer_cli import app"
    options = ["run", "--public", f"npz:{public}", "--state", str(world.trainer_state), "--epochs", "1", "--once"]
    command = [sys.executable, "-W", "ignore", "-c", f"{script}; app()", *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603


def test_a_trainer_killed_between_training_and_publishing_trains_nothing_twice(world: World, public: Path) -> None:
    campaign = real_campaign(world.trainer.public_key)
    signed = DecisionOffer(
        sign_document("campaign", campaign, world.operator.signing_key),
        sign_document("decision", tiny_decision(campaign), COORDINATOR_KEY),
    )
    answers = world.coordinator.answers
    answers[AwaitDecision] = signed
    answers[FetchModel] = lambda message: ModelChunk(
        len(FILES.weights), FILES.weights[message.offset : message.offset + 65536]
    )
    answers[PublishSlimBase] = STORED
    answers[UploadModel] = reject(RejectReason.MALFORMED)  # nothing gets through: trained, and not published
    with start_trainer(world, public) as first:
        deadline_s = time.monotonic() + 60
        while not world.coordinator.messages(UploadModel):
            assert time.monotonic() < deadline_s
            assert first.poll() is None
            time.sleep(0.02)
        first.kill()
        assert "retraining" in first.communicate(timeout=10)[1]
    del answers[UploadModel]
    with start_trainer(world, public) as second:
        words = second.communicate(timeout=60)[1]
    assert second.returncode == 0, words
    assert "was made before; sending it again" in words
    assert ": retraining" not in words
    (message,) = world.coordinator.messages(PublishSlimBase)
    published = open_document(message.slim_base, "slim_base", SlimBase, world.trainer.public_key)
    assert world.coordinator.whole_uploads == [published.model_digest]


def test_the_command_ends_well_when_told_to(world: World, public: Path) -> None:
    world.coordinator.answers[AwaitDecision] = LATER
    with start_trainer(world, public) as trainer:
        while not world.coordinator.messages(AwaitDecision):
            time.sleep(0.02)
        trainer.terminate()
        words = trainer.communicate(timeout=20)[1]
    assert trainer.returncode == 0, words
    assert "Traceback" not in words


def test_a_trainer_that_has_not_joined_or_has_no_data_is_told_at_once(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a file"):
        trainer_cli._check_source(f"npz:{tmp_path / 'none.npz'}")
    with pytest.raises(ConfigError, match="expected a folder"):
        trainer_cli._check_source(str(tmp_path / "none"))
    trainer_cli._check_source("digits:public")
    save_identity(world.trainer_state, world.operator)
    with pytest.raises(ConfigError, match="expected a trainer"):
        asyncio.run(trainer_cli._run(RetrainPlan("digits:public", world.trainer_state), is_once=True))
