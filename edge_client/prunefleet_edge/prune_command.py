"""``prunefleet edge prune`` and ``edge retrain``: one device, no coordinator at all. torch is imported late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from prunefleet_edge.prune_result import LocalResult
    from prunefleet_edge.step_progress import StepProgress

_WHAT, _SIZE, _HOW, _DEVICE, _OUT = "The network and the images", "How small", "How", "This device", "What comes out"
DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        rich_help_panel=_WHAT,
        help="Labelled images: a folder LABEL/*.png, npz:PATH (x, y), or package.module:factory.",
    ),
]
TestOption = Annotated[
    str | None, typer.Option(metavar="SOURCE", rich_help_panel=_WHAT, help="Images that only the final figures see.")
]
PresetOption = Annotated[
    str | None, typer.Option(rich_help_panel=_HOW, help="How to train: digits or images (the default fits the source).")
]
EpochsOption = Annotated[
    int | None, typer.Option(rich_help_panel=_HOW, help="Passes over the images per training (default: the preset's).")
]
SeedOption = Annotated[int | None, typer.Option(rich_help_panel=_HOW, help="Same seed, same network (default 0).")]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        rich_help_panel=_DEVICE,
        help="What training may take, such as 512MB: picks the batch; refuses what cannot fit before it starts.",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(rich_help_panel=_DEVICE, help="Threads to train with (default 1).")]
ExportOption = Annotated[
    str | None,
    typer.Option(rich_help_panel=_OUT, help="onnx, or onnx,int8: files for onnxruntime beside the safetensors file."),
]
ConfigOption = Annotated[
    Path | None, typer.Option(rich_help_panel=_OUT, help="TOML file with the options' names as keys; options win.")
]
JsonOption = Annotated[bool, typer.Option("--json", rich_help_panel=_OUT, help="Print the result as JSON.")]
QuietOption = Annotated[bool, typer.Option(rich_help_panel=_OUT, help="No progress.")]
_NOT_SETTINGS = ("config", "as_json", "quiet")


def prune(  # noqa: PLR0913 - one argument per option
    *,
    data: DataOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            rich_help_panel=_WHAT,
            help="ARCH/CxHxW/CLASSES, such as resnet20/3x32x32/10. ARCH: resnet8, resnet20, alexnet, squeezenet, "
            "mobilenetv2; torchvision:NAME, timm:NAME, pytorchcv:NAME; or package.module:factory, a callable of "
            "yours that returns a torch.nn.Module.",
        ),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(rich_help_panel=_WHAT, help="Its trained weights, a safetensors file.")
    ] = None,
    scratch: Annotated[
        bool | None, typer.Option("--scratch", rich_help_panel=_WHAT, help="Train it here first, from random weights.")
    ] = None,
    test: TestOption = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_SIZE,
            help="Search the smallest network that loses at most this much accuracy (default 0.01, one point).",
        ),
    ] = None,
    floor: Annotated[
        float | None, typer.Option(rich_help_panel=_SIZE, help="Or: that keeps at least this accuracy, such as 0.9.")
    ] = None,
    remove: Annotated[
        float | None, typer.Option(rich_help_panel=_SIZE, help="Or: no search; remove this fraction of the cost.")
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(rich_help_panel=_SIZE, help="Or: set this fraction of single weights to zero (smaller file)."),
    ] = None,
    budget_in: Annotated[
        str | None,
        typer.Option(rich_help_panel=_SIZE, help="Cost: macs (default), parameters, latency or training-memory."),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(rich_help_panel=_SIZE, help="For latency: what `edge profile` measured here.")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(rich_help_panel=_HOW, help="default, iterative, adapt or adapt-agnostic (the paper's)."),
    ] = None,
    criterion: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_HOW,
            help="What a channel's score is: taylor, activation, l1, l2, norm-scale, fpgm, random.",
        ),
    ] = None,
    ranking: Annotated[
        str | None, typer.Option(rich_help_panel=_HOW, help="global, or per-layer: the same share of every layer.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(rich_help_panel=_HOW, help="Prune in this many steps (default 1).")
    ] = None,
    min_keep: Annotated[
        int | None, typer.Option(rich_help_panel=_HOW, help="Channels that every group keeps at least.")
    ] = None,
    round_to: Annotated[
        int | None, typer.Option(rich_help_panel=_HOW, help="Widths are multiples of this; 8 or 16 run faster.")
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", rich_help_panel=_HOW, help="Never prune this layer; repeatable."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_HOW,
            help="With --sparsity, what may move: survivors (default), regrow, all, anchored, distilled; or none.",
        ),
    ] = None,
    scope: Annotated[
        str | None, typer.Option(rich_help_panel=_HOW, help="With --sparsity: global (default) or layer.")
    ] = None,
    preset: PresetOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    memory_limit: MemoryOption = None,
    threads: ThreadsOption = None,
    out: Annotated[Path | None, typer.Option(rich_help_panel=_OUT, help="Folder for results (default pruned).")] = None,
    export: ExportOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Prune a network on this device: fine-tune on your images, prune, retrain, and keep its accuracy.

    Needs no coordinator and sends nothing. A quarter of the images is set aside to decide which network is small
    enough and good enough. Stopped by Ctrl-C or a power cut, the same command goes on where it stood.

    Try it:  prunefleet edge prune --data digits:public --model resnet8/1x12x12/10 --scratch

    Your own:  prunefleet edge prune --data photos/ --model mypackage.nets:build/3x64x64/5 --base mynet.safetensors
    """
    options = _options(dict(locals()))
    from prunefleet_edge.prune_settings import load_prune_settings

    settings = load_prune_settings(config, options)
    from prunefleet_edge.prune_alone import prune_alone

    _run(lambda progress: prune_alone(settings, progress), as_json=as_json, is_quiet=quiet)


def retrain(  # noqa: PLR0913 - one argument per option
    network: Annotated[
        Path, typer.Argument(help="What `edge prune` wrote, or a fleet's network that this device kept.")
    ],
    *,
    data: DataOption = None,
    test: TestOption = None,
    code: Annotated[
        str | None,
        typer.Option(
            metavar="package.module:factory",
            rich_help_panel=_WHAT,
            help="Code that the file may name as its network; without it a file never makes code run.",
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_HOW,
            help="What may move: all (default), survivors, regrow, anchored, distilled; none measures only.",
        ),
    ] = None,
    preset: PresetOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    memory_limit: MemoryOption = None,
    threads: ThreadsOption = None,
    out: Annotated[
        Path | None, typer.Option(rich_help_panel=_OUT, help="Folder for results (default retrained).")
    ] = None,
    export: ExportOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Retrain a pruned network on new images of this device, by a strategy that says which weights may move.

    Needs no coordinator and sends nothing. For a network that was pruned by channels there are no gaps: `survivors`
    and `all` are the same, and `regrow` is refused.
    """
    options = _options(dict(locals()))
    from prunefleet_edge.prune_settings import load_retrain_settings

    settings = load_retrain_settings(config, options)
    from prunefleet_edge.retrain_alone import retrain_alone

    _run(lambda progress: retrain_alone(settings, progress), as_json=as_json, is_quiet=quiet)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """The options by the names of their settings."""
    options = {name: value for name, value in given.items() if name not in _NOT_SETTINGS}
    if options.get("export") is not None:
        options["export"] = tuple(part for part in options["export"].split(",") if part)
    if options.get("skip") is not None:
        options["skip"] = tuple(options["skip"])
    return options


def _run(job: Callable[[StepProgress], LocalResult], *, as_json: bool, is_quiet: bool) -> None:
    from prunefleet_edge.prune_result import result_json, result_text
    from prunefleet_edge.step_progress import StepProgress

    with StepProgress(Console(stderr=True), is_quiet=is_quiet) as progress:
        result = job(progress)
    typer.echo(result_json(result) if as_json else result_text(result))
