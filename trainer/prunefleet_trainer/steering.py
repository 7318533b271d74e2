"""Steering: public data drawn as the fleet's own sums suggest, to retrain a topology on what the fleet sees.

Public images fall into *kinds*: their classes. At a campaign's creation the use that each kind makes of the base's
channels is measured, and the campaign says what is usual (:func:`steering_terms`), so that a device can say where it
departs from that: its lift mask. When a decision is out, the same measurement gives every kind's own lift mask, its
*profile*; the mixture of profiles that explains the fleet's summed lift masks (``mixture``) says how often an image of
each kind is drawn (:func:`steer`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prunefleet_edge.campaign_networks import load_base, traced_as_asked
from prunefleet_edge.data import Samples
from prunefleet_edge.saliency import channel_use, lift_saliency
from prunefleet_edge.tracing import Trace
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.errors import InputError
from prunefleet_shared.masks import FloatArray, IntArray, grade_layout, half_mask
from prunefleet_shared.messages import Total
from prunefleet_shared.mixture import PPM
from prunefleet_shared.steering_record import SteeringRecord, make_record
from prunefleet_shared.steering_terms import USE_UNIT, SteeringTerms

MIN_KINDS = 2
USE_BATCH = 256
"""Images per forward pass."""
EVEN_PPM = 250_000
"""This much of what is drawn, in parts per million, is of all kinds alike: a class that the fleet sees and the fit has
missed must not be forgotten (ADR 22 has what it is worth)."""


@dataclass(frozen=True, slots=True)
class PublicUse:
    """How public images use a base.

    Attributes:
        kinds: For each kind, which class of the network's it is.
        kind_N: For each image the index of its kind, 0..K-1.
        use_KC: Mean use of every channel by each kind; see ``saliency.channel_use``.
    """

    kinds: tuple[int, ...]
    kind_N: Tensor
    use_KC: FloatArray


def public_use(base: nn.Module, traced: Trace, public: Samples) -> PublicUse:
    """Measure what public images of each class use.

    Raises:
        InputError: Fewer than two classes: there is nothing to choose from (the user's to mend).
    """
    classes, kind_N = torch.unique(public.labels, return_inverse=True)
    if len(classes) < MIN_KINDS:
        msg = f"public data: expected at least {MIN_KINDS} classes to steer by, got {len(classes)}"
        raise InputError(msg)
    uses = [channel_use(base, traced, public.images[kind_N == kind], USE_BATCH) for kind in range(len(classes))]
    return PublicUse(tuple(classes.tolist()), kind_N, np.stack(uses))


def steering_terms(use: PublicUse, num_clusters: int = 1) -> SteeringTerms:
    """What a campaign tells its devices of public use: mean and standard deviation over kinds; and of clusters."""
    mean_C, spread_C = use.use_KC.mean(axis=0) * USE_UNIT, use.use_KC.std(axis=0) * USE_UNIT
    usual = tuple(int(value) for value in np.rint(mean_C))
    return SteeringTerms(usual, tuple(max(1, int(value)) for value in np.rint(spread_C)), num_clusters)


def profiles(campaign: Campaign, terms: SteeringTerms, use: PublicUse) -> IntArray:
    """The lift mask that a device would send whose images are all of one kind, int64 [K, C]."""
    lifts_KC = np.stack([grade_layout(campaign.layout, lift_saliency(use_C, terms)) for use_C in use.use_KC])
    return lifts_KC if campaign.privacy.noise is None else half_mask(lifts_KC)


@dataclass(frozen=True, slots=True)
class Steering:
    """How the retraining of a slim base is steered.

    Attributes:
        record: What the fleet seems to see, and how that was found out.
        draws: For each of the slim base's networks, how often each public image is drawn, relative to the others,
            float64 [N].
    """

    record: SteeringRecord
    draws: tuple[Tensor, ...]


def steer(
    campaign: Campaign,
    decision: Decision,
    vote_total: Total,
    base: bytes,
    public: Samples,
    allowed_code: Collection[str] = (),
    outcome_totals: Sequence[Total] = (),
) -> Steering | None:
    """Find out what the fleet seems to see, from its sums; None where the campaign does not steer.

    Raises:
        InputError: Base or public data cannot be used (the user's to mend).
        LayoutError: The base has other groups than the campaign says.
        LocalProtocolError: The total is not the one that the decision follows from, or does not fit the campaign.
    """
    if campaign.steering is None:
        return None
    dense = load_base(campaign, base, allowed_code)
    use = public_use(dense, traced_as_asked(campaign, dense), public)
    masks_KC = profiles(campaign, campaign.steering, use)
    record = make_record(campaign, decision, vote_total, use.kinds, masks_KC, outcome_totals)
    return Steering(record, tuple(draw_weights(shares, use.kind_N) for shares in record.network_weights_ppm))


def draw_weights(weights_ppm: Sequence[int], kind_N: Tensor) -> Tensor:
    """How often each public image is to be drawn, relative to the others: its kind's share, split among its kind.

    A part of what is drawn (:data:`EVEN_PPM`) is of all kinds alike.

    Args:
        weights_ppm: Of each kind, parts per million.
        kind_N: Each image's kind.
    """
    num_kinds, even = len(weights_ppm), EVEN_PPM / PPM
    counts_K = torch.bincount(kind_N, minlength=num_kinds).clamp_min(1)
    share_K = (1 - even) * torch.tensor(weights_ppm, dtype=torch.float64) / PPM + even / num_kinds
    return (share_K / counts_K)[kind_N]
