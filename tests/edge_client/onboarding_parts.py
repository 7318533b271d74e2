"""What the tests of onboarding share."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from prunefleet_edge.gating import masked
from prunefleet_edge.pruning import slim
from prunefleet_edge.tracing import Trace
from prunefleet_shared.masks import keep_mask

torch.set_num_threads(1)


def names(traced: Trace) -> list[str]:
    return [group.name for group in traced.groups]


def shake(model: nn.Module) -> nn.Module:
    """In place: parameters and norm statistics as no initialisation makes them."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.3, 0.5, generator=generator)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model.double().eval()


def worst_difference(model: nn.Module, example: Tensor, traced: Trace, num_masks: int = 6) -> float:
    """Masked against slim over random masks, in float64, as a fraction of the largest logit: the slow way."""
    model, example = shake(copy.deepcopy(model)), example.double()
    rng, worst = np.random.default_rng(8), 0.0
    for _ in range(num_masks):
        widths = [int(rng.integers(1, group.num_units + 1)) for group in traced.groups]
        pairs = zip(traced.groups, widths, strict=True)
        masks = [keep_mask(rng.permutation(group.num_units), width) for group, width in pairs]
        with torch.no_grad(), masked(model, traced, masks):
            expected = model(example)
        with torch.no_grad():
            found = slim(model, example, masks, traced)(example)
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    return worst
