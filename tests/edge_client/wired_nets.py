"""Small networks wired in every way that can be pruned, for tests of tracing and onboarding. Inputs are 3×8×8."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from prunefleet_edge.models import build, parse_spec

SPEC = "resnet8/3x8x8/4"
EXAMPLE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

Wiring = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    """Layers by name, and how they are wired: a classifier named ``fc`` over a global average pool comes last."""

    def __init__(self, wiring: Wiring, **layers: nn.Module) -> None:
        super().__init__()
        self.wiring = wiring
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.wiring(self, x)).mean(dim=(2, 3)))


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


def conv_norm(inputs: int, outputs: int, kernel: int = 1, groups: int = 1, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


def plain() -> nn.Module:
    return Net(lambda n, x: n.b(F.relu(n.a(x))), a=conv(3, 6, 3), b=conv(6, 5), fc=nn.Linear(5, 4))


def residual() -> nn.Module:
    return build(parse_spec(SPEC))


def mobile() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu6(n.stem(x))
        return x + n.project(F.relu6(n.depth(F.relu6(n.expand(x)))))

    layers = {
        "stem": conv_norm(3, 8, 3, stride=2),
        "expand": conv_norm(8, 12),
        "depth": conv_norm(12, 12, 3, groups=12),
    }
    return Net(wiring, **layers, project=conv_norm(12, 8), fc=nn.Linear(8, 4))


def grouped() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        return n.c(F.relu(n.norm(n.b(F.relu(n.a(x))))))

    return Net(wiring, a=conv(3, 8, 3), b=conv(8, 12, 3, 2), norm=nn.BatchNorm2d(12), c=conv(12, 6), fc=nn.Linear(6, 4))


def fire() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.squeeze(x))
        return n.after(torch.cat([F.relu(n.left(x)), F.relu(n.right(x))], dim=1))

    layers = {"squeeze": conv(3, 4), "left": conv(4, 6), "right": conv(4, 7, 3)}
    return Net(wiring, **layers, after=conv(13, 5, 3), fc=nn.Linear(5, 4))


def dense() -> nn.Module:
    """Norms over concatenations, as in DenseNet: a norm carries channels of several groups."""

    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = n.a(x)
        x = torch.cat([x, n.b(F.relu(n.norm_1(x)))], dim=1)
        x = torch.cat([x, n.c(F.relu(n.norm_2(x)))], dim=1)
        return n.norm_3(x)

    convs = {"a": conv(3, 6, 3), "b": conv(6, 4, 3), "c": conv(10, 5, 3)}
    norms = {f"norm_{i}": nn.BatchNorm2d(width) for i, width in ((1, 6), (2, 10), (3, 15))}
    return Net(wiring, **convs, **norms, fc=nn.Linear(15, 4))


def excited() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(n.norm(n.conv(x)))
        return n.out(x * torch.sigmoid(n.up(F.relu(n.down(x.mean(dim=(2, 3), keepdim=True))))))

    layers = {"conv": conv(3, 8, 3), "norm": nn.BatchNorm2d(8), "down": conv(8, 4), "up": conv(4, 8)}
    return Net(wiring, **layers, out=conv(8, 6, 3), fc=nn.Linear(6, 4))


def flat() -> nn.Module:
    layers = [conv(3, 6, 3), nn.PReLU(6), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10), nn.BatchNorm1d(10)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(10, 4))


def normed(norm: nn.Module) -> nn.Module:
    return Net(lambda n, x: n.b(F.relu(n.norm(n.a(x)))), a=conv(3, 8, 3), norm=norm, b=conv(8, 6), fc=nn.Linear(6, 4))


def concat_plus_add() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        return n.d(torch.cat([n.a(x), n.b(x)], dim=1) + n.c(x))

    return Net(wiring, a=conv(3, 4), b=conv(3, 4), c=conv(3, 8), d=conv(8, 6), fc=nn.Linear(6, 4))


def concat_into_groups() -> nn.Module:
    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        return n.after(F.relu(n.both(torch.cat([n.a(x), n.b(x)], dim=1))))

    return Net(wiring, a=conv(3, 4), b=conv(3, 4), both=conv(8, 8, 3, 2), after=conv(8, 6), fc=nn.Linear(6, 4))


def transformer() -> nn.Module:
    """A token mixer with one attention block over 4 tokens, pre-norm, and a classifier over their mean."""

    def wiring(n: nn.Module, x: Tensor) -> Tensor:
        tokens = n.embed(x).flatten(2).transpose(1, 2)
        y = n.norm_1(tokens)
        weights = torch.softmax(n.query(y) @ n.key(y).transpose(1, 2) / 8**0.5, dim=2)
        tokens = tokens + n.out(weights @ n.value(y))
        tokens = tokens + n.shrink(F.gelu(n.grow(n.norm_2(tokens))))
        return tokens.transpose(1, 2)[..., None]

    layers: dict[str, nn.Module] = {name: nn.Linear(8, 8) for name in ("query", "key", "value", "out")}
    layers |= {
        "norm_1": nn.LayerNorm(8),
        "norm_2": nn.LayerNorm(8),
        "grow": nn.Linear(8, 20),
        "shrink": nn.Linear(20, 8),
    }
    return Net(wiring, embed=nn.Conv2d(3, 8, 4, 4), **layers, fc=nn.Linear(8, 4))


NETS = [plain, residual, mobile, grouped, fire, dense, excited, flat, concat_plus_add, concat_into_groups]


def made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make()
