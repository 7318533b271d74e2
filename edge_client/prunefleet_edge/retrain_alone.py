"""``prunefleet edge retrain``: a network that was pruned before learns from this device's images, by a strategy."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from prunefleet_edge.local_files import export_files, notes_on, write_result
from prunefleet_edge.local_images import LocalImages, load_local_images
from prunefleet_edge.local_subject import local_recipe, read_file
from prunefleet_edge.memory import training_bytes
from prunefleet_edge.models import build, example_input, parse_spec
from prunefleet_edge.network_file import KeptInfo, load_kept, read_kept_info, save_kept
from prunefleet_edge.phases import Phases
from prunefleet_edge.prune_result import LocalResult
from prunefleet_edge.prune_settings import RetrainSettings
from prunefleet_edge.retraining import Strategy, has_gaps, retrain, strategy_named
from prunefleet_edge.retraining_options import RetrainingOptions
from prunefleet_edge.step_progress import StepProgress
from prunefleet_edge.threads import use_threads
from prunefleet_edge.weight_file import SparseInfo, load_sparse, read_sparse_info, save_sparse
from prunefleet_edge.weight_pruning import WeightMasks, full_masks
from prunefleet_shared.documents import digest
from prunefleet_shared.errors import ConfigError, InputError


@dataclass(frozen=True, slots=True)
class Deployed:
    """A network that was pruned before.

    Attributes:
        model: In eval mode.
        masks: Its surviving weights; all of them in a network that was pruned by channels.
        info: What its file says.
    """

    model: nn.Module
    masks: WeightMasks
    info: SparseInfo | KeptInfo

    def save(self, path: Path, model: nn.Module) -> None:
        """Write ``model`` as a file of the same kind."""
        if isinstance(self.info, KeptInfo):
            save_kept(path, model, self.info)
        else:
            save_sparse(path, model, self.info.model, value_type=self.info.value_type)


def open_deployed(path: Path, code: str | None) -> Deployed:
    """A network from the file of either kind.

    Args:
        path: The file.
        code: ``package.module:factory`` that the person at this machine allows to be run; only if the file names it.

    Raises:
        ConfigError: The file names code that is not allowed (the user's to mend).
        InputError: There is no such file, or it is neither kind (the user's to mend).
    """
    info = _info(path)
    spec = parse_spec(info.model)
    if spec.is_code and code != spec.architecture:
        msg = f"{path}: its network is made by code on this machine; if you trust it, give --code {spec.architecture}"
        raise ConfigError(msg)
    own = build(spec, (spec.architecture,)) if spec.is_code else None
    if isinstance(info, KeptInfo):
        model = load_kept(path, own)
        return Deployed(model, full_masks(model), info)
    sparse = load_sparse(path, own)
    return Deployed(sparse.model, sparse.masks, info)


def _info(path: Path) -> KeptInfo | SparseInfo:
    try:
        return read_kept_info(path)
    except InputError as error:
        if not path.is_file():
            raise
        try:
            return read_sparse_info(path)
        except InputError:
            msg = f"{path}: expected a file that `edge prune` wrote or a fleet's device kept ({error})"
            raise InputError(msg) from None


def retrain_alone(settings: RetrainSettings, progress: StepProgress) -> LocalResult:
    """Do what ``settings`` ask for; see ``prune_command.retrain``.

    Raises:
        ConfigError: A name or number is wrong, or the strategy does not fit the network (the user's to mend).
        InputError: Data, file or memory will not do (the user's to mend).
    """
    use_threads(settings.threads)
    deployed = open_deployed(settings.network, settings.code)
    spec = parse_spec(deployed.info.model)
    if settings.strategy == "regrow" and not has_gaps(deployed.masks):
        msg = "strategy regrow fills gaps, and this network was pruned by channels: it has none; take all or anchored"
        raise ConfigError(msg)
    images, example = load_local_images(settings.data, settings.test, spec, settings.seed), example_input(spec)
    options = (settings.model_dump_json(exclude={"out", "export"}), digest(read_file(settings.network)))
    phases = Phases.of(settings.out, *options, images.fingerprint())
    model = _retrained(settings, deployed, images, example, phases, progress)
    result = _result(settings, deployed, model, images, example)
    write_result(settings.out, result)
    phases.clear()
    return result


def _retrained(
    settings: RetrainSettings,
    deployed: Deployed,
    images: LocalImages,
    example: Tensor,
    phases: Phases,
    progress: StepProgress,
) -> nn.Module:
    recipe = local_recipe(settings, deployed.model, example)
    strategy: Strategy = strategy_named(RetrainingOptions(settings.strategy), label_smoothing=recipe.label_smoothing)
    model, tell = copy.deepcopy(deployed.model), progress.phase(f"retraining ({settings.strategy})")
    checkpoint = phases.checkpoint("retrain")
    return retrain(model, deployed.masks, images.fit, recipe, strategy, settings.seed, checkpoint, tell)


def _result(
    settings: RetrainSettings, deployed: Deployed, model: nn.Module, images: LocalImages, example: Tensor
) -> LocalResult:
    path = settings.out / settings.network.name
    deployed.save(path, model)
    before_bytes = settings.network.stat().st_size
    return LocalResult(
        model=deployed.info.model,
        goal=f"retrained by the strategy {settings.strategy}",
        unit="weights",
        data=images.facts,
        frozen={},
        tries=(),
        dense=images.measured(deployed.model, example, before_bytes),
        result=images.measured(model, example, path.stat().st_size),
        latency_ratio=None,
        training_bytes=training_bytes(model, example[:1], local_recipe(settings, model, example).batch_size),
        files={str(path): "the retrained network"}
        | export_files(model, example, images, settings.out, settings.export),
        notes=notes_on(images),
    )
