"""Weight pruning against sorting by hand: exact counts, ties by index, what is never touched, and the schedule."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from prunefleet_edge.models import build, parse_spec
from prunefleet_edge.weight_pruning import (
    SCOPES,
    WeightMasks,
    apply_masks,
    check_masks,
    cubic_sparsities,
    full_masks,
    magnitude_masks,
    nonzero_masks,
    prunable_weights,
    prune_in_steps,
    sparsity_of,
)
from prunefleet_shared.errors import ConfigError, InputError, LayoutError

torch.set_num_threads(1)


def a_network(seed: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = (nn.Flatten(), nn.Linear(4, 3))
        return nn.Sequential(
            nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3, bias=False), *head
        ).eval()  # fmt: skip


def by_hand(network: nn.Module, sparsity: float, scope: str) -> WeightMasks:
    """One weight at a time: list them all, sort by (magnitude, place), strike the first ones out."""
    names = ["0.weight", "3.weight", "5.weight"]
    parts = [names] if scope == "global" else [[name] for name in names]
    masks = {name: torch.ones_like(network.get_parameter(name), dtype=torch.bool) for name in names}
    for part in parts:
        places = [(name, index) for name in part for index in range(masks[name].numel())]
        sizes = [abs(network.get_parameter(name).detach().flatten()[index].item()) for name, index in places]
        order = sorted(range(len(places)), key=lambda place: (sizes[place], place))
        for place in order[: round(sparsity * len(places))]:
            name, index = places[place]
            masks[name].view(-1)[index] = False
    return masks


def same(one: WeightMasks, other: WeightMasks) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.77, 0.83])
def test_the_smallest_weights_go(sparsity: float, scope: str) -> None:
    network = a_network()
    before = copy.deepcopy(network.state_dict())
    masks = magnitude_masks(network, sparsity, scope)
    assert same(masks, by_hand(network, sparsity, scope))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items()), "model untouched"


def test_the_scopes_differ_and_counts_are_exact() -> None:
    network = a_network()
    num = 2 * 5 * 9 + 5 * 4 * 9 + 12
    everywhere, layered = magnitude_masks(network, 0.7), magnitude_masks(network, 0.7, "layer")
    assert sum(int((~mask).sum()) for mask in everywhere.values()) == round(0.7 * num)
    assert [int((~mask).sum()) for mask in layered.values()] == [63, 126, 8]
    assert not same(everywhere, layered)
    assert sparsity_of(everywhere) == pytest.approx(round(0.7 * num) / num)


def test_ties_go_by_index() -> None:
    network = nn.Linear(4, 2)
    nn.init.constant_(network.weight, -0.5)
    masks = magnitude_masks(network, 0.5)
    assert masks["weight"].tolist() == [[False] * 4, [True] * 4]


def test_the_sign_does_not_matter() -> None:
    network = nn.Linear(3, 1)
    network.weight.data = torch.tensor([[-3.0, 1.0, 2.0]])
    assert magnitude_masks(network, 1 / 3)["weight"].tolist() == [[True, False, True]]


def test_biases_norms_and_embeddings_are_never_pruned() -> None:
    network = nn.ModuleDict(
        {"conv": nn.Conv1d(2, 2, 1), "norm": nn.BatchNorm1d(2), "up": nn.ConvTranspose2d(1, 2, 2),
         "table": nn.Embedding(5, 2), "fc": nn.Linear(2, 2)}
    )  # fmt: skip
    assert set(prunable_weights(network)) == {"conv.weight", "up.weight", "fc.weight"}


def test_a_shared_weight_counts_once() -> None:
    one = nn.Linear(3, 3)
    other = nn.Linear(3, 3)
    other.weight = one.weight
    assert list(prunable_weights(nn.Sequential(one, other))) == ["0.weight"]


def test_masks_are_applied_and_nothing_else_changes() -> None:
    network = a_network()
    before = copy.deepcopy(network.state_dict())
    masks = magnitude_masks(network, 0.6)
    assert apply_masks(network, masks) is network
    for name, value in network.state_dict().items():
        expected = torch.where(masks[name], before[name], 0.0) if name in masks else before[name]
        assert torch.equal(value, expected), name
    assert same(nonzero_masks(network), masks)
    assert sparsity_of(nonzero_masks(network)) == pytest.approx(0.6, abs=0.002)


def test_gaps_of_before_stay_gaps_whatever_is_there() -> None:
    network = a_network()
    first = magnitude_masks(network, 0.5)
    network.get_parameter("0.weight").data[~first["0.weight"]] = 100.0
    second = magnitude_masks(network, 0.8, within=first)
    assert all(bool((~second[name])[~first[name]].all()) for name in first)
    assert sum(int((~mask).sum()) for mask in second.values()) == round(0.8 * 282)


def test_less_sparsity_than_before_gives_gaps_only_from_before() -> None:
    network = a_network()
    first = magnitude_masks(network, 0.8)
    second = magnitude_masks(network, 0.5, within=first)
    assert sum(int((~mask).sum()) for mask in second.values()) == 141
    assert all(bool((~first[name])[~second[name]].all()) for name in first)


@pytest.mark.parametrize(("sparsity", "scope"), [(-0.1, "global"), (1.0, "global"), (math.nan, "layer"), (0.5, "row")])
def test_options_out_of_range_are_refused(sparsity: float, scope: str) -> None:
    with pytest.raises(ConfigError, match=r"sparsity: expected|scope: expected"):
        magnitude_masks(a_network(), sparsity, scope)


def test_a_layer_is_never_emptied() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    network.get_parameter("1.weight").data.fill_(1e-6)
    with pytest.raises(ConfigError, match=r"1\.weight"):
        magnitude_masks(network, 0.5)
    assert sparsity_of(magnitude_masks(network, 0.5, "layer")) == 0.5


def test_a_network_without_weights_or_with_nan_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to prune"):
        magnitude_masks(nn.BatchNorm2d(3), 0.5)
    network = a_network()
    network.get_parameter("3.weight").data[0, 0, 0, 0] = math.nan
    with pytest.raises(InputError, match=r"3\.weight: holds NaN"):
        magnitude_masks(network, 0.5)


def broken(masks: WeightMasks, how: str) -> WeightMasks:
    changed: dict[str, Tensor] = dict(masks)
    match how:
        case "missing":
            del changed["0.weight"]
        case "extra":
            changed["1.weight"] = torch.ones(5, dtype=torch.bool)
        case "shape":
            changed["0.weight"] = changed["0.weight"].flatten()
        case "type":
            changed["0.weight"] = changed["0.weight"].float()
    return changed


@pytest.mark.parametrize("how", ["missing", "extra", "shape", "type"])
def test_masks_of_another_network_are_refused(how: str) -> None:
    network = a_network()
    masks = broken(full_masks(network), how)
    with pytest.raises(LayoutError, match="mask"):
        check_masks(network, masks)
    with pytest.raises(LayoutError):
        apply_masks(network, masks)
    with pytest.raises(LayoutError):
        magnitude_masks(network, 0.5, within=masks)


def test_full_masks_have_no_gap() -> None:
    assert sparsity_of(full_masks(a_network())) == 0


# --- the schedule ----------------------------------------------------------------------------------------------------


def test_the_cubic_schedule_is_zhu_and_guptas() -> None:
    """s_t = s_f + (s_i - s_f)(1 - t/n)^3, by hand for n = 4, s_i = 0, s_f = 0.8."""
    assert cubic_sparsities(0.8, 4) == pytest.approx((0.8 - 0.8 * 27 / 64, 0.8 - 0.8 / 8, 0.8 - 0.8 / 64, 0.8))
    assert cubic_sparsities(0.9, 1) == (0.9,)
    steps = cubic_sparsities(0.95, 10, initial=0.2)
    assert steps[-1] == 0.95
    assert all(0.2 < one < other for one, other in pairwise(steps))
    gains = [other - one for one, other in pairwise(steps)]
    assert gains == sorted(gains, reverse=True), "many early, few late"


@pytest.mark.parametrize(("final", "num", "initial"), [(1.0, 3, 0.0), (0.5, 0, 0.0), (0.5, 3, 0.6), (0.5, 3, -0.1)])
def test_a_schedule_out_of_range_is_refused(final: float, num: int, initial: float) -> None:
    with pytest.raises(ConfigError, match="sparsity schedule"):
        cubic_sparsities(final, num, initial)


def test_pruning_in_steps_retrains_between_and_keeps_gaps() -> None:
    network, seen = a_network(), []

    def shake(model: nn.Module, masks: WeightMasks, step: int) -> None:
        assert same(nonzero_masks(model), masks)
        seen.append((step, copy.deepcopy(masks)))
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(step)
            for weight in prunable_weights(model).values():
                weight.copy_(torch.randn_like(weight))  # fills the gaps too: a careless retraining

    masks = prune_in_steps(network, (0.3, 0.6, 0.9), shake)
    assert [step for step, _ in seen] == [0, 1, 2]
    assert [round(sparsity_of(m), 2) for _, m in seen] == [0.3, 0.6, 0.9]
    for (_, earlier), (_, later) in pairwise(seen):
        assert all(bool((~later[name])[~earlier[name]].all()) for name in earlier)
    assert same(masks, nonzero_masks(network))


def test_one_step_is_one_shot_pruning() -> None:
    network, calls = a_network(), []
    masks = prune_in_steps(network, (0.7,), lambda _model, _masks, step: calls.append(step), "layer")
    assert same(masks, magnitude_masks(a_network(), 0.7, "layer"))
    assert calls == [0]


@pytest.mark.parametrize("sparsities", [(), (0.5, 0.4), (0.5, 1.0)])
def test_steps_that_make_no_sense_are_refused(sparsities: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="sparsit"):
        prune_in_steps(a_network(), sparsities, lambda _model, _masks, _step: None)


@pytest.mark.parametrize("name", ["resnet8", "alexnet", "squeezenet", "mobilenetv2", "lenet5"])
def test_built_in_networks_prune_layer_by_layer_and_still_answer(name: str) -> None:
    """Fresh networks: their layers' weights differ so much in size that one threshold for all would empty some."""
    network = build(parse_spec(f"{name}/3x32x32/10"))
    masks = magnitude_masks(network, 0.9, "layer")
    assert all(int((~mask).sum()) == round(0.9 * mask.numel()) for mask in masks.values())
    with torch.no_grad():
        assert apply_masks(network, masks).eval()(torch.rand(2, 3, 32, 32)).isfinite().all()
