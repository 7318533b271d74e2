"""Weight-pruned networks as files: what comes back is what was saved, how small they are, and that damage is found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from safetensors.torch import save_file
from torch import Tensor, nn

from prunefleet_edge import weight_file
from prunefleet_edge.models import build, parse_spec
from prunefleet_edge.weight_file import SparseInfo, dense_bytes, load_sparse, read_sparse_info, save_sparse
from prunefleet_edge.weight_pruning import WeightMasks, apply_masks, magnitude_masks, nonzero_masks
from prunefleet_shared.documents import canonical_bytes
from prunefleet_shared.errors import ConfigError, InputError, LayoutError

torch.set_num_threads(1)
SPEC = "resnet8/1x8x8/4"
KEY = "prunefleet-sparse"


def pruned(spec: str = SPEC, sparsity: float = 0.9) -> tuple[nn.Module, WeightMasks]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build(parse_spec(spec)).eval()
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and "var" in name:
                buffer.uniform_(0.5, 2.0)
    masks = magnitude_masks(model, sparsity, "layer")
    apply_masks(model, masks)
    return model, masks


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("spec", [SPEC, "alexnet/3x32x32/10", "squeezenet/3x32x32/10", "mobilenetv2/3x32x32/10"])
def test_float32_keeps_every_bit(spec: str, tmp_path: Path) -> None:
    model, masks = pruned(spec)
    info = save_sparse(tmp_path / "new" / "net.safetensors", model, spec)
    found = load_sparse(tmp_path / "new" / "net.safetensors")
    assert same(found.model, model)
    assert found.masks.keys() == masks.keys()
    assert all(torch.equal(found.masks[name], masks[name]) for name in masks)
    assert found.info == info == read_sparse_info(tmp_path / "new" / "net.safetensors")
    assert info.sparsity == pytest.approx(0.9, abs=0.01)
    assert (info.model, info.value_type) == (spec, "float32")
    assert not found.model.training
    images = torch.rand(2, *parse_spec(spec).input_chw)
    with torch.no_grad():
        assert torch.equal(found.model(images), model(images))


def test_float16_rounds_values_and_nothing_else(tmp_path: Path) -> None:
    model, masks = pruned()
    save_sparse(tmp_path / "net", model, SPEC, value_type="float16")
    found = load_sparse(tmp_path / "net").model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value.half().float() if name in masks else value), name
        assert found[name].dtype == value.dtype


@pytest.mark.parametrize(
    ("spec", "most"), [("resnet20/3x32x32/100", (0.15, 0.10)), ("alexnet/3x32x32/100", (0.14, 0.09))]
)
def test_at_90_per_cent_the_file_is_an_order_of_magnitude_smaller(
    spec: str, most: tuple[float, float], tmp_path: Path
) -> None:
    """Against the dense network's safetensors file, headers and norms included."""
    model, _ = pruned(spec)
    save_file(model.state_dict(), tmp_path / "dense")
    ratios = []
    for value_type in ("float32", "float16"):
        save_sparse(tmp_path / value_type, model, spec, value_type=value_type)
        ratios.append((tmp_path / value_type).stat().st_size / (tmp_path / "dense").stat().st_size)
    assert (ratios[0] < most[0], ratios[1] < most[1]) == (True, True), ratios
    assert ratios[1] < 0.1


def test_the_bitmap_is_as_the_module_says(tmp_path: Path) -> None:
    """One bit a weight, first weight first, high bit first; by hand."""
    model, masks = pruned()
    save_sparse(tmp_path / "net", model, SPEC)
    with safe_open(tmp_path / "net", framework="pt") as file:
        bitmap, values = file.get_tensor("bitmap").tolist(), file.get_tensor("values").tolist()
    weights = [w for name in masks for w in model.get_parameter(name).detach().flatten().tolist()]
    kept = [bool(bitmap[i // 8] & (128 >> i % 8)) for i in range(len(weights))]
    assert kept == [w != 0 for w in weights]
    assert values == [w for w in weights if w != 0]
    assert len(bitmap) == -(-len(weights) // 8)


def test_masks_may_keep_weights_that_are_zero(tmp_path: Path) -> None:
    model, masks = pruned()
    name = next(iter(masks))
    masks[name].view(-1)[(~masks[name]).flatten().nonzero()[0]] = True  # a survivor that happens to be zero
    save_sparse(tmp_path / "net", model, SPEC, masks)
    found = load_sparse(tmp_path / "net").masks
    assert torch.equal(found[name], masks[name])
    assert not torch.equal(found[name], nonzero_masks(model)[name])


def test_a_network_without_gaps_can_be_saved_too(tmp_path: Path) -> None:
    model, _ = pruned(sparsity=0.0)
    save_sparse(tmp_path / "net", model, SPEC)
    assert same(load_sparse(tmp_path / "net").model, model)


def test_the_file_is_the_owners_alone_and_replaced_whole(tmp_path: Path) -> None:
    model, _ = pruned()
    path = tmp_path / "net"
    save_sparse(path, model, SPEC)
    first = path.read_bytes()
    save_sparse(path, model, SPEC)
    assert path.read_bytes() == first, "same network, same bytes"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


# --- what cannot be saved --------------------------------------------------------------------------------------------


def test_weights_outside_the_masks_are_not_lost_silently(tmp_path: Path) -> None:
    model, masks = pruned()
    next(iter(model.parameters())).data.fill_(1.0)
    with pytest.raises(InputError, match="apply the masks first"):
        save_sparse(tmp_path / "net", model, SPEC, masks)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("value", "value_type"), [(float("inf"), "float32"), (float("nan"), "float32"), (1e5, "float16")]
)
def test_values_that_are_no_numbers_are_refused(value: float, value_type: str, tmp_path: Path) -> None:
    model, _ = pruned()
    next(iter(model.parameters())).data.view(-1)[0] = value
    with pytest.raises(InputError, match="no number"):
        save_sparse(tmp_path / "net", model, SPEC, value_type=value_type)


def test_other_types_and_masks_are_refused(tmp_path: Path) -> None:
    model, masks = pruned()
    with pytest.raises(ConfigError, match="value_type: expected one of float32, float16, got 'int8'"):
        save_sparse(tmp_path / "net", model, SPEC, value_type="int8")
    with pytest.raises(InputError, match="expected float32 weights"):
        save_sparse(tmp_path / "net", copy.deepcopy(model).double(), SPEC)
    del masks[next(iter(masks))]
    with pytest.raises(LayoutError):
        save_sparse(tmp_path / "net", model, SPEC, masks)


# --- what cannot be loaded -------------------------------------------------------------------------------------------

Parts = tuple[dict[str, Tensor], dict[str, Any]]


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> None:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        header = json.loads(file.metadata()[KEY])
    change(tensors, header)
    path.write_bytes(save_tensors(tensors, {KEY: json.dumps(header, sort_keys=True, separators=(",", ":"))}))


def less_bitmap(tensors: dict[str, Tensor], _header: dict[str, Any]) -> None:
    tensors["bitmap"] = tensors["bitmap"][:-1].clone()


def other_bits(tensors: dict[str, Tensor], _header: dict[str, Any]) -> None:
    tensors["bitmap"][0] ^= 255


def more_values(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    tensors["values"] = torch.cat([tensors["values"], torch.ones(1)])
    header["num_kept"] += 1


def no_number(tensors: dict[str, Tensor], _header: dict[str, Any]) -> None:
    tensors["values"][3] = float("nan")


def no_number_in_the_rest(tensors: dict[str, Tensor], _header: dict[str, Any]) -> None:
    tensors["rest.float32"][3] = float("inf")


def wrong_type(tensors: dict[str, Tensor], _header: dict[str, Any]) -> None:
    tensors["values"] = tensors["values"].half()


def another_tensor(tensors: dict[str, Tensor], _header: dict[str, Any]) -> None:
    tensors["extra"] = torch.zeros(1)


def no_rest(tensors: dict[str, Tensor], _header: dict[str, Any]) -> None:
    del tensors["rest.float32"]


def another_network(_tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    header["model"] = "resnet8/1x8x8/5"


def another_count(_tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    header["num_weights"] += 1


@pytest.mark.parametrize(
    "change",
    [less_bitmap, other_bits, more_values, no_number, no_number_in_the_rest, wrong_type, another_tensor, no_rest,
     another_network, another_count],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_a_changed_file_is_refused(change: Callable[[dict[str, Tensor], dict[str, Any]], None], tmp_path: Path) -> None:
    path = tmp_path / "net"
    save_sparse(path, pruned()[0], SPEC)
    rewritten(path, lambda _tensors, _header: None)
    assert load_sparse(path).info.model == SPEC, "rewriting alone breaks nothing"
    rewritten(path, change)
    with pytest.raises(InputError, match="damaged"):
        load_sparse(path)


def test_bits_after_the_last_weight_are_looked_at(tmp_path: Path) -> None:
    model = nn.Linear(3, 3, bias=False)
    save_sparse(tmp_path / "net", model, "a.b:c/1x1x3/3")

    def swap(tensors: dict[str, Tensor], _header: dict[str, Any]) -> None:
        tensors["bitmap"][0] ^= 128
        tensors["bitmap"][1] ^= 1

    rewritten(tmp_path / "net", swap)
    with pytest.raises(InputError, match="bitmap"):
        load_sparse(tmp_path / "net", model)


@pytest.mark.parametrize(
    "changes",
    [{"value_type": "int8"}, {"num_kept": -1}, {"num_kept": 10**9}, {"num_weights": 0, "num_kept": 0}, {"odd": 1},
     {"layout": 3}],
)  # fmt: skip
def test_a_header_that_makes_no_sense_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    save_sparse(tmp_path / "net", pruned()[0], SPEC)
    rewritten(tmp_path / "net", lambda _tensors, header: header.update(changes))
    with pytest.raises(InputError, match="not a weight-pruned network"):
        load_sparse(tmp_path / "net")


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net"
    for content in (None, b"", b"x" * 100, save_tensors({"a": torch.zeros(1)}), save_tensors({}, {KEY: "{"})):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match="not a weight-pruned network"):
            load_sparse(path)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net"
    save_sparse(path, pruned()[0], SPEC)
    content = path.read_bytes()
    for size in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:size])
        with pytest.raises(InputError):
            load_sparse(path)


def test_a_file_larger_than_its_network_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net"
    model = pruned()[0]
    info = save_sparse(path, model, SPEC)
    tensors = {"bitmap": torch.zeros(dense_bytes(model) * 2, dtype=torch.uint8)}
    path.write_bytes(save_tensors(tensors, {KEY: canonical_bytes(info).decode()}))
    monkeypatch.setattr(weight_file, "MAX_HEADER_BYTES", 0)
    with pytest.raises(InputError, match="expected at most"):
        load_sparse(path)


def test_a_file_never_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = "antigravity_of_mine:make/1x8x8/4"
    (tmp_path / "antigravity_of_mine.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = pruned()[0]
    save_sparse(tmp_path / "net", model, spec)
    with pytest.raises(ConfigError, match=r"not allowed.*load_sparse\(path, network\)"):
        load_sparse(tmp_path / "net")
    fresh = build(parse_spec(SPEC))
    before = copy.deepcopy(fresh.state_dict())
    assert same(load_sparse(tmp_path / "net", fresh).model, model)
    assert all(torch.equal(before[name], value) for name, value in fresh.state_dict().items()), "copied, not filled"
    with pytest.raises(InputError, match="damaged, or of another network"):
        load_sparse(tmp_path / "net", build(parse_spec("resnet8/1x8x8/5")))


def test_a_network_of_the_same_size_but_another_shape_is_not_filled(tmp_path: Path) -> None:
    save_sparse(tmp_path / "net", nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), "a.b:c/1x1x2/2")
    with pytest.raises(InputError, match="its layout is another one"):
        load_sparse(tmp_path / "net", nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3)))


def test_dense_bytes() -> None:
    assert dense_bytes(nn.Linear(3, 2)) == 4 * 8
    assert dense_bytes(nn.BatchNorm2d(5)) == 4 * 20 + 8


def test_sparsity_of_the_header() -> None:
    assert SparseInfo(SPEC, "float32", 10, 3, "").sparsity == pytest.approx(0.7)
