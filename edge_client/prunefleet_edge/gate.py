"""The gate: keep the fleet's network unless the device's own choice is better by more than a margin.

Pure arithmetic on paired per-image losses of images neither network was fitted on. What it claims is written down
exactly: *on the gate split*, the network kept is not worse than the alternative by more than ``margin`` nats per image,
or one standard error of the paired difference where that is more (on 40 images a smaller lead is mostly luck).
Nothing is claimed about unseen images; reports publish the share of devices that got worse there.

Under 100 images a split of its own would leave too little to learn from, so the losses come from cross-fitting: each
half of the data is judged by networks fitted on the other half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CROSS_FIT_BELOW = 100
"""Images (fit and gate together) under which the losses are cross-fitted."""
DEFAULT_MARGIN = 0.02
"""Nats per image by which the alternative must win, at least, to be preferred: ties go to the fleet's network, which
more data made."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found.

    Attributes:
        accepted: True keeps the fleet's network.
        loss_gain: Mean paired loss of the alternative minus the fleet's, nats per image; positive = fleet better.
        accuracy_gain: Fleet's minus the alternative's accuracy on the same images, fraction.
    """

    accepted: bool
    loss_gain: float
    accuracy_gain: float


def compare(
    fleet_losses_N: npt.ArrayLike,
    own_losses_N: npt.ArrayLike,
    fleet_correct_N: npt.ArrayLike,
    own_correct_N: npt.ArrayLike,
    margin: float = DEFAULT_MARGIN,
) -> Verdict:
    """Compare two networks on the same N gate images.

    A loss that is not finite rules its network out; if both fail, the fleet's is kept.

    Args:
        fleet_losses_N: Cross-entropy of the fleet's network, nats.
        own_losses_N: The same of the device's own choice, image by image.
        fleet_correct_N: Whether the fleet's network was right.
        own_correct_N: Whether the device's own was.
        margin: Nats per image, >= 0.
    """
    fleet = np.nan_to_num(np.asarray(fleet_losses_N, dtype=np.float64), nan=1e6, posinf=1e6)
    own = np.nan_to_num(np.asarray(own_losses_N, dtype=np.float64), nan=1e6, posinf=1e6)
    loss_gain = float((own - fleet).mean())
    accuracy_gain = float(np.mean(np.asarray(fleet_correct_N, float) - np.asarray(own_correct_N, float)))
    fleet_failed, own_failed = (not np.isfinite(losses).all() for losses in (fleet_losses_N, own_losses_N))
    if fleet_failed or own_failed:
        return Verdict(bool(own_failed), loss_gain, accuracy_gain)
    return Verdict(loss_gain >= -max(margin, _standard_error(own - fleet)), loss_gain, accuracy_gain)


def _standard_error(differences_N: npt.NDArray[np.float64]) -> float:
    """Of the mean of N paired differences; 0 for fewer than two."""
    num = len(differences_N)
    return float(differences_N.std(ddof=1) / np.sqrt(num)) if num > 1 else 0.0
