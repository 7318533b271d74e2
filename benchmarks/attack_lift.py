"""What one lift mask says about its device's classes, to a coordinator that sees it by itself (mode ``plain``).

    python benchmarks/attack_lift.py

The attack is steering's own fit, made of a single device: the ten classes with most weight are the guess. Devices are
those of ``fleet.py``, ten classes of CIFAR-100 each; chance is one in ten. What the other mask of a vote betrays is in
``attacks.py``. Rows go to ``benchmarks/results/attack_lift.json``.
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import typer
from cifar100 import load_base, load_cifar100, spec_of
from fleet_cases import NET, NUM_DEVICES, Case, data_of
from result_file import RESULTS, ResultFile, Row, cache_folder

from prunefleet_edge.models import example_input
from prunefleet_edge.saliency import channel_use, lift_saliency
from prunefleet_edge.threads import DEFAULT_THREADS, use_threads
from prunefleet_edge.tracing import Trace, trace
from prunefleet_shared.masks import FloatArray, grade_layout
from prunefleet_shared.mixture import fit_mixture
from prunefleet_trainer.steering import public_use, steering_terms

SEEDS, IMAGES_PER_CLASS = (1, 2, 3), (4, 10, 20)
NUM_GUESSES = 10


def hit_rate(traced: Trace, profiles_KC: FloatArray, mask_C: FloatArray, classes: tuple[int, ...]) -> float:
    """Share of the guesses that are classes of the device."""
    found = fit_mixture(traced.layout, profiles_KC, mask_C.tolist(), 1, 7)
    guesses = np.argsort(-np.array(found.weights_ppm), kind="stable")[:NUM_GUESSES]
    return float(np.isin(guesses, classes).mean())


def summarise(rows: list[Row]) -> Row:
    """Mean hit rate by the number of images, over devices and seeds."""
    numbers = sorted({row["images_per_class"] for row in rows})
    return {
        f"hit_rate_{number}_images": round(float(np.mean([r["hit_rate"] for r in rows if _of(r) == number])), 4)
        for number in numbers
    }


def _of(row: Row) -> int:
    return int(row["images_per_class"])


def main() -> None:
    """Run what is not in the result file yet."""
    use_threads(DEFAULT_THREADS)
    about = {"network": NET, "chance": 0.1, "guesses": NUM_GUESSES}
    key = ("seed", "images_per_class", "device")
    results = ResultFile(RESULTS / "attack_lift.json", "python benchmarks/attack_lift.py", about, key, summarise)
    base = load_base(NET, cache_folder())
    traced = trace(base, example_input(spec_of(NET)))
    use = public_use(base, traced, load_cifar100().public)
    terms = steering_terms(use)
    profiles_KC = np.stack([grade_layout(traced.layout, lift_saliency(use_C, terms)) for use_C in use.use_KC])
    for seed, number, device in itertools.product(SEEDS, IMAGES_PER_CLASS, range(NUM_DEVICES)):
        own, _, classes = data_of(Case("overlap", seed, number), device)
        mask_C = grade_layout(traced.layout, lift_saliency(channel_use(base, traced, own.images), terms))
        hits = hit_rate(traced, profiles_KC, mask_C, classes)
        results.add([{"seed": seed, "images_per_class": number, "device": device, "hit_rate": round(hits, 4)}])
    typer.echo(json.dumps(summarise(results.rows), indent=2))


if __name__ == "__main__":
    typer.run(main)
