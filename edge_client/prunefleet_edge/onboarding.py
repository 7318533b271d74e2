"""From any network to channel groups that are safe to prune: what the wiring suggests is tried before it is offered.

A group passes when a network without some of its channels computes what the whole network computes with these channels
masked, runs in training mode, and costs what the cost table says. A group that fails is kept whole, with the reason.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from prunefleet_edge.gating import masked
from prunefleet_edge.pruning import slim
from prunefleet_edge.shaking import shaken, widened
from prunefleet_edge.tracing import Trace, check_logits, cost_table, count_macs, trace
from prunefleet_shared.errors import LayoutError
from prunefleet_shared.layout import CostTable
from prunefleet_shared.masks import BoolArray, keep_mask

MAX_DIFFERENCE = 1e-5
"""Largest difference allowed between the masked and the slim network's logits, as a fraction of the largest logit."""
_SEED = 20
_HALF = 1
"""Which of the draws of :func:`_draws` keeps half of every group."""
_SEEN_RATIO = 10 * MAX_DIFFERENCE
"""Masking one half of a group or the other must change the logits by this fraction of the largest, to be seen."""
_UNITS = ("parameters", "macs")


def onboard(model: nn.Module, example: Tensor) -> Trace:
    """The channel groups of ``model`` that can be pruned safely; the others in ``frozen``, with reasons.

    Every group is tried on a copy with norm statistics, scales and biases drawn at random, because those of a fresh
    network (zeros and ones) hide mistakes.

    Args:
        model: Any module that maps N×… to logits N×classes; left as it was.
        example: Two samples it accepts.

    Raises:
        LayoutError: It does not run on ``example``, in training mode either, gives no logits, cannot be traced, or has
            no group that is safe. The message says what to do.
    """
    traced = trace(model, example)
    for unit in _UNITS:
        cost_table(model, example, traced, unit)
    _check_training(model, example, type(model).__name__)
    trial = _Trial(model, example, traced)
    names = trial.safe_names([group.name for group in traced.groups])
    frozen = traced.frozen | trial.frozen
    if not names:
        msg = f"{type(model).__name__} has no channel group that is safe to prune; kept whole: {frozen}"
        raise LayoutError(msg)
    safe = Trace(tuple(group for group in traced.groups if group.name in names), frozen)
    check_slimming(model, example, safe)
    return safe


def check_slimming(model: nn.Module, example: Tensor, traced: Trace, seed: int = 0) -> float:
    """Largest absolute difference between masking and removing half the channels of every group, in eval mode.

    The network's own weights are used; ``model`` is left as it was. Where float32 gives more than is allowed, because
    it adds up in another order in a smaller network, the difference is that in float64.

    Raises:
        LayoutError: It is more than :data:`MAX_DIFFERENCE` of the largest logit: the network cannot be pruned safely.
    """
    rng = np.random.default_rng(seed)
    masks = [_random_mask(rng, group.num_units, max(1, group.num_units // 2)) for group in traced.groups]
    try:
        difference, largest, _ = _difference(copy.deepcopy(model).eval(), example, traced, masks)
    except Exception as error:  # torch-pruning lost its way (a flattened concatenation, a reshape)
        msg = f"{type(model).__name__}: it does not run without some of its channels: {error}"
        raise LayoutError(msg) from error
    if not difference <= MAX_DIFFERENCE * largest:
        msg = (
            f"{type(model).__name__}: removing channels changes the output by {difference:.2e} against masking them "
            f"(at most {MAX_DIFFERENCE * largest:.0e}); usually an activation does not map zero to zero"
        )
        raise LayoutError(msg)
    return difference


class _Trial:
    """Tries groups on a shaken copy of a network.

    Attributes:
        frozen: What failed so far, and why.
    """

    def __init__(self, model: nn.Module, example: Tensor, traced: Trace) -> None:
        self._model, self._example, self._traced = shaken(model, example), example, traced
        self.frozen: dict[str, str] = {}
        with torch.no_grad():
            self._whole = self._model(example)

    def safe_names(self, names: list[str]) -> list[str]:
        """The groups of ``names`` that are safe, alone and together; halves are tried until single groups fail."""
        names = [name for name in names if self._is_seen(name)]
        if self._why_unsafe(names) is None:
            return names
        alone = self._safe_alone(names)
        if self._why_unsafe(alone) is None:
            return alone
        together: list[str] = []
        for name in alone:  # each is safe, but not with all others: the first ones stay
            why = self._why_unsafe([*together, name])
            if why is None:
                together.append(name)
            else:
                self.frozen[name] = why
        return together

    def _is_seen(self, name: str) -> bool:
        """Whether the logits depend on the group at all; of one that they do not depend on a trial says nothing."""
        traced = self._traced.only([name])
        (half,) = list(_draws(traced))[_HALF]
        if half.all():  # a single channel, which is never removed
            return True
        for mask in (half, ~half):
            try:
                with torch.no_grad(), masked(self._model, traced, [mask]):
                    change = float((self._model(self._example) - self._whole).abs().max())
            except Exception:  # noqa: BLE001 - masking fails where the wiring was misread; the trial says how
                return True
            if change > _SEEN_RATIO * float(self._whole.abs().max()):
                return True
        self.frozen[name] = "the output does not depend on it enough to try whether it can be pruned"
        return False

    def _safe_alone(self, names: list[str]) -> list[str]:
        why = self._why_unsafe(names)
        if why is None:
            return names
        if len(names) == 1:
            self.frozen[names[0]] = why
            return []
        middle = len(names) // 2
        return self._safe_alone(names[:middle]) + self._safe_alone(names[middle:])

    def _why_unsafe(self, names: Sequence[str]) -> str | None:
        if not names:
            return None
        traced = self._traced.only(names)
        try:
            tables = [cost_table(self._model, self._example, traced, unit) for unit in _UNITS]
            return next(filter(None, (self._why_differs(traced, masks, tables) for masks in _draws(traced))), None)
        except Exception as error:  # noqa: BLE001 - torch and torch-pruning raise anything over a misread network
            first_line = next(iter(str(error).splitlines()), "")
            return f"the network does not run without some of its channels ({type(error).__name__}: {first_line})"

    def _why_differs(self, traced: Trace, masks: list[BoolArray], tables: list[CostTable]) -> str | None:
        difference, largest, small = _difference(self._model, self._example, traced, masks)
        if not difference <= MAX_DIFFERENCE * largest:  # also when one of them is not a number
            return (
                f"removing its channels changes the output by {difference:.1e} against masking them (largest logit "
                f"{largest:.1e}): an activation does not map zero to zero, or channels are mixed on the way"
            )
        _check_training(small, self._example, "without some of its channels")
        counts = (sum(parameter.numel() for parameter in small.parameters()), count_macs(small, self._example))
        for table, count in zip(tables, counts, strict=True):
            said = table.cost([int(mask.sum()) for mask in masks])
            if count != said:
                return f"without some of its channels the network has {count} {table.unit}, its cost table says {said}"
        return None


def _difference(
    model: nn.Module, example: Tensor, traced: Trace, masks: Sequence[BoolArray]
) -> tuple[float, float, nn.Module]:
    """Largest difference between masking channels and removing them, the largest logit (both absolute), the slim net.

    In float32; if that is too much, in float64, where rounding is out of the question.
    """
    difference, largest, small = _difference_as_is(model, example, traced, masks)
    if not difference <= MAX_DIFFERENCE * largest:
        difference, largest, _ = _difference_as_is(*widened(model, example), traced, masks)
    return difference, largest, small


def _difference_as_is(
    model: nn.Module, example: Tensor, traced: Trace, masks: Sequence[BoolArray]
) -> tuple[float, float, nn.Module]:
    with torch.no_grad(), masked(model, traced, masks):
        expected = model(example)
    small = slim(model, example, masks, traced).eval()
    with torch.no_grad():
        found = small(example)
    return float((found - expected).abs().max()), float(expected.abs().max()), small


def _draws(traced: Trace) -> Iterator[list[BoolArray]]:
    """Three choices of channels: of random widths, half of each group, and a single channel of each."""
    rng = np.random.default_rng(_SEED)
    sizes = [group.num_units for group in traced.groups]
    yield [_random_mask(rng, size, int(rng.integers(1, size + 1))) for size in sizes]
    yield [_random_mask(rng, size, max(1, size // 2)) for size in sizes]
    yield [_random_mask(rng, size, 1) for size in sizes]


def _random_mask(rng: np.random.Generator, num_channels: int, width: int) -> BoolArray:
    return keep_mask(rng.permutation(num_channels), width)


def _check_training(model: nn.Module, example: Tensor, what: str) -> None:
    """Raise ``LayoutError`` unless it gives logits in training mode too; on a copy, because norms learn as they run."""
    learner = copy.deepcopy(model).train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = learner(example)
    except Exception as error:  # the network is the user's and may raise anything
        msg = (
            f"{what}: it does not run in training mode: {type(error).__name__}: {error}; give an example of two samples"
        )
        raise LayoutError(msg) from error
    check_logits(output, example, f"{what}, in training mode")
