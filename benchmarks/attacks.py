"""What can be learnt from votes, and what can be done to a decision: attacks on our own protocol, the bad news first.

    python benchmarks/attacks.py --devices 100 --shadows 100 --seed 1

- ``inference``: which classes a device has, from one vote and from sums; whether one image is among its images;
  whether a device was in a cohort, from exact and from noised sums.
- ``poisoning``: bad devices against the plain sum, the median and the trimmed mean over cohorts.
- ``protocol``: a coordinator that lies, and colluders below and above the bound, from the tests of the private sum;
- ``gate``: what a poisoned decision costs a few devices, with the gate and without; really trained.
- ``canary``: whether many noised releases refute the claimed epsilon; they must not, and do with half of the noise.

A row at a time goes to ``benchmarks/results/attacks.json``; a part whose rows are there for these settings is not run
again. Votes are kept outside the repository and made once: about 4 seconds each on one core.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from attack_canary import canary_tasks
from attack_classes import class_tasks, image_tasks
from attack_gate import gate_tasks
from attack_members import membership_tasks
from attack_plot import plot
from attack_poisoning import poisoning_tasks
from attack_protocol import protocol_tasks
from attack_statistics import Task
from attack_summary import summarise
from attack_votes import DeviceKind, Votes, World
from result_file import RESULTS, ROOT, ResultFile, Row

from prunefleet_shared.errors import ConfigError

KEY = ("part", "attack", "vote", "cohort", "epsilon", "noise", "rule", "attackers", "devices", "shadows", "seed")
PARTS = ("inference", "poisoning", "canary", "gate", "protocol")
TRIALS_MEMBERSHIP, TRIALS_CANARY = 4000, 5_000_000
IMAGE_DEVICES, GATE_DEVICES = 40, 8
FIGURE = ROOT / "docs" / "figures" / "attacks.svg"
NOTES = (
    "attacker: the coordinator; it has the base and the public half of CIFAR-100 (which the base was trained on), and "
    "makes shadow devices from public images; it never sees a private image (but for image_*: one candidate)",
    "device: 8 private images of each of 10 classes drawn at random, 24 steps of fine-tuning, Taylor scores per cost; "
    "graded vote: grades 0..7 and width votes at 50 % and 30 % of the MACs; one-bit vote: half of each group's "
    "channels, and the same width votes",
    "classes_*: 10 guesses of 100 classes, chance 0.1; cohort above 1: hit rate for a member of a cohort, from its "
    "exact sum (cohorts drawn from the benchmark's devices). profiles: likeness to the mean gradients of a class; "
    "shadows: ridge regression on shadow devices; made_up: the same on 6,000 that never fine-tune and cost nothing",
    "membership: the attacker knows the candidate's exact vote, which in a real fleet only the device does; cohorts "
    "are drawn with replacement; without the candidate another device is in its place, for which the same noise claims "
    "epsilon_replace_one; noise: as much as a sum needs at least, while all devices of a cohort add up to three times",
    "image_*: members against images of the test split, which neither the base nor a device has seen; base and "
    "candidates are known to the attacker, as are the device's classes",
    "poisoning: a fleet of 512 drawn with replacement from the devices; overlap: share of the better half of every "
    "group's channels that the honest fleet's plain sum has too (chance 0.5); widths_l1: channels moved, as a share",
    "worse_share: devices whose network keeps less than 95 % of the Taylor saliency that the honest decision keeps; "
    "below_own_share: devices whose own choice at the same cost keeps more. Proxies, nothing is retrained here: by the "
    "second, every device does best alone, which is not so after public retraining; part gate trains",
    "gate: the slim base of the honest and of the poisoned decision, each retrained on public images; then devices "
    "fine-tune, and the gate compares with their own choice; accuracy on test images of a device's classes. The own "
    "choice has the level's budget; had it what the decision costs, as it once did, poison would shrink it, too",
    "canary: noise on a vote of 448 channels and 2 levels, the attacker knows all other votes; bounds hold with 95 % "
    "each; a bound below the claim is no proof of the claim",
)


class Benchmark:
    """The tasks of each part; votes are made when a part first needs them.

    Args:
        devices: Votes to attack.
        shadows: The attacker's own.
        seed: Of everything.
    """

    def __init__(self, devices: int, shadows: int, seed: int) -> None:
        self._num = {"private": devices, "public": shadows}
        self._seed = seed

    def tasks(self, part: str) -> Iterator[Task]:
        """What makes a part's rows, one each."""
        match part:
            case "inference":
                return self._inference()
            case "poisoning":
                return poisoning_tasks(self._world, self._votes("private"), self._seed)
            case "canary":
                return canary_tasks(TRIALS_CANARY, self._seed)
            case "gate":
                return gate_tasks(self._world, self._votes("private"), GATE_DEVICES, self._seed)
            case "protocol":
                return protocol_tasks()
            case _:
                msg = f"parts: expected some of {', '.join(PARTS)}, got {part!r}"
                raise ConfigError(msg)

    def _inference(self) -> Iterator[Task]:
        world, devices, shadows = self._world, self._votes("private"), self._votes("public")
        yield from class_tasks(world, devices, shadows)
        yield from membership_tasks(world, devices, shadows, TRIALS_MEMBERSHIP, self._seed)
        yield from image_tasks(world, devices, shadows, IMAGE_DEVICES)

    @functools.cached_property
    def _world(self) -> World:
        return World(DeviceKind(seed=self._seed))

    def _votes(self, half: str) -> Votes:
        for index in range(self._num[half]):
            self._world.vote(half, index)
            if (index + 1) % 20 == 0:
                typer.echo(f"votes of {half} devices: {index + 1} of {self._num[half]}")
        return self._world.votes(half, self._num[half])


def _key(row: Row) -> Row:
    """The columns that say which row it is, those that mean nothing for it as None."""
    return {name: row.get(name) for name in KEY}


def main(
    *,
    devices: Annotated[int, typer.Option(min=2, help="votes to attack")] = 100,
    shadows: Annotated[int, typer.Option(min=2, help="the attacker's own devices")] = 100,
    parts: Annotated[str, typer.Option(help=f"of {', '.join(PARTS)}")] = ",".join(PARTS),
    seed: Annotated[int, typer.Option(help="of everything")] = 1,
    out: Annotated[Path, typer.Option(help="the result file")] = RESULTS / "attacks.json",
    figure: Annotated[Path, typer.Option(help="the picture")] = FIGURE,
) -> None:
    """Run what is not in the result file yet."""
    torch.set_num_threads(1)
    os.nice(10)
    command = f"python benchmarks/attacks.py --devices {devices} --shadows {shadows} --seed {seed}"
    results = ResultFile(out, command, {"notes": list(NOTES)}, KEY, summarise)
    benchmark = Benchmark(devices, shadows, seed)
    setting = {"devices": devices, "shadows": shadows, "seed": seed}
    for part in (part for part in parts.split(",") if part):
        for columns, measure in benchmark.tasks(part):
            key = _key({"part": part, **columns, **setting})
            if not results.has(**key):
                row = key | measure()
                results.add([row])
                typer.echo(json.dumps(row))
    results.add([])  # notes and summary as they are now, even where nothing was run
    plot(results.rows, figure)
    typer.echo(json.dumps(summarise(results.rows), indent=2))


if __name__ == "__main__":
    typer.run(main)
