"""What a poisoned decision costs devices, with the gate and without: really trained, on a few devices.

The honest and the poisoned totals go through the coordinator's own ``decide``; each slim base is retrained on public
images; each device then does what a device does (``personalise``). Without a gate it would keep the fleet's network.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from attack_poisoning import LEVEL, draw_fleet, poisoned_cohorts
from attack_statistics import Task
from attack_votes import Votes, World, of_every_class
from cifar100 import load_cifar100
from result_file import Row

from prunefleet_coordinator.aggregation import decide
from prunefleet_coordinator.combination import CombinationRule, combine
from prunefleet_edge.campaign_networks import load_networks
from prunefleet_edge.data import Samples
from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.ranking import masks_by_order
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.training import train
from prunefleet_edge.work import WorkOptions, personalise
from prunefleet_shared.campaign import Decision
from prunefleet_trainer.public import retrain_slim_base

DECISIONS = {"honest": 0.0, "fleet_inverted": 0.3, "knowing_shift": 0.3}
COHORT = 32
PUBLIC_PER_CLASS, TEST_PER_CLASS = 100, 50


def gate_tasks(world: World, devices: Votes, num_devices: int, seed: int) -> Iterator[Task]:
    """Accuracies of devices under each decision, one row a decision."""
    for name, share in DECISIONS.items():
        key = {"attack": f"gate_{name}", "rule": CombinationRule.SUM.value, "cohort": COHORT, "attackers": share}
        yield key, functools.partial(_measures, world, devices, name, num_devices, seed)


def _measures(world: World, devices: Votes, name: str, num_devices: int, seed: int) -> Row:
    decision = _decision(world, devices, name, seed)
    slim_base = _slim_base(world, decision, name)
    found = [_one_device(world, devices, decision, slim_base, index) for index in range(num_devices)]
    kept, without_gate, accepted = (list(column) for column in zip(*found, strict=True))
    return {
        "cost_of_budget": round(decision.cost / world.campaign.levels[LEVEL].budget, 4),
        "accepted_share": round(float(np.mean(accepted)), 4),
        "accuracy_with_gate": round(float(np.mean(kept)), 4),
        "accuracy_without_gate": round(float(np.mean(without_gate)), 4),
        "by_device_with_gate": kept,
        "by_device_without_gate": without_gate,
    }


def _decision(world: World, devices: Votes, name: str, seed: int) -> Decision:
    fleet = draw_fleet(world.campaign, devices, np.random.default_rng([seed, 0]))
    attack = "own_inverted" if name == "honest" else name
    cohorts = poisoned_cohorts(fleet, attack, DECISIONS[name], COHORT, np.random.default_rng([seed, COHORT]))
    return decide(world.campaign, combine(world.campaign.vote_lanes, cohorts, CombinationRule.SUM), LEVEL)


def _slim_base(world: World, decision: Decision, name: str) -> bytes:
    path = world.folder / f"slim-{name}-{decision.fingerprint[:16]}.safetensors"
    if not path.exists():
        public = load_cifar100().public
        images = of_every_class(public.labels.numpy(), PUBLIC_PER_CLASS, range(100), seed=2)
        recipe = Recipe(1, 0.05, batch_size=64, shift_pixels=4, flip=True, is_channels_last=True)
        masks = masks_by_order(decision.prior, decision.widths)
        chosen, layout = public[torch.from_numpy(images)], world.campaign.layout
        weights = retrain_slim_base(world.campaign.model, world.base, masks, chosen, recipe, 1, layout=layout)
        path.write_bytes(weights)
    return path.read_bytes()


def _one_device(
    world: World, devices: Votes, decision: Decision, slim_base: bytes, index: int
) -> tuple[float, float, bool]:
    """Accuracy of the network the gate keeps, of the fleet's network, and whether they are the same."""
    own = load_cifar100().private[torch.from_numpy(devices.images_NI[index])]
    test = _test_images(own)
    options = WorkOptions(world.kind.recipe, seed=index, state_dir=world.folder / "dense")
    done = personalise(world.campaign, decision, world.base, slim_base, own, options)
    kept = round(accuracy(done.kept, test), 4)
    if done.verdict.accepted:
        return kept, kept, True
    fleet_net = train(load_networks(world.campaign, decision, slim_base)[0], own, world.kind.recipe, index)
    return kept, round(accuracy(fleet_net, test), 4), False


def _test_images(own: Samples) -> Samples:
    test, classes = load_cifar100().test, sorted(set(own.labels.tolist()))
    return test[torch.from_numpy(of_every_class(test.labels.numpy(), TEST_PER_CLASS, classes, seed=3))]
