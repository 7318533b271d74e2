"""What slim networks cost on this machine: latency and memory against MACs, and how long pruning itself takes.

    python benchmarks/device.py
    python benchmarks/device.py --plot

Every network of --nets, at every level of --levels (per cent of all channels removed), at widths that are

- ``1``: the same share of every group, the channels with the largest L1 norm;
- ``8``: the same, rounded to multiples of 8;
- ``cost table``: multiples of 8 again, but which groups give up how much follows from this device's own profile: as
  many channels go, and what is left does the most multiply-accumulates per nanosecond. What that does to accuracy is
  another benchmark's question.

One image, one thread, in eager torch and in onnxruntime, dense and slim in turns. Time is what the thread computes, so
that other programs do not count; leave the machine alone all the same. Rows are appended to
``benchmarks/results/device.json`` one at a time; what is there is not run again.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
import torch_pruning as tp
import typer
from device_child import crashing_widths, peak_bytes
from device_plot import plot
from resnet50 import ResNet50
from result_file import RESULTS, ResultFile, Row
from torch import nn

from prunefleet_edge.layer_timing import RUNTIMES, time_in_turns
from prunefleet_edge.memory import training_bytes
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.profile import DeviceProfile
from prunefleet_edge.profile_measurement import Effort, Measurement, network_run
from prunefleet_edge.pruning import slim
from prunefleet_edge.ranking import keep_masks
from prunefleet_edge.saliency import l1_saliency
from prunefleet_edge.tracing import cost_table, trace
from prunefleet_shared.limits import Limits, narrowest_widths

NETS = ("resnet20", "mobilenetv2", "alexnet", "squeezenet", "resnet50")
KEY = ("net", "runtime", "level_percent", "rounded_to")
COST_TABLE = "cost table"
VARIANTS: tuple[int | str, ...] = (1, 8, COST_TABLE)
ROUNDS, TURNS = 5, 7
BATCH = 32
_LARGE = "resnet50"
"""Too large for a batch of 32 and a profile within this script's ten minutes; only two levels, even widths."""


@dataclass
class Subject:
    """One network, its groups, and what is measured of it once."""

    net: str
    effort: Effort

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        if self.net == _LARGE:
            self.dense, self.example = ResNet50().eval(), torch.rand(1, 3, 224, 224)
        else:
            spec = parse_spec(f"{self.net}/3x32x32/100")
            self.dense, self.example = build(spec).eval(), example_input(spec)
        self.traced = trace(self.dense, self.example)
        self.layout = self.traced.layout
        self.scores = l1_saliency(self.dense, self.traced)
        self.macs = cost_table(self.dense, self.example, self.traced)
        self._profiles: dict[str, DeviceProfile] = {}
        self._peaks: dict[tuple[int, ...], int] = {}

    @cached_property
    def pruning_s(self) -> tuple[float, float]:
        """Seconds to find the layout and to take 70 % of all channels out, medians."""
        widths, times = self.widths(70, 1, RUNTIMES[0]), []
        for _ in range(ROUNDS):
            start_s = time.perf_counter()
            traced = trace(self.dense, self.example)
            traced_s = time.perf_counter()
            slim(self.dense, self.example, keep_masks(self.layout, self.scores, widths), traced)
            times.append((traced_s - start_s, time.perf_counter() - traced_s))
        layout_s, slim_s = (statistics.median(column) for column in zip(*times, strict=True))
        return layout_s, slim_s

    def profile(self, runtime: str) -> DeviceProfile:
        """This device's profile of the network."""
        if runtime not in self._profiles:
            measurement = Measurement(self.dense, self.example, self.traced, runtime)  # type: ignore[arg-type]
            self._profiles[runtime] = measurement.profile(self.net, self.effort)
        return self._profiles[runtime]

    def widths(self, level_percent: int, rounded_to: int | str, runtime: str) -> tuple[int, ...]:
        """Widths with that share of all channels gone."""
        dense, keep = self.layout.dense_widths, 1 - level_percent / 100
        if level_percent == 0:
            return dense
        if isinstance(rounded_to, int):
            return tuple(min(n, max(rounded_to, round(n * keep / rounded_to) * rounded_to)) for n in dense)
        return self._cheap_widths(round(sum(dense) * keep), runtime)

    def _cheap_widths(self, num_channels: int, runtime: str) -> tuple[int, ...]:
        """At most that many channels: blocks go one by one, so that what is left does most MACs per nanosecond."""
        table, limits = self.profile(runtime).table, Limits(round_to=8)
        widths, least = list(self.layout.dense_widths), narrowest_widths(self.layout, limits)
        while sum(widths) > num_channels:
            narrower = [self._one_block_less(widths, group, least) for group in range(len(widths))]
            choices = [choice for choice in narrower if choice is not None]
            if not choices:
                break
            widths = max(choices, key=lambda choice: self.macs.cost(choice) / table.cost(choice))
        return tuple(widths)

    def _one_block_less(self, widths: list[int], group: int, least: Sequence[int]) -> list[int] | None:
        """About an eighth of the group gone, in multiples of 8; None at its narrowest."""
        block = max(8, self.layout.dense_widths[group] // 64 * 8)
        width = max(least[group], (widths[group] - 1) // block * block)
        return None if width >= widths[group] else [*widths[:group], width, *widths[group + 1 :]]

    def slim(self, widths: Sequence[int]) -> nn.Module:
        """The slim network."""
        masks = keep_masks(self.layout, self.scores, widths)
        return slim(self.dense, self.example, masks, self.traced).eval()

    def peak_memory(self, widths: tuple[int, ...]) -> int | None:
        """Measured in a process of its own, batch 32; None for the large network."""
        if self.net == _LARGE:
            return None
        if widths not in self._peaks:
            self._peaks[widths] = peak_bytes(self.net, widths, BATCH)
        return self._peaks[widths]

    def row(self, runtime: str, level_percent: int, rounded_to: int | str) -> Row:
        """One row of the results."""
        widths = self.widths(level_percent, rounded_to, runtime)
        small, dense_widths = self.slim(widths), self.layout.dense_widths
        macs_ratio = self.macs.cost(widths) / self.macs.cost(dense_widths)
        ratios, dense_ns = latency_ratios(small, self.dense, self.example[:1], runtime)
        peak, (layout_s, slim_s) = self.peak_memory(widths), self.pruning_s
        ratio = statistics.median(ratios)
        return {
            "net": self.net,
            "runtime": runtime,
            "level_percent": level_percent,
            "channels_removed_ratio": round(1 - sum(widths) / sum(dense_widths), 4),
            "rounded_to": rounded_to,
            "macs_ratio": round(macs_ratio, 4),
            "latency_ratio": round(ratio, 4),
            "latency_ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
            "latency_over_macs": round(ratio / macs_ratio, 2),
            "dense_latency_ms": round(dense_ns / 1e6, 4),
            "peak_memory_mb": None if peak is None else round(peak / 1e6, 1),
            "predicted_memory_mb": None if peak is None else round(self._predicted(small) / 1e6, 1),
            "layout_s": round(layout_s, 4),
            "slim_s": round(slim_s, 4),
        }

    def _predicted(self, model: nn.Module) -> int:
        return training_bytes(model, self.example[:1], BATCH)


def latency_ratios(
    small: nn.Module, dense: nn.Module, example_1: torch.Tensor, runtime: str
) -> tuple[list[float], float]:
    """Slim over dense, one ratio of medians a round; and the dense network's nanoseconds."""
    runs = [network_run(model, example_1, runtime) for model in (small, dense)]
    rounds = [time_in_turns(runs, TURNS) for _ in range(ROUNDS)]
    return [slim_ns / dense_ns for slim_ns, dense_ns in rounds], statistics.median(dense for _, dense in rounds)


def beside_torch_pruning(subject: Subject) -> Row:
    """The same work by torch-pruning's own pruner: half of every group gone, by L1."""
    ours, theirs, parameters = [], [], {}
    widths = tuple(n - int(n * 0.5) for n in subject.layout.dense_widths)
    for _ in range(ROUNDS):
        start_s = time.perf_counter()
        traced = trace(subject.dense, subject.example)
        masks = keep_masks(traced.layout, l1_saliency(subject.dense, traced), widths)
        small = slim(subject.dense, subject.example, masks, traced)
        ours.append(time.perf_counter() - start_s)
        parameters["ours"] = sum(p.numel() for p in small.parameters())
        other, start_s = copy.deepcopy(subject.dense), time.perf_counter()
        last = [module for module in other.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        importance = tp.importance.GroupMagnitudeImportance(p=1)
        pruner = tp.pruner.BasePruner(other, subject.example, importance, pruning_ratio=0.5, ignored_layers=[last])
        pruner.step()
        theirs.append(time.perf_counter() - start_s)
        parameters["theirs"] = sum(p.numel() for p in other.parameters())
    return {
        "net": subject.net,
        "ours_s": round(statistics.median(ours), 4),
        "torch_pruning_s": round(statistics.median(theirs), 4),
        "parameters_left": parameters,
    }


def memory_rows(subject: Subject) -> list[Row]:
    """Predicted against measured peaks of the dense network."""
    rows = []
    for batch_size in (8, 32, 128):
        peak = peak_bytes(subject.net, subject.layout.dense_widths, batch_size)
        predicted = training_bytes(subject.dense, subject.example[:1], batch_size)
        megabytes = {"measured_mb": round(peak / 1e6, 1), "predicted_mb": round(predicted / 1e6, 1)}
        rows.append({"net": subject.net, "batch_size": batch_size} | megabytes | {"ratio": round(predicted / peak, 2)})
    return rows


def profile_row(subject: Subject, runtime: str) -> Row:
    """How far the profile's predictions are off."""
    profile = subject.profile(runtime)
    median, p90 = profile.error_ratios
    errors = {"median_error": round(median, 4), "p90_error": round(p90, 4), "networks": len(profile.checked)}
    return {"net": subject.net, "runtime": runtime} | errors


def crash_rows() -> list[Row]:
    """Widths from 4 to 48 at which training with two threads kills the process, if any."""
    rows = []
    for isa in ("DEFAULT", "AVX2"):
        for num_threads in (1, 2):
            died = crashing_widths(num_threads, range(4, 49), isa)
            multiples = [width for width in died if width % 8 == 0]
            rows.append({"isa": isa, "threads": num_threads, "widths": died, "of_them_multiples_of_8": multiples})
    return rows


def summarise(rows: list[Row]) -> Row:
    """Latency over MACs at 70 % of channels in the exported runtime, against the targets; pruning ResNet-50."""
    at_70 = [row for row in rows if row["level_percent"] == 70 and row["runtime"] == "onnxruntime"]
    found: Row = {
        "latency_over_macs_at_70": {
            str(variant): {row["net"]: row["latency_over_macs"] for row in at_70 if row["rounded_to"] == variant}
            for variant in VARIANTS
        }
    }
    large = [row["layout_s"] + row["slim_s"] for row in rows if row["net"] == _LARGE]
    return found | {"resnet50_layout_and_slim_s": round(large[0], 3) if large else None}


def tables_of(path: Path) -> Row:
    """The tables beside the rows that earlier runs left: each has a network's name, or stands for itself."""
    if not path.exists():
        return {"profiles": [], "memory": [], "torch_pruning": [], "crashes": []}
    about = json.loads(path.read_text(encoding="utf-8"))["about"]
    return {name: about[name] for name in ("profiles", "memory", "torch_pruning", "crashes")}


def about(tables: Row) -> Row:
    """What a reader needs to know."""
    return {
        "latency": "one image, one thread; the thread's processor time; median of rounds of slim over dense, in turns",
        "peak_memory_mb": f"measured in a process of its own: batch {BATCH}, on top of the process before training",
        "rounded_to": "1 and 8: the same share of every group; cost table: multiples of 8, by this device's profile",
        "layout_s_slim_s": "medians, 70 % of channels, one thread",
        "targets": "at 70 % in onnxruntime: latency_over_macs at most 2, with rounding and cost table at most 1.5",
        **tables,
    }


def main(
    nets: Annotated[str, typer.Option(help=f"of {', '.join(NETS)}")] = ",".join(NETS),
    levels: Annotated[str, typer.Option(help="per cent of all channels removed")] = "0,30,50,70,90",
    runtimes: Annotated[str, typer.Option(help=f"of {', '.join(RUNTIMES)}")] = ",".join(RUNTIMES),
    grid: Annotated[int, typer.Option(min=2, help="of the profiles")] = 8,
    networks: Annotated[int, typer.Option(min=0, help="of the profiles")] = 12,
    crashes: Annotated[bool, typer.Option(help="look for widths that kill a process with two threads")] = True,
    plot_only: Annotated[bool, typer.Option("--plot", help="draw docs/figures/device_latency.svg and end")] = False,
    out: Annotated[Path, typer.Option(help="the result file")] = RESULTS / "device.json",
) -> None:
    """Measure what is not in the result file yet."""
    if plot_only:
        plot(out)
        return
    torch.set_num_threads(1)
    command = f"python benchmarks/device.py --nets {nets} --levels {levels} --runtimes {runtimes} --grid {grid}"
    tables = tables_of(out)
    results = ResultFile(out, command, about(tables), KEY, summarise)
    for net in nets.split(","):
        run_net(net, [int(x) for x in levels.split(",")], runtimes.split(","), Effort(grid, networks), results, tables)
    if crashes and not tables["crashes"]:
        tables["crashes"] += crash_rows()
    ResultFile(out, command, about(tables), KEY, summarise).add([])
    typer.echo(json.dumps(summarise(results.rows), indent=2))


def run_net(net: str, levels: list[int], runtimes: list[str], effort: Effort, results: ResultFile, tables: Row) -> None:
    """All rows of one network, and its lines in the tables."""
    is_large = net == _LARGE
    variants = VARIANTS[:2] if is_large else VARIANTS
    chosen = [level for level in levels if level in (0, 70)] if is_large else levels
    wanted = [
        (runtime, level, variant if level else 1)
        for runtime in runtimes for level in chosen for variant in (variants if level else VARIANTS[:1])
    ]  # fmt: skip
    wanted = [one for one in wanted if not results.has(**dict(zip(KEY, (net, *one), strict=True)))]
    has_tables = any(row["net"] == net for row in tables["torch_pruning"])
    if not wanted and has_tables:
        return
    subject = Subject(net, effort)
    for runtime, level, variant in wanted:
        row = subject.row(runtime, level, variant)
        results.add([row])
        words = f"MACs {row['macs_ratio']:.3f}, latency {row['latency_ratio']:.3f} (ratio {row['latency_over_macs']})"
        typer.echo(f"{net} {runtime} {level}% rounded to {variant}: {words}, peak {row['peak_memory_mb']} MB")
    if not has_tables:
        tables["torch_pruning"].append(beside_torch_pruning(subject))
        if not is_large:
            tables["profiles"] += [profile_row(subject, runtime) for runtime in runtimes]
            tables["memory"] += memory_rows(subject)
        results.add([])


if __name__ == "__main__":
    typer.run(main)
