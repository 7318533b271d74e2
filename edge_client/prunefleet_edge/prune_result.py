"""What came of pruning or retraining on this device, for the person who asked and for machines. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from prunefleet_edge.byte_sizes import bytes_in_words

NOT_MEASURED = "not measured"
MAX_FILES_NAMED = 10


@dataclass(frozen=True, slots=True)
class Measured:
    """One network.

    Attributes:
        parameters: Weights, biases and norms that are not zero.
        macs: Multiply-accumulates per image.
        gate_accuracy: Top-1 on the images that decided, fraction; optimistic for a network they chose.
        test_accuracy: Top-1 on images that nothing was decided by; None without ``--test``.
        file_bytes: Size of its file.
    """

    parameters: int
    macs: int
    gate_accuracy: float
    test_accuracy: float | None
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Try:
    """One size that was tried.

    Attributes:
        removed_ratio: Fraction of the cost that was to go.
        cost_ratio: What is left of it.
        gate_accuracy: Top-1 on the gate's images.
        is_floor_kept: Whether that is enough.
    """

    removed_ratio: float
    cost_ratio: float
    gate_accuracy: float
    is_floor_kept: bool


@dataclass(frozen=True, slots=True)
class DataFacts:
    """The images: how many, of how many classes, how they were split, and the files that cannot be read."""

    source: str
    num_images: int
    num_classes: int
    num_fit: int
    num_gate: int
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LocalResult:
    """Everything a person may want to know afterwards.

    Attributes:
        model: Specification of the dense network.
        goal: What was asked for, in words.
        unit: What costs are counted in.
        data: The images.
        frozen: Groups that were kept whole, and why.
        tries: Sizes that were tried, in order.
        dense: The network before.
        result: The network after.
        latency_ratio: After over before, batch 1, eager torch on this device; None where shapes did not change.
        training_bytes: Memory that training the result takes, on top of the process.
        original_task: Accuracy on the task the network came from; nobody here can measure it.
        files: What was written: path, and a word about it.
        notes: What the reader should know about these figures.
    """

    model: str
    goal: str
    unit: str
    data: DataFacts
    frozen: dict[str, str]
    tries: tuple[Try, ...]
    dense: Measured
    result: Measured
    latency_ratio: float | None
    training_bytes: int
    files: dict[str, str]
    notes: tuple[str, ...]
    original_task: str = NOT_MEASURED


def result_json(result: LocalResult) -> str:
    """The result for machines."""
    return json.dumps(asdict(result), indent=2)


def result_text(result: LocalResult) -> str:
    """The result for a person."""
    parts = [_data_lines(result.data), _frozen_lines(result.frozen), _try_lines(result), _table_lines(result)]
    parts.append([f"note: {note}" for note in result.notes])
    parts.append([f"{path}: {words}" for path, words in result.files.items()])
    return "\n".join("\n".join(lines) for lines in parts if lines)


def _data_lines(data: DataFacts) -> list[str]:
    split = f"{data.num_fit} to learn from, {data.num_gate} to decide by"
    lines = [f"{data.source}: {data.num_images} images of {data.num_classes} classes ({split})"]
    if data.skipped:
        more = len(data.skipped) - MAX_FILES_NAMED
        named = ", ".join(data.skipped[:MAX_FILES_NAMED]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"{len(data.skipped)} files cannot be read and were left out: {named}")
    return lines


def _frozen_lines(frozen: dict[str, str]) -> list[str]:
    return [f"kept whole: {name}: {why}" for name, why in frozen.items()]


def _try_lines(result: LocalResult) -> list[str]:
    if not result.tries:
        return []
    lines = [f"{'removed':>8} {result.unit + ' left':>20} {'accuracy':>9}  {result.goal}"]
    for one in result.tries:
        verdict = "kept" if one.is_floor_kept else "missed"
        removed, left, accuracy = (_percent(x) for x in (one.removed_ratio, one.cost_ratio, one.gate_accuracy))
        lines.append(f"{removed:>8} {left:>20} {accuracy:>9}  {verdict}")
    return lines


def _table_lines(result: LocalResult) -> list[str]:
    before, after = result.dense, result.result
    rows = [
        ("", "before", "after", "left"),
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}", _share(after.parameters, before.parameters)),
        ("MACs", f"{before.macs:,}", f"{after.macs:,}", _share(after.macs, before.macs)),
        ("file", *(bytes_in_words(x.file_bytes) for x in (before, after)), _share(after.file_bytes, before.file_bytes)),
        ("accuracy (gate)", _percent(before.gate_accuracy), _percent(after.gate_accuracy), ""),
    ]
    if before.test_accuracy is not None and after.test_accuracy is not None:
        rows.append(("accuracy (test)", _percent(before.test_accuracy), _percent(after.test_accuracy), ""))
    if result.latency_ratio is not None:
        rows.append(("latency", "", "", _percent(result.latency_ratio)))
    rows.append(("training memory", "", bytes_in_words(result.training_bytes), ""))
    rows.append(("original task", "", result.original_task, ""))
    return [f"{name:<16} {one:>14} {two:>14} {three:>8}".rstrip() for name, one, two, three in rows]


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"


def _share(part: int, whole: int) -> str:
    return _percent(part / whole) if whole else ""
