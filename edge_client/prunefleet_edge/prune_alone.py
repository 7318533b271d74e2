"""``prunefleet edge prune``: from what the owner asks for to the files that come out of it."""

from __future__ import annotations

from prunefleet_edge.latency import latency_ratio
from prunefleet_edge.local_files import export_files, notes_on, write_result
from prunefleet_edge.local_images import LocalImages, load_local_images
from prunefleet_edge.local_subject import local_plan, local_recipe, open_base, open_table
from prunefleet_edge.memory import training_bytes
from prunefleet_edge.models import example_input, parse_spec
from prunefleet_edge.models.weights import save_weights
from prunefleet_edge.network_file import KeptInfo, save_kept
from prunefleet_edge.onboarding import onboard
from prunefleet_edge.phases import Phases
from prunefleet_edge.prune_job import PruneJob, Subject
from prunefleet_edge.prune_result import LocalResult, Try
from prunefleet_edge.prune_settings import PruneSettings
from prunefleet_edge.pruning import Candidate
from prunefleet_edge.step_progress import StepProgress
from prunefleet_edge.threads import use_threads
from prunefleet_edge.weight_job import prune_weights
from prunefleet_shared.documents import digest

SLIM_FILE = "slim.safetensors"


def prune_alone(settings: PruneSettings, progress: StepProgress) -> LocalResult:
    """Do what ``settings`` ask for; see ``prune_command.prune``.

    Raises:
        ConfigError: A name or number is wrong (the user's to mend); found before anything is trained.
        InputError: Data, weights or memory will not do (the user's to mend), or no smaller network is good enough.
        LayoutError: The network cannot be pruned.
    """
    use_threads(settings.threads)
    job, images, phases = _opened(settings, progress)
    if settings.sparsity is not None:
        result = prune_weights(settings, job, images, phases, progress)
    else:
        result = _prune_channels(settings, job, images)
    write_result(settings.out, result)
    phases.clear()
    return result


def _opened(settings: PruneSettings, progress: StepProgress) -> tuple[PruneJob, LocalImages, Phases]:
    spec = parse_spec(settings.model)
    images = load_local_images(settings.data, settings.test, spec, settings.seed)
    base, example = open_base(settings, spec, images.fit), example_input(spec)
    traced = onboard(base, example)
    plan = local_plan(settings, local_recipe(settings, base, example), traced)
    table = open_table(settings, base, example, traced)
    depends_on = (settings.model_dump_json(exclude={"out", "export"}), digest(save_weights(base)), images.fingerprint())
    phases = Phases.of(settings.out, *depends_on)
    subject = Subject(str(spec), base, example, traced, table)
    return PruneJob(subject, images, plan, settings.seed, phases, progress), images, phases


def _prune_channels(settings: PruneSettings, job: PruneJob, images: LocalImages) -> LocalResult:
    goal, candidate, tries = _pruned(settings, job)
    subject, path = job.subject, settings.out / SLIM_FILE
    save_kept(path, candidate.model, _kept_info(subject, candidate))
    files = {str(path): "the network; prunefleet_edge.network_file.load_kept reads it"}
    return LocalResult(
        model=subject.model_spec,
        goal=goal,
        unit=subject.table.unit,
        data=images.facts,
        frozen=subject.traced.frozen,
        tries=tries,
        dense=images.measured(job.dense(), subject.example, len(save_weights(job.dense()))),
        result=images.measured(candidate.model, subject.example, path.stat().st_size),
        latency_ratio=latency_ratio(candidate.model, subject.base, subject.example[:1]),
        training_bytes=training_bytes(candidate.model, subject.example[:1], job.plan.retrain.batch_size),
        files=files | export_files(candidate.model, subject.example, images, settings.out, settings.export),
        notes=notes_on(images),
    )


def _pruned(settings: PruneSettings, job: PruneJob) -> tuple[str, Candidate, tuple[Try, ...]]:
    if settings.remove is not None:
        return f"{settings.remove:.0%} of the {job.subject.table.unit} removed", job.at(settings.remove), ()
    floor = job.floor(settings.drop) if settings.floor is None else settings.floor
    candidate, tries = job.search(floor)
    return f"at least {floor:.1%} on the images that decide", candidate, tries


def _kept_info(subject: Subject, candidate: Candidate) -> KeptInfo:
    kept = tuple(tuple(mask.nonzero()[0].tolist()) for mask in candidate.masks)
    return KeptInfo(
        model=subject.model_spec,
        kept=kept,
        campaign_id="",
        level=0,
        decision_fingerprint="",
        is_fleets=False,
        cost=subject.table.cost([len(indices) for indices in kept]),
        dense_cost=subject.dense_cost,
        unit=subject.table.unit,
        group_names=tuple(group.name for group in subject.traced.groups),
    )
