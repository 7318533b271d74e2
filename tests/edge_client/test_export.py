"""Exported networks answer as torch's do, and what cannot be exported or read is said in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunefleet_edge import export
from prunefleet_edge.data import Samples
from prunefleet_edge.evaluation import accuracy
from prunefleet_edge.export import export_onnx, onnx_accuracy, onnx_latency_ms, open_onnx, quantise_int8, run_onnx
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.pruning import slim
from prunefleet_edge.tracing import trace
from prunefleet_shared.errors import ConfigError, InputError

torch.set_num_threads(1)
SPEC = parse_spec("resnet8/1x8x8/4")


def slim_network() -> nn.Module:
    """Odd widths, and norms that have seen something."""
    torch.manual_seed(0)
    dense, example = build(SPEC), example_input(SPEC)
    for _ in range(3):
        dense.train()(torch.rand(16, 1, 8, 8))
    sizes = trace(dense, example).layout.dense_widths
    return slim(dense, example, [np.arange(size) < max(1, size // 3) for size in sizes])


def samples(num: int) -> Samples:
    generator = torch.Generator().manual_seed(1)
    return Samples(torch.rand(num, 1, 8, 8, generator=generator), torch.arange(num) % 4)


def test_the_file_answers_as_torch_does_at_any_batch_size(tmp_path: Path) -> None:
    model, path = slim_network().train(), tmp_path / "model.onnx"
    assert export_onnx(model, example_input(SPEC), path) < 1e-5
    assert model.training, "left in the mode it came in"
    session = open_onnx(path)
    for num in (1, 5):
        images = samples(num).images
        with torch.no_grad():
            expected = model.eval()(images)
        np.testing.assert_allclose(run_onnx(session, images.numpy()), expected.numpy(), atol=1e-5)
    assert onnx_accuracy(path, samples(40)) == accuracy(model, samples(40))


def test_int8_is_close_and_its_file_is_a_network(tmp_path: Path) -> None:
    path, small = tmp_path / "model.onnx", tmp_path / "model-int8.onnx"
    export_onnx(slim_network(), example_input(SPEC), path)
    quantise_int8(path, samples(32), small)
    images = samples(40).images.numpy()
    whole, rounded = (run_onnx(open_onnx(file), images) for file in (path, small))
    assert 0 < np.abs(whole - rounded).max() < 0.25 * np.abs(whole).max()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model-int8.onnx", "model.onnx"]


class Unlike(nn.Module):
    """Tracing sees one branch; another batch takes the other."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4] * (2.0 if len(x) > 1 else 1.0)


def test_a_network_that_onnx_says_otherwise_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="differ from torch's"):
        export_onnx(Unlike(), example_input(SPEC), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no network")
    with pytest.raises(InputError, match="expected an ONNX network"):
        open_onnx(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="expected an ONNX network"):
        quantise_int8(tmp_path / "model.onnx", samples(8), tmp_path / "int8.onnx")


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"prunefleet\[export\]"):
        open_onnx(tmp_path / "model.onnx")


def test_latency_is_the_median_of_the_runs_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs do not count; the others take 1, 5 and 3 ms."""
    ticks = iter([0, 9, 10, 19, 20, 20.001, 30, 30.005, 40, 40.003])
    monkeypatch.setattr(export, "open_onnx", lambda _path: None)
    monkeypatch.setattr(export, "run_onnx", lambda _session, images: images)
    found = onnx_latency_ms(tmp_path / "x", torch.zeros(1), repeats=3, clock=lambda: next(ticks))
    assert found == pytest.approx(3.0)
