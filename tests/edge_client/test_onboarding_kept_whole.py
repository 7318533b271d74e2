"""What is kept whole with a reason, what is refused, and how a network is tried."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from onboarding_parts import names, worst_difference
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses
from wired_nets import (
    EXAMPLE,
    Net,
    concat_into_groups,
    concat_plus_add,
    conv,
    made,
    normed,
)

from prunefleet_edge import onboarding
from prunefleet_edge.onboarding import MAX_DIFFERENCE, check_slimming, onboard
from prunefleet_edge.tracing import trace
from prunefleet_shared.errors import LayoutError
from prunefleet_shared.masks import keep_mask

# --- what is kept whole ----------------------------------------------------------------------------------------------


class Between(nn.Module):
    """Two convolutions with something between them, then a third."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.a, self.between, self.b, self.c = conv(3, 6, 3), between, conv(6, 5, 3), conv(5, 4)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.c(F.relu(self.b(self.between(self.a(x)))))).mean(dim=(2, 3)))


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def fold(x: Tensor) -> Tensor:
    """Counts on six channels in the middle of the network, as channel shuffle does."""
    return x.reshape(len(x), 2, 3, *x.shape[2:]).transpose(1, 2).reshape(len(x), 6, *x.shape[2:])


def drop_last(x: Tensor) -> Tensor:
    return F.pad(x[:, :-1], (0, 0, 0, 0, 0, 1))


UNSAFE: list[Callable[[Tensor], Tensor]] = [
    torch.sigmoid,
    F.softplus,
    torch.cos,
    lambda x: x + 0.01,
    lambda x: F.layer_norm(x, x.shape[1:]),
    lambda x: F.group_norm(x, 1),
    lambda x: torch.softmax(x, dim=1),
    lambda x: x - x.mean(dim=1, keepdim=True),
    lambda x: x.flip(1),
    lambda x: x / x.shape[1],
    lambda x: F.normalize(x + 1, dim=1),
    fold,
]


@pytest.mark.parametrize("index", range(len(UNSAFE)))
def test_a_group_that_something_unsafe_follows_is_kept_whole_and_the_others_are_not(index: int) -> None:
    model = Between(Function(UNSAFE[index])).train()
    safe = onboard(model, EXAMPLE)
    assert names(safe) == ["b", "c"]
    assert set(safe.frozen) == {"a", "fc"}
    assert any(words in safe.frozen["a"] for words in ("changes the output", "does not run without"))
    assert worst_difference(model, EXAMPLE, safe) <= 1e-9
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("make", [concat_plus_add, concat_into_groups, lambda: normed(nn.GroupNorm(2, 8))])
def test_what_tracing_froze_stays_frozen(make: Callable[[], nn.Module]) -> None:
    model = made(make)
    assert onboard(model, EXAMPLE).frozen == trace(model, EXAMPLE).frozen


def test_a_classifier_that_starts_at_nothing_hides_no_mistake() -> None:
    model = Between(nn.Sigmoid())
    nn.init.zeros_(model.fc.weight)
    assert names(onboard(model, EXAMPLE)) == ["b", "c"]
    assert not model.fc.weight.any(), "the copy was shaken, not the network"


def test_a_layer_scale_of_almost_nothing_hides_no_mistake() -> None:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = n.stem(x)
        return n.c(F.relu(x + n.gamma * n.b(torch.sigmoid(n.a(x)))))

    layers = {"stem": conv(3, 6), "a": conv(6, 8), "b": conv(8, 6), "c": conv(6, 5)}
    model = Net(wiring, **layers, fc=nn.Linear(5, 4))
    model.gamma = nn.Parameter(torch.full((6, 1, 1), 1e-7))
    safe = onboard(model, EXAMPLE)
    assert names(safe) == ["c"]
    assert "changes the output" in safe.frozen["a"]
    assert safe.frozen["stem"] == "a bare parameter is tied to it"


@pytest.mark.parametrize("squeezed", [1, 2])
def test_a_group_of_few_channels_is_not_kept_whole_for_that(squeezed: int) -> None:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.conv(x))
        return x * torch.sigmoid(n.up(F.relu(n.down(x.mean(dim=(2, 3), keepdim=True)))))

    layers = {"conv": conv(3, 8, 3), "down": conv(8, squeezed), "up": conv(squeezed, 8)}
    safe = onboard(Net(wiring, **layers, fc=nn.Linear(8, 4)), EXAMPLE)
    assert names(safe) == ["conv", "down"]


class Faint(Between):
    """Logits that stay tiny whatever the weights are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1e-8


def test_tiny_logits_hide_no_mistake() -> None:
    assert names(onboard(Faint(nn.Sigmoid()), EXAMPLE)) == ["b", "c"]
    assert names(onboard(Faint(nn.ReLU()), EXAMPLE)) == ["a", "b", "c"]


def test_rounding_that_a_network_blows_up_is_no_mistake() -> None:
    """In float32 the order of a sum shows in these logits; in float64 it does not."""

    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        return n.c(torch.sin(3e4 * n.b(F.relu(n.a(x)))))

    model = Net(wiring, a=conv(3, 24, 3), b=conv(24, 8, 3), c=conv(8, 6), fc=nn.Linear(6, 4))
    traced = trace(model, EXAMPLE)
    masks = [keep_mask(np.random.default_rng(0).permutation(g.num_units), g.num_units // 2) for g in traced.groups]
    difference, largest, _ = onboarding._difference_as_is(model.eval(), EXAMPLE, traced, masks)
    assert difference > MAX_DIFFERENCE * largest, "the negative control"
    assert names(onboard(model, EXAMPLE)) == ["a", "b", "c"]


def test_what_the_output_does_not_depend_on_is_kept_whole() -> None:
    """A trial of it would say nothing."""

    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        return n.b(F.relu(n.a(x)) + 0 * n.d(torch.sigmoid(n.c(x))))

    layers = {"a": conv(3, 6), "b": conv(6, 5), "c": conv(3, 4), "d": conv(4, 6)}
    safe = onboard(Net(wiring, **layers, fc=nn.Linear(5, 4)), EXAMPLE)
    assert names(safe) == ["a", "b"]
    assert "does not depend on it" in safe.frozen["c"]


def test_a_deep_network_whose_signal_dies_away_hides_no_mistake() -> None:
    layers: list[nn.Module] = [conv(3, 8), nn.Sigmoid()]
    for _ in range(10):
        layers += [conv(8, 8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.1)
    safe = onboard(model, EXAMPLE)
    assert len(safe.groups) == 10
    assert "changes the output" in safe.frozen["0"]


class FlattenedConcat(nn.Module):
    """What torch-pruning cannot follow: channels of two layers, concatenated and then flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 5), conv(5, 4, 3), conv(5, 6, 3)
        self.head = nn.Linear(10 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], dim=1).flatten(1))


def test_what_torch_pruning_misreads_is_kept_whole() -> None:
    model = made(FlattenedConcat)
    safe = onboard(model, EXAMPLE)
    assert names(safe) == ["stem"]
    assert "left" in safe.frozen, "with right, in one group"
    assert worst_difference(model, EXAMPLE, safe) <= 1e-9


def test_groups_that_are_safe_alone_but_not_together_keep_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    why_unsafe = onboarding._Trial._why_unsafe

    def not_both(self: object, chosen: list[str]) -> str | None:
        return "b and c do not go together" if {"b", "c"} <= set(chosen) else why_unsafe(self, chosen)

    monkeypatch.setattr(onboarding._Trial, "_why_unsafe", not_both)
    safe = onboard(Between(nn.ReLU()), EXAMPLE)
    assert names(safe) == ["a", "b"]
    assert safe.frozen["c"] == "b and c do not go together"


def test_a_wrong_cost_keeps_a_group_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    count, full = onboarding.count_macs, conv(3, 6, 3).weight.shape

    def miscounted(model: nn.Module, example: Tensor) -> int:
        return count(model, example) + (model.a.weight.shape != full)

    monkeypatch.setattr(onboarding, "count_macs", miscounted)
    safe = onboard(Between(nn.ReLU()), EXAMPLE)
    assert names(safe) == ["b", "c"]
    assert "its cost table says" in safe.frozen["a"]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_nothing_safe_is_an_error_that_names_all_reasons() -> None:
    model = nn.Sequential(conv(3, 6), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    with pytest.raises(
        LayoutError, match=r"no channel group that is safe to prune.*'4': 'it is an output.*'0': 'remov"
    ):
        onboard(model, EXAMPLE)


class Trained(Between):
    """Gives something else, or fails, in training mode."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__(nn.ReLU())
        self.wrap = wrap

    def forward(self, x: Tensor) -> object:
        y = super().forward(x)
        return self.wrap(y) if self.training else y


def test_a_network_that_gives_more_in_training_mode_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"Trained, in training mode: expected logits.*got a tuple; wrap it"):
        onboard(Trained(lambda y: (y, y)), EXAMPLE)
    with pytest.raises(LayoutError, match=r"Trained: it does not run in training mode: ZeroDivisionError"):
        onboard(Trained(lambda y: y / 0 if 1 // 0 else y), EXAMPLE)


class Auxiliary(Between):
    """A head that is there in training mode only, and sees channels of ``a``."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU())
        self.aux = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + self.aux(self.a(x).mean(dim=(2, 3))) if self.training else y


def test_channels_that_are_needed_in_training_mode_only_are_kept() -> None:
    safe = onboard(Auxiliary(), EXAMPLE)
    assert names(safe) == ["b", "c"]
    assert "training mode" in safe.frozen["a"]


def test_it_leaves_the_network_and_the_global_generator_as_they_were() -> None:
    model = Between(nn.Dropout(0.5)).train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert onboard(model, EXAMPLE) == onboard(model, EXAMPLE)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


# --- the check of a network's own weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_training", [True, False])
def test_a_network_that_can_be_slimmed_passes_and_stays_as_it_was(is_training: bool) -> None:
    model = Between(nn.SiLU()).train(is_training)
    assert 0 <= check_slimming(model, EXAMPLE, trace(model, EXAMPLE)) <= MAX_DIFFERENCE
    assert all(module.training is is_training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("between", [nn.Sigmoid(), nn.Softplus(), Function(lambda x: x / 0 - x / 0)])
def test_a_network_that_cannot_be_slimmed_is_refused(between: nn.Module) -> None:
    model = Between(between).train()
    with pytest.raises(LayoutError, match=r"Between: removing channels changes the output.*zero to zero"):
        check_slimming(model, EXAMPLE, trace(model, EXAMPLE))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_network_that_does_not_run_without_some_channels_is_refused() -> None:
    model = Between(Function(fold))
    with pytest.raises(LayoutError, match="Between: it does not run without some of its channels"):
        check_slimming(model, EXAMPLE, trace(model, EXAMPLE))


def test_rounding_at_large_logits_is_no_mistake() -> None:
    model = Between(nn.ReLU())
    with torch.no_grad():
        model.fc.weight.mul_(1e7)
    assert check_slimming(model, EXAMPLE, trace(model, EXAMPLE)) < 1.0


def test_a_mistake_at_small_logits_is_one_all_the_same() -> None:
    model = Between(nn.Sigmoid())
    with torch.no_grad():
        model.fc.weight.mul_(1e-7)
        model.fc.bias.zero_()
    with pytest.raises(LayoutError, match="removing channels changes the output"):
        check_slimming(model, EXAMPLE, trace(model, EXAMPLE))


def test_only_the_groups_of_the_trace_are_tried() -> None:
    model = Between(nn.Sigmoid())
    assert check_slimming(model, EXAMPLE, trace(model, EXAMPLE).only(["b", "c"])) <= MAX_DIFFERENCE
