"""A campaign's run as a folder of readable files, complete enough to recompute every decision from (see ``replay``).

::

    DIR/campaign.json            signed: what was asked
    DIR/level-0/sum.json         the votes' total, as it was when level 0 was decided
    DIR/level-0/cohorts.json     of several cohorts, the total of each
    DIR/level-0/decision.json    signed: what followed from it
    DIR/level-0/slim_base.json   signed: the trainer's answer
    DIR/level-0/steering.json    how the slim base was steered: the trainer's record, put there by the operator
    DIR/level-0/outcome.json     the outcomes' total, once measured
    DIR/level-0/rollout.json     the rollout's total, where canaries had tried it first
    DIR/level-1/...
    DIR/ruling-1.json            signed: which decision was promoted or rolled back; there, too, cohorts of
    DIR/ruling-2.json            its outcome are in level-0/outcome_cohorts.json or level-0/rollout_cohorts.json

A signed document is JSON with its payload as text inside, so that a person can read it and a signature survives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prunefleet_coordinator.state import ClosedRound
from prunefleet_coordinator.store import Store
from prunefleet_shared import document_file
from prunefleet_shared.documents import SignedDocument
from prunefleet_shared.errors import ConfigError, InputError, ReplayError
from prunefleet_shared.messages import SessionKind, Total

CAMPAIGN_FILE = "campaign.json"
SUM_FILE = "sum.json"
COHORTS_FILE = "cohorts.json"
DECISION_FILE = "decision.json"
SLIM_BASE_FILE = "slim_base.json"
STEERING_FILE = "steering.json"
OUTCOME_FILE, OUTCOME_COHORTS_FILE = "outcome.json", "outcome_cohorts.json"
ROLLOUT_FILE, ROLLOUT_COHORTS_FILE = "rollout.json", "rollout_cohorts.json"
LEVEL_FOLDER = "level-"
RULING_FILE = "ruling-{number}.json"


@dataclass(frozen=True, slots=True)
class CohortTotals:
    """The sums of a round's cohorts, in the order in which they were closed."""

    totals: tuple[Total, ...]


def write_run(directory: Path, store: Store, campaign_id: str) -> None:
    """Write all that ``store`` knows of a campaign below ``directory``; may be called again as the campaign goes on.

    Args:
        directory: Created if need be; files of the same names are replaced.
        store: The coordinator's.
        campaign_id: Which campaign.

    Raises:
        ConfigError: The store cannot be read, or the folder not be written (the operator's to mend).
    """
    make_folder(directory)
    _write_signed(directory / CAMPAIGN_FILE, store.load_document(campaign_id, "campaign", 0))
    # The snapshot before the sums: whatever it names was stored before it, also while a server goes on writing.
    snapshot = store.load_snapshot(campaign_id)
    if snapshot is None:
        return
    rounds = {(closed.kind, closed.level): closed for closed in snapshot.closed_rounds}
    for decision in snapshot.decisions:
        level = decision.level
        folder = directory / f"{LEVEL_FOLDER}{level}"
        make_folder(folder)
        _write_round(folder, SUM_FILE, COHORTS_FILE, rounds.get((SessionKind.VOTE, 0)))
        _write_signed(folder / DECISION_FILE, store.load_document(campaign_id, "decision", level))
        _write_signed(folder / SLIM_BASE_FILE, store.load_document(campaign_id, "slim_base", level))
        _write_round(folder, OUTCOME_FILE, OUTCOME_COHORTS_FILE, rounds.get((SessionKind.OUTCOME, level)))
        _write_round(folder, ROLLOUT_FILE, ROLLOUT_COHORTS_FILE, rounds.get((SessionKind.ROLLOUT, level)))
    for ruling in snapshot.rulings:
        path = directory / RULING_FILE.format(number=ruling.number)
        _write_signed(path, store.load_document(campaign_id, "ruling", ruling.number))


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        ConfigError: It cannot be made (the user's to mend).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: expected to make a folder there, got {error.strerror}; choose another place"
        raise ConfigError(msg) from None


def read_signed(path: Path) -> SignedDocument:
    """A signed document from its file; its signature is not checked yet.

    Raises:
        ReplayError: The file is missing, unreadable or no signed document.
    """
    try:
        return document_file.read_signed(path)
    except InputError as error:
        raise ReplayError(str(error)) from None


def read_total(path: Path) -> Total:
    """A sum from its file.

    Raises:
        ReplayError: The file is missing, unreadable or no sum.
    """
    try:
        return document_file.read_document_file(path, Total)
    except InputError as error:
        raise ReplayError(str(error)) from None


def read_cohorts(path: Path) -> CohortTotals | None:
    """The sums of several cohorts from their file; None if there is no such file.

    Raises:
        ReplayError: The file is no such thing.
    """
    if not path.exists():
        return None
    try:
        return document_file.read_document_file(path, CohortTotals)
    except InputError as error:
        raise ReplayError(str(error)) from None


def _write_signed(path: Path, signed: SignedDocument | None) -> None:
    if signed:
        document_file.write_signed(path, signed)


def _write_round(folder: Path, file: str, cohorts_file: str, closed: ClosedRound | None) -> None:
    if closed:
        document_file.write_document(folder / file, closed.total)
    if closed and closed.cohorts:
        totals = CohortTotals(tuple(cohort.total for cohort in closed.cohorts))
        document_file.write_document(folder / cohorts_file, totals)
