"""``prunefleet edge profile``: what a network takes on this device at any widths. torch is imported late."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console

from prunefleet_edge.byte_sizes import bytes_in_words
from prunefleet_shared.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from prunefleet_edge.models import ModelSpec
    from prunefleet_edge.profile import DeviceProfile, Runtime

DEFAULT_OUT = Path("profile.json")


def profile(
    *,
    model: Annotated[
        str,
        typer.Option(metavar="SPEC", help="The network, as for `edge prune`, such as resnet20/3x32x32/10."),
    ],
    base: Annotated[
        Path | None, typer.Option(help="Its weights; latency does not depend on them, so they are not needed.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The profile, for `edge prune --budget-in latency`.")] = DEFAULT_OUT,
    grid: Annotated[int, typer.Option(min=2, max=64, help="Widths per side of each layer; time grows squared.")] = 8,
    networks: Annotated[
        int, typer.Option(min=0, max=100, help="Random networks to calibrate on, and as many to check with.")
    ] = 12,
    runtime: Annotated[
        str | None, typer.Option(help="onnxruntime (the default where it is installed) or torch-eager.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress.")] = False,
) -> None:
    """Measure how long the layers of a network take on this device at many widths, and write it to a file.

    One image at a time, one thread. Says how far latencies that are predicted from it are off, and what training takes.
    Leave the device alone meanwhile.
    """
    measured = measure(model, base, grid, networks, runtime, is_quiet=quiet)
    from prunefleet_edge.profile import write_profile

    write_profile(out, measured)
    typer.echo(measured.model_dump_json(indent=2) if as_json else profile_text(measured, out))


def measure(
    model: str, base: Path | None, grid: int, num_networks: int, runtime: str | None, *, is_quiet: bool
) -> DeviceProfile:
    """Measure, with progress on standard error.

    Raises:
        ConfigError: An option is wrong (the user's to mend).
        InputError: The network cannot be built, traced or exported (the user's to mend).
    """
    from prunefleet_edge.models import example_input, parse_spec
    from prunefleet_edge.onboarding import onboard
    from prunefleet_edge.profile_measurement import Effort, Measurement
    from prunefleet_edge.step_progress import StepProgress
    from prunefleet_edge.threads import DEFAULT_THREADS, use_threads

    chosen, spec = _checked_runtime(runtime), parse_spec(model)
    use_threads(DEFAULT_THREADS)
    dense, example = _dense(spec, base), example_input(spec)
    with StepProgress(Console(stderr=True), is_quiet=is_quiet) as progress:
        progress.say(f"{spec}: looking for channel groups")
        measurement = Measurement(dense, example, onboard(dense, example), chosen)
        return measurement.profile(str(spec), Effort(grid, num_networks), phase=progress.phase)


def _checked_runtime(runtime: str | None) -> Runtime | None:
    if runtime not in (None, "onnxruntime", "torch-eager"):
        msg = f"runtime: expected onnxruntime or torch-eager, got {runtime!r}"
        raise ConfigError(msg)
    return cast("Runtime | None", runtime)


def _dense(spec: ModelSpec, base: Path | None) -> nn.Module:
    import torch

    from prunefleet_edge.local_subject import read_file
    from prunefleet_edge.models import build
    from prunefleet_edge.models.weights import load_weights

    torch.manual_seed(0)
    model = build(spec, (spec.architecture,)).eval()  # named on this machine's command line
    return load_weights(model, read_file(base), str(base)) if base else model


def profile_text(profile: DeviceProfile, out: Path) -> str:
    """The profile for a person."""
    median, p90 = profile.error_ratios
    lines = [
        f"{profile.model}: {profile.dense_ns / 1e6:.2f} ms per image in {profile.runtime}, one thread",
        f"{len(profile.layers)} layers measured over a grid of {profile.grid}",
    ]
    if profile.checked:
        of = f"of {len(profile.checked)} networks not used for calibration"
        lines.append(f"predicted latency {of}: off by {median:.1%} (median), {p90:.1%} (90th percentile)")
        lines += [f"{'predicted ms':>14} {'measured ms':>12}"]
        lines += [f"{one.predicted_ns / 1e6:>14.3f} {one.measured_ns / 1e6:>12.3f}" for one in profile.checked]
    sizes = ", ".join(f"{bytes_in_words(size)} at {batch}" for batch, size in profile.training_bytes.items())
    return "\n".join([*lines, f"training memory by batch size: {sizes}", f"{out}: for `edge prune --profile {out}`"])
