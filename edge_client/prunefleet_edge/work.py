"""The device's heavy work in torch: its own choice, its vote, and what it makes of a fleet's decision.

Pure functions of (campaign, weights, private samples, options): same input and seed, same result. They run in a worker
process; ``device.DeviceWork`` is how the round sees them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prunefleet_edge.blending import PRIOR_IMAGES, blended_masks
from prunefleet_edge.campaign_networks import (
    load_base,
    load_networks,
    nearest,
    slim_as_asked,
    traced_as_asked,
)
from prunefleet_edge.data import Samples, check_trainable, stratified_halves
from prunefleet_edge.device import Vote
from prunefleet_edge.evaluation import losses
from prunefleet_edge.gate import CROSS_FIT_BELOW, DEFAULT_MARGIN, Verdict, compare
from prunefleet_edge.latency import latency_ratio
from prunefleet_edge.models.weights import load_weights, save_weights
from prunefleet_edge.pruning import Candidate
from prunefleet_edge.ranking import keep_masks, masks_by_order, per_cost, rank_widths
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.retraining import retrain, strategy_named
from prunefleet_edge.retraining_options import PLAIN, RetrainingOptions, check_for_slim
from prunefleet_edge.saliency import channel_use, l1_saliency, lift_saliency, taylor_saliency
from prunefleet_edge.training import train
from prunefleet_shared.campaign import Campaign, Decision
from prunefleet_shared.documents import digest
from prunefleet_shared.errors import InputError, LayoutError
from prunefleet_shared.gate_terms import FLEET_WIDTHS
from prunefleet_shared.layout import option_for_width
from prunefleet_shared.masks import BoolArray, FloatArray, grade_layout
from prunefleet_shared.metrics import Outcome
from prunefleet_shared.steering_terms import why_steering_impossible


@dataclass(frozen=True, slots=True)
class WorkOptions:
    """How a device works.

    Attributes:
        fine_tuning: Every local training, of dense and slim networks alike.
        seed: Of order, augmentation and splits.
        margin: The gate's, nats per image.
        state_dir: Where the dense working copy is kept between calls; None trains it anew each time.
        allowed_code: Each ``package.module:factory`` that the owner lets a campaign's network be made by.
        retraining: How the fleet's slim base is fine-tuned; the device's own choice is always trained plainly.
    """

    fine_tuning: Recipe
    seed: int
    margin: float = DEFAULT_MARGIN
    state_dir: Path | None = None
    allowed_code: tuple[str, ...] = ()
    retraining: RetrainingOptions = PLAIN


@dataclass(frozen=True, slots=True)
class Personalised:
    """What came of a decision on one device.

    Attributes:
        kept: The network the device runs from now on: the fleet's slim base fine-tuned here, or its own choice.
        masks: Which channels of the dense network it has.
        verdict: Why.
        outcome: The same in the terms that may leave as a sum.
    """

    kept: nn.Module
    masks: tuple[BoolArray, ...]
    verdict: Verdict
    outcome: Outcome


def dense_copy(campaign: Campaign, base: bytes, samples: Samples, options: WorkOptions) -> nn.Module:
    """The dense working copy: the base fine-tuned on ``samples``; taken from ``state_dir`` when it is there."""
    model = load_base(campaign, base, options.allowed_code)
    path = _copy_path(base, samples, options)
    if path and path.exists():
        try:
            return load_weights(model, path.read_bytes(), str(path)).eval()
        except InputError:
            # A product, cut short when the power went: made again, from the base.
            path.unlink()
            model = load_base(campaign, base, options.allowed_code)
    train(model, samples, options.fine_tuning, options.seed)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(save_weights(model))
        part.replace(path)
    return model


def _copy_path(base: bytes, samples: Samples, options: WorkOptions) -> Path | None:
    if options.state_dir is None:
        return None
    content = samples.images.numpy().tobytes() + samples.labels.numpy().tobytes()
    name = digest(f"{digest(base)}|{digest(content)}|{options.fine_tuning}|{options.seed}".encode())
    return options.state_dir / f"dense-{name[:16]}.safetensors"


def vote_scores(campaign: Campaign, dense: nn.Module, samples: Samples) -> FloatArray:
    """What votes: Taylor saliency of the fine-tuned dense copy, per cost; one score per channel.

    Where Taylor says nothing (a copy whose training went astray has no finite gradient, a perfect one none at all),
    the L1 norm of the copy's weights takes its place.
    """
    traced = traced_as_asked(campaign, dense)
    scores = taylor_saliency(dense, traced, samples.images, samples.labels)
    if not np.isfinite(scores).all() or not scores.any():
        scores = np.nan_to_num(l1_saliency(dense, traced))
    return per_cost(traced.layout, campaign.cost_table, scores)


def scores_to_vote(campaign: Campaign, scores_C: FloatArray) -> Vote:
    """Grades, and for every level the widths that the device's own ranking gives at that budget."""
    layout = campaign.layout
    options = []
    for number, level in enumerate(campaign.levels):
        widths = rank_widths(layout, campaign.joint_cost(number), scores_C, level.budget, campaign.limits)
        options.append([option_for_width(w, n) for w, n in zip(widths, layout.dense_widths, strict=True)])
    return Vote(grade_layout(layout, scores_C), np.asarray(options, dtype=np.int64))


def fit_split(own: Samples, options: WorkOptions) -> Samples:
    """What everything is fitted on: all images where there are few (the gate cross-fits), else all but the gate's."""
    return own if len(own) < CROSS_FIT_BELOW else own[_fit_and_gate(own, options)[0]]


def _fit_and_gate(own: Samples, options: WorkOptions) -> tuple[torch.Tensor, torch.Tensor]:
    return stratified_halves(own.labels, torch.Generator().manual_seed(options.seed), ratio=0.75)


def prepare_vote(campaign: Campaign, base: bytes, own: Samples, options: WorkOptions) -> Vote:
    """Fine-tune the dense copy on private data, score it, vote for every level.

    Raises:
        InputError: The data cannot be learned from.
    """
    check_trainable(own, "private data")
    fit = fit_split(own, options)
    vote = scores_to_vote(campaign, vote_scores(campaign, dense_copy(campaign, base, fit, options), fit))
    return with_lifts(campaign, base, own, vote, options.allowed_code)


def with_lifts(campaign: Campaign, base: bytes, own: Samples, vote: Vote, allowed_code: Collection[str] = ()) -> Vote:
    """The vote with a lift mask, if the campaign steers: where private images use the base more than public ones do.

    The base, not the device's own copy: what public classes are compared with must be the same network everywhere. All
    images of the device count; nothing is fitted.

    Raises:
        LayoutError: The campaign's terms do not fit its layout (the operator's to mend).
    """
    if campaign.steering is None:
        return vote
    why = why_steering_impossible(campaign.layout, campaign.steering)
    if why:
        raise LayoutError(why)
    dense = load_base(campaign, base, allowed_code)
    use_C = channel_use(dense, traced_as_asked(campaign, dense), own.images)
    return replace(vote, lifts_C=grade_layout(campaign.layout, lift_saliency(use_C, campaign.steering)))


def own_choice(campaign: Campaign, base: bytes, level: int, samples: Samples, options: WorkOptions) -> nn.Module:
    """What the device would do without a fleet (arm ``local``): own scores, own pruning, own retraining.

    At the level's budgets and within the campaign's limits, like the fleet.
    """
    return own_candidate(campaign, base, level, samples, options).model


def own_candidate(
    campaign: Campaign,
    base: bytes,
    level: int,
    samples: Samples,
    options: WorkOptions,
    widths: Sequence[int] | None = None,
) -> Candidate:
    """:func:`own_choice`, and which channels it has; its own channels at ``widths``, where they are given."""
    dense = dense_copy(campaign, base, samples, options)
    scores = vote_scores(campaign, dense, samples)
    if widths is None:
        cost, budget = campaign.joint_cost(level), campaign.levels[level].budget
        widths = rank_widths(campaign.layout, cost, scores, budget, campaign.limits)
    masks = keep_masks(campaign.layout, scores, widths)
    small = slim_as_asked(campaign, dense, masks)
    return Candidate(train(small, samples, options.fine_tuning, options.seed), tuple(masks))


def alternative(
    campaign: Campaign, decision: Decision, base: bytes, samples: Samples, options: WorkOptions
) -> Candidate:
    """What the gate sets the fleet's network against, as the campaign says.

    At the level's budget, not at what the decision costs: a poisoned decision may be far below it, and would drag the
    alternative down with it. A campaign that wants one artefact for all (``fleet_widths``) has to live with that.
    """
    widths = decision.widths if campaign.gate.alternative == FLEET_WIDTHS else None
    return own_candidate(campaign, base, decision.level, samples, options, widths)


def blended(
    campaign: Campaign,
    decision: Decision,
    base: bytes,
    samples: Samples,
    options: WorkOptions,
    prior_images: int = PRIOR_IMAGES,
) -> Candidate:
    """The device's dense copy pruned to the decided widths, not fine-tuned yet; see ``blending``.

    Raises:
        LayoutError: The decision does not fit the network.
    """
    dense = dense_copy(campaign, base, samples, options)
    scores = vote_scores(campaign, dense, samples)
    masks = blended_masks(campaign.layout, decision.prior, scores, decision.widths, len(samples), prior_images)
    return Candidate(slim_as_asked(campaign, dense, masks), tuple(masks))


def personalise(
    campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None, own: Samples, options: WorkOptions
) -> Personalised:
    """Fine-tune the fleet's network here, set it against the device's own choice, and keep the better.

    Args:
        campaign: What was asked.
        decision: What was decided.
        base: The dense base.
        slim_base: What the trainer made of it; None where it could not retrain it: then the device blends. Of several
            networks in it the one is tried that errs least on the images to fit on.
        own: Private images.
        options: How the device works.

    Raises:
        ConfigError: A strategy that a slim network has nothing for (the owner's to mend).
        InputError: The data cannot be learned from, or weights do not fit.
        LayoutError: The decision does not fit the network.
    """
    check_for_slim(options.retraining)
    check_trainable(own, "private data")
    shipped: list[Candidate] = []
    if slim_base is not None:
        masks = tuple(masks_by_order(decision.prior, decision.widths))
        shipped = [Candidate(net, masks) for net in load_networks(campaign, decision, slim_base, options.allowed_code)]

    def tried(samples: Samples) -> int:
        return nearest([network.model for network in shipped], samples) if shipped else 0

    def fleet_net(samples: Samples) -> Candidate:
        recipe, teacher = options.fine_tuning, None
        start = shipped[tried(samples)] if shipped else blended(campaign, decision, base, samples, options)
        if options.retraining.strategy == "distilled":
            teacher = dense_copy(campaign, base, samples, options)  # fitted on no other images than the network is
        strategy = strategy_named(options.retraining, teacher=teacher, label_smoothing=recipe.label_smoothing)
        model = copy.deepcopy(start.model)
        return Candidate(retrain(model, None, samples, recipe, strategy, options.seed), start.masks)

    def own_net(samples: Samples) -> Candidate:
        return alternative(campaign, decision, base, samples, options)

    def dense_net(samples: Samples) -> nn.Module:
        return dense_copy(campaign, base, samples, options)  # the own choice was made of it: it is on the disk

    judged_by = dense_net if campaign.acceptance is not None else None
    kept, verdict, gain_over_dense = judge(fleet_net, own_net, judged_by, own, options)
    ratio = latency_ratio(kept.model, load_base(campaign, base, options.allowed_code), own.images[:1])
    network = tried(fit_split(own, options))
    outcome = Outcome(True, verdict.accepted, verdict.accuracy_gain, ratio, gain_over_dense, network)
    return Personalised(kept.model, kept.masks, verdict, outcome)


Fit = Callable[[Samples], Candidate]
"""Makes a network of some of a device's images."""


def judge(
    fleet_net: Fit, own_net: Fit, dense_net: Callable[[Samples], nn.Module] | None, own: Samples, options: WorkOptions
) -> tuple[Candidate, Verdict, float | None]:
    """The network to keep, the gate's verdict on images that neither candidate saw while it was judged, and the gain.

    That is the accuracy of the network kept minus that of the dense copy on the same images, fitted on the same ones;
    None without ``dense_net``.

    Args:
        fleet_net: Fits the fleet's network to samples.
        own_net: Fits the device's own choice.
        dense_net: Fits the dense copy.
        own: All that the device learns from.
        options: Its seed splits, its margin judges.
    """
    is_cross_fitted = len(own) < CROSS_FIT_BELOW
    if is_cross_fitted:
        first, second = stratified_halves(own.labels, torch.Generator().manual_seed(options.seed))
        splits = [(own[first], own[second]), (own[second], own[first])]
    else:
        fit_index, gate_index = _fit_and_gate(own, options)
        splits = [(own[fit_index], own[gate_index])]
    paired, dense_hits = [], []
    for fit, test in splits:
        fleet, mine = fleet_net(fit), own_net(fit)
        paired.append(_paired(fleet, mine, test))
        dense_hits += [_hits(dense_net(fit), test)] if dense_net is not None else []
    paired_4N = np.concatenate(paired, axis=1)
    verdict = _verdict(paired_4N, options)
    kept_N = paired_4N[2 if verdict.accepted else 3]
    gain = float(np.mean(kept_N - np.concatenate(dense_hits))) if dense_hits else None
    if is_cross_fitted:
        return (fleet_net if verdict.accepted else own_net)(own), verdict, gain
    return (fleet if verdict.accepted else mine), verdict, gain


def _verdict(paired_4N: FloatArray, options: WorkOptions) -> Verdict:
    return compare(paired_4N[0], paired_4N[1], paired_4N[2], paired_4N[3], options.margin)


def _paired(fleet: Candidate, mine: Candidate, test: Samples) -> FloatArray:
    """Losses and hits of both networks, image by image: float64 [4, N]."""
    rows = []
    for model in (fleet.model, mine.model):
        rows.append(losses(model, test).double().numpy())
    rows += [_hits(fleet.model, test), _hits(mine.model, test)]
    return np.stack(rows)


def _hits(model: nn.Module, test: Samples) -> FloatArray:
    """Whether a network is right, image by image: float64 [N] of 0 and 1."""
    with torch.no_grad():
        hits: FloatArray = (model.eval()(test.images).argmax(dim=1) == test.labels).double().numpy()
    return hits
