"""The options of ``prunefleet edge prune`` and ``edge retrain``, in the groups in which help shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        rich_help_panel=_WHAT,
        help="ARCH/CxHxW/CLASSES, such as resnet20/3x32x32/10. ARCH: resnet8, resnet20, alexnet, squeezenet, "
        "mobilenetv2, lenet5; torchvision:NAME, timm:NAME, pytorchcv:NAME; or package.module:factory, a callable "
        "of yours that returns a torch.nn.Module.",
    ),
]
BaseOption = Annotated[
    Path | None, typer.Option(rich_help_panel=_WHAT, help="Its trained weights, a safetensors file.")
]
ScratchOption = Annotated[
    bool | None, typer.Option("--scratch", rich_help_panel=_WHAT, help="Train it here first, from random weights.")
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_SIZE,
        help="Search the smallest network that loses at most this much accuracy (default 0.01, one point).",
    ),
]
FloorOption = Annotated[
    float | None, typer.Option(rich_help_panel=_SIZE, help="Or: that keeps at least this accuracy, such as 0.9.")
]
RemoveOption = Annotated[
    float | None, typer.Option(rich_help_panel=_SIZE, help="Or: no search; remove this fraction of the cost.")
]
SparsityOption = Annotated[
    float | None,
    typer.Option(rich_help_panel=_SIZE, help="Or: set this fraction of single weights to zero (smaller file)."),
]
BudgetInOption = Annotated[
    str | None,
    typer.Option(rich_help_panel=_SIZE, help="Cost: macs (default), parameters, latency or training-memory."),
]
ProfileOption = Annotated[
    Path | None, typer.Option(rich_help_panel=_SIZE, help="For latency: what `edge profile` measured here.")
]
PlanOption = Annotated[
    str | None,
    typer.Option(rich_help_panel=_HOW, help="default, iterative, adapt or adapt-agnostic (the paper's)."),
]
CriterionOption = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_HOW,
        help="What a channel's score is: taylor, activation, l1, l2, norm-scale, fpgm, random.",
    ),
]
RankingOption = Annotated[
    str | None, typer.Option(rich_help_panel=_HOW, help="global, or per-layer: the same share of every layer.")
]
StepsOption = Annotated[int | None, typer.Option(rich_help_panel=_HOW, help="Prune in this many steps (default 1).")]
MinKeepOption = Annotated[
    int | None, typer.Option(rich_help_panel=_HOW, help="Channels that every group keeps at least.")
]
RoundToOption = Annotated[
    int | None, typer.Option(rich_help_panel=_HOW, help="Widths are multiples of this; 8 or 16 run faster.")
]
SkipOption = Annotated[
    list[str] | None,
    typer.Option(metavar="LAYER", rich_help_panel=_HOW, help="Never prune this layer; repeatable."),
]
StrategyOption = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_HOW,
        help="With --sparsity, what may move: survivors (default), regrow, all, anchored, distilled; or none.",
    ),
]
ScopeOption = Annotated[
    str | None, typer.Option(rich_help_panel=_HOW, help="With --sparsity: global (default) or layer.")
]
OutOption = Annotated[Path | None, typer.Option(rich_help_panel=_OUT, help="Folder for results (default pruned).")]
NetworkOption = Annotated[
    Path, typer.Argument(help="What `edge prune` wrote, or a fleet's network that this device kept.")
]
CodeOption = Annotated[
    str | None,
    typer.Option(
        metavar="package.module:factory",
        rich_help_panel=_WHAT,
        help="Code that the file may name as its network; without it a file never makes code run.",
    ),
]
RetrainStrategyOption = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_HOW,
        help="What may move: all (default), survivors, regrow, anchored, distilled; none measures only.",
    ),
]
RetrainOutOption = Annotated[
    Path | None, typer.Option(rich_help_panel=_OUT, help="Folder for results (default retrained).")
]
