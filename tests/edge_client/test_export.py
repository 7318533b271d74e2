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


def test_accuracy_is_that_of_one_image_after_the_other(tmp_path: Path) -> None:
    """More images than fit in a batch, against a slow loop."""
    path, many = tmp_path / "model.onnx", samples(150)
    export_onnx(slim_network(), example_input(SPEC), path)
    session = open_onnx(path)
    right = [int(run_onnx(session, many.images[i : i + 1].numpy()).argmax()) == many.labels[i] for i in range(150)]
    assert onnx_accuracy(path, many) == pytest.approx(sum(bool(hit) for hit in right) / 150)


def test_ranges_come_from_the_device_s_images_and_many_are_spread_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image at a time, from the first to the last."""
    import onnxruntime.quantization

    monkeypatch.setattr(export, "CALIBRATION_IMAGES", 3)
    many = samples(9)
    reader = export._calibration(onnxruntime.quantization, "images", many)
    read = [image["images"] for image in iter(reader.get_next, None)]
    np.testing.assert_array_equal(np.concatenate(read), many.images[[0, 4, 8]].numpy())


def test_other_images_give_other_ranges(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(slim_network(), example_input(SPEC), path)
    bright, dark = samples(16), Samples(samples(16).images * 0.1, samples(16).labels)
    for name, calibrated_on in (("bright", bright), ("dark", dark)):
        quantise_int8(path, calibrated_on, tmp_path / name)
    images = samples(40).images.numpy()
    answers = [run_onnx(open_onnx(tmp_path / name), images) for name in ("bright", "dark")]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3


class Erratic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError


def test_a_network_that_cannot_be_written_is_refused_with_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Erratic cannot be written as ONNX: ValueError: no reason given; keep"):
        export_onnx(Erratic().train(), example_input(SPEC), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_logits_of_another_shape_are_no_match() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()
    wider = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).eval()
    assert export._difference(model, export.onnx_bytes(wider, example_input(SPEC)), samples(2).images) == float("inf")


def test_a_file_that_cannot_be_quantised_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime.quantization

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no shapes")

    path = tmp_path / "model.onnx"
    export_onnx(slim_network(), example_input(SPEC), path)
    monkeypatch.setattr(onnxruntime.quantization, "quantize_static", fail)
    with pytest.raises(InputError, match="cannot be quantised to int8: no shapes; deploy the float32 file"):
        quantise_int8(path, samples(4), tmp_path / "int8.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_other_loggers_speak_again_afterwards() -> None:
    import logging

    logging.disable(logging.NOTSET)
    with export._quiet():
        assert not logging.getLogger("anybody").isEnabledFor(logging.WARNING)
    assert logging.getLogger("anybody").isEnabledFor(logging.WARNING)
