"""Planted faults: exactly as many as asked, where asked, for good where they are for good."""

from __future__ import annotations

import copy
import math
import struct

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.damage import (
    Damage,
    Holding,
    bit_flips,
    dead_channels,
    drop_implausible,
    hold_at_zero,
    largest_weights,
    stuck_at_zero,
    surviving,
)
from prunefleet_edge.data import Samples
from prunefleet_edge.recipes import Recipe
from prunefleet_edge.retraining import All, retrain, strategy_named
from prunefleet_edge.retraining_options import STRATEGIES, RetrainingOptions
from prunefleet_edge.weight_pruning import WeightMasks, apply_masks, magnitude_masks, prunable_weights
from prunefleet_shared.errors import ConfigError, LayoutError

torch.set_num_threads(1)
RECIPE = Recipe(epochs=2, learning_rate=0.05, batch_size=8, weight_decay=0.1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.up, self.fc = nn.ConvTranspose2d(8, 6, 2, bias=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm(self.conv(x)), 0.1)
        out: Tensor = self.fc(F.leaky_relu(self.up(y), 0.1).mean(dim=(2, 3)))
        return out


def deployed() -> tuple[Net, WeightMasks]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Net().eval()
    masks = magnitude_masks(model, 0.5, "layer")
    apply_masks(model, masks)
    return model, masks


def some(num: int = 20) -> Samples:
    labels = torch.arange(num) % 3
    images = torch.rand(num, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return Samples(images * 0.6 + labels[:, None, None, None] * 0.15, labels)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """By parameter: True where its bits differ."""
    other = dict(after.named_parameters())
    return {
        name: parameter.detach().contiguous().view(torch.int32) != other[name].detach().contiguous().view(torch.int32)
        for name, parameter in before.named_parameters()
    }


def num_changed(before: nn.Module, after: nn.Module) -> int:
    return sum(int(mask.sum()) for mask in changed(before, after).values())


# --- stuck weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 1.0])
def test_stuck_weights_are_counted_among_those_that_are_stored(ratio: float) -> None:
    model, masks = deployed()
    before = state(model)
    damage = stuck_at_zero(model, ratio, seed=3)
    num_stored = sum(int(mask.sum()) for mask in masks.values())
    assert damage.num_hit == round(ratio * num_stored) == num_changed(model, damage.model)
    for name, mask in changed(model, damage.model).items():
        assert torch.equal(mask, ~damage.working.get(name, torch.ones_like(mask))), name
        assert (damage.model.get_parameter(name)[mask] == 0).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), "a copy is damaged"


@pytest.mark.parametrize("inflict", [stuck_at_zero, dead_channels])
def test_damage_follows_its_seed(inflict: object) -> None:
    assert callable(inflict)
    model, _ = deployed()
    one, again, other = (inflict(model, 0.4, seed) for seed in (1, 1, 2))
    assert num_changed(one.model, again.model) == 0
    assert num_changed(one.model, other.model) > 0


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan])
def test_ratios_out_of_range_are_refused(ratio: float) -> None:
    for inflict in (stuck_at_zero, dead_channels):
        with pytest.raises(ConfigError, match="damage: ratio"):
            inflict(deployed()[0], ratio, 1)
    with pytest.raises(ConfigError, match="num_per_million"):
        bit_flips(deployed()[0], ratio * 1e6, 1)


# --- dead channels ---------------------------------------------------------------------------------------------------


def test_dead_channels_compute_zero() -> None:
    model, _ = deployed()
    damage = dead_channels(model, 0.25, seed=1)
    assert damage.num_hit == 2 + round(0.25 * 6)
    outputs: dict[str, Tensor] = {}
    for name in ("conv", "up"):
        damage.model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.update({name: output})
        )
    with torch.no_grad():
        damage.model(some().images)
    assert [int((outputs[name] == 0).all(dim=(0, 2, 3)).sum()) for name in ("conv", "up")] == [2, 2]
    assert not any(name.startswith(("fc", "norm")) for name in damage.working)
    assert {"conv.weight", "conv.bias", "up.weight"} == damage.working.keys()


def test_one_channel_always_works() -> None:
    model, _ = deployed()
    damage = dead_channels(model, 1.0, seed=1)
    assert damage.num_hit == 7 + 5
    assert damage.working["conv.bias"].sum() == 1
    assert damage.working["up.weight"].any(dim=(0, 2, 3)).sum() == 1, "transposed: channels are the second dimension"


# --- bit flips -------------------------------------------------------------------------------------------------------


def bits_of(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


@pytest.mark.parametrize("num_per_million", [0, 1000, 50_000])
def test_as_many_bits_flip_as_asked_each_once(num_per_million: int) -> None:
    """Counted bit by bit in the IEEE 754 form of every weight."""
    model, masks = deployed()
    damage = bit_flips(model, num_per_million, seed=5)
    num_stored = sum(int(mask.sum()) for mask in masks.values())
    differing = 0
    for name in masks:
        pairs = zip(*(m.get_parameter(name).detach().flatten().tolist() for m in (model, damage.model)), strict=True)
        for index, (old, new) in enumerate(pairs):
            flips = (bits_of(old) ^ raw_bits(damage.model, name, index)).bit_count()
            assert flips == 0 or masks[name].flatten()[index], "only what is stored can be hit"
            assert flips or old == new
            differing += flips
    assert differing == damage.num_hit == round(num_per_million / 1e6 * 32 * num_stored)
    assert damage.working == {}


def raw_bits(model: nn.Module, name: str, index: int) -> int:
    return int(model.get_parameter(name).detach().flatten().view(torch.int32)[index]) & 0xFFFFFFFF


def test_every_bit_can_be_hit_the_sign_too() -> None:
    model = nn.Linear(40, 40, bias=False)
    damaged = bit_flips(model, 200_000, seed=1).model
    hit = 0
    for index in range(1600):
        hit |= raw_bits(model, "weight", index) ^ raw_bits(damaged, "weight", index)
    assert hit == 0xFFFFFFFF


def test_all_bits_flip_at_a_million() -> None:
    model = nn.Linear(3, 3, bias=False)
    damaged = bit_flips(model, 1_000_000, seed=1).model
    assert all(raw_bits(model, "weight", i) ^ raw_bits(damaged, "weight", i) == 0xFFFFFFFF for i in range(9))


def test_only_float32_has_its_bits_flipped() -> None:
    with pytest.raises(ConfigError, match="float32"):
        bit_flips(deployed()[0].double(), 10, 1)


def test_what_is_implausible_is_dropped_and_nothing_else() -> None:
    model, _ = deployed()
    largest = largest_weights(model)
    before = copy.deepcopy(model)
    assert drop_implausible(model, largest) == 0
    assert num_changed(model, before) == 0, "an undamaged network passes as it is"
    bad = {(0, 0, 0, 0): math.nan, (1, 0, 0, 0): math.inf, (2, 0, 0, 0): -math.inf, (3, 0, 0, 0): 1e30}
    limit = largest["conv.weight"]
    with torch.no_grad():
        for place, value in bad.items():
            model.conv.weight[place] = value
        model.conv.weight[4, 0, 0, 0], model.conv.weight[5, 0, 0, 0] = limit, -limit
        model.conv.weight[6, 0, 0, 0] = -limit * 1.001
    assert drop_implausible(model, largest) == 5
    column = model.conv.weight.detach()[:7, 0, 0, 0].tolist()
    assert column == [0, 0, 0, 0, pytest.approx(limit), pytest.approx(-limit), 0]


def test_a_check_by_another_networks_numbers_is_refused() -> None:
    with pytest.raises(LayoutError, match="largest weights"):
        drop_implausible(deployed()[0], {"conv.weight": 1.0})


# --- retraining a damaged network ------------------------------------------------------------------------------------


def retrained(damage: Damage, masks: WeightMasks, name: str) -> nn.Module:
    strategy = Holding(strategy_named(RetrainingOptions(name)), damage.working)
    return retrain(copy.deepcopy(damage.model), surviving(masks, damage.working), some(), RECIPE, strategy, 7)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("inflict", [stuck_at_zero, dead_channels])
def test_what_is_stuck_stays_at_zero_under_every_strategy(name: str, inflict: object) -> None:
    assert callable(inflict)
    model, masks = deployed()
    damage = inflict(model, 0.3, 1)
    found = retrained(damage, masks, name)
    for part, working in damage.working.items():
        assert (found.get_parameter(part)[~working] == 0).all(), part
    assert (num_changed(damage.model, found) == 0) == (name == "none")


def test_regrowing_leaves_the_damaged_network_underneath_as_it_was() -> None:
    model, masks = deployed()
    damage = stuck_at_zero(model, 0.3, 1)
    found = retrained(damage, masks, "regrow")
    alive = surviving(masks, damage.working)
    filled = {name: (found.get_parameter(name) != 0) & ~mask for name, mask in alive.items()}
    assert all(torch.equal(filled[n], ~masks[n] & damage.working.get(n, torch.ones_like(masks[n]))) for n in masks)
    apply_masks(found, alive)
    assert num_changed(damage.model, found) == 0


def test_without_faults_holding_changes_nothing() -> None:
    model, masks = deployed()
    one = retrain(copy.deepcopy(model), masks, some(), RECIPE, Holding(All(), {}), 7)
    assert num_changed(one, retrain(copy.deepcopy(model), masks, some(), RECIPE, All(), 7)) == 0


def test_holding_takes_after_its_strategy() -> None:
    kinds = {name: Holding(strategy_named(RetrainingOptions(name)), {}) for name in STRATEGIES}
    assert {name for name, kind in kinds.items() if not kind.is_training} == {"none"}
    assert {name for name, kind in kinds.items() if not kind.is_decayed} == {"anchored"}


def test_surviving_and_holding_by_hand() -> None:
    masks = {"a": torch.tensor([True, True, False]), "b": torch.tensor([True])}
    found = surviving(masks, {"a": torch.tensor([True, False, False])})
    assert found["a"].tolist() == [True, False, False]
    assert found["b"].tolist() == [True]
    model = nn.Linear(2, 1)
    hold_at_zero(model, {"bias": torch.tensor([False]), "weight": torch.tensor([[True, False]])})
    assert model.bias.item() == 0
    assert (model.weight != 0).tolist() == [[True, False]]


def test_the_stored_weights_of_all_layers_can_be_hit() -> None:
    model, _ = deployed()
    assert stuck_at_zero(model, 0.5, 1).working.keys() == prunable_weights(model).keys()
