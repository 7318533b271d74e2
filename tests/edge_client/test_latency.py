"""The latency ratio on a clock that only the networks turn: medians, in turns, warmed up."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

import pytest
import torch
from torch import Tensor, nn

from prunefleet_edge.latency import latency_ratio


class Bench:
    """A clock, and networks that take a scripted time on it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.calls: list[str] = []

    def clock(self) -> float:
        return self.now_s

    def net(self, name: str, seconds: Iterable[float]) -> nn.Module:
        bench, script = self, iter(seconds)

        class Net(nn.Module):
            def forward(self, sample: Tensor) -> Tensor:
                assert not torch.is_grad_enabled(), "gradients cost time that no deployment spends"
                assert not self.training
                bench.calls.append(name)
                bench.now_s += next(script)
                return sample

        return Net()

    def ratio(self, slim_s: Iterable[float], dense_s: Iterable[float], **options: int) -> float:
        nets = (self.net("slim", slim_s), self.net("dense", dense_s))
        return latency_ratio(*nets, torch.zeros(1, 1, 2, 2), clock=self.clock, **options)


def test_the_ratio_is_slim_over_dense() -> None:
    assert Bench().ratio(cycle([1.0]), cycle([4.0])) == pytest.approx(0.25)
    assert Bench().ratio(cycle([3.0]), cycle([2.0])) == pytest.approx(1.5)


def test_networks_take_turns_so_that_load_hits_both() -> None:
    bench = Bench()
    bench.ratio(cycle([1.0]), cycle([2.0]), repeats=4)
    assert bench.calls == ["slim", "dense"] * 6


def test_a_machine_that_gets_slower_does_not_change_the_ratio() -> None:
    assert Bench().ratio([2.0**i for i in range(11)], [4 * 2.0**i for i in range(11)]) == pytest.approx(0.25)


def test_the_first_two_runs_do_not_count() -> None:
    assert Bench().ratio([900, 800, 1], [1, 2, 2], repeats=1) == pytest.approx(0.5)
    assert Bench().ratio([1, 1, 1], [900, 800, 2], repeats=1) == pytest.approx(0.5)


def test_a_median_forgives_the_odd_hiccup() -> None:
    assert Bench().ratio([0, 0, 1, 500, 1, 1, 500], [0, 0, 2, 2, 700, 700, 2], repeats=5) == pytest.approx(0.5)


def test_the_median_is_not_the_mean_nor_the_minimum() -> None:
    assert Bench().ratio([0, 0, 1, 3, 20], [0, 0, 2, 6, 7], repeats=3) == pytest.approx(3 / 6)


def test_networks_are_left_ready_for_use() -> None:
    bench = Bench()
    nets = [bench.net("slim", cycle([1.0])).train(), bench.net("dense", cycle([1.0])).train()]
    latency_ratio(*nets, torch.zeros(1, 1, 2, 2), clock=bench.clock)
    assert not any(net.training for net in nets)


def test_a_clock_that_stands_still_divides_nothing_by_zero() -> None:
    assert Bench().ratio(cycle([0.0]), cycle([0.0])) == 0.0


def test_the_machine_s_own_clock_gives_a_positive_ratio() -> None:
    slim, dense = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 64, 3)
    assert latency_ratio(slim, dense, torch.zeros(1, 1, 16, 16), repeats=3) > 0
