"""What a job on this device leaves behind: files for runtimes, the result for machines, and what to know about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from prunefleet_edge.byte_sizes import bytes_in_words
from prunefleet_edge.data import Samples
from prunefleet_edge.export import export_onnx, onnx_accuracy, quantise_int8
from prunefleet_edge.local_images import LocalImages
from prunefleet_edge.prune_result import LocalResult, result_json
from prunefleet_shared.document_file import write_whole

RESULT_FILE = "result.json"
FEW_IMAGES = 100
"""Images under which an accuracy is uncertain by several points."""


def export_files(
    model: nn.Module, example: Tensor, images: LocalImages, out: Path, kinds: Sequence[str]
) -> dict[str, str]:
    """Write ``model.onnx`` and ``model-int8.onnx`` as far as asked for; returns a word about each.

    Raises:
        ConfigError: onnx or onnxruntime is not installed (the user's to mend).
        InputError: The exported network answers otherwise than torch's.
    """
    if not kinds:
        return {}
    judged = images.gate if images.test is None else images.test
    path, int8_path = out / "model.onnx", out / "model-int8.onnx"
    difference = export_onnx(model, example, path)
    files = {str(path): f"{_size(path)}; differs from torch by {difference:.1e} at most"}
    if "int8" in kinds:
        quantise_int8(path, images.fit, int8_path)
        files[str(int8_path)] = f"{_size(int8_path)}; {_accuracies(path, int8_path, judged, images)}"
    return files


def _accuracies(path: Path, int8_path: Path, judged: Samples, images: LocalImages) -> str:
    where = "gate" if images.test is None else "test"
    whole, small = (onnx_accuracy(one, judged) for one in (path, int8_path))
    return f"accuracy ({where}) {small:.1%} against {whole:.1%} in float32"


def _size(path: Path) -> str:
    return bytes_in_words(path.stat().st_size)


def notes_on(images: LocalImages) -> tuple[str, ...]:
    """What a reader should know about the figures."""
    notes = []
    if images.test is None:
        notes.append("the gate's images chose this network, so its accuracy on them is optimistic; give --test")
    if len(images.gate) < FEW_IMAGES:
        notes.append(f"{len(images.gate)} images decide: their accuracy is uncertain by several points")
    return tuple(notes)


def write_result(out: Path, result: LocalResult) -> None:
    """Write the result beside the files.

    Raises:
        ConfigError: It cannot be written (the user's to mend).
    """
    write_whole(out / RESULT_FILE, (result_json(result) + "\n").encode(), 0o644)
