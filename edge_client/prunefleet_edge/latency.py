"""How fast a slim network is against the dense one on this device: batch 1, eager torch, alternating runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn


def latency_ratio(
    slim_model: nn.Module,
    dense_model: nn.Module,
    sample: Tensor,
    repeats: int = 9,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median latency of ``slim_model`` over that of ``dense_model``; the two alternate, so that load hits both.

    Args:
        slim_model: In any mode; left in eval mode.
        dense_model: The same.
        sample: 1×C×H×W.
        repeats: Timed runs of each, after two that are not timed.
        clock: Seconds, high resolution.
    """
    times: dict[bool, list[float]] = {True: [], False: []}
    with torch.no_grad():
        for repeat in range(repeats + 2):
            for is_slim, model in ((True, slim_model.eval()), (False, dense_model.eval())):
                start = clock()
                model(sample)
                if repeat >= 2:
                    times[is_slim].append(clock() - start)
    return statistics.median(times[True]) / max(1e-9, statistics.median(times[False]))
