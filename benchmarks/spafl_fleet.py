"""Our arms of ``benchmarks/fleet_spafl.py``: one campaign of a hundred devices, and what each device makes of it.

Everything goes through the functions that a real device, coordinator and trainer use; only the wire is left out.
"""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Sequence

import numpy as np
import torch
from fleet_jobs import Slim
from result_file import Row, cache_folder
from spafl_bytes import fleet_down_bytes, fleet_up_bytes
from spafl_world import NUM_DEVICES, SPEC, World, base_of

from prunefleet_coordinator.aggregation import decide
from prunefleet_edge import campaign_networks, work
from prunefleet_edge.data import Samples
from prunefleet_edge.egress import vote_vector
from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.latency import latency_ratio
from prunefleet_edge.pruning import Candidate
from prunefleet_edge.ranking import masks_by_order
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.training import train
from prunefleet_shared.campaign import SUM, CohortPolicy, Decision, PrivacyTerms
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.documents import canonical_bytes, digest
from prunefleet_shared.masks import BoolArray
from prunefleet_shared.messages import Total
from prunefleet_shared.mixture import PPM
from prunefleet_trainer.campaign_files import agnostic_masks, describe_base, make_campaign
from prunefleet_trainer.public import retrain_slim_base
from prunefleet_trainer.steering import Steering, steer

LEVELS_PERMILLE = (500, 250, 100)
LOCAL = Recipe(epochs=3, learning_rate=0.01, batch_size=32, min_steps=20)
"""Every training on a device, except in federated averaging."""
PUBLIC = Recipe(epochs=4, learning_rate=0.02, batch_size=64, shift_pixels=2, flip=True)
"""Every retraining of a slim base."""
MIN_DEVICES = 8
"""Fewest in a sum."""
NO_KEY = b"no key: nothing is signed in this benchmark"
SILENT = ("dense", "local", "agnostic_local")
"""Arms in which a device says nothing."""
SPEAKING = ("fleet", "fleet_unsteered")
_AGNOSTIC = "agnostic_local"


class Fleet:
    """One seed's campaign; votes, slim bases and working copies are in the cache.

    Args:
        world: Its images.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.files = describe_base(SPEC, base_of(world), world.public)
        self._slims: dict[tuple[str, int], Slim] = {}
        self._steerings: dict[int, tuple[Decision, Steering]] = {}
        self.campaign = make_campaign(
            self.files,
            campaign_id=digest(f"spafl {world.seed}".encode())[:32],
            device_class="benchmark",
            levels_permille=LEVELS_PERMILLE,
            cohort=CohortPolicy(NUM_DEVICES, NUM_DEVICES, 1000),
            privacy=PrivacyTerms(SUM, MIN_DEVICES),
            decision_key=NO_KEY,
            slim_base_key=NO_KEY,
        )
        stamp = digest(canonical_bytes(self.campaign) + f"{LOCAL}{PUBLIC}".encode())[:12]
        self.folder = cache_folder() / "spafl" / f"seed{world.seed}-{stamp}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def options(self, device: int) -> work.WorkOptions:
        """How a device works."""
        folder = self.folder / "devices" / f"{device:02d}"
        return work.WorkOptions(LOCAL, seed=1000 * self.world.seed + device, state_dir=folder)

    def vote(self, device: int) -> list[int]:
        """A device's vector, as it would enter the sum."""
        path = self.folder / f"vote-{device:02d}.npy"
        if not path.exists():
            vote = work.prepare_vote(self.campaign, self.files.weights, self.world.own[device], self.options(device))
            np.save(path, vote_vector(self.campaign, vote))
        return [int(lane) for lane in np.load(path)]

    @functools.cached_property
    def vote_total(self) -> Total:
        """The fleet's sum."""
        lanes_L = np.sum([self.vote(device) for device in range(NUM_DEVICES)], axis=0)
        return Total(tuple(int(lane) for lane in lanes_L), NUM_DEVICES)

    def slim(self, arm: str, level: int) -> Slim:
        """The retrained slim base of an arm that has one."""
        if (arm, level) not in self._slims:
            self._slims[arm, level] = self._slim(arm, level)
        return self._slims[arm, level]

    def steering(self, level: int) -> Row:
        """What the sums told of the fleet."""
        mixture = self._steered(level)[1].record.mixture
        return {"explained": round(mixture.explained_ppm / PPM, 4), "is_confident": int(mixture.is_confident)}

    def _steered(self, level: int) -> tuple[Decision, Steering]:
        if level not in self._steerings:
            total, base = self.vote_total, self.files.weights
            decision = decide(self.campaign, total, level)
            self._steerings[level] = decision, steer(self.campaign, decision, total, base, self.world.public)
        return self._steerings[level]

    def _slim(self, arm: str, level: int) -> Slim:
        if arm == _AGNOSTIC:
            masks, weights_N = agnostic_masks(self.files, self.files.macs, self.campaign.levels[level].budget), None
        else:
            decision, steering = self._steered(level)
            masks = masks_by_order(decision.prior, decision.widths)
            weights_N = steering.draws[0] if arm == "fleet" else None
        return self._retrained(masks, weights_N)

    def _retrained(self, masks: Sequence[BoolArray], weights_N: torch.Tensor | None) -> Slim:
        lists = tuple(tuple(int(kept) for kept in mask) for mask in masks)
        drawn = "alike" if weights_N is None else digest(weights_N.numpy().tobytes())[:12]
        slim = Slim(lists, self.folder / f"slim-{digest(canonical_bytes(lists))[:12]}-{drawn}.safetensors")
        if not slim.path.exists():
            campaign, seed = self.campaign, self.world.seed
            args = (campaign.model, self.files.weights, masks, self.world.public, PUBLIC, seed, weights_N)
            write_whole(slim.path, retrain_slim_base(*args, layout=campaign.layout), 0o600)
        return slim

    def device_rows(self, device: int, level: int | None, arms: Sequence[str]) -> list[Row]:
        """Some arms of one device at one level; None is the network that is not pruned, arm ``dense`` alone."""
        one = _Device(self, device)
        return [one.row(arm, level, one.made(arm, level)) for arm in arms]

    def drop_copies(self) -> None:
        """Forget the devices' working copies."""
        shutil.rmtree(self.folder / "devices", ignore_errors=True)


class _Device:
    """One device; its own choice on the same images is made once, for all gates."""

    def __init__(self, fleet: Fleet, device: int) -> None:
        self._fleet, self._number, self._campaign = fleet, device, fleet.campaign
        self._own, self._test = fleet.world.own[device], fleet.world.test[device]
        self._options = fleet.options(device)
        self._fit = work.fit_split(self._own, self._options)
        self._known: dict[tuple[int, bytes], Candidate] = {}
        self._is_accepted = 0

    def dense(self) -> Candidate:
        """The base, fine-tuned, not pruned."""
        model = work.dense_copy(self._campaign, self._fleet.files.weights, self._fit, self._options)
        return Candidate(model, tuple(np.ones(n, dtype=np.bool_) for n in self._campaign.layout.dense_widths))

    def made(self, arm: str, level: int | None) -> Candidate:
        """What the device ends up with."""
        if level is None:
            return self.dense()
        own_net = functools.partial(self._own_net, level)
        if arm == "local":
            return own_net(self._fit)
        slim = self._fleet.slim(arm, level)
        masks = tuple(slim.keep_masks)
        shipped = Candidate(campaign_networks.load_masked(self._campaign, masks, slim.path.read_bytes()), masks)
        if arm != "fleet":
            return self._tuned(shipped, self._fit)
        fit = functools.partial(self._tuned, shipped)
        kept, verdict, _ = work.judge(fit, own_net, None, self._own, self._options)
        self._is_accepted = int(verdict.accepted)
        return kept

    def _tuned(self, shipped: Candidate, samples: Samples) -> Candidate:
        return Candidate(train(copy.deepcopy(shipped.model), samples, LOCAL, self._options.seed), shipped.masks)

    def _own_net(self, level: int, samples: Samples) -> Candidate:
        key = level, samples.images.numpy().tobytes()
        if key not in self._known:
            weights = self._fleet.files.weights
            self._known[key] = work.own_candidate(self._campaign, weights, level, samples, self._options)
        return self._known[key]

    def row(self, arm: str, level: int | None, candidate: Candidate) -> Row:
        """What is measured; ``level`` None is the network that is not pruned."""
        table, dense = self._campaign.cost_table, campaign_networks.load_base(self._campaign, self._fleet.files.weights)
        cost, sample = table.cost([int(mask.sum()) for mask in candidate.masks]), self._test.images[:1]
        up, up_sum = (0, 0) if arm in SILENT or level is None else fleet_up_bytes(self._campaign, level)
        row = {
            **key_of(self._fleet.world, arm, self._number, level, rounds=int(arm in SPEAKING)),
            "macs_ratio": round(cost / table.cost(self._campaign.layout.dense_widths), 4),
            "latency_ratio": 1.0 if level is None else round(latency_ratio(candidate.model, dense, sample), 3),
            "accuracy": round(accuracy(candidate.model, self._test), 4),
            "up_bytes": up,
            "up_bytes_sum": up_sum,
            "down_bytes": self._down_bytes(arm, level),
            "own_images": len(self._own),
            "test_images": len(self._test),
        }
        if arm != "fleet" or level is None:
            return row
        return row | {"is_accepted": self._is_accepted} | self._fleet.steering(level)

    def _down_bytes(self, arm: str, level: int | None) -> int:
        base = self._fleet.files.weights
        if level is None or arm == "local":
            return len(base)
        if arm == _AGNOSTIC:  # nothing is voted on, so the slim base of the wanted level is all that is fetched
            return len(self._fleet.slim(arm, level).path.read_bytes())
        slims = [self._fleet.slim(arm, number).path.read_bytes() for number in range(level + 1)]
        return fleet_down_bytes(self._campaign, base, slims)


def key_of(world: World, arm: str, device: int, level: int | None, rounds: int) -> Row:
    """Which row it is; ``level`` None is the network that is not pruned."""
    return {
        "case": "spafl",
        "arm": arm,
        "images_per_class": world.images_per_class,
        "level_macs_ratio": 1.0 if level is None else LEVELS_PERMILLE[level] / 1000,
        "rounds": rounds,
        "seed": world.seed,
        "device": f"device-{device:02d}",
    }


def tuned(model: torch.nn.Module, own: Samples, seed: int) -> torch.nn.Module:
    """A copy of a model, fine-tuned on a device's images as in every other arm that fine-tunes."""
    fit = work.fit_split(own, work.WorkOptions(LOCAL, seed=seed))
    return train(copy.deepcopy(model), fit, LOCAL, seed)
