"""What runs in a device's worker process: loads the private images once, and works on them when told to.

torch is imported here and nowhere else on a running device, so that the process that talks to the coordinator stays
small, never holds an image, and can end this one at any moment.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunefleet_edge.retraining_options import PLAIN, RetrainingOptions
from prunefleet_edge.threads import use_threads
from prunefleet_shared.errors import InputError, LayoutError, PrunefleetError

if TYPE_CHECKING:
    from torch import nn

    from prunefleet_edge.data_source import SourceData, SourceSummary
    from prunefleet_edge.device import Vote
    from prunefleet_edge.network_file import KeptInfo
    from prunefleet_edge.work import WorkOptions
    from prunefleet_shared.campaign import Campaign, Decision
    from prunefleet_shared.masks import BoolArray
    from prunefleet_shared.metrics import Outcome

NO_DATA = "none"
"""The source of a device without data: it votes nowhere, and runs slim bases as they come."""
MAX_DENSE_COPIES = 6
"""Dense copies kept on the disk: cross-fitting makes three for each base."""


@dataclass(frozen=True, slots=True)
class WorkSetup:
    """What a worker needs to know, once.

    Attributes:
        source: Where the images are, see ``data_source``; or :data:`NO_DATA`.
        name: The device's.
        recipe: Name of the recipe for fine-tuning.
        seed: Of order, augmentation and splits; not negative, below 2**63.
        threads: torch's.
        work_dir: Where dense copies are kept between calls; None keeps none.
        kept_dir: Where the networks go that the device keeps; None keeps none.
        allowed_code: Each ``package.module:factory`` that the owner lets a campaign's network be made by.
        retraining: How the fleet's slim base is fine-tuned.
    """

    source: str
    name: str
    recipe: str
    seed: int
    threads: int
    work_dir: Path | None
    kept_dir: Path | None
    allowed_code: tuple[str, ...] = ()
    retraining: RetrainingOptions = PLAIN


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way to the process that asked.

    Attributes:
        kind: ``input``, ``layout``, ``memory``, ``other`` (an error raised on purpose) or ``bug``.
        message: What it said.
        exit_code: Its exit code.
    """

    kind: str
    message: str
    exit_code: int

    def error(self) -> PrunefleetError:
        """The same as an exception."""
        match self.kind:
            case "input":
                return InputError(self.message)
            case "layout":
                return LayoutError(self.message)
            case "memory":
                return InputError(f"there was not enough memory ({self.message}); free some, or give fewer images")
        error = PrunefleetError(self.message)
        error.exit_code = self.exit_code
        return error


class Worker:
    """The jobs, on one device's data."""

    def __init__(self, setup: WorkSetup) -> None:
        self._setup = setup
        self._data: dict[str, SourceData] = {}  # by network specification

    def examine(self) -> SourceSummary:
        """Look at the source before any network is known; see ``data_source.examine_source``."""
        from prunefleet_edge.data_source import examine_source

        return examine_source(self._setup.source, self._setup.name)

    def trace(self, campaign: Campaign, base: bytes) -> tuple[str, tuple[Path, ...]]:
        """The layout's fingerprint, and the files that were skipped; refuses data that nothing can be learned from."""
        from prunefleet_edge.campaign_networks import layout_fingerprint
        from prunefleet_edge.data import check_trainable

        if self._setup.source == NO_DATA:
            return layout_fingerprint(campaign, base, self._setup.allowed_code), ()
        data = self._load(campaign)
        check_trainable(data.samples, self._setup.source)
        return layout_fingerprint(campaign, base, self._setup.allowed_code), data.skipped

    def vote(self, campaign: Campaign, base: bytes) -> Vote:
        """See ``work.prepare_vote``."""
        from prunefleet_edge.work import prepare_vote

        vote = prepare_vote(campaign, base, self._load(campaign).samples, self._options())
        self._tidy()
        return vote

    def personalise(self, campaign: Campaign, decision: Decision, base: bytes, slim_base: bytes | None) -> Outcome:
        """See ``work.personalise``; the network that is kept goes to the disk."""
        from prunefleet_edge.kept_networks import file_name
        from prunefleet_edge.work import personalise

        own = self._load(campaign).samples
        done = personalise(campaign, decision, base, slim_base, own, self._options())
        info = _kept_info(campaign, decision, done.masks, is_fleets=done.verdict.accepted)
        self._save_kept(file_name(campaign, decision.level), done.kept, info)
        self._tidy()
        return done.outcome

    def keep_slim_base(self, campaign: Campaign, decision: Decision, slim_base: bytes) -> None:
        """Keep a slim base as it is, on a device without data; see ``device.Consumer``."""
        from prunefleet_edge.campaign_networks import load_networks
        from prunefleet_edge.kept_networks import service_name
        from prunefleet_edge.ranking import masks_by_order

        model, *_ = load_networks(campaign, decision, slim_base, self._setup.allowed_code)  # it cannot tell which fits
        masks = masks_by_order(decision.prior, decision.widths)
        info = _kept_info(campaign, decision, masks, is_fleets=True, is_fine_tuned=False)
        self._save_kept(service_name(campaign, decision.level), model, info)

    def _save_kept(self, name: str, model: nn.Module, info: KeptInfo) -> None:
        from prunefleet_edge.network_file import save_kept

        if self._setup.kept_dir is not None:
            save_kept(self._setup.kept_dir / name, model, info)

    def _load(self, campaign: Campaign) -> SourceData:
        from prunefleet_edge.data_source import load_source
        from prunefleet_edge.models import parse_spec

        if campaign.model not in self._data:
            data = load_source(self._setup.source, parse_spec(campaign.model), self._setup.name)
            self._data = {campaign.model: data}
        return self._data[campaign.model]

    def _options(self) -> WorkOptions:
        from prunefleet_edge.recipes import recipe_named
        from prunefleet_edge.work import WorkOptions

        return WorkOptions(
            recipe_named(self._setup.recipe),
            self._setup.seed,
            state_dir=self._setup.work_dir,
            allowed_code=self._setup.allowed_code,
            retraining=self._setup.retraining,
        )

    def _tidy(self) -> None:
        if self._setup.work_dir is not None:
            copies = sorted(self._setup.work_dir.glob("dense-*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
            for old in copies[:-MAX_DENSE_COPIES]:
                old.unlink(missing_ok=True)


def _kept_info(
    campaign: Campaign,
    decision: Decision,
    masks: Sequence[BoolArray],
    *,
    is_fleets: bool,
    is_fine_tuned: bool = True,
) -> KeptInfo:
    from prunefleet_edge.network_file import KeptInfo

    table, kept = campaign.cost_table, tuple(tuple(mask.nonzero()[0].tolist()) for mask in masks)
    return KeptInfo(
        model=campaign.model,
        kept=kept,
        campaign_id=campaign.campaign_id,
        level=decision.level,
        decision_fingerprint=decision.fingerprint,
        is_fleets=is_fleets,
        cost=table.cost([len(indices) for indices in kept]),
        dense_cost=table.cost(campaign.layout.dense_widths),
        unit=table.unit,
        group_names=tuple(group.name for group in campaign.layout.groups),
        is_fine_tuned=is_fine_tuned,
    )


def serve(line: connection.Connection, make_worker: Callable[[WorkSetup], object], setup: WorkSetup) -> None:
    """Answer jobs, one at a time, until the line is closed: the worker process's whole life.

    Args:
        line: Job name and arguments come in, ``(True, result)`` or ``(False, Failure)`` goes out.
        make_worker: Makes the object whose methods are the jobs.
        setup: For it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that talks; it ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    worker = make_worker(setup)
    while True:
        try:
            job, arguments = line.recv()
        except EOFError:
            return
        line.send(_answer(worker, job, arguments))


def start_worker(setup: WorkSetup) -> Worker:
    """The worker of a real device."""
    use_threads(setup.threads)
    return Worker(setup)


def _answer(worker: object, job: str, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, getattr(worker, job)(*arguments)
    except LayoutError as error:
        return False, Failure("layout", str(error), error.exit_code)
    except InputError as error:
        return False, Failure("input", str(error), error.exit_code)
    except PrunefleetError as error:
        return False, Failure("other", str(error), error.exit_code)
    except MemoryError as error:
        return False, Failure("memory", str(error), InputError.exit_code)
    except Exception as error:  # noqa: BLE001 - a bug must reach the process that asked, not end this one
        traceback.print_exc()
        return False, Failure("bug", f"the worker failed over {job!r}: {type(error).__name__}: {error}", 70)


def _die_with_parent() -> None:
    """A device that was killed must not leave a process that trains on."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
