"""The network a device keeps: the file alone gives it back, and never makes a machine run code."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.network_file import KeptInfo, info_facts, load_kept, read_kept_info, save_kept
from prunefleet_edge.onboarding import onboard
from prunefleet_edge.pruning import slim
from prunefleet_edge.tracing import Trace, trace
from prunefleet_shared.errors import ConfigError, InputError, LayoutError

torch.set_num_threads(1)
SPEC = parse_spec("resnet8/1x8x8/4")
IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def info_of(model: str, traced: Trace, masks: list[np.ndarray]) -> KeptInfo:
    return KeptInfo(
        model=model,
        kept=tuple(tuple(int(index) for index in mask.nonzero()[0]) for mask in masks),
        campaign_id="ab" * 16,
        level=0,
        decision_fingerprint="cd" * 32,
        is_fleets=True,
        cost=250,
        dense_cost=1000,
        unit="macs",
        group_names=tuple(group.name for group in traced.groups),
    )


def saved(path: Path, model: str, dense: nn.Module, traced: Trace) -> tuple[nn.Module, KeptInfo]:
    masks = [np.arange(group.num_units) % 3 == 0 for group in traced.groups]
    small = slim(dense, example_input(parse_spec(model)), masks, traced).eval()
    info = info_of(model, traced, masks)
    save_kept(path, small, info)
    return small, info


def test_a_kept_network_comes_back_from_its_file(tmp_path: Path) -> None:
    dense, path = build(SPEC), tmp_path / "kept" / "level-0.safetensors"
    small, info = saved(path, str(SPEC), dense, trace(dense, example_input(SPEC)))
    assert read_kept_info(path) == info
    assert torch.equal(load_kept(path)(IMAGES), small(IMAGES))
    assert not load_kept(path).training


def test_a_network_whose_layout_leaves_groups_out_comes_back_too(tmp_path: Path) -> None:
    dense = build(SPEC)
    some = trace(dense, example_input(SPEC)).only(["net.blocks.0.conv1", "net.blocks.2.conv2"])
    small, _ = saved(tmp_path / "kept", str(SPEC), dense, some)
    assert torch.equal(load_kept(tmp_path / "kept")(IMAGES), small(IMAGES))


def test_files_from_before_groups_were_named_are_read(tmp_path: Path) -> None:
    dense = build(SPEC)
    small, info = saved(tmp_path / "kept", str(SPEC), dense, trace(dense, example_input(SPEC)))
    save_kept(tmp_path / "kept", small, replace(info, group_names=()))
    assert torch.equal(load_kept(tmp_path / "kept")(IMAGES), small(IMAGES))


def test_a_header_that_contradicts_the_network_is_refused(tmp_path: Path) -> None:
    dense, path = build(SPEC), tmp_path / "kept"
    small, info = saved(path, str(SPEC), dense, trace(dense, example_input(SPEC)))
    names = info.group_names
    for wrong in (
        replace(info, kept=info.kept[:-1]),
        replace(info, kept=(*info.kept, (0,)), group_names=()),
        replace(info, group_names=(*names[:-1], "elsewhere")),
        replace(info, group_names=names[::-1]),
        replace(info, kept=((), *info.kept[1:])),
    ):
        save_kept(path, small, wrong)
        with pytest.raises(LayoutError):
            load_kept(path)
    save_kept(path, small, replace(info, kept=((0,), *info.kept[1:])))
    with pytest.raises(InputError, match="kept: not the weights of"):
        load_kept(path)


def test_facts_for_an_owner_leave_out_lists_of_channels() -> None:
    facts = info_facts(info_of("resnet8/1x8x8/4", Trace(()), []))
    assert not {"kept", "group_names"} & set(facts)
    assert facts["cost_permille"] == 250


# --- a file that names code ------------------------------------------------------------------------------------------

NETS = """
    from pathlib import Path
    from torch import nn, sigmoid

    Path(__file__).with_suffix(".ran").touch()

    class Net(nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(5, num_classes)

        def forward(self, x):
            return self.fc(self.b(sigmoid(self.a(x))).relu().mean(dim=(2, 3)))
"""
CODE = "kept_nets:Net/1x8x8/4"


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module ``kept_nets`` in the working directory; yields the file that appears when it is imported."""
    (tmp_path / "kept_nets.py").write_text(textwrap.dedent(NETS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "kept_nets.ran"
    sys.modules.pop("kept_nets", None)


def test_a_file_that_names_code_needs_the_network_from_its_caller(nets: Path, tmp_path: Path) -> None:
    spec = parse_spec(CODE)
    dense = build(spec, ["kept_nets:Net"])
    safe = onboard(dense, example_input(spec))
    assert [group.name for group in safe.groups] == ["net.b"], "the sigmoid's group is kept whole"
    small, _ = saved(tmp_path / "kept", CODE, dense, safe)
    nets.unlink()
    factory = sys.modules.pop("kept_nets").Net
    with pytest.raises(ConfigError, match=r"kept_nets:Net, which is not allowed; make the dense network yourself"):
        load_kept(tmp_path / "kept")
    assert not nets.exists(), "the module was not imported"
    assert "kept_nets" not in sys.modules
    for given in (factory(4), dense):
        assert torch.equal(load_kept(tmp_path / "kept", given)(IMAGES), small(IMAGES))


def test_another_network_than_the_files_is_refused(nets: Path, tmp_path: Path) -> None:
    dense = build(parse_spec(CODE), ["kept_nets:Net"])
    saved(tmp_path / "kept", CODE, dense, onboard(dense, example_input(parse_spec(CODE))))
    with pytest.raises(LayoutError):
        load_kept(tmp_path / "kept", build(SPEC))
    with pytest.raises(InputError, match="not the weights of"):
        load_kept(tmp_path / "kept", sys.modules["kept_nets"].Net(5))


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 40])
def test_anything_else_is_no_kept_network(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kept").write_bytes(content)
    for path in (tmp_path / "kept", tmp_path / "missing"):
        with pytest.raises(InputError):
            load_kept(path)
