"""Times single layers of a network at any widths, in the runtime that will run it.

A layer is a convolution or a linear layer with the activation behind it; its norm is folded into it, as exporters do.
All layers of one comparison take turns, so that a busy moment hits them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.export import OPSET, open_onnx
from prunefleet_edge.tracing import Trace
from prunefleet_shared.layout import CostTerm

RUNTIMES = ("onnxruntime", "torch-eager")
"""What can run a network here; the first is what it is exported for."""
Clock = Callable[[], int]
"""Nanoseconds. The default counts what this thread computes: while others have the processor, it stands still."""
_IR_VERSION = 8
"""Of the ONNX container, the one that came with the operators of :data:`~prunefleet_edge.export.OPSET`."""
_TIMED_RUNS = 3
_TOGETHER = 24
"""Layers that are in memory at the same time."""
_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class LayerShape:
    """All of a layer that its time depends on, but for its widths in a slim network.

    Attributes:
        in_channels: Of the dense layer.
        out_channels: Of the dense layer.
        in_shape: The input's other dimensions for one sample: pixels, or positions of a linear layer.
        kernel: Per dimension; empty for a linear layer.
        stride: Per dimension.
        padding: Per dimension, before and after.
        dilation: Per dimension.
        groups: Of a grouped convolution; 0 for a depthwise one, whose groups are its channels.
    """

    in_channels: int
    out_channels: int
    in_shape: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def is_depthwise(self) -> bool:
        """True when output channels follow from input channels."""
        return self.groups == 0

    def weight_shape(self, channels_in: int, channels_out: int) -> tuple[int, ...]:
        """Of a convolution at those widths (output, input per group, kernel)."""
        return (channels_out, 1 if self.is_depthwise else channels_in // self.groups, *self.kernel)


@dataclass(frozen=True, slots=True)
class FoundLayer:
    """A layer of a network: its name, its shape, and its channels as sums over the groups' widths."""

    name: str
    shape: LayerShape
    ins: tuple[CostTerm, ...]
    outs: tuple[CostTerm, ...]


def find_layers(model: nn.Module, example: Tensor, traced: Trace) -> list[FoundLayer]:
    """Every call of a convolution or linear layer in one forward pass, in order.

    Args:
        model: The dense model, left in the mode it came in.
        example: N×C×…; its first sample is run.
        traced: Its groups.
    """
    found: list[FoundLayer] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (*_CONV, nn.Linear)):

            def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor, name: str = name) -> None:
                found.append(_found(name, layer, tuple(inputs[0].shape[1:]), traced))

            handles.append(module.register_forward_hook(note))
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(example[:1])
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return found


def _found(name: str, layer: nn.Module, in_shape: tuple[int, ...], traced: Trace) -> FoundLayer:
    if isinstance(layer, nn.Linear):
        shape = LayerShape(layer.in_features, layer.out_features, in_shape[:-1])
    else:
        shape = _conv_shape(layer, in_shape[1:])
    outs = _terms(name, traced, shape.out_channels, consumes=False)
    ins = outs if shape.is_depthwise else _terms(name, traced, shape.in_channels, consumes=True)
    return FoundLayer(name, shape, ins, outs)


def _conv_shape(conv: Any, in_shape: tuple[int, ...]) -> LayerShape:
    is_depthwise = conv.groups > 1 and conv.groups == conv.out_channels == conv.in_channels
    return LayerShape(
        conv.in_channels, conv.out_channels, in_shape, conv.kernel_size, conv.stride, _padding(conv), conv.dilation,
        0 if is_depthwise else conv.groups,
    )  # fmt: skip


def _padding(conv: Any) -> tuple[tuple[int, int], ...]:
    if conv.padding == "same":
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if conv.padding == "valid":
        return tuple((0, 0) for _ in conv.kernel_size)
    return tuple((pad, pad) for pad in conv.padding)


def _terms(name: str, traced: Trace, total: int, *, consumes: bool) -> tuple[CostTerm, ...]:
    """A layer's channels as a sum over the widths of groups, and what belongs to none."""
    terms = []
    for index, group in enumerate(traced.groups):
        for member in group.consumers if consumes else group.producers:
            if member.module_name == name:
                terms.append(CostTerm(len(member.channels) // group.num_units, (index,)))
                total -= len(member.channels)
    return (*terms, CostTerm(total)) if total else tuple(terms)


def time_layer(
    shape: LayerShape,
    points: Sequence[tuple[int, int]],
    runtime: str,
    num_turns: int,
    clock: Clock = time.thread_time_ns,
) -> Iterator[int]:
    """Nanoseconds of a layer at each of ``points``: one sample, one thread, without the call of the runtime.

    Args:
        shape: The layer.
        points: Input and output channels; those of a depthwise layer are equal.
        runtime: One of :data:`RUNTIMES`.
        num_turns: See :func:`time_in_turns`.
        clock: See :data:`Clock`.
    """
    build = _in_onnxruntime if runtime == "onnxruntime" else _in_torch
    for start in range(0, len(points), _TOGETHER):
        runs = [build(shape, *point) for point in points[start : start + _TOGETHER]]
        empty_ns, *times = time_in_turns([_empty_call(runtime), *runs], num_turns, clock, is_warm=False)
        yield from (max(1, ns // 10, ns - empty_ns) for ns in times)


def _empty_call(runtime: str) -> Callable[[], object]:
    """A call that computes next to nothing: a layer alone takes one of its own, a whole network one in all.

    In eager torch calls are part of every layer, wherever it is.
    """
    if runtime != "onnxruntime":
        return lambda: None
    from onnx import helper

    return _session_run([helper.make_node("Relu", ["in"], ["out"])], {}, np.zeros((1, 1), dtype=np.float32))


def time_in_turns(
    runs: Sequence[Callable[[], object]], num_turns: int, clock: Clock = time.thread_time_ns, *, is_warm: bool = True
) -> list[int]:
    """Median nanoseconds of each of ``runs``.

    Args:
        runs: What to time.
        num_turns: Turns of each.
        clock: See :data:`Clock`.
        is_warm: In its turn, each runs once untimed and three times timed, as a camera's network runs image after
            image. Else once, timed: what it needs is as far away as the others have pushed it, which is how a layer
            finds things in its network.
    """
    times: list[list[int]] = [[] for _ in runs]
    for _ in range(num_turns):
        for run, own_times in zip(runs, times, strict=True):
            if is_warm:
                run()
            for _ in range(_TIMED_RUNS if is_warm else 1):
                start = clock()
                run()
                own_times.append(clock() - start)
    return [round(statistics.median(own_times)) for own_times in times]


def _in_torch(shape: LayerShape, channels_in: int, channels_out: int) -> Callable[[], object]:
    """The layer in eager torch: convolution, norm and activation, one call each, as a traced network runs."""
    layer: nn.Module
    if not shape.kernel:
        layer = nn.Linear(channels_in, channels_out)
        sample = torch.rand(1, *shape.in_shape, channels_in)
    else:
        number = len(shape.kernel)
        pads = [pad for pair in reversed(shape.padding) for pad in pair]
        is_even = all(before == after for before, after in shape.padding)
        conv = _CONV[number - 1](
            channels_in, channels_out, shape.kernel, shape.stride, 0, shape.dilation,  # type: ignore[arg-type]
            channels_in if shape.is_depthwise else shape.groups, bias=False,
        )  # fmt: skip
        if is_even:
            conv.padding = tuple(before for before, _ in shape.padding)
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[number - 1](channels_out)
        layer = nn.Sequential(*([] if is_even else [nn.ConstantPad2d(pads, 0.0)]), conv, norm)  # type: ignore[arg-type]
        sample = torch.rand(1, channels_in, *shape.in_shape)
    layer.eval()

    def run() -> object:
        with torch.no_grad():
            return F.relu(layer(sample))

    return run


def _in_onnxruntime(shape: LayerShape, channels_in: int, channels_out: int) -> Callable[[], object]:
    """The layer as a network of its own in onnxruntime."""
    from onnx import helper

    rng = np.random.default_rng(0)
    if shape.kernel:
        weight = rng.standard_normal(shape.weight_shape(channels_in, channels_out))
        input_shape: tuple[int, ...] = (1, channels_in, *shape.in_shape)
    else:
        weight = rng.standard_normal((channels_in, channels_out))
        input_shape = (1, *shape.in_shape, channels_in)
    constants = {"weight": weight, "bias": rng.standard_normal(channels_out)}
    nodes = [*_nodes(helper, shape, channels_in), helper.make_node("Relu", ["sum"], ["out"])]
    return _session_run(nodes, constants, rng.random(input_shape, dtype=np.float32))


def _session_run(
    nodes: list[Any], constants: dict[str, npt.NDArray[Any]], sample: npt.NDArray[np.float32]
) -> Callable[[], object]:
    from onnx import TensorProto, helper, numpy_helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "layer",
        [value("in", TensorProto.FLOAT, sample.shape)],
        [value("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    network = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    session = open_onnx(network.SerializeToString())
    return lambda: session.run(None, {"in": sample})


def _nodes(helper: Any, shape: LayerShape, channels_in: int) -> list[Any]:
    if shape.kernel:
        pads = [before for before, _ in shape.padding] + [after for _, after in shape.padding]
        options = {"kernel_shape": shape.kernel, "strides": shape.stride, "dilations": shape.dilation, "pads": pads}
        num_groups = channels_in if shape.is_depthwise else shape.groups
        return [helper.make_node("Conv", ["in", "weight", "bias"], ["sum"], group=num_groups, **options)]
    if not shape.in_shape:
        return [helper.make_node("Gemm", ["in", "weight", "bias"], ["sum"])]
    products = helper.make_node("MatMul", ["in", "weight"], ["products"])
    return [products, helper.make_node("Add", ["products", "bias"], ["sum"])]
