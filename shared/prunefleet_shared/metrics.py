"""Outcome of one decision on one device, as counts and one-hot histograms that can only be read as a sum.

A histogram bin rather than a number: summed one-hot bins give the fleet's distribution, its worst tenth included, and
no device's own value. Edges are fixed here, the same for every campaign, so they cannot be used to single a device out.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prunefleet_shared.lanes import LaneBlock, LaneRule, LaneTable
from prunefleet_shared.masks import IntArray

NUM_BINS = 16
GAIN_EDGES = (
    -0.30,
    -0.20,
    -0.15,
    -0.10,
    -0.05,
    -0.02,
    -0.005,
    0.005,
    0.02,
    0.05,
    0.10,
    0.15,
    0.20,
    0.30,
    0.40,
)
"""Accuracy gained on the device's gate split, over its own choice or its dense copy (fraction; negative = lost)."""
LATENCY_EDGES = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50, 0.60, 0.70, 0.80, 0.90, 1.00, 1.25, 1.50)
"""Latency of the slim network as a fraction of the dense one's, batch 1, on the device."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one decision went on one device. Never leaves it as such; :func:`outcome_vector` does.

    Attributes:
        finished: Fine-tuning ran to its end.
        accepted: The gate kept the fleet's network rather than the device's own.
        accuracy_gain: Fleet's minus own choice's accuracy on the gate split, fraction in [-1, 1]; None if unfinished.
        latency_ratio: Slim ÷ dense latency, > 0; None if unfinished.
        gain_over_dense: Accuracy of the network that the device kept minus that of its dense copy, on the gate split,
            fraction in [-1, 1]; None if unfinished, or if the campaign judges nothing.
        network: Which of the networks of a campaign with clusters the device tried: 0 the one for all, i that of
            cluster i (see ``clusters``).
    """

    finished: bool
    accepted: bool = False
    accuracy_gain: float | None = None
    latency_ratio: float | None = None
    gain_over_dense: float | None = None
    network: int = 0


OUTCOME_LANES = LaneTable(
    (
        LaneBlock("tried", 1, 1, LaneRule.FLAG),
        LaneBlock("finished", 1, 1, LaneRule.FLAG),
        LaneBlock("accepted", 1, 1, LaneRule.FLAG),
        LaneBlock("accuracy_gain", NUM_BINS, 1, LaneRule.AT_MOST_ONE),
        LaneBlock("latency_ratio", NUM_BINS, 1, LaneRule.AT_MOST_ONE),
    )
)
"""The lane table of an outcome session, in a campaign that judges nothing."""
JUDGED_OUTCOME_LANES = LaneTable(
    (*OUTCOME_LANES.blocks, LaneBlock("gain_over_dense", NUM_BINS, 1, LaneRule.AT_MOST_ONE))
)
"""The same in a campaign with an accuracy floor: what is not judged by is not asked."""
LANES_PER_NETWORK = 2
"""Tried and rejected, tried and kept."""


def outcome_lanes(*, is_judged: bool, num_networks: int = 1) -> LaneTable:
    """The lane table of the outcome sessions of a campaign with, or without, an accuracy floor and clusters."""
    table = JUDGED_OUTCOME_LANES if is_judged else OUTCOME_LANES
    if num_networks == 1:
        return table
    return LaneTable((*table.blocks, LaneBlock("network", LANES_PER_NETWORK * num_networks, 1, LaneRule.AT_MOST_ONE)))


def outcome_vector(outcome: Outcome, table: LaneTable = OUTCOME_LANES) -> IntArray:
    """The contribution (int64) that says ``outcome``, as far as ``table``, one of :func:`outcome_lanes`, asks."""
    parts = {
        "tried": np.ones(1, dtype=np.int64),
        "finished": np.full(1, outcome.finished, dtype=np.int64),
        "accepted": np.full(1, outcome.accepted, dtype=np.int64),
        "accuracy_gain": one_hot(outcome.accuracy_gain, GAIN_EDGES),
        "latency_ratio": one_hot(outcome.latency_ratio, LATENCY_EDGES),
        "gain_over_dense": one_hot(outcome.gain_over_dense, GAIN_EDGES),
    }
    return np.concatenate([_network(outcome, b.length) if b.name == "network" else parts[b.name] for b in table.blocks])


def _network(outcome: Outcome, length: int) -> IntArray:
    lanes = np.zeros(length, dtype=np.int64)
    if outcome.finished:
        lanes[LANES_PER_NETWORK * outcome.network + outcome.accepted] = 1
    return lanes


def one_hot(value: float | None, edges: tuple[float, ...]) -> IntArray:
    """16 lanes with a 1 in the bin of ``value`` (bin i holds edges[i-1] <= value < edges[i]); all 0 for None or NaN."""
    lanes = np.zeros(NUM_BINS, dtype=np.int64)
    if value is not None and not math.isnan(value):
        lanes[bisect_right(edges, value)] = 1
    return lanes


@dataclass(frozen=True, slots=True)
class OutcomeTally:
    """The sum of a cohort's outcomes.

    Attributes:
        tried: Devices that contributed.
        finished: Of those, how many finished fine-tuning.
        accepted: Of those, how many kept the fleet's network.
        accuracy_gain: 16 counts over :data:`GAIN_EDGES`.
        latency_ratio: 16 counts over :data:`LATENCY_EDGES`.
        gain_over_dense: 16 counts over :data:`GAIN_EDGES`; empty in a campaign that judges nothing.
        networks: For each network of a campaign with clusters, devices that tried it and rejected it, and that kept it.
    """

    tried: int
    finished: int
    accepted: int
    accuracy_gain: tuple[int, ...]
    latency_ratio: tuple[int, ...]
    gain_over_dense: tuple[int, ...] = ()
    networks: tuple[tuple[int, int], ...] = ()


def read_outcome(total: npt.ArrayLike, table: LaneTable = OUTCOME_LANES) -> OutcomeTally:
    """Name the parts of a summed outcome vector of ``table``."""
    parts = {name: [int(count) for count in part] for name, part in table.split(total).items()}
    networks = parts.get("network", [])
    return OutcomeTally(
        tried=parts["tried"][0],
        finished=parts["finished"][0],
        accepted=parts["accepted"][0],
        accuracy_gain=tuple(parts["accuracy_gain"]),
        latency_ratio=tuple(parts["latency_ratio"]),
        gain_over_dense=tuple(parts.get("gain_over_dense", ())),
        networks=tuple(zip(networks[::LANES_PER_NETWORK], networks[1::LANES_PER_NETWORK], strict=True)),
    )
