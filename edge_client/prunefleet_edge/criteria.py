"""The saliency criteria by name."""

from __future__ import annotations

import numpy as np
from torch import nn

from prunefleet_edge.data import Samples
from prunefleet_edge.pruning_plan import CRITERIA, check_criterion
from prunefleet_edge.saliency import (
    SALIENCY_BATCH,
    activation_saliency,
    fpgm_saliency,
    l1_saliency,
    l2_saliency,
    norm_scale_saliency,
    random_saliency,
    taylor_saliency,
)
from prunefleet_edge.tracing import Trace
from prunefleet_shared.masks import FloatArray

__all__ = ["CRITERIA", "check_applies", "check_criterion", "needs_data", "score"]

_FROM_WEIGHTS = {
    "l1": l1_saliency,
    "l2": l2_saliency,
    "norm-scale": norm_scale_saliency,
    "fpgm": fpgm_saliency,
}


def needs_data(criterion: str) -> bool:
    """True when the scores depend on samples.

    Raises:
        ConfigError: There is no such criterion.
    """
    check_criterion(criterion)
    return criterion in ("taylor", "activation")


def check_applies(criterion: str, model: nn.Module, traced: Trace) -> None:
    """Refuse a criterion that cannot score this network, before anything is trained for it.

    Raises:
        ConfigError: There is no such criterion, or a group has nothing that it looks at.
    """
    check_criterion(criterion)
    if criterion == "norm-scale":
        norm_scale_saliency(model, traced)


def score(
    criterion: str,
    model: nn.Module,
    traced: Trace,
    samples: Samples,
    seed: int,
    *,
    batch_size: int = SALIENCY_BATCH,
) -> FloatArray:
    """One finite score per channel over all groups, float64, higher = keep.

    Where data says nothing (a network whose training went astray has no finite gradient, a perfect one none at all),
    the L1 norm of the weights takes its place.

    Args:
        criterion: One of :data:`CRITERIA`.
        model: Left as it was.
        traced: Its groups.
        samples: What the criteria that need data look at.
        seed: Of ``random``.
        batch_size: Samples held in memory at once.

    Raises:
        ConfigError: There is no such criterion, or it does not apply to this network.
    """
    check_criterion(criterion)
    if criterion == "random":
        return random_saliency(traced, seed)
    if criterion in _FROM_WEIGHTS:
        return _finite(_FROM_WEIGHTS[criterion](model, traced))
    if criterion == "taylor":
        scores = taylor_saliency(model, traced, samples.images, samples.labels, batch_size)
    else:
        scores = activation_saliency(model, traced, samples.images, batch_size)
    if np.isfinite(scores).all() and scores.any():
        return scores
    return _finite(l1_saliency(model, traced))


def _finite(scores_C: FloatArray) -> FloatArray:
    """Scores that can be ranked: NaN becomes 0, infinity the largest number."""
    return np.asarray(np.nan_to_num(scores_C), dtype=np.float64)
