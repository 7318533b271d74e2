"""``prunefleet edge prune`` and ``edge retrain``: one device, no coordinator at all. torch is imported late."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from prunefleet_edge.prune_options import (
    BaseOption,
    BudgetInOption,
    CodeOption,
    ConfigOption,
    CriterionOption,
    DataOption,
    EpochsOption,
    ExportOption,
    FloorOption,
    JsonOption,
    MaxDropOption,
    MemoryOption,
    MinKeepOption,
    ModelOption,
    NetworkOption,
    OutOption,
    PlanOption,
    PresetOption,
    ProfileOption,
    QuietOption,
    RankingOption,
    RemoveOption,
    RetrainOutOption,
    RetrainStrategyOption,
    RoundToOption,
    ScopeOption,
    ScratchOption,
    SeedOption,
    SkipOption,
    SparsityOption,
    StepsOption,
    StrategyOption,
    TestOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from prunefleet_edge.prune_result import LocalResult
    from prunefleet_edge.step_progress import StepProgress

_NOT_SETTINGS = ("config", "as_json", "quiet")


def prune(  # noqa: PLR0913 - one argument per option
    *,
    data: DataOption = None,
    model: ModelOption = None,
    base: BaseOption = None,
    scratch: ScratchOption = None,
    test: TestOption = None,
    max_drop: MaxDropOption = None,
    floor: FloorOption = None,
    remove: RemoveOption = None,
    sparsity: SparsityOption = None,
    budget_in: BudgetInOption = None,
    profile: ProfileOption = None,
    plan: PlanOption = None,
    criterion: CriterionOption = None,
    ranking: RankingOption = None,
    steps: StepsOption = None,
    min_keep: MinKeepOption = None,
    round_to: RoundToOption = None,
    skip: SkipOption = None,
    strategy: StrategyOption = None,
    scope: ScopeOption = None,
    preset: PresetOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    memory_limit: MemoryOption = None,
    threads: ThreadsOption = None,
    out: OutOption = None,
    export: ExportOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Prune a network on this device, and keep its accuracy.

    Fine-tunes it on your images, prunes it, retrains it. Needs no
    coordinator and sends nothing. A quarter of the images is set aside to
    decide which network is small enough and good enough. Stopped by Ctrl-C
    or a power cut, the same command goes on where it stood.

    Try it:

    prunefleet edge prune --data digits:public --model resnet8/1x12x12/10 --scratch

    Your own:

    prunefleet edge prune --data photos/ --model mypackage.nets:build/3x64x64/5 --base my.safetensors
    """
    options = _options(dict(locals()))
    from prunefleet_edge.prune_settings import load_prune_settings

    settings = load_prune_settings(config, options)
    from prunefleet_edge.prune_alone import prune_alone

    _run(lambda progress: prune_alone(settings, progress), as_json=as_json, is_quiet=quiet)


def retrain(  # noqa: PLR0913 - one argument per option
    network: NetworkOption,
    *,
    data: DataOption = None,
    test: TestOption = None,
    code: CodeOption = None,
    strategy: RetrainStrategyOption = None,
    preset: PresetOption = None,
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    memory_limit: MemoryOption = None,
    threads: ThreadsOption = None,
    out: RetrainOutOption = None,
    export: ExportOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Retrain a pruned network on new images of this device.

    A strategy says which weights may move. Needs no coordinator and sends
    nothing. A network that was pruned by channels has no gaps: `survivors`
    and `all` are the same there, and `regrow` is refused.
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
