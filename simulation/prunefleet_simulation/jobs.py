"""What runs in the worker processes: a device's or the trainer's work, and what a simulation may measure beside it.

Every job is a function of plain data and returns plain data. Workers belong to this process tree; nothing here comes
from a peer.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from prunefleet_edge import campaign_networks, work
from prunefleet_edge.data import PrivateData
from prunefleet_edge.device import Vote
from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.latency import latency_ratio
from prunefleet_edge.models import ModelSpec, example_input, parse_spec
from prunefleet_edge.models.weights import join_networks
from prunefleet_edge.ranking import masks_by_order
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.tracing import count_macs
from prunefleet_edge.training import train
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.errors import InputError
from prunefleet_shared.gate_terms import FLEET_WIDTHS
from prunefleet_shared.masks import BoolArray, FloatArray
from prunefleet_shared.metrics import Outcome
from prunefleet_shared.steering_record import SteeringRecord
from prunefleet_simulation.fleet_data import DevicePools, Pool
from prunefleet_simulation.results import ArmCost
from prunefleet_trainer.campaign_files import BaseFiles, agnostic_masks, describe_base
from prunefleet_trainer.public import prune_base, read_base, retrain_slim_base, train_base
from prunefleet_trainer.runner import SteeringSums
from prunefleet_trainer.steering import steer


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm on one device: top-1 on its report split (fraction), and the network's cost against the dense one."""

    accuracy: float
    cost: ArmCost


@dataclass(frozen=True, slots=True)
class PersonalResult:
    """A decision tried on one device: what may leave, and what a simulation sees besides.

    Attributes:
        outcome: What may leave, as a sum.
        fleet: The network the device kept, whichever it was.
        local: The device's own choice; measured at the last level only, where arms are compared.
        fleet_widths: The same at the fleet's widths, where the campaign's gate asks for it.
    """

    outcome: Outcome
    fleet: ArmResult
    local: ArmResult | None
    fleet_widths: ArmResult | None = None


def start_worker() -> None:
    """One torch thread per worker; Ctrl-C is the main process's to handle."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def base_job(
    spec: ModelSpec,
    public: Pool,
    recipe: Recipe,
    seed: int,
    base: Path | None,
    *,
    is_steered: bool = False,
    num_clusters: int = 1,
) -> BaseFiles:
    """Train the base on public data, or read it, and describe it."""
    samples = public.samples(spec.num_classes, "public data")
    model = read_base(spec, _read(base), samples) if base else train_base(spec, samples, recipe, seed)
    return describe_base(spec, model, samples if is_steered else None, num_clusters=num_clusters)


def _read(base: Path) -> bytes:
    try:
        return base.read_bytes()
    except OSError as error:
        msg = f"{base}: not a readable base file: {error.strerror}"
        raise InputError(msg) from None


def trace_job(campaign: Campaign, base: bytes) -> str:
    """A device's own look at the network."""
    return campaign_networks.layout_fingerprint(campaign, base)


def vote_job(
    campaign: Campaign, base: bytes, pools: DevicePools, options: work.WorkOptions, public_scores_C: FloatArray | None
) -> tuple[Vote, ArmResult]:
    """A device's vote, and the arm ``dense``: its dense copy on the report split.

    ``public_scores_C`` replaces the device's scores: the control in which the fleet knows nothing of its data.
    """
    data = _private(campaign, pools)
    if public_scores_C is None:
        vote = work.prepare_vote(campaign, base, data.own, options)
    else:
        vote = work.scores_to_vote(campaign, public_scores_C)
        vote = work.with_lifts(campaign, base, data.own, vote)
    dense = work.dense_copy(campaign, base, work.fit_split(data.own, options), options)
    return vote, ArmResult(accuracy(dense, data.report), ArmCost(1.0, 1.0, 1.0))


def personal_job(
    campaign: Campaign,
    decision: Decision,
    base: bytes,
    slim_base: bytes | None,
    pools: DevicePools,
    options: work.WorkOptions,
) -> PersonalResult:
    """A device's work on a decision, and the arms ``fleet`` (after the gate) and ``local`` on its report split."""
    data = _private(campaign, pools)
    result = work.personalise(campaign, decision, base, slim_base, data.own, options)
    fleet = _arm(campaign, base, result.kept, data, result.outcome.latency_ratio)
    if decision.level < len(campaign.levels) - 1:
        return PersonalResult(result.outcome, fleet, None)
    fit = work.fit_split(data.own, options)
    own = _arm(campaign, base, work.own_choice(campaign, base, decision.level, fit, options), data)
    if campaign.gate.alternative != FLEET_WIDTHS:
        return PersonalResult(result.outcome, fleet, own)
    at_fleets = work.alternative(campaign, decision, base, fit, options).model
    return PersonalResult(result.outcome, fleet, own, _arm(campaign, base, at_fleets, data))


def slim_base_job(
    campaign: Campaign, base: bytes, masks: Sequence[BoolArray], public: Pool | None, recipe: Recipe, seed: int
) -> bytes:
    """A slim base that is not steered: the agnostic arms'; without public data, one that is not retrained either."""
    if public is None:
        return prune_base(campaign.model, base, masks, layout=campaign.layout)
    samples = public.samples(parse_spec(campaign.model).num_classes, "public data")
    return retrain_slim_base(campaign.model, base, masks, samples, recipe, seed, layout=campaign.layout)


def decided_job(
    campaign: Campaign,
    decision: Decision,
    sums: SteeringSums | None,
    base: bytes,
    public: Pool | None,
    recipe: Recipe,
    seed: int,
) -> tuple[bytes, SteeringRecord | None]:
    """The trainer's work on a decision: the slim base, and how it was steered; without public data only pruned."""
    masks = masks_by_order(decision.prior, decision.widths)
    if public is None:
        return prune_base(campaign.model, base, masks, layout=campaign.layout), None
    samples = public.samples(parse_spec(campaign.model).num_classes, "public data")
    steering = steer(campaign, decision, sums.vote, base, samples, (), sums.outcomes) if sums else None
    networks = [
        retrain_slim_base(campaign.model, base, masks, samples, recipe, seed, weights_N, layout=campaign.layout)
        for weights_N in (steering.draws if steering else [None])
    ]
    return join_networks(networks), steering.record if steering else None


def agnostic_job(
    campaign: Campaign,
    files: BaseFiles,
    budget: int,
    slim_base: bytes,
    pools: DevicePools,
    options: work.WorkOptions,
    *,
    is_retrained: bool,
) -> tuple[ArmResult, ArmResult]:
    """The arms ``agnostic`` (as shipped) and ``agnostic_local`` (fine-tuned here) on one device.

    Where the base was only pruned, a device without a fleet would prune its own dense copy, as it would with one.
    """
    data = _private(campaign, pools)
    masks = agnostic_masks(files, campaign.cost_table, budget, campaign.limits)
    shipped, fit = campaign_networks.load_masked(campaign, masks, slim_base), work.fit_split(data.own, options)
    start = copy.deepcopy(shipped)
    if not is_retrained:
        start = campaign_networks.slim_as_asked(campaign, work.dense_copy(campaign, files.weights, fit, options), masks)
    tuned = train(start, fit, options.fine_tuning, options.seed)
    agnostic = _arm(campaign, files.weights, shipped, data)
    return agnostic, _arm(campaign, files.weights, tuned, data, agnostic.cost.latency_ratio)


def _private(campaign: Campaign, pools: DevicePools) -> PrivateData:
    return pools.private(parse_spec(campaign.model).num_classes)


def _arm(
    campaign: Campaign, base: bytes, model: nn.Module, data: PrivateData, known_latency_ratio: float | None = None
) -> ArmResult:
    dense = campaign_networks.load_base(campaign, base)
    example = example_input(parse_spec(campaign.model))
    macs = count_macs(model, example) / count_macs(dense, example)
    params = _num_parameters(model) / _num_parameters(dense)
    latency = latency_ratio(model, dense, example[:1]) if known_latency_ratio is None else known_latency_ratio
    return ArmResult(accuracy(model, data.report), ArmCost(macs, params, latency))


def _num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
