"""How much memory training takes on this device, known before it starts: by a rehearsal on a few images.

What autograd keeps for the backward pass grows with the batch and shrinks with every channel that goes, exactly; so a
rehearsal with two and with three images says it for any batch, and one half-slimmed network per group says it for any
widths. What the C library adds is measured and written down as two constants.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from prunefleet_edge.byte_sizes import bytes_in_words
from prunefleet_edge.pruning import remove_channels
from prunefleet_edge.tracing import Trace, cost_table, dependency_graph
from prunefleet_shared.errors import InputError
from prunefleet_shared.layout import CostTable, CostTerm

COPIES_OF_WEIGHTS = 3
"""Gradients, momentum, and the weights of the best epoch so far; the weights themselves are there before."""
FIRST_STEP_BYTES = 16 * 10**6
"""Kernels that the first step generates for the network's own shapes, and the code that does it: 8 to 17 MB measured
(torch 2.13.0, x86), once :func:`load_training_code` has loaded the rest."""
HEAP_PERCENT = 175
"""Memory the process holds per 100 bytes that autograd keeps. Activations and gradients of many sizes come and go in
another order than they came, and the C library's heap is left with holes: 126 to 176 measured in three steps of the
built-in networks (glibc, x86). A heap without holes (``M_MMAP_THRESHOLD``) came out at 104, and trained half as
fast."""
_BYTES_PER_WEIGHT = 4
_REHEARSED = (2, 3)
"""Images of the two rehearsals: a norm cannot learn from one."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What autograd keeps for the backward pass, parameters apart."""

    fixed_bytes: int
    bytes_per_image: int

    def at(self, num_images: int) -> int:
        return self.fixed_bytes + self.bytes_per_image * num_images


def training_bytes(model: nn.Module, example_1: Tensor, batch_size: int) -> int:
    """Memory that training takes on top of what the process holds once torch has loaded its code for training.

    Three more copies of the weights (:data:`COPIES_OF_WEIGHTS`), the images of one batch, and what autograd saves
    for its backward pass with what the heap adds (:data:`HEAP_PERCENT`).

    Args:
        model: float32; untouched, whatever mode it is in.
        example_1: One image or more, N×C×H×W; only the first counts.
        batch_size: Images that are held at once: the micro-batch where there is one.
    """
    load_training_code()
    weights = sum(tensor.numel() for tensor in model.parameters())
    kept = _rehearse(model, example_1).at(batch_size)
    images = batch_size * _BYTES_PER_WEIGHT * example_1[0].numel()
    return _total(COPIES_OF_WEIGHTS * _BYTES_PER_WEIGHT * weights, kept + images)


@cache
def load_training_code() -> None:
    """Make torch load what any training needs, as a tiny training does: about 80 MB, most of it for an optimiser.

    Whoever reads how much the process holds does so after this.
    """
    with torch.random.fork_rng(devices=[]):
        layer = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten())
    optimizer = torch.optim.SGD(layer.parameters(), 0.0, momentum=0.9, nesterov=True, fused=True)
    with torch.enable_grad():
        layer(torch.zeros(2, 1, 1, 1)).sum().backward()
    optimizer.step()


def _total(weights_bytes: int, batch_bytes: int) -> int:
    return FIRST_STEP_BYTES + weights_bytes + batch_bytes * HEAP_PERCENT // 100


def memory_table(model: nn.Module, example: Tensor, traced: Trace, batch_size: int) -> CostTable:
    """:func:`training_bytes` of the slim network of any widths, without making it.

    Weights are products of widths, what autograd saves is linear in them: the table is exact up to the rounding of
    one byte a term. (A network that saves something else, such as a product of two groups' activations, is met at
    its dense widths and approximately elsewhere.)

    Args:
        model: The dense model; untouched.
        example: Input to trace with; its first image is the one to rehearse with.
        traced: The model's groups.
        batch_size: As for :func:`training_bytes`.

    Raises:
        LayoutError: The network cannot be slimmed.
    """
    weights = cost_table(model, example, traced, "parameters")
    dense = traced.layout.dense_widths
    factor = COPIES_OF_WEIGHTS * _BYTES_PER_WEIGHT
    terms = {term.groups: factor * term.coefficient for term in weights.terms}
    for group, width, saved_bytes in _savings(model, example, traced, batch_size):
        slope = round(saved_bytes * HEAP_PERCENT / 100 / width)
        terms[(group,)] = terms.get((group,), 0) + slope
    so_far = CostTable("training_bytes", tuple(CostTerm(c, g) for g, c in terms.items() if g))
    rest = training_bytes(model, example, batch_size) - so_far.cost(dense)
    return CostTable(so_far.unit, (CostTerm(rest), *sorted(so_far.terms, key=lambda term: term.groups)))


def _savings(model: nn.Module, example: Tensor, traced: Trace, batch_size: int) -> Iterator[tuple[int, int, int]]:
    """For every group: its index, how many channels a rehearsal went without, and the bytes that this saved."""
    small = copy.deepcopy(model).train()
    graph = dependency_graph(small, example)
    before = _rehearse_in_place(small, example).at(batch_size)
    for index, group in enumerate(traced.groups):
        removed = group.num_units // 2
        if not removed:
            continue
        masks = [np.ones(other.num_units, dtype=np.bool_) for other in traced.groups]
        masks[index][:removed] = False
        remove_channels(small, graph, masks, traced)
        after = _rehearse_in_place(small, example).at(batch_size)
        yield index, removed, before - after
        before = after


def _rehearse(model: nn.Module, example: Tensor) -> _Kept:
    return _rehearse_in_place(copy.deepcopy(model).train(), example)  # norms move their statistics in a forward pass


def _rehearse_in_place(model: nn.Module, example: Tensor) -> _Kept:
    few, more = _REHEARSED
    kept_few, kept_more = (_kept_bytes(model, example[:1], num_images) for num_images in _REHEARSED)
    per_image = (kept_more - kept_few) // (more - few)
    return _Kept(kept_few - few * per_image, per_image)


def _kept_bytes(model: nn.Module, image_1: Tensor, num_images: int) -> int:
    """Bytes of the different storages that autograd saves in one forward pass, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # holding the tensors keeps an address from being used twice

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    images = image_1.expand(num_images, *image_1.shape[1:]).contiguous()
    with (
        torch.enable_grad(),
        torch.random.fork_rng(devices=[]),  # dropout draws; training must not notice the rehearsal
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        logits = model(images)
    total = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)
    return total + _loss_bytes(logits)


def _loss_bytes(logits: Tensor) -> int:
    """The cross-entropy keeps the logarithm of the softmax; its gradient is as large."""
    return 2 * logits.numel() * logits.element_size()


def micro_batch_for(model: nn.Module, example_1: Tensor, batch_size: int, limit_bytes: int) -> int:
    """How many images to hold at once so that training stays within a limit: the batch, or its largest halving.

    Args:
        model: To be trained; untouched.
        example_1: One image it accepts, 1×C×H×W.
        batch_size: Of a step; the last one of an epoch may be half as large again.
        limit_bytes: For training, on top of what the process holds now.

    Returns:
        What goes into :attr:`~prunefleet_edge.recipes.Recipe.micro_batch`: 0 where every batch fits as a whole.

    Raises:
        InputError: Not even the smallest micro-batch fits (the user's to mend).
    """
    weights = training_bytes(model, example_1, 0)
    per_image = training_bytes(model, example_1, 1) - weights
    largest = batch_size + min(batch_size - 1, max(1, batch_size // 2 - 1))  # batches.batch_sizes merges a rest
    if weights + largest * per_image <= limit_bytes:
        return 0
    size = batch_size
    while weights + size * per_image > limit_bytes and size // 2 >= min(2, batch_size):
        size //= 2
    needed = weights + size * per_image
    if needed > limit_bytes:
        msg = (
            f"memory limit: training this network takes {bytes_in_words(needed)} even with {size} images at a time, "
            f"the limit is {bytes_in_words(limit_bytes)}; allow more, or take smaller images or a smaller network"
        )
        raise InputError(msg)
    return size
