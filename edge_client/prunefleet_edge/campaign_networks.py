"""From a campaign's documents and files to networks: the base, what a decision leaves of it, what was shipped."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from torch import nn

from prunefleet_edge.data import Samples
from prunefleet_edge.evaluation import losses
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.models.weights import load_weights, split_networks
from prunefleet_edge.pruning import slim
from prunefleet_edge.ranking import masks_by_order
from prunefleet_edge.tracing import Trace, trace
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.errors import InputError
from prunefleet_shared.masks import BoolArray


def load_base(campaign: Campaign, base: bytes, allowed_code: Collection[str] = ()) -> nn.Module:
    """The campaign's dense network with the shipped weights.

    Raises:
        ConfigError: The network is made by code that the owner has not allowed.
        InputError: The weights do not fit.
    """
    return load_weights(build(parse_spec(campaign.model), allowed_code), base, "base model")


def load_masked(
    campaign: Campaign, masks: Sequence[BoolArray], weights: bytes, allowed_code: Collection[str] = ()
) -> nn.Module:
    """The campaign's network without the channels that are False in ``masks``, with slim weights.

    Raises:
        ConfigError: The network is made by code that the owner has not allowed.
        LayoutError: The masks do not fit the network.
        InputError: The weights do not fit.
    """
    small = slim_as_asked(campaign, build(parse_spec(campaign.model), allowed_code), masks)
    return load_weights(small, weights, "slim base").eval()


def load_networks(
    campaign: Campaign, decision: Decision, slim_base: bytes, allowed_code: Collection[str] = ()
) -> list[nn.Module]:
    """The decided slim networks with the shipped weights: the one for all first, then that of each cluster.

    Raises:
        InputError: The weights do not fit, or there are more networks than the campaign has clusters for.
        ConfigError, LayoutError: As :func:`load_masked`.
    """
    masks = masks_by_order(decision.prior, decision.widths)
    parts = split_networks(slim_base, "slim base")
    if len(parts) > campaign.num_networks:
        msg = f"slim base: expected at most {campaign.num_networks} networks, got {len(parts)}; ask the operator"
        raise InputError(msg)
    return [load_masked(campaign, masks, weights, allowed_code) for weights in parts]


def nearest(networks: Sequence[nn.Module], samples: Samples) -> int:
    """Which of the networks errs least on ``samples`` by mean loss; the first of equals, a broken one last."""
    if len(networks) == 1:
        return 0
    mean_losses = [float(losses(network, samples).mean()) for network in networks]
    return min(range(len(networks)), key=lambda index: (math.isnan(mean_losses[index]), mean_losses[index]))


def layout_fingerprint(campaign: Campaign, base: bytes, allowed_code: Collection[str] = ()) -> str:
    """Fingerprint of the layout this device traces from the campaign's base, without groups the operator left out.

    Raises:
        ConfigError: The network is made by code that the owner has not allowed.
        LayoutError: It cannot be traced.
    """
    traced = trace(load_base(campaign, base, allowed_code), example_input(parse_spec(campaign.model)))
    return traced.only([group.name for group in campaign.layout.groups]).layout.fingerprint()


def traced_as_asked(campaign: Campaign, dense: nn.Module) -> Trace:
    """The groups of the campaign's layout in ``dense``; the operator may have kept others whole.

    Raises:
        LayoutError: The network has other groups.
    """
    return trace(dense, example_input(parse_spec(campaign.model))).as_in(campaign.layout)


def slim_as_asked(campaign: Campaign, dense: nn.Module, masks: Sequence[BoolArray]) -> nn.Module:
    """``dense`` without the channels that are False in ``masks``, which follow the campaign's layout.

    Raises:
        LayoutError: The network has other groups, or the masks do not fit.
    """
    return slim(dense, example_input(parse_spec(campaign.model)), masks, traced_as_asked(campaign, dense))
