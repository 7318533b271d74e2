"""Federated averaging, as in McMahan et al., AISTATS 2017, algorithm 1, and nothing more.

In each round ``devices_per_round`` devices are drawn without replacement, each takes plain stochastic gradient steps
(no momentum, no weight decay, constant rate, no augmentation) from the round's model on its own images, and the next
model is the mean of theirs, weighted by their numbers of images. Which devices are drawn, and in what order each sees
its images, follows from the seed, the round and the device alone, so that a run that was killed goes on as it would
have, and another implementation can be given the same draws.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.data import Samples
from prunefleet_shared.document_file import write_whole

State = Mapping[str, Tensor]
OnRound = Callable[[int, nn.Module], None]
"""Told the number of rounds done, from 0, and the model in eval mode."""
_ROUND = "rounds_done"


@dataclass(frozen=True, slots=True)
class FedAvgPlan:
    """How devices are drawn and trained.

    Attributes:
        rounds: In all.
        devices_per_round: C·K of the paper.
        local_epochs: E of the paper, whose favourite pair is E = 1 (or 5) and B = 10.
        batch_size: B of the paper; the last batch of an epoch may be smaller.
        learning_rate: η of the paper, the same in all rounds.
        save_every: Rounds between two checkpoints.
    """

    rounds: int = 50
    devices_per_round: int = 10
    local_epochs: int = 1
    batch_size: int = 10
    learning_rate: float = 0.05
    save_every: int = 2

    def chosen(self, seed: int, number: int, num_devices: int) -> list[int]:
        """The devices of a round, ascending; rounds count from 1."""
        rng = np.random.default_rng([seed, 0xFEDA, number])
        return sorted(int(device) for device in rng.choice(num_devices, self.devices_per_round, replace=False))

    def times_chosen(self, seed: int, rounds: int, num_devices: int) -> list[int]:
        """How often each device has been chosen in the first ``rounds`` rounds."""
        drawn = [device for number in range(1, rounds + 1) for device in self.chosen(seed, number, num_devices)]
        return [drawn.count(device) for device in range(num_devices)]


def average(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """The mean of models' tensors, weighted; summed in float64, given back in each tensor's own type.

    Args:
        states: State dicts with the same keys and shapes.
        weights: One for each, such as its number of images; they need not sum to one.
    """
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    return {
        name: sum(
            (share * state[name].double() for share, state in zip(shares.tolist(), states, strict=True)),
            start=torch.zeros_like(first, dtype=torch.float64),
        ).to(first.dtype)
        for name, first in states[0].items()
    }


def local_steps(model: nn.Module, samples: Samples, plan: FedAvgPlan, seed: Sequence[int]) -> nn.Module:
    """Train a copy of ``model`` on one device's images and return it.

    Args:
        model: The round's model; left as it was.
        samples: The device's images.
        plan: How.
        seed: Of the order of images.
    """
    local, rng = copy.deepcopy(model).train(), np.random.default_rng(list(seed))
    optimizer = torch.optim.SGD(local.parameters(), plan.learning_rate)
    for _ in range(plan.local_epochs):
        for index in torch.split(torch.from_numpy(rng.permutation(len(samples))), plan.batch_size):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(local(samples.images[index]), samples.labels[index]).backward()
            optimizer.step()
    return local


def one_round(model: nn.Module, own: Sequence[Samples], plan: FedAvgPlan, seed: int, number: int) -> nn.Module:
    """Round ``number``, from 1: changes ``model`` into the next, and returns it in eval mode."""
    chosen = plan.chosen(seed, number, len(own))
    states = [local_steps(model, own[device], plan, (seed, number, device)).state_dict() for device in chosen]
    model.load_state_dict(average(states, [len(own[device]) for device in chosen]))
    return model.eval()


def run(
    model: nn.Module,
    own: Sequence[Samples],
    plan: FedAvgPlan,
    seed: int,
    path: Path,
    on_round: OnRound,
    *,
    not_after: int,
) -> nn.Module:
    """All rounds, from the checkpoint if there is one; returns the last model in eval mode.

    Args:
        model: What the first round starts from; changed.
        own: Each device's images.
        plan: How.
        seed: Of devices and orders.
        path: The checkpoint; kept at the end.
        on_round: Called at the start with the round of the checkpoint (0 without one), and after every round.
        not_after: A checkpoint of a later round is not used: somebody wants to see this round's model.
    """
    done = _restore(model, path, not_after)
    on_round(done, model.eval())
    for number in range(done + 1, plan.rounds + 1):
        on_round(number, one_round(model, own, plan, seed, number))
        if number % plan.save_every == 0 or number == plan.rounds:
            tensors = {**model.state_dict(), _ROUND: torch.tensor(number)}
            write_whole(path, save_tensors(tensors), 0o600)
    return model


def _restore(model: nn.Module, path: Path, not_after: int) -> int:
    """Load the checkpoint into ``model``; the number of rounds it stands for."""
    if not path.exists():
        return 0
    tensors = load_tensors(path.read_bytes())
    done = int(tensors.pop(_ROUND))
    if done > not_after:
        return 0
    model.load_state_dict(tensors)
    return done
