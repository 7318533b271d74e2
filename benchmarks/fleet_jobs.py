"""What runs in the worker processes of ``benchmarks/fleet.py``: votes, public retraining, and a device's arms.

Everything goes through the functions that a real device, coordinator and trainer use; only the wire is left out.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cifar100 import load_cifar100
from fleet_cases import LOCAL, Case, data_of, public_of
from result_file import Row

from prunefleet_edge import campaign_networks, work
from prunefleet_edge.data import Samples
from prunefleet_edge.egress import vote_vector
from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.latency import latency_ratio
from prunefleet_edge.pruning import Candidate
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.training import train
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.documents import read_document
from prunefleet_shared.masks import BoolArray
from prunefleet_shared.messages import SessionKind
from prunefleet_shared.private_sum import ring_of
from prunefleet_trainer.public import retrain_slim_base

GATED = frozenset({"fleet", "fleet_clusters"})
"""Arms in which the gate has the last word."""
ALONE = frozenset({"dense", "local", "agnostic", "agnostic_local"})
"""Arms in which a device says nothing."""


@dataclass(frozen=True, slots=True)
class Slim:
    """A retrained slim base.

    Attributes:
        masks: What is kept, per group, as lists of 0 and 1.
        path: Its weights.
    """

    masks: tuple[tuple[int, ...], ...]
    path: Path

    @property
    def keep_masks(self) -> list[BoolArray]:
        """The masks as arrays."""
        return [np.asarray(mask, dtype=np.bool_) for mask in self.masks]


@dataclass(frozen=True, slots=True)
class Job:
    """One fleet's campaign, as files that every worker can read.

    Attributes:
        case: Which fleet.
        folder: With ``campaign.json``, ``base.safetensors`` and the devices' working copies.
    """

    case: Case
    folder: Path

    @property
    def campaign(self) -> Campaign:
        """The campaign."""
        return read_document((self.folder / "campaign.json").read_bytes(), Campaign)

    @property
    def base(self) -> bytes:
        """The dense base."""
        return (self.folder / "base.safetensors").read_bytes()

    def options(self, device: int) -> work.WorkOptions:
        """How a device works."""
        state_dir = self.folder / "devices" / f"{device:02d}"
        return work.WorkOptions(LOCAL, seed=1000 * self.case.seed + device, state_dir=state_dir)


def start_worker() -> None:
    """One torch thread; benchmarks stand back for whoever works at the machine."""
    torch.set_num_threads(1)
    os.nice(10)


def vote_job(job: Job, device: int) -> list[int]:
    """A device's vector, as it would enter the sum."""
    own, _, _ = data_of(job.case, device)
    vote = work.prepare_vote(job.campaign, job.base, own, job.options(device))
    return [int(lane) for lane in vote_vector(job.campaign, vote)]


def slim_job(job: Job, slim: Slim, recipe: Recipe, weights_N: Sequence[float] | None) -> Slim:
    """Prune the base and retrain it on public data, unless that was done before."""
    if not slim.path.exists():
        public = public_of(job.case, load_cifar100())
        draw = None if weights_N is None else torch.tensor(weights_N, dtype=torch.float64)
        campaign = job.campaign
        model = retrain_slim_base(
            campaign.model, job.base, slim.keep_masks, public, recipe, job.case.seed, draw, layout=campaign.layout
        )
        write_whole(slim.path, model, 0o600)
    return slim


def device_job(job: Job, device: int, level: int, slims: Mapping[str, tuple[Slim, ...]]) -> list[Row]:
    """All arms of one device at one level: the dense copy, its own choice, and what came of each slim base.

    Args:
        job: Which campaign.
        device: Which device.
        level: Index into the schedule.
        slims: By arm, the networks between which the device chooses: ``agnostic`` is measured as shipped and, as
            ``agnostic_local``, fine-tuned; those in :data:`GATED` go through the device's gate; all others are
            fine-tuned.
    """
    own, test, _ = data_of(job.case, device)
    return _Device(job, device, level, own, test).rows(slims)


class _Device:
    """One device at one level; its own choice on the same images is made once, for all gates."""

    def __init__(self, job: Job, device: int, level: int, own: Samples, test: Samples) -> None:
        self._job, self._device, self._level, self._own, self._test = job, device, level, own, test
        self._campaign, self._base, self._options = job.campaign, job.base, job.options(device)
        self._fit = work.fit_split(own, self._options)
        self._made: dict[bytes, Candidate] = {}

    def rows(self, slims: Mapping[str, tuple[Slim, ...]]) -> list[Row]:
        dense = work.dense_copy(self._campaign, self._base, self._fit, self._options)
        whole = Candidate(dense, tuple(np.ones(n, dtype=np.bool_) for n in self._campaign.layout.dense_widths))
        rows = [self._row("dense", whole), self._row("local", self._own_net(self._fit))]
        for arm, networks in slims.items():
            shipped = [self._shipped(slim) for slim in networks]
            if arm == "agnostic":
                rows.append(self._row(arm, shipped[0]))
            if arm in GATED:
                rows.append(self._gated(arm, shipped))
            else:
                name = "agnostic_local" if arm == "agnostic" else arm
                rows.append(self._row(name, self._tuned(shipped, self._fit)))
        return rows

    def _shipped(self, slim: Slim) -> Candidate:
        weights, masks = slim.path.read_bytes(), tuple(slim.keep_masks)
        return Candidate(campaign_networks.load_masked(self._campaign, masks, weights), masks)

    def _gated(self, arm: str, shipped: Sequence[Candidate]) -> Row:
        fit = functools.partial(self._tuned, shipped)
        kept, verdict, _ = work.judge(fit, self._own_net, None, self._own, self._options)
        network = campaign_networks.nearest([one.model for one in shipped], self._fit)
        return self._row(arm, kept) | {"is_accepted": int(verdict.accepted), "network": network}

    def _tuned(self, shipped: Sequence[Candidate], samples: Samples) -> Candidate:
        start = shipped[campaign_networks.nearest([one.model for one in shipped], samples)]
        model = train(copy.deepcopy(start.model), samples, self._options.fine_tuning, self._options.seed)
        return Candidate(model, start.masks)

    def _own_net(self, samples: Samples) -> Candidate:
        key = samples.images.numpy().tobytes()
        if key not in self._made:
            self._made[key] = work.own_candidate(self._campaign, self._base, self._level, samples, self._options)
        return self._made[key]

    def _row(self, arm: str, candidate: Candidate) -> Row:
        case, campaign = self._job.case, self._campaign
        table, dense = campaign.cost_table, campaign_networks.load_base(campaign, self._base)
        cost = table.cost([int(mask.sum()) for mask in candidate.masks])
        return {
            "case": case.name,
            "arm": arm,
            "images_per_class": case.images_per_class,
            "level_macs_ratio": campaign.levels[self._level].permille / 1000,
            "macs_ratio": round(cost / table.cost(campaign.layout.dense_widths), 4),
            "latency_ratio": round(latency_ratio(candidate.model, dense, self._test.images[:1]), 3),
            "seed": case.seed,
            "device": f"device-{self._device:02d}",
            "accuracy": round(accuracy(candidate.model, self._test), 4),
            "up_bytes": 0 if arm in ALONE else up_bytes(campaign),
        }


def up_bytes(campaign: Campaign) -> int:
    """What a device sends up in a campaign, as payloads: its masked vote, and a masked outcome of each level."""
    kinds = (SessionKind.VOTE, SessionKind.OUTCOME)
    vote, outcome = (ring_of(campaign, campaign.lanes_of(kind)).packed_bytes for kind in kinds)
    return int(vote + len(campaign.levels) * outcome)
