"""Small networks with channels tied in every way, for tests of what works on channel groups."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.models import build, parse_spec
from prunefleet_edge.tracing import Trace, TracedGroup, trace


class Tied(nn.Module):
    """Ties of every kind in few channels: a residual stream, a depthwise convolution and a grouped one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.expand, self.expand_norm = nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.project, self.project_norm = nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        x = x + self.project_norm(self.project(F.relu(self.depth(F.relu(self.expand_norm(self.expand(x)))))))
        return self.fc(F.relu(self.grouped(F.relu(x))).mean(dim=(2, 3)))


class Concatenated(nn.Module):
    """A norm over two groups, one of which also feeds the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = torch.cat([x, self.b(F.relu(x))], dim=1)
        return self.fc(F.relu(self.norm(x)).mean(dim=(2, 3)))


def small_resnet() -> nn.Module:
    return build(parse_spec("resnet8/1x6x6/3"))


NETS = (Tied, Concatenated, small_resnet)


def made(make: Callable[[], nn.Module]) -> nn.Module:
    """A net whose norms have seen data, so that nothing is trivially zero or one; in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = make()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    for tensor in (module.weight, module.bias, module.running_mean):
                        tensor.uniform_(-1, 1)
                    module.running_var.uniform_(0.5, 2)
        return model.eval()


def data(num: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(num, 1, 6, 6, generator=generator), torch.randint(0, 3, (num,), generator=generator)


def traced(model: nn.Module) -> Trace:
    return trace(model, torch.zeros(2, 1, 6, 6))


def channels_of_unit(group: TracedGroup, layer: str, unit: int) -> list[int]:
    member = next(member for member in group.producers if member.module_name == layer)
    return [channel for channel, its_unit in zip(member.channels, member.units, strict=True) if its_unit == unit]
