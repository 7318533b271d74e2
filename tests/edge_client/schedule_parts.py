"""What the tests of pruning schedules share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from tied_nets import made, small_resnet, traced
from torch import nn

from prunefleet_edge.checkpoint import Checkpoint
from prunefleet_edge.data import Samples
from prunefleet_edge.pruning import Candidate
from prunefleet_edge.pruning_plan import PruningPlan
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.schedule import prune_and_retrain
from prunefleet_edge.tracing import cost_table

torch.set_num_threads(1)
RECIPE = Recipe(epochs=4, learning_rate=0.03, batch_size=40, held_out_ratio=0.2, flip=True, micro_batch=25)
TUNE = replace(RECIPE, epochs=2)
EXAMPLE = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))
ONE_SHOT = PruningPlan(RECIPE, fine_tune=TUNE)
ITERATIVE = PruningPlan(RECIPE, fine_tune=TUNE, num_steps=3)
CheckpointFor = Callable[[str], Checkpoint | None]


def samples(num: int = 110) -> Samples:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(num) % 3
    images = torch.rand(num, 1, 6, 6, generator=generator) * 0.6 + labels[:, None, None, None] * 0.15
    return Samples(images, labels)


class Task:
    """A network and what pruning it costs."""

    def __init__(self, make: Callable[[], nn.Module] = small_resnet, unit: str = "macs") -> None:
        self.dense = made(make)
        self.traced = traced(self.dense)
        self.layout = self.traced.layout
        self.table = cost_table(self.dense, EXAMPLE, self.traced, unit)
        self.dense_cost = self.table.cost(self.layout.dense_widths)

    def run(self, plan: PruningPlan, ratio: float = 0.4, **options: object) -> Candidate:
        budget = int(self.dense_cost * ratio)
        return prune_and_retrain(self.dense, EXAMPLE, self.traced, self.table, budget, samples(), plan, 7, **options)


def bits(candidate: Candidate) -> tuple[dict[str, bytes], list[list[bool]]]:
    tensors = {name: tensor.contiguous().numpy().tobytes() for name, tensor in candidate.model.state_dict().items()}
    return tensors, [mask.tolist() for mask in candidate.masks]


def widths_of(candidate: Candidate) -> tuple[int, ...]:
    return tuple(int(mask.sum()) for mask in candidate.masks)


def store(folder: Path) -> CheckpointFor:
    return lambda name: Checkpoint(folder / f"{name}.part", name, every_s=0)
