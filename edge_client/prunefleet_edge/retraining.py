"""How a pruned network is retrained on the device: which of its weights move, and what holds them back.

Chandakkar et al., "Strategies for Re-Training a Pruned Neural Network in an Edge Computing Paradigm", IEEE EDGE 2017,
named the problem: better on the device's new data, hardly worse on the original task. Only its abstract could be
found; the strategies here are ours, each after the work that its class cites.

A strategy is a :class:`~prunefleet_edge.objective.Objective` that is shown the deployed network once, before training
(``prepare``). Survivors are the weights that pruning left, gaps those that it set to zero.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.checkpoint import Checkpoint
from prunefleet_edge.data import Samples
from prunefleet_edge.objective import Objective
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.retraining_options import STRATEGIES, RetrainingOptions
from prunefleet_edge.training import OnStep, train
from prunefleet_edge.weight_pruning import WeightMasks, apply_masks, check_masks, full_masks

__all__ = [
    "STRATEGIES",
    "All",
    "Anchored",
    "Distilled",
    "Regrow",
    "Strategy",
    "Survivors",
    "Untouched",
    "has_gaps",
    "retrain",
    "strategy_named",
]


class Strategy(Objective, Protocol):
    """One way to retrain a pruned network."""

    is_training: bool
    """False: the network is left as it is."""
    is_decayed: bool
    """False: the strategy has a decay of its own, and the recipe's weight decay is not applied."""

    def prepare(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Look at the deployed network, its gaps at zero; called once before training, also before a resumed one."""


class All:
    """Everything moves, gaps included: the network may use all its weights again, and is dense afterwards.

    The last phase of dense-sparse-dense training (Han et al. 2017, arXiv 1607.04381). It learns most and forgets most,
    and gives up what pruning saved. Gaps start at zero.

    Args:
        label_smoothing: In [0, 1).
    """

    is_training = True
    is_decayed = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self._label_smoothing = label_smoothing

    def prepare(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """See :class:`Strategy`."""

    def enter(self, model: nn.Module) -> None:
        """See :class:`~prunefleet_edge.objective.Objective`."""
        model.train()

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """See :class:`~prunefleet_edge.objective.Objective`."""
        return self._own_loss(model(images), labels)

    def project(self, model: nn.Module) -> None:
        """See :class:`~prunefleet_edge.objective.Objective`."""

    def _own_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self._label_smoothing)


class Untouched(All):
    """Nothing moves: the control that says what the others win on the new data and lose on the original task."""

    is_training = False


class Survivors(All):
    """Gaps stay gaps; the surviving weights, biases and norms move.

    The retraining of Han et al. 2015 (arXiv 1506.02626), here on the device's data: size and sparsity stay what they
    were. Gaps are set back to zero after every step, so that neither momentum nor gradient can move them.
    """

    _gaps: dict[str, Tensor]

    def prepare(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """See :class:`Strategy`."""
        check_masks(model, masks)
        self._gaps = {name: ~mask for name, mask in masks.items()}

    @torch.no_grad()
    def project(self, model: nn.Module) -> None:
        """See :class:`~prunefleet_edge.objective.Objective`."""
        for name, gaps in self._gaps.items():
            model.get_parameter(name).masked_fill_(gaps, 0.0)


class Regrow(All):
    """Gaps are filled while all that was deployed stays frozen: dropping them restores the deployed network's bits.

    PackNet's idea (Mallya & Lazebnik 2018, arXiv 1711.05769: a new task learns in the weights that pruning freed), but
    without a task label: the filled network serves old and new images alike. Gaps start at zero, so that training
    starts from the deployed network. Frozen are the survivors, biases, and norms with their running statistics: norms
    run in eval mode. With ``regrow_ratio`` 1 the network is dense afterwards; below 1 that fraction of the gaps,
    drawn at random as in sparse evolutionary training (Mocanu et al. 2018, arXiv 1707.04780), is filled and the rest
    stay zero. Either way a device can store the new weights apart from the deployed ones.

    Args:
        regrow_ratio: Fraction of all gaps that are filled, in (0, 1].
        seed: Of the choice.
        label_smoothing: In [0, 1).
    """

    _deployed: dict[str, Tensor]
    _frozen: dict[str, Tensor]

    def __init__(self, regrow_ratio: float = 1.0, seed: int = 0, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        self._regrow_ratio, self._seed = regrow_ratio, seed

    def prepare(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """See :class:`Strategy`."""
        parameters = dict(model.named_parameters())
        self._deployed = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        filled = self._filled(masks)
        self._frozen = {
            name: ~filled[name] if name in filled else torch.ones_like(parameter, dtype=torch.bool)
            for name, parameter in parameters.items()
        }

    def _filled(self, masks: Mapping[str, Tensor]) -> WeightMasks:
        if self._regrow_ratio == 1:
            return {name: ~mask for name, mask in masks.items()}
        gaps = torch.cat([~mask.flatten() for mask in masks.values()])
        index = gaps.nonzero().flatten()
        order = torch.randperm(len(index), generator=torch.Generator().manual_seed(self._seed))
        chosen = torch.zeros_like(gaps)
        chosen[index[order[: round(self._regrow_ratio * len(index))]]] = True
        parts = torch.split(chosen, [mask.numel() for mask in masks.values()])
        return {name: part.reshape(mask.shape) for (name, mask), part in zip(masks.items(), parts, strict=True)}

    def enter(self, model: nn.Module) -> None:
        """See :class:`~prunefleet_edge.objective.Objective`."""
        model.train()
        for module in model.modules():
            if isinstance(getattr(module, "running_mean", None), Tensor):
                module.eval()  # a norm that uses and keeps what it was deployed with

    @torch.no_grad()
    def project(self, model: nn.Module) -> None:
        """See :class:`~prunefleet_edge.objective.Objective`."""
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.where(self._frozen[name], self._deployed[name], parameter))


class Anchored(Survivors):
    """As ``survivors``, and every weight, bias and norm is pulled back to its deployed value.

    L2-SP (Li, Grandvalet & Davoine 2018, arXiv 1802.01483, eq. 4): ``anchor_weight / 2 * |w - w_deployed|^2`` is added
    to the loss and takes the place of weight decay, which pulls towards zero. All that matters little to the new data
    stays near what served the original task.

    Args:
        anchor_weight: At least 0.
        label_smoothing: In [0, 1).
    """

    is_decayed = False
    _deployed: dict[str, Tensor]

    def __init__(self, anchor_weight: float = 0.1, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        self._anchor_weight = anchor_weight

    def prepare(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """See :class:`Strategy`."""
        super().prepare(model, masks)
        self._deployed = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """See :class:`~prunefleet_edge.objective.Objective`."""
        # Gaps are zero here and there: their distance is none.
        distances = [(weight - self._deployed[name]).square().sum() for name, weight in model.named_parameters()]
        return self._own_loss(model(images), labels) + self._anchor_weight / 2 * torch.stack(distances).sum()


class Distilled(Survivors):
    """As ``survivors``, and the network's answers are held to those of a teacher, on the device's own images.

    The loss of Hinton et al. 2015 (arXiv 1503.02531), ``(1 - r) CE + r T^2 KL(teacher || student)`` with both softmaxes
    at temperature T, used as Learning without Forgetting does (Li & Hoiem 2016, arXiv 1606.09282): the teacher knows
    the original task, and none of its images is needed. The teacher is the original, unpruned network where the device
    has it, else the deployed network as it was.

    Args:
        teacher: Answers in eval mode and is never changed; None takes the network that ``prepare`` is shown.
        temperature: T, above 0.
        distilled_ratio: r, in [0, 1].
        label_smoothing: Of the cross-entropy, in [0, 1).
    """

    _teacher: nn.Module

    def __init__(
        self,
        teacher: nn.Module | None = None,
        temperature: float = 2.0,
        distilled_ratio: float = 0.5,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing)
        self._given, self._temperature, self._ratio = teacher, temperature, distilled_ratio

    def prepare(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """See :class:`Strategy`."""
        super().prepare(model, masks)
        self._teacher = copy.deepcopy(model if self._given is None else self._given).eval().requires_grad_(False)

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """See :class:`~prunefleet_edge.objective.Objective`."""
        logits, temperature = model(images), self._temperature
        with torch.no_grad():
            wanted = F.log_softmax(self._teacher(images) / temperature, dim=1)
        answers = F.log_softmax(logits / temperature, dim=1)
        distance = F.kl_div(answers, wanted, reduction="batchmean", log_target=True) * temperature**2
        return (1 - self._ratio) * self._own_loss(logits, labels) + self._ratio * distance


def strategy_named(
    options: RetrainingOptions, *, teacher: nn.Module | None = None, label_smoothing: float = 0.0, seed: int = 0
) -> Strategy:
    """The strategy that the options name, with their numbers.

    Args:
        options: Checked when they were made.
        teacher: For ``distilled``; None: the deployed network.
        label_smoothing: The recipe's.
        seed: Of the gaps that ``regrow`` fills.
    """
    match options.strategy:
        case "none":
            return Untouched(label_smoothing)
        case "survivors":
            return Survivors(label_smoothing)
        case "regrow":
            return Regrow(options.regrow_ratio, seed, label_smoothing)
        case "anchored":
            return Anchored(options.anchor_weight, label_smoothing)
        case "distilled":
            return Distilled(teacher, options.temperature, options.distilled_ratio, label_smoothing)
    return All(label_smoothing)


def has_gaps(masks: Mapping[str, Tensor]) -> bool:
    """True when at least one weight is a gap."""
    return not all(bool(mask.all()) for mask in masks.values())


def retrain(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None,
    samples: Samples,
    recipe: Recipe,
    strategy: Strategy,
    seed: int,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> nn.Module:
    """Retrain a pruned network in place by a strategy, and return it in eval mode.

    Args:
        model: The deployed network; its gaps are set to zero first.
        masks: Its survivors; None: a network without gaps, such as a slim one.
        samples: The device's own images.
        recipe: How to train; the strategy says what moves.
        strategy: Prepared here.
        seed: See :func:`~prunefleet_edge.training.train`.
        checkpoint: See there.
        on_step: See there.

    Raises:
        LayoutError: The masks do not fit the model.
    """
    found = full_masks(model) if masks is None else dict(masks)
    apply_masks(model, found)
    if not strategy.is_training:
        return model.eval()
    strategy.prepare(model, found)
    if not strategy.is_decayed:
        recipe = replace(recipe, weight_decay=0.0)
    return train(model, samples, recipe, seed, objective=strategy, checkpoint=checkpoint, on_step=on_step)
