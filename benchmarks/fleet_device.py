"""One device of a :class:`~fleet_bench.FleetBench`: what it has alone, and what it makes of a slim base.

A device's own choice is made once for all the decisions it is set against, and what was measured is kept.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable

import numpy as np
from fleet_bench import FleetBench, Slim, keep_arrays, kept_arrays
from result_file import Row

from prunefleet_edge import campaign_networks, work
from prunefleet_edge.data import PrivateData, Samples
from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.latency import latency_ratio
from prunefleet_edge.models.weights import save_weights
from prunefleet_edge.pruning import Candidate
from prunefleet_edge.training import train
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.documents import digest


class FleetDevice:
    """A device at one level.

    Args:
        bench: Its fleet.
        number: Which device.
        level: Index into the schedule.
    """

    def __init__(self, bench: FleetBench, number: int, level: int) -> None:
        self._bench, self._number, self._level = bench, number, level
        self._options = bench.options(number)
        self._folder = bench.folder / "measured" / f"{number:03d}-{level}"

    @functools.cached_property
    def _data(self) -> PrivateData:
        return self._bench.source.device(self._number)

    def alone(self) -> dict[str, Row]:
        """Arms in which the device says nothing: ``dense``, ``local``, ``agnostic`` and ``agnostic_local``."""
        return self._kept("alone", self._alone)

    def with_fleet(self, slim: Slim) -> dict[str, Row]:
        """A fleet's slim base fine-tuned here: by ``"0"`` as it is, by ``"1"`` after the gate."""
        return self._kept(f"fleet-{slim.name}", lambda: self._with_fleet(slim))

    def _alone(self) -> dict[str, Row]:
        bench, own = self._bench, self._data.own
        fit = work.fit_split(own, self._options)
        dense = work.dense_copy(bench.alone, bench.files.weights, fit, self._options)
        whole = tuple(np.ones(num, dtype=np.bool_) for num in bench.files.layout.dense_widths)
        shipped = self._shipped(bench.agnostic(self._level))
        return {
            "dense": self._measured(Candidate(dense, whole)),
            "local": self._measured(self._own_net(fit)),
            "agnostic": self._measured(shipped),
            "agnostic_local": self._measured(self._tuned(shipped, fit)),
        }

    def _with_fleet(self, slim: Slim) -> dict[str, Row]:
        shipped, made = self._shipped(slim), {}

        def fleet_net(samples: Samples) -> Candidate:
            key = digest(samples.images.numpy().tobytes())
            if key not in made:
                made[key] = self._tuned(shipped, samples)
            return made[key]

        kept, verdict, _ = work.judge(fleet_net, self._own_net, None, self._data.own, self._options)
        ungated = fleet_net(work.fit_split(self._data.own, self._options))
        return {"0": self._measured(ungated), "1": self._measured(kept) | {"is_accepted": int(verdict.accepted)}}

    def _shipped(self, slim: Slim) -> Candidate:
        return Candidate(campaign_networks.load_masked(self._bench.alone, slim.masks, slim.weights), slim.masks)

    def _tuned(self, shipped: Candidate, samples: Samples) -> Candidate:
        options = self._options
        return Candidate(train(copy.deepcopy(shipped.model), samples, options.fine_tuning, options.seed), shipped.masks)

    def _own_net(self, samples: Samples) -> Candidate:
        path = self._folder / f"own-{digest(samples.images.numpy().tobytes())[:16]}.npz"
        campaign, base = self._bench.alone, self._bench.files.weights
        if not path.exists():
            made = work.own_candidate(campaign, base, self._level, samples, self._options)
            keep_arrays(path, [np.frombuffer(save_weights(made.model), dtype=np.uint8), *made.masks])
        weights, *masks = kept_arrays(path)
        return Candidate(campaign_networks.load_masked(campaign, masks, weights.tobytes()), tuple(masks))

    def _measured(self, candidate: Candidate) -> Row:
        bench, table = self._bench, self._bench.files.macs
        cost = table.cost([int(mask.sum()) for mask in candidate.masks])
        dense = campaign_networks.load_base(bench.alone, bench.files.weights)
        return {
            "macs_ratio": round(cost / table.cost(bench.files.layout.dense_widths), 4),
            "latency_ratio": round(latency_ratio(candidate.model, dense, self._data.report.images[:1]), 3),
            "accuracy": round(accuracy(candidate.model, self._data.report), 4),
        }

    def _kept(self, name: str, measure: Callable[[], dict[str, Row]]) -> dict[str, Row]:
        path = self._folder / f"{name}.json"
        if not path.exists():
            found = measure()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(found).encode(), 0o600)
        return json.loads(path.read_text(encoding="utf-8"))
