"""A device's work on networks that are not built in: groups the operator left out, and code the owner allows."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prunefleet_edge import campaign_networks, work
from prunefleet_edge.data import Samples
from prunefleet_edge.kept_networks import KeptFolder, file_name
from prunefleet_edge.models import build, parse_spec
from prunefleet_edge.network_file import load_kept
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.status import kept_facts
from prunefleet_edge.work_process import Worker, WorkSetup
from prunefleet_shared.acceptance import Acceptance, Ruling, RulingReason
from prunefleet_shared.campaign import PLAIN, Campaign, CohortPolicy, Decision, PrivacyTerms
from prunefleet_shared.errors import ConfigError
from prunefleet_trainer.campaign_files import BaseFiles, describe_base, make_campaign
from prunefleet_trainer.public import fresh, read_base, retrain_slim_base, train_base

torch.set_num_threads(1)
NAME = "fleet_nets:Net"
SPEC = parse_spec(f"{NAME}/1x8x8/3")
RECIPE = Recipe(epochs=1, learning_rate=0.05, batch_size=8)
NETS = """
    from pathlib import Path
    from torch import nn, sigmoid

    Path(__file__).with_suffix(".ran").touch()

    class Net(nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 8, 3)
            self.fc = nn.Linear(8, num_classes)

        def forward(self, x):
            return self.fc(self.c(self.b(sigmoid(self.a(x))).relu()).relu().mean(dim=(2, 3)))
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that appears when the module ``fleet_nets`` in the working directory is imported."""
    (tmp_path / "fleet_nets.py").write_text(textwrap.dedent(NETS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "fleet_nets.ran"
    sys.modules.pop("fleet_nets", None)


def samples(num: int = 24) -> Samples:
    generator = torch.Generator().manual_seed(num)
    return Samples(torch.rand(num, 1, 8, 8, generator=generator), torch.arange(num) % 3)


def files() -> BaseFiles:
    return describe_base(SPEC, fresh(SPEC, 1, allowed_code=(NAME,)))


def campaign_of(made: BaseFiles) -> Campaign:
    return make_campaign(
        made,
        campaign_id="ab" * 16,
        device_class="camera",
        levels_permille=(700,),
        cohort=CohortPolicy(size=1, quorum=1, deadline_ms=60_000),
        decision_key=b"",
        slim_base_key=b"",
        privacy=PrivacyTerms(PLAIN, 1),
    )


def decision_for(campaign: Campaign) -> Decision:
    widths = (4, 4)
    return Decision(
        campaign_id=campaign.campaign_id,
        level=0,
        cost=campaign.cost_table.cost(widths),
        widths=widths,
        prior=campaign.public_order,
        num_devices=1,
        tally_digest="ef" * 32,
        fingerprint="cd" * 32,
    )


def test_what_the_operator_left_out_is_left_out_on_the_device(ran: Path, tmp_path: Path) -> None:
    made = files()
    campaign = campaign_of(made)
    assert [group.name for group in campaign.layout.groups] == ["net.b", "net.c"]
    allowed = (NAME,)
    assert campaign_networks.layout_fingerprint(campaign, made.weights, allowed) == campaign.layout.fingerprint()
    options = work.WorkOptions(RECIPE, seed=3, allowed_code=allowed)
    vote = work.prepare_vote(campaign, made.weights, samples(), options)
    assert vote.grades_C.shape == (16,)
    decision = decision_for(campaign)
    masks = [np.isin(np.arange(8), order[:4]) for order in decision.prior]
    slim_base = retrain_slim_base(
        campaign.model, made.weights, masks, samples(), RECIPE, 1, layout=campaign.layout, allowed_code=allowed
    )
    done = work.personalise(campaign, decision, made.weights, slim_base, samples(), options)
    assert [len(mask) for mask in done.masks] == [8, 8]
    assert done.kept.net.a.weight.shape == (6, 1, 3, 3), "kept whole"


def worker(tmp_path: Path, allowed: tuple[str, ...]) -> Worker:
    own = samples(40)
    pixels = (own.images.permute(0, 2, 3, 1) * 255).to(torch.uint8)
    np.savez(tmp_path / "own.npz", x=pixels.numpy(), y=own.labels.numpy())
    kept = tmp_path / "kept"
    return Worker(WorkSetup(f"npz:{tmp_path / 'own.npz'}", "device-1", "digits", 1, 1, None, kept, allowed))


def test_a_worker_runs_no_code_that_the_owner_did_not_name(ran: Path, tmp_path: Path) -> None:
    made = files()
    campaign = campaign_of(made)
    ran.unlink()
    del sys.modules["fleet_nets"]
    decision = decision_for(campaign)
    for allowed in ((), ("fleet_nets:Other",), ("fleet_nets",)):
        one = worker(tmp_path, allowed)
        for job in (
            lambda one=one: one.trace(campaign, made.weights),
            lambda one=one: one.vote(campaign, made.weights),
            lambda one=one: one.personalise(campaign, decision, made.weights, made.weights),
        ):
            with pytest.raises(ConfigError, match="fleet_nets:Net, which is not allowed"):
                job()
    assert not ran.exists()
    assert "fleet_nets" not in sys.modules
    fingerprint, _ = worker(tmp_path, (NAME,)).trace(campaign, made.weights)
    assert fingerprint == campaign.layout.fingerprint()
    assert ran.exists(), "the negative control"


def test_what_a_device_keeps_of_such_a_campaign_can_be_loaded(ran: Path, tmp_path: Path) -> None:
    made = files()
    campaign = campaign_of(made)
    decision = decision_for(campaign)
    masks = [np.isin(np.arange(8), order[:4]) for order in decision.prior]
    slim_base = retrain_slim_base(
        campaign.model, made.weights, masks, samples(), RECIPE, 1, layout=campaign.layout, allowed_code=(NAME,)
    )
    worker(tmp_path, (NAME,)).personalise(campaign, decision, made.weights, slim_base)
    net = load_kept(tmp_path / "kept" / "level-0.safetensors", sys.modules["fleet_nets"].Net(3))
    assert net(samples().images).shape == (24, 3)


def test_what_a_device_makes_in_a_judged_campaign_is_on_trial_until_it_is_promoted(ran: Path, tmp_path: Path) -> None:
    made = files()
    campaign = replace(campaign_of(made), acceptance=Acceptance(50, 100))
    decision, kept = decision_for(campaign), tmp_path / "kept"
    masks = [np.isin(np.arange(8), order[:4]) for order in decision.prior]
    slim_base = retrain_slim_base(
        campaign.model, made.weights, masks, samples(), RECIPE, 1, layout=campaign.layout, allowed_code=(NAME,)
    )
    outcome = worker(tmp_path, (NAME,)).personalise(campaign, decision, made.weights, slim_base)
    assert outcome.gain_over_dense is not None
    assert [path.name for path in kept.iterdir()] == [file_name(campaign, 0)]
    assert kept_facts(kept) is None
    held = Ruling(
        campaign.campaign_id, 1, 0, decision.fingerprint, False, RulingReason.HELD, 9, 0, 0, 0, 1, 1, "00" * 32, (0,)
    )
    assert KeptFolder(kept).follow(held).in_service == (0,)
    facts = kept_facts(kept)
    assert facts is not None
    net = load_kept(Path(str(facts["path"])), sys.modules["fleet_nets"].Net(3))
    assert net(samples().images).shape == (24, 3)


def test_the_trainers_side_runs_no_code_without_permission_either(ran: Path) -> None:
    made = files()
    ran.unlink()
    del sys.modules["fleet_nets"]
    for job in (
        lambda: fresh(SPEC, 1),
        lambda: train_base(SPEC, samples(), RECIPE, 1),
        lambda: read_base(SPEC, made.weights, samples()),
        lambda: retrain_slim_base(str(SPEC), made.weights, [], samples(), RECIPE, 1),
        lambda: build(SPEC),
    ):
        with pytest.raises(ConfigError, match="not allowed"):
            job()
    assert not ran.exists()


def test_a_layout_with_another_group_has_another_fingerprint(ran: Path) -> None:
    made = files()
    campaign = campaign_of(made)
    groups = (campaign.layout.groups[0], replace(campaign.layout.groups[1], name="elsewhere"))
    other = replace(campaign, layout=replace(campaign.layout, groups=groups))
    assert campaign_networks.layout_fingerprint(other, made.weights, (NAME,)) != other.layout.fingerprint()
