"""What benchmarks/device.py measures in processes of their own: peaks of memory, and crashes.

python benchmarks/device_child.py memory resnet20 8,16,32 32
python benchmarks/device_child.py crash 2 4 5 6 7 8
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.memory import load_training_code
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.pruning import slim
from prunefleet_edge.tracing import trace

STEPS = 3


def peak_bytes(net: str, widths: Sequence[int], batch_size: int) -> int:
    """Peak of the memory that training takes on top of a new process that has trained something tiny before."""
    words = ["memory", net, ",".join(map(str, widths)), str(batch_size)]
    done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
    return int(done.stdout)


def crashing_widths(num_threads: int, widths: Sequence[int], isa: str) -> list[int]:
    """Widths at which a process that trains a chain of slim convolutions dies.

    Args:
        num_threads: Of torch.
        widths: To try.
        isa: Instructions that oneDNN may use, at most (``ONEDNN_MAX_CPU_ISA``), such as AVX2.
    """
    left, died = list(widths), []
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    while left:
        words = ["crash", str(num_threads), *map(str, left)]
        command = [sys.executable, __file__, *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        finished = [int(line) for line in done.stdout.split()]
        if done.returncode != 0 and len(finished) < len(left):
            died.append(left[len(finished)])
            finished.append(died[-1])
        left = left[len(finished) :]
    return died


def _memory(net: str, widths: str, batch_size: str) -> None:
    torch.set_num_threads(1)
    spec = parse_spec(f"{net}/3x32x32/100")
    model, example = build(spec), example_input(spec)
    traced = trace(model, example)
    kept = zip(traced.layout.dense_widths, map(int, widths.split(",")), strict=True)
    small = slim(model, example, [np.arange(n) < width for n, width in kept], traced).train()
    del model
    load_training_code()
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    _train(small, int(batch_size), 32)
    print(_status_bytes("VmHWM") - before)


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def _train(model: nn.Module, batch_size: int, pixels: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        images = torch.rand(batch_size, 3, pixels, pixels, generator=generator)
        labels = torch.randint(0, 10, (batch_size,), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def _crash(num_threads: str, *widths: str) -> None:
    """Train a chain of convolutions at each width; a line says that one was survived."""
    torch.set_num_threads(int(num_threads))
    for text in widths:
        torch.manual_seed(0)
        _train(_chain(int(text)), 20, 12)
        print(text, flush=True)


def _chain(width: int) -> nn.Module:
    def stage(ins: int, outs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU())

    stages = [stage(3, width, 1), stage(width, width, 1), stage(width, 2 * width, 2), stage(2 * width, 2 * width, 1)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


if __name__ == "__main__":
    {"memory": _memory, "crash": _crash}[sys.argv[1]](*sys.argv[2:])
