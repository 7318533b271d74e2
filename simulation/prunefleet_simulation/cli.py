"""``prunefleet simulate``."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from prunefleet_shared.errors import ConfigError
from prunefleet_shared.option_sets import with_options_of

app = typer.Typer(help="Simulate a whole fleet on this machine.", add_completion=False)


def decision_options(  # noqa: PLR0913 - one argument per option
    *,
    order_rule: Annotated[
        str | None, typer.Option(help="How channels are ordered: mean (default), majority, borda, public.")
    ] = None,
    public_votes: Annotated[
        int | None, typer.Option(help="As how many devices the public order counts (default 0).")
    ] = None,
    near_tie: Annotated[
        float | None, typer.Option(help="Below this lead at the cut, in devices' say, the public order decides.")
    ] = None,
    min_keep: Annotated[int | None, typer.Option(help="Channels every group keeps at least.")] = None,
    round_to: Annotated[int | None, typer.Option(help="Widths are multiples of this, or dense.")] = None,
    steering: Annotated[
        bool | None, typer.Option(help="Retrain on public data like what the fleet sees (default yes).")
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(help="Parts of the fleet that get a network of their own, beside the one for all.")
    ] = None,
    public_retraining: Annotated[
        bool | None,
        typer.Option(help="Retrain what is decided on public data; without it, devices blend (default yes)."),
    ] = None,
    gate_alternative: Annotated[
        str | None, typer.Option(help="The gate's other side: own (default), or fleet_widths.")
    ] = None,
) -> None:
    """What becomes of votes; ``simulate`` takes these options over."""


@app.callback(invoke_without_command=True)
@with_options_of(decision_options)
def simulate(  # noqa: PLR0913 - one argument per option
    *,
    devices: Annotated[int | None, typer.Option(help="Devices in the fleet (default 10).")] = None,
    levels: Annotated[str | None, typer.Option(help="Fractions of the dense cost, falling: 0.4,0.2 (default).")] = None,
    seeds: Annotated[str | None, typer.Option(help="Repetitions, one per seed: 1,2,3 (default).")] = None,
    preset: Annotated[str | None, typer.Option(help="digits (default), or images for data of your own.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where runs are written (default runs).")] = None,
    data: Annotated[str | None, typer.Option(help="npz:PATH: x_train, y_train, x_test, y_test; uint8 NHWC.")] = None,
    public: Annotated[str | None, typer.Option(help="npz:PATH with x_train, y_train: the trainer's data.")] = None,
    base: Annotated[Path | None, typer.Option(help="Base weights, a safetensors file.")] = None,
    model: Annotated[str | None, typer.Option(help="resnet8 or resnet20.")] = None,
    partition: Annotated[str | None, typer.Option(help="classes (default), classes:K or dirichlet:ALPHA.")] = None,
    images_per_device: Annotated[int | None, typer.Option(help="Images a device learns from, at most.")] = None,
    budget: Annotated[str | None, typer.Option(help="Levels are fractions of macs (default) or parameters.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes, one torch thread each (default 2).")] = None,
    votes: Annotated[str | None, typer.Option(help="taylor (default), or public_l1: a control without data.")] = None,
    privacy: Annotated[
        str | None, typer.Option(help="What the coordinator learns: sum (default), sum+dp, plain.")
    ] = None,
    min_devices: Annotated[int | None, typer.Option(help="Fewest devices in a sum (default 8).")] = None,
    epsilon: Annotated[float | None, typer.Option(help="With sum+dp: epsilon of a campaign (default 8).")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the same keys; options win.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of where it is.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress display.")] = False,
    **decision: Any,
) -> None:
    """Run a coordinator, a trainer and devices over loopback gRPC with mutual TLS, and write a report."""
    options = locals() | decision  # every option under its own name, which is a setting's
    for name in ("config", "as_json", "quiet", "decision"):
        del options[name]
    options |= {"levels": _numbers("levels", levels), "seeds": _numbers("seeds", seeds)}
    from prunefleet_simulation.settings import load_settings

    settings = load_settings(config, options)
    from prunefleet_simulation.progress import open_progress
    from prunefleet_simulation.simulate import simulate as run  # torch is imported from here on

    console = Console(stderr=True)
    with open_progress(console, quiet=quiet) as progress:
        page = run(settings, progress, shlex.join(["prunefleet", *sys.argv[1:]]))
    _tell(page, as_json=as_json)


def _tell(page: Path, *, as_json: bool) -> None:
    report = page.with_name("report.json")
    text = report.read_text(encoding="utf-8")
    verdict = json.loads(text)["verdict"]
    words = f"{verdict['sentence']}\n{verdict['comparison']}\nReport: {page}\nData:   {report}\n"
    sys.stdout.write(text if as_json else words)


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = [json.loads(part) for part in text.split(",")]
    except json.JSONDecodeError:
        values = [None]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        msg = f"{name}: expected numbers separated by commas, got {text!r}"
        raise ConfigError(msg)
    return tuple(values)
