"""From scores to widths and masks, and from masks to a smaller network."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.pruning import check_slimming, keep_masks, masks_by_order, per_cost, rank_widths, slim
from prunefleet_edge.saliency import masked
from prunefleet_edge.tracing import trace
from prunefleet_shared.errors import ConfigError, LayoutError
from prunefleet_shared.layout import ChannelGroup, CostTable, CostTerm, Layout, width_options

torch.set_num_threads(1)
LAYOUT = Layout((ChannelGroup("a", 8), ChannelGroup("b", 16), ChannelGroup("c", 3)))
TABLE = CostTable(
    "macs", (CostTerm(27, (0,)), CostTerm(9, (0, 1)), CostTerm(4, (1, 2)), CostTerm(10, (2,)), CostTerm(5))
)
DENSE, FLOORS = LAYOUT.dense_widths, tuple(width_options(n)[0] for n in LAYOUT.dense_widths)
SPEC = parse_spec("resnet8/1x8x8/4")


def random_scores(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).exponential(size=LAYOUT.num_channels)


# --- widths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_widths_meet_any_budget_that_can_be_met_and_keep_the_floors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    budget = int(rng.integers(TABLE.cost(FLOORS), TABLE.cost(DENSE) + 1))
    widths = rank_widths(LAYOUT, TABLE, random_scores(seed), budget)
    assert TABLE.cost(widths) <= budget
    assert all(floor <= w <= dense for floor, w, dense in zip(FLOORS, widths, DENSE, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_was_removed_would_still_fit(seed: int) -> None:
    budget = int(np.random.default_rng(seed).integers(TABLE.cost(FLOORS), TABLE.cost(DENSE)))
    widths = rank_widths(LAYOUT, TABLE, random_scores(seed), budget)
    for group, (width, dense) in enumerate(zip(widths, DENSE, strict=True)):
        if width < dense:
            one_more = [w + (i == group) for i, w in enumerate(widths)]
            assert TABLE.cost(one_more) > budget


def test_a_budget_for_everything_removes_nothing() -> None:
    assert rank_widths(LAYOUT, TABLE, random_scores(0), TABLE.cost(DENSE)) == DENSE


def test_the_smallest_budget_leaves_the_floors() -> None:
    assert rank_widths(LAYOUT, TABLE, random_scores(0), TABLE.cost(FLOORS)) == FLOORS


@pytest.mark.parametrize("budget", [0, TABLE.cost(FLOORS) - 1])
def test_a_budget_below_the_floors_is_refused_with_what_they_cost(budget: int) -> None:
    words = f"a budget of {budget} macs cannot be met: the smallest widths cost {TABLE.cost(FLOORS)}"
    with pytest.raises(ConfigError, match=words):
        rank_widths(LAYOUT, TABLE, random_scores(0), budget)


def test_the_least_salient_channels_of_all_groups_go_first() -> None:
    layout = Layout((ChannelGroup("a", 4), ChannelGroup("b", 4)))
    table = CostTable("macs", (CostTerm(1, (0,)), CostTerm(1, (1,))))
    scores = [0.9, 0.8, 0.7, 0.1, 0.6, 0.5, 0.2, 0.3]
    assert [rank_widths(layout, table, scores, budget) for budget in (8, 7, 6, 5, 4)] == [
        (4, 4),
        (3, 4),
        (3, 3),
        (3, 2),
        (3, 1),  # 0.5 goes, and 0.6 stays: it is the floor of its group
    ]
    assert rank_widths(layout, table, scores, 2) == (1, 1)


def test_a_coarse_last_step_gives_back_what_fits_best_first() -> None:
    layout = Layout((ChannelGroup("cheap", 8), ChannelGroup("dear", 2)))
    table = CostTable("macs", (CostTerm(1, (0,)), CostTerm(10, (1,))))
    scores = [0.9, 0.8, 0.1, 0.11, 0.12, 0.13, 0.14, 0.15, 0.7, 0.2]
    # Six cheap ones (0.1..0.15) go, 20 + 2 > 17, then a dear one (0.2): 12. Five of the six fit again.
    assert rank_widths(layout, table, scores, 17) == (7, 1)


def test_of_two_that_would_fit_again_the_better_one_comes_back() -> None:
    layout = Layout((ChannelGroup("a", 4), ChannelGroup("b", 4), ChannelGroup("dear", 2)))
    table = CostTable("macs", (CostTerm(2, (0,)), CostTerm(2, (1,)), CostTerm(10, (2,))))
    scores = [0.9, 0.8, 0.7, 0.2, 0.9, 0.8, 0.7, 0.1, 0.95, 0.3]
    # 0.1, 0.2 and 0.3 go: 36, 34, 32, 22. There is room for 2 more, and 0.2 is better than 0.1.
    assert rank_widths(layout, table, scores, 24) == (4, 3, 1)


def test_widths_do_not_depend_on_the_scale_of_the_scores() -> None:
    scores, budget = random_scores(4), TABLE.cost(DENSE) // 2
    assert rank_widths(LAYOUT, TABLE, scores, budget) == rank_widths(LAYOUT, TABLE, scores * 1e-9, budget)


def test_equal_scores_are_settled_the_same_way_every_time() -> None:
    budget = TABLE.cost(DENSE) // 2
    flat = [1.0] * LAYOUT.num_channels
    widths = rank_widths(LAYOUT, TABLE, flat, budget)
    assert TABLE.cost(widths) <= budget
    assert widths[0] == 8, "the last channels go first"
    assert rank_widths(LAYOUT, TABLE, np.float32(flat), budget) == widths


# --- scores per cost -------------------------------------------------------------------------------------------------


def test_scores_per_cost_divide_by_what_a_channel_saves() -> None:
    scores = random_scores(1)
    found = per_cost(LAYOUT, TABLE, scores)
    saved = [27 + 9 * 16, 9 * 8 + 4 * 3, 4 * 16 + 10]
    expected = [score / saved[0 if i < 8 else 1 if i < 24 else 2] for i, score in enumerate(scores)]
    np.testing.assert_allclose(found, expected)


def test_a_group_that_costs_nothing_keeps_its_scores() -> None:
    table = CostTable("macs", (CostTerm(27, (0,)), CostTerm(3)))
    scores = random_scores(1)
    np.testing.assert_allclose(per_cost(LAYOUT, table, scores)[8:], scores[8:])


# --- masks -----------------------------------------------------------------------------------------------------------


def test_masks_keep_the_best_of_each_group() -> None:
    scores = random_scores(2)
    masks = keep_masks(LAYOUT, scores, (3, 16, 1))
    assert [int(mask.sum()) for mask in masks] == [3, 16, 1]
    for part, mask in zip(LAYOUT.slices(), masks, strict=True):
        kept, gone = scores[part][mask], scores[part][~mask]
        assert gone.size == 0 or kept.min() >= gone.max()


def test_masks_by_order_keep_the_first() -> None:
    masks = masks_by_order([[2, 0, 1], [1, 0]], [2, 1])
    assert [mask.tolist() for mask in masks] == [[True, False, True], [False, True]]


@pytest.mark.parametrize("widths", [(3, 16), (3, 16, 1, 1)])
def test_masks_need_one_width_per_group(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="zip"):
        keep_masks(LAYOUT, random_scores(0), widths)
    with pytest.raises(ValueError, match="zip"):
        masks_by_order([range(8), range(16), range(3)], widths)


# --- slimming --------------------------------------------------------------------------------------------------------


def a_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = build(SPEC)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_()
                    module.bias.normal_()
        return model


def random_masks(model: nn.Module, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.random(trace(model, example_input(SPEC)).layout.num_channels)
    layout = trace(model, example_input(SPEC)).layout
    return keep_masks(layout, scores, [int(rng.integers(1, n + 1)) for n in layout.dense_widths])


@pytest.mark.parametrize("is_training", [True, False])
def test_slimming_copies_and_leaves_the_model_alone(is_training: bool) -> None:
    model = a_model().train(is_training)
    before = copy.deepcopy(model.state_dict())
    small = slim(model, example_input(SPEC), random_masks(model))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.fill_(7)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training is is_training for module in (*model.modules(), *small.modules()))


def test_a_slim_network_has_the_widths_of_its_masks_and_the_weights_of_what_was_kept() -> None:
    model = a_model()
    masks = random_masks(model, seed=3)
    small = slim(model, example_input(SPEC), masks)
    widths = tuple(int(mask.sum()) for mask in masks)
    assert trace(small, example_input(SPEC)).layout.dense_widths == widths
    stem, first = masks[0], masks[1]
    assert torch.equal(small.net.conv1.weight, model.net.conv1.weight[stem])
    assert torch.equal(small.net.bn1.running_mean, model.net.bn1.running_mean[stem])
    assert torch.equal(small.net.blocks[0].conv1.weight, model.net.blocks[0].conv1.weight[first][:, stem])
    assert torch.equal(small.net.fc.weight, model.net.fc.weight[:, masks[-1]])


def test_a_slim_network_computes_what_the_masked_one_does_and_can_be_trained() -> None:
    model = a_model().eval()
    masks, example = random_masks(model, seed=4), example_input(SPEC)
    small = slim(model, example, masks)
    with torch.no_grad(), masked(model, trace(model, example), masks):
        expected = model(example)
    torch.testing.assert_close(small(example), expected, atol=1e-5, rtol=0)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in small.parameters())
    F.cross_entropy(small.train()(example), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_the_weights_of_a_slim_network_fit_another_one_cut_to_the_same_masks() -> None:
    model = a_model().eval()
    masks, example = random_masks(model), example_input(SPEC)
    small = slim(model, example, masks)
    other = slim(build(SPEC), example, masks)
    other.load_state_dict(small.state_dict())
    assert torch.equal(other.eval()(example), small(example))


def test_masks_that_do_not_fit_are_refused() -> None:
    model, example = a_model(), example_input(SPEC)
    masks = random_masks(model)
    with pytest.raises(LayoutError, match=r"masks of sizes \[16, 16, 32, 32, 64\] do not fit groups of sizes \[16, 16"):
        slim(model, example, masks[:-1])
    with pytest.raises(LayoutError, match=r"\[15, 16, 32, 32, 64, 64\] do not fit"):
        slim(model, example, [masks[0][:15], *masks[1:]])
    with pytest.raises(LayoutError, match=r"nothing would be left of net.conv1, net.blocks.0.conv1"):
        slim(model, example, [np.zeros(16, dtype=bool), np.zeros(16, dtype=bool), *masks[2:]])


# --- the check -------------------------------------------------------------------------------------------------------


class Between(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.a, self.between, self.b = nn.Conv2d(1, 6, 3), between, nn.Conv2d(6, 5, 3)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(self.between(self.a(x)))).mean(dim=(2, 3)))


@pytest.mark.parametrize("is_training", [True, False])
def test_a_network_that_can_be_slimmed_passes_and_stays_as_it_was(is_training: bool) -> None:
    model = Between(nn.SiLU()).train(is_training)
    example = example_input(SPEC)
    assert 0 <= check_slimming(model, example, trace(model, example)) <= 1e-5
    assert all(module.training is is_training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


class NotANumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0 - x / 0


@pytest.mark.parametrize("between", [nn.Sigmoid(), nn.Softplus(), NotANumber()])
def test_a_network_that_cannot_be_slimmed_is_refused(between: nn.Module) -> None:
    model = Between(between).train()
    example = example_input(SPEC)
    with pytest.raises(LayoutError, match=r"Between: removing channels changes the output.*zero to zero"):
        check_slimming(model, example, trace(model, example))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


class Fold(nn.Module):
    """Counts on six channels in the middle of the network."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 2, 3, *x.shape[2:]).transpose(1, 2).reshape(len(x), 6, *x.shape[2:])


def test_a_network_that_does_not_run_without_some_channels_is_refused() -> None:
    model = Between(Fold())
    example = example_input(SPEC)
    with pytest.raises(LayoutError, match="Between: it does not run without some of its channels"):
        check_slimming(model, example, trace(model, example))
