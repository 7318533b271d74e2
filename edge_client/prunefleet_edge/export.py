"""A network as an ONNX file that runtimes on devices take, in float32 or in int8, checked and measured.

The check is numerical: what onnxruntime answers is held against what torch answers, at two batch sizes.
"""

from __future__ import annotations

import importlib
import io
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from prunefleet_edge.data import Samples
from prunefleet_shared.document_file import write_whole
from prunefleet_shared.errors import ConfigError, InputError

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_DIFFERENCE = 1e-4
"""Largest absolute difference allowed between the logits of onnxruntime and of torch."""
OPSET = 18
"""Version of the ONNX operators: old enough for runtimes of 2023, new enough for all that torch writes."""
INPUT, OUTPUT = "images", "logits"
CALIBRATION_IMAGES = 200
"""Images from which the ranges of int8 activations are taken; more changed nothing measurable."""
_BATCH = 64


def export_onnx(model: nn.Module, example: Tensor, path: Path) -> float:
    """Write ``model`` to ``path`` as ONNX with any batch size, in eval mode, and hold it against torch.

    Input ``images`` (float32 N×C×H×W in [0, 1]), output ``logits`` (float32 N×classes).

    Args:
        model: Left in the mode it came in.
        example: N×C×H×W, images to compare with; one of them is compared alone, too.
        path: Replaced when it exists; its folder must exist.

    Returns:
        The largest absolute difference to torch.

    Raises:
        ConfigError: onnx or onnxruntime is not installed, or the file cannot be written (the user's to mend).
        InputError: torch cannot express the network in ONNX, or the file answers otherwise by more than
            :data:`MAX_DIFFERENCE`. No file is left then.
    """
    _library("onnx")
    was_training = model.training
    try:
        model.eval()
        body = onnx_bytes(model, example)
        difference = max(_difference(model, body, images) for images in (example, example[:1]))
    finally:
        model.train(was_training)
    if not difference <= MAX_DIFFERENCE:
        msg = (
            f"{type(model).__name__}: onnxruntime's logits differ from torch's by {difference:.1e}, expected at most "
            f"{MAX_DIFFERENCE:.0e}; the network does something that ONNX says otherwise, so keep the torch file"
        )
        raise InputError(msg)
    write_whole(path, body)
    return difference


def onnx_bytes(model: nn.Module, example: Tensor) -> bytes:
    """The network as the content of an ONNX file, in the mode it is in, unchecked; errors as :func:`export_onnx`."""
    stream = io.BytesIO()
    axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
    try:
        with warnings.catch_warnings():
            # The exporter by tracing needs no further package; torch announces that another is the default now.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
            torch.onnx.export(
                model, (example,), stream,  # type: ignore[arg-type]  # it does take a stream when it traces
                dynamo=False, opset_version=OPSET,
                input_names=[INPUT], output_names=[OUTPUT], dynamic_axes=axes,
            )  # fmt: skip
    except Exception as error:  # the exporter raises anything; the user needs one kind with a next step
        msg = (
            f"{type(model).__name__} cannot be written as ONNX: {type(error).__name__}: {_first_line(error)}; "
            "keep the torch file, or replace that part of the network"
        )
        raise InputError(msg) from error
    return stream.getvalue()


def _difference(model: nn.Module, body: bytes, images: Tensor) -> float:
    with torch.no_grad():
        expected = model(images).numpy()
    found = run_onnx(open_onnx(body), images.numpy())
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max())


def open_onnx(source: Path | bytes, num_threads: int = 1) -> Any:
    """A session of onnxruntime on the CPU.

    Args:
        source: An ONNX file, or its bytes.
        num_threads: Threads within an operator; they sleep between two, so that other work is not disturbed.

    Raises:
        ConfigError: onnxruntime is not installed (the user's to mend).
        InputError: Not an ONNX network that it can run (the user's to mend).
    """
    runtime = _library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; what it warns of is its own business
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        given = source if isinstance(source, bytes) else str(source)
        return runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        name = "the exported network" if isinstance(source, bytes) else str(source)
        msg = f"{name}: expected an ONNX network that onnxruntime can run: {_first_line(error)}"
        raise InputError(msg) from error


def run_onnx(session: Any, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits float32 N×classes of images float32 N×C×H×W."""
    answer: npt.NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return answer


def onnx_accuracy(path: Path, samples: Samples) -> float:
    """Top-1 of an ONNX file, fraction of ``samples``; errors as :func:`open_onnx`."""
    session, num_right = open_onnx(path), 0
    for part in _parts(samples):
        answers = run_onnx(session, part.images.numpy()).argmax(axis=1)
        num_right += int((answers == part.labels.numpy()).sum())
    return num_right / len(samples)


def onnx_latency_ms(
    path: Path, example_1: Tensor, repeats: int = 25, *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median latency of an ONNX file in milliseconds, one thread, after two runs that do not count.

    Args:
        path: The file.
        example_1: 1×C×H×W, float32.
        repeats: Timed runs.
        clock: Seconds, high resolution.

    Raises:
        ConfigError, InputError: As :func:`open_onnx`.
    """
    session, images = open_onnx(path), example_1.numpy()
    times = []
    for _ in range(repeats + 2):
        start = clock()
        run_onnx(session, images)
        times.append(clock() - start)
    return 1000 * statistics.median(times[2:])


def quantise_int8(onnx_path: Path, samples: Samples, out_path: Path) -> None:
    """Write the network of ``onnx_path`` with 8-bit weights and activations to ``out_path``.

    Static quantisation in QDQ form, weights per channel, by onnxruntime; the ranges of activations come from the
    device's own images (the first :data:`CALIBRATION_IMAGES` of them, spread over all).

    Args:
        onnx_path: As :func:`export_onnx` writes it.
        samples: Images as the network will see them; they stay here, only ranges get into the file.
        out_path: Replaced when it exists.

    Raises:
        ConfigError: onnx or onnxruntime is not installed, or the file cannot be written (the user's to mend).
        InputError: Not an ONNX network, or it cannot be quantised (the user's to mend).
    """
    session = open_onnx(onnx_path)
    quantization = _library("onnxruntime.quantization")
    reader = _calibration(quantization, session.get_inputs()[0].name, samples)
    part = out_path.with_name(f".{out_path.name}.part")
    try:
        with _quiet():
            quantization.quantize_static(
                str(onnx_path), str(part), reader,
                quant_format=quantization.QuantFormat.QDQ, per_channel=True,
                activation_type=quantization.QuantType.QInt8, weight_type=quantization.QuantType.QInt8,
            )  # fmt: skip
        open_onnx(part)
        write_whole(out_path, part.read_bytes())
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        msg = f"{onnx_path}: it cannot be quantised to int8: {_first_line(error)}; deploy the float32 file"
        raise InputError(msg) from error
    finally:
        part.unlink(missing_ok=True)


def _calibration(quantization: ModuleType, name: str, samples: Samples) -> Any:
    """The images as onnxruntime wants to read them, one at a time."""
    chosen = np.linspace(0, len(samples) - 1, min(len(samples), CALIBRATION_IMAGES)).astype(np.int64)

    class Images(quantization.CalibrationDataReader):  # type: ignore[name-defined,misc]  # a module found at run time
        def __init__(self) -> None:
            self._left = iter(chosen)

        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            index = next(self._left, None)
            return None if index is None else {name: samples.images[index : index + 1].numpy()}

    return Images()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps onnxruntime's advice about preprocessing off the root logger: the exporter has folded the norms already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _parts(samples: Samples) -> Iterator[Samples]:
    return (samples[slice(start, start + _BATCH)] for start in range(0, len(samples), _BATCH))


def _first_line(error: Exception) -> str:
    return (str(error) or "no reason given").splitlines()[0]


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = f"{name.partition('.')[0]} is not installed; exporting needs it: pip install 'prunefleet[export]'"
        raise ConfigError(msg) from error
