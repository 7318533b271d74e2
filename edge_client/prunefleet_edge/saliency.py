"""How much each channel matters, one function per criterion; scores are float64, higher = keep, one per channel.

Every function returns one vector over the channels of all groups of a trace. Layers tied to a channel are averaged, so
are the channels of a unit (as in a grouped convolution). Scores never leave the device: ``masks`` turns them into
grades, ``ranking`` into widths. ``criteria`` picks one by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.gating import Gates, gate_members, sample_gates
from prunefleet_edge.kept_whole import NORM
from prunefleet_edge.tracing import Member, Trace, TracedGroup, channel_axis
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.masks import FloatArray
from prunefleet_shared.steering_terms import USE_UNIT, SteeringTerms

SALIENCY_BATCH = 64
"""Samples per pass of a criterion that looks at data: changes memory, not the result (but for rounding)."""


def l1_saliency(model: nn.Module, traced: Trace) -> FloatArray:
    """Mean |w| of the filters that produce a channel, averaged over the layers tied to it.

    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1; divided by the filter's size, as in
    Rajagopal & Bouganis 2020 (ADaPT), so that layers can be ranked against each other. Needs no data.
    """
    return _weight_saliency(model, traced, lambda weight: weight.abs().flatten(1).mean(dim=1))


def l2_saliency(model: nn.Module, traced: Trace) -> FloatArray:
    """Root mean square of the weights of the filters that produce a channel, averaged over the layers tied to it.

    He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018, eq. (2) with
    p = 2; divided by the root of the filter's size, so that layers can be ranked against each other. Needs no data.
    """
    return _weight_saliency(model, traced, lambda weight: weight.double().square().flatten(1).mean(dim=1).sqrt())


def fpgm_saliency(model: nn.Module, traced: Trace) -> FloatArray:
    """Mean distance of a filter to the other filters of its layer, averaged over the layers tied to a channel.

    He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR 2019,
    section 3.3: a filter near the others can be replaced by them, however large it is. Theirs is the sum of distances
    within one layer; here it is divided by the number of other filters and by the root of a filter's size, so that
    layers can be ranked against each other. Needs no data.
    """
    return _weight_saliency(model, traced, _mean_distance)


def _mean_distance(weight: Tensor) -> Tensor:
    filters = weight.double().flatten(1)
    distances = torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist")  # exact for twins
    return torch.div(distances.sum(dim=1), max(1, len(filters) - 1) * float(filters.shape[1]) ** 0.5)


def _weight_saliency(model: nn.Module, traced: Trace, value: Callable[[Tensor], Tensor]) -> FloatArray:
    """``value`` of the weights (outputs × …) for each output channel, averaged over channels of a unit, then layers."""
    scores = []
    for group in traced.groups:
        per_layer = []
        for member in group.producers:
            weight = getattr(model.get_submodule(member.module_name), "weight", None)
            if isinstance(weight, Tensor) and weight.dim() > 1:  # no norm, no PReLU
                own = value(weight.detach())[list(member.channels)]
                per_layer.append(_per_unit(member, own, group.num_units))
        scores.append(torch.stack(per_layer).mean(dim=0))
    return torch.cat(scores).double().numpy()


def _per_unit(member: Member, values: Tensor, num_units: int) -> Tensor:
    """Mean of a layer's channel values over the channels of each unit."""
    units = torch.tensor(member.units)
    total = torch.zeros(num_units, dtype=values.dtype).index_add_(0, units, values)
    return total / torch.bincount(units, minlength=num_units)


def norm_scale_saliency(model: nn.Module, traced: Trace) -> FloatArray:
    """Mean |gamma| of the batch norms after a channel, averaged over the norms tied to it.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, section 3 (the scaling
    factors of eq. 1; their sparsity penalty is the training's business). Needs no data.

    Raises:
        ConfigError: A group has no batch norm with a scale; another criterion is needed (the user's to choose).
    """
    found = [_norm_scales(model, group) for group in traced.groups]
    bare = [group.name for group, per_norm in zip(traced.groups, found, strict=True) if not per_norm]
    if bare:
        msg = (
            f"criterion norm-scale: expected a batch norm with a scale in every group, there is none in "
            f"{', '.join(bare)}; take another criterion, such as l1, or skip these groups"
        )
        raise ConfigError(msg)
    return torch.cat([torch.stack(per_norm).mean(dim=0) for per_norm in found]).numpy()


def _norm_scales(model: nn.Module, group: TracedGroup) -> list[Tensor]:
    scales = []
    for member in group.producers:
        module = model.get_submodule(member.module_name)
        if isinstance(module, NORM) and module.affine:
            gamma = module.weight.detach().double().abs()[list(member.channels)]
            scales.append(_per_unit(member, gamma, group.num_units))
    return scales


def random_saliency(traced: Trace, seed: int) -> FloatArray:
    """Uniform in [0, 1): the control that every criterion must beat."""
    return np.random.default_rng(seed).random(sum(group.num_units for group in traced.groups))


@torch.no_grad()
def activation_saliency(
    model: nn.Module, traced: Trace, images: Tensor, batch_size: int = SALIENCY_BATCH
) -> FloatArray:
    """Mean |a| of a channel over samples and positions, where it could be switched off (after the norm).

    Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, section 2.2
    ("Activation", and "Normalization": each group's scores are divided by their l2 norm, so that groups can be ranked
    against each other); also how OCAP ranks on devices. Ours sees the value before the nonlinearity, hence the |·|.

    Args:
        model: Scored in eval mode; left in the mode it came in.
        traced: Its groups.
        images: N×C×H×W, float32 in [0, 1].
        batch_size: Samples per pass; changes memory, not the result.
    """
    means = _mean_use(model, traced, images, batch_size)
    return torch.cat([mean_U / mean_U.norm().clamp_min(torch.finfo(torch.float64).tiny) for mean_U in means]).numpy()


@torch.no_grad()
def channel_use(model: nn.Module, traced: Trace, images: Tensor, batch_size: int = SALIENCY_BATCH) -> FloatArray:
    """How much images use each channel: mean |a| as in :func:`activation_saliency`, without its normalization.

    Linear in the images: the use of a mixture is the mixture of its parts' uses. Arguments as there.
    """
    return torch.cat(_mean_use(model, traced, images, batch_size)).numpy()


def lift_saliency(use_C: FloatArray, terms: SteeringTerms) -> FloatArray:
    """By how many of the public classes' standard deviations a channel is used more than public data use it.

    Args:
        use_C: :func:`channel_use` of the base on private images.
        terms: What the campaign says of public ones.
    """
    usual_C, spread_C = np.asarray(terms.usual_uses), np.asarray(terms.use_spreads)
    lift_C: FloatArray = (use_C * USE_UNIT - usual_C) / spread_C
    return lift_C


def _mean_use(model: nn.Module, traced: Trace, images: Tensor, batch_size: int) -> list[Tensor]:
    """For each group the mean |activation| of its channels, float64."""
    with _in_eval_mode(model), _activation_means(model, traced) as means:
        for start in range(0, len(images), batch_size):
            model(images[start : start + batch_size])
    uses = []
    for index, group in enumerate(traced.groups):
        members = gate_members(group)
        own = torch.stack([_per_unit(m, means[index, m.module_name].mean(), group.num_units) for m in members])
        uses.append(own.mean(dim=0))
    return uses


class _RunningMean:
    """Mean of rows that come in parts, float64."""

    def __init__(self, num_columns: int) -> None:
        self._total, self._num_rows = torch.zeros(num_columns, dtype=torch.float64), 0

    def add(self, rows: Tensor) -> None:
        self._total += rows.double().sum(dim=0)
        self._num_rows += len(rows)

    def mean(self) -> Tensor:
        return self._total / max(1, self._num_rows)


@contextmanager
def _activation_means(model: nn.Module, traced: Trace) -> Iterator[dict[tuple[int, str], _RunningMean]]:
    """Mean |output| of every gate point's channels over whatever runs inside the context."""
    means: dict[tuple[int, str], _RunningMean] = {}
    handles = []
    try:
        for index, group in enumerate(traced.groups):
            for member in gate_members(group):
                means[index, member.module_name] = running = _RunningMean(len(member.channels))

                def look(
                    module: nn.Module, _inputs: object, output: Tensor, m: Member = member, r: _RunningMean = running
                ) -> None:
                    own = output.movedim(channel_axis(module), 1)[:, list(m.channels)].abs()
                    r.add(own.flatten(2).mean(dim=2) if own.dim() > 2 else own)

                handles.append(model.get_submodule(member.module_name).register_forward_hook(look))
        yield means
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def taylor_saliency(
    model: nn.Module, traced: Trace, images: Tensor, labels: Tensor, batch_size: int = SALIENCY_BATCH
) -> FloatArray:
    """First-order Taylor saliency, per sample, on gates after the norms.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, eq. (8) with a gate per channel:
    the mean over samples of (dL/dgate)², where one gate switches a channel off in all layers tied to it. Returned is
    its square root, which estimates a change of loss (nats) and can therefore be set against what a channel costs.
    The gate is a tensor of ones N×C per layer, so a single backward pass gives every sample its own gradient.

    Args:
        model: Scored in eval mode; left in the mode it came in.
        traced: Its groups.
        images: N×C×H×W, float32 in [0, 1].
        labels: N class indices, int64.
        batch_size: Samples per backward pass; changes memory, not the result.
    """
    total = np.zeros(sum(group.num_units for group in traced.groups))
    with _in_eval_mode(model), _frozen(model):
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            with sample_gates(model, traced, len(images[part])) as gates:
                F.cross_entropy(model(images[part]), labels[part], reduction="sum").backward()  # type: ignore[no-untyped-call]
                total += _squared_gate_gradients(traced, gates)
    return np.sqrt(total / max(1, len(images)))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients of weights while the context lasts: they are a third of a training step and none is needed."""
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in moving:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)


def _squared_gate_gradients(traced: Trace, gates: Gates) -> FloatArray:
    scores = []
    for index, group in enumerate(traced.groups):
        members = [gates[index, name].grad for name in sorted(group.gates)]
        gradient_NU = torch.stack([grad for grad in members if grad is not None]).sum(dim=0)
        scores.append(gradient_NU.square().sum(dim=0))
    return torch.cat(scores).double().numpy()
