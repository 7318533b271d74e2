"""``edge prune --sparsity``: single weights are set to zero on this device, and the rest retrained by a strategy."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn

from prunefleet_edge.local_files import export_files, notes_on
from prunefleet_edge.local_images import LocalImages
from prunefleet_edge.memory import training_bytes
from prunefleet_edge.models.weights import save_weights
from prunefleet_edge.phases import Phases
from prunefleet_edge.prune_job import PruneJob
from prunefleet_edge.prune_result import LocalResult
from prunefleet_edge.prune_settings import PruneSettings
from prunefleet_edge.retraining import Strategy, Survivors, retrain, strategy_named
from prunefleet_edge.retraining_options import RetrainingOptions
from prunefleet_edge.step_progress import StepProgress
from prunefleet_edge.weight_file import save_sparse
from prunefleet_edge.weight_pruning import (
    WeightMasks,
    apply_masks,
    cubic_sparsities,
    magnitude_masks,
    prune_in_steps,
)

SPARSE_FILE = "sparse.safetensors"


def prune_weights(
    settings: PruneSettings, job: PruneJob, images: LocalImages, phases: Phases, progress: StepProgress
) -> LocalResult:
    """Prune and retrain, and write the network as bitmap and values.

    Raises:
        ConfigError: There is no such strategy, or it does not fit (the user's to mend).
    """
    model = _sparse(settings, job, images, phases, progress)
    subject, path = job.subject, settings.out / SPARSE_FILE
    save_sparse(path, model, subject.model_spec)
    files = {str(path): "bitmap and values; prunefleet_edge.weight_file.load_sparse reads it"}
    return LocalResult(
        model=subject.model_spec,
        goal=f"{settings.sparsity:.0%} of the weights set to zero",
        unit="weights",
        data=images.facts,
        frozen={},
        tries=(),
        dense=images.measured(job.dense(), subject.example, len(save_weights(job.dense()))),
        result=images.measured(model, subject.example, path.stat().st_size),
        latency_ratio=None,
        training_bytes=training_bytes(model, subject.example[:1], job.plan.retrain.batch_size),
        files=files | export_files(model, subject.example, images, settings.out, settings.export),
        notes=notes_on(images),
    )


def _sparse(
    settings: PruneSettings, job: PruneJob, images: LocalImages, phases: Phases, progress: StepProgress
) -> nn.Module:
    dense, sparsities = job.dense(), cubic_sparsities(settings.sparsity or 0.0, settings.steps or 1)
    options = RetrainingOptions(settings.strategy or "survivors")
    strategy = strategy_named(options, teacher=dense, label_smoothing=job.plan.retrain.label_smoothing)

    def trained(model: nn.Module, masks: WeightMasks, step: int, how: Strategy) -> None:
        checkpoint = replace(phases.checkpoint(f"sparse-{step}"), keeps_result=True)
        tell = progress.phase(f"{sparsities[step]:.0%} of the weights at zero")
        retrain(model, masks, images.fit, job.plan.retrain, how, settings.seed, checkpoint, tell)

    model, masks = copy.deepcopy(dense), None
    if len(sparsities) > 1:
        steps = sparsities[:-1]
        masks = prune_in_steps(model, steps, lambda m, kept, step: trained(m, kept, step, Survivors()), settings.scope)
    masks = magnitude_masks(model, sparsities[-1], settings.scope, within=masks)
    trained(apply_masks(model, masks), masks, len(sparsities) - 1, strategy)
    return model
