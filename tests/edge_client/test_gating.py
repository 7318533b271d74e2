"""Channels that are switched off, and gates that say what they are worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tied_nets import NETS, Concatenated, Tied, channels_of_unit, data, made, traced
from torch import Tensor

from prunefleet_edge.gating import gate_members, masked, sample_gates

torch.set_num_threads(1)


# --- masking ---------------------------------------------------------------------------------------------------------


def test_masking_switches_off_every_layer_tied_to_a_channel() -> None:
    model = made(Concatenated)
    found = traced(model)
    masks = [np.array([True, False, True, True]), np.array([False, True, True])]
    seen: dict[str, Tensor] = {}
    handles = []
    with masked(model, found, masks), torch.no_grad():
        for name in ("a", "b", "norm"):
            handles.append(
                model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
            )
        model(data()[0])
    for handle in handles:
        handle.remove()
    silent = {name: [c for c in range(out.shape[1]) if not out[:, c].any()] for name, out in seen.items()}
    assert silent == {"a": [1], "b": [0], "norm": [1, 4]}


def test_masking_ends_with_its_context_even_by_an_error() -> None:
    model = made(Tied)
    found = traced(model)
    before = model(data()[0])
    everything_off = [np.zeros(group.num_units, dtype=np.bool_) for group in found.groups]
    with pytest.raises(RuntimeError), masked(model, found, everything_off):
        model(torch.zeros(1, 2, 6, 6))  # two input channels where the network has one
    with pytest.raises(ValueError, match="zip"), masked(model, found, everything_off[:1]):
        pass
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(data()[0]), before)


# --- gates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", NETS)
def test_open_gates_change_nothing_and_there_is_one_for_each_sample_and_channel(make) -> None:
    model = made(make)
    found = traced(model)
    images = data(5)[0]
    before = model(images)
    with sample_gates(model, found, 5) as gates:
        assert torch.equal(model(images), before)
        wanted = {
            (index, name): (5, group.num_units) for index, group in enumerate(found.groups) for name in group.gates
        }
        assert {key: tuple(gate.shape) for key, gate in gates.items()} == wanted
    assert not any(module._forward_hooks for module in model.modules())


def test_a_closed_gate_switches_off_its_sample_and_its_channels_alone() -> None:
    model = made(Tied)
    found = traced(model)
    index, group = next((i, g) for i, g in enumerate(found.groups) if g.name == "grouped")
    seen: list[Tensor] = []
    with sample_gates(model, found, 3) as gates, torch.no_grad():
        gates[index, "grouped"][1, 2] = 0
        handle = model.grouped.register_forward_hook(lambda _m, _i, out: seen.append(out))
        model(data(3)[0])
        handle.remove()
    silent = [(n, c) for n in range(3) for c in range(6) if not seen[0][n, c].any()]
    assert silent == [(1, channel) for channel in channels_of_unit(group, "grouped", 2)]


def test_gates_come_after_the_norm() -> None:
    found = traced(made(Concatenated))
    assert all(member.module_name in group.gates for group in found.groups for member in gate_members(group))
    assert "norm" in {member.module_name for group in found.groups for member in gate_members(group)}
    tied = {group.name: [m.module_name for m in gate_members(group)] for group in traced(made(Tied)).groups}
    assert tied["stem"] == ["stem_norm", "project_norm"]
