"""Recomputes every decision of a run from what is stored beside it, and says exactly where one does not follow.

It reads nothing but the directory given and trusts nothing in it but arithmetic: the campaign must carry a signature
that fits itself, decisions, rulings and slim bases must be signed with the keys that it names, and a decision must
follow, field by field, from the stored sum. So must a ruling from the sums of its outcome and from the rulings before
it; and only levels may have been decided and rolled out that the search asked for, in the order of the rulings.
Whether that key is the operator's is for the reader to check: ``ReplayedDecision.public_key_digest`` names it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prunefleet_coordinator.accounting import Release
from prunefleet_coordinator.admission import why_campaign_impossible
from prunefleet_coordinator.aggregation import decide, margins_milli
from prunefleet_coordinator.archive import (
    CAMPAIGN_FILE,
    COHORTS_FILE,
    DECISION_FILE,
    LEVEL_FOLDER,
    OUTCOME_COHORTS_FILE,
    OUTCOME_FILE,
    ROLLOUT_COHORTS_FILE,
    ROLLOUT_FILE,
    RULING_FILE,
    SLIM_BASE_FILE,
    STEERING_FILE,
    SUM_FILE,
    read_cohorts,
    read_signed,
    read_total,
)
from prunefleet_coordinator.ruling import Trial, next_act, rule
from prunefleet_coordinator.search import Act, Step
from prunefleet_coordinator.totals import combined_total, why_total_impossible
from prunefleet_shared.acceptance import Ruling
from prunefleet_shared.campaign import Campaign, Decision, SlimBase
from prunefleet_shared.document_file import read_document_file
from prunefleet_shared.documents import SignedDocument, digest, open_document
from prunefleet_shared.errors import ConfigError, InputError, LocalProtocolError, RemoteProtocolError, ReplayError
from prunefleet_shared.messages import SessionKind, Total
from prunefleet_shared.steering_record import SteeringRecord, record_digest, why_record_wrong

T = TypeVar("T")
VOTE_RELEASE = Release(SessionKind.VOTE)
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class ReplayedDecision:
    """A decision that was recomputed and agrees in every field.

    Attributes:
        path: Its file, relative to the directory replayed.
        campaign_id: The campaign decided for.
        level: 0-based level of the schedule.
        widths: Channels kept in each group.
        num_devices: Devices in the sum it follows from.
        fingerprint: Of the decision.
        public_key_digest: SHA-256 (hex) of the campaign's public key (DER).
        margins_milli: For each group, by how much the votes prefer the last kept channel to the first one left out, in
            thousandths of one device's largest possible say; None where none is left out.
        is_promoted: What was ruled of it last; None when nothing was.
    """

    path: str
    campaign_id: str
    level: int
    widths: tuple[int, ...]
    num_devices: int
    fingerprint: str
    public_key_digest: str
    margins_milli: tuple[int | None, ...]
    is_promoted: bool | None = None


def replay(directory: Path) -> list[ReplayedDecision]:
    """Recompute every decision below ``directory``, which may hold one run or many.

    Returns:
        One entry per decision, in the order of their paths; empty when there is none.

    Raises:
        ReplayError: Something does not follow, is missing or is not signed: which file, what was expected, what is
            there.
    """
    folders = {path for path in directory.rglob(f"{LEVEL_FOLDER}*") if path.is_dir()}
    folders |= {path.parent for path in directory.rglob(DECISION_FILE)}
    runs = {folder.parent for folder in folders}
    promoted = {run: _replay_rulings(run) for run in sorted(runs)}
    return [_replay_level(folder, directory, promoted[folder.parent]) for folder in sorted(folders)]


def _replay_rulings(run: Path) -> dict[int, bool]:
    """Recompute every ruling of a run; returns, by level, whether it was promoted when it was last ruled on."""
    _, campaign = _read_campaign(run / CAMPAIGN_FILE)
    num_files = len(list(run.glob(RULING_FILE.format(number="*"))))
    num_sums = len([*run.rglob(OUTCOME_FILE), *run.rglob(ROLLOUT_FILE)]) if campaign.acceptance else 0
    if num_files != num_sums:
        msg = f"{run}: {num_sums} sums of outcomes are to be ruled on, there are {num_files} rulings"
        raise ReplayError(msg)
    rulings: list[Ruling] = []
    step, released = next_act(campaign, (), [VOTE_RELEASE]), [VOTE_RELEASE]
    for number in range(1, num_files + 1):
        path = run / RULING_FILE.format(number=number)
        got = _open(path, "ruling", Ruling, bytes.fromhex(campaign.decision_key))
        kind = SessionKind.ROLLOUT if step.act is Act.ROLL_OUT else SessionKind.OUTCOME
        if step.act is Act.END:
            raise _disagrees(path, "number", "the search's end", f"ruling {number}")
        released.append(Release(kind, step.level))
        trial = _read_trial(run, campaign, kind, step.level)
        expected, step = rule(campaign, trial, rulings, released)
        _compare(path, expected, got)
        rulings.append(got)
    _check_decided(run, campaign, rulings, step)
    return {ruling.level: ruling.is_promoted for ruling in rulings}


def _read_trial(run: Path, campaign: Campaign, kind: SessionKind, level: int) -> Trial:
    """What was tried next, as the search has it, from the level's folder."""
    is_rollout = kind is SessionKind.ROLLOUT
    file, cohorts_file = (ROLLOUT_FILE, ROLLOUT_COHORTS_FILE) if is_rollout else (OUTCOME_FILE, OUTCOME_COHORTS_FILE)
    folder = run / f"{LEVEL_FOLDER}{level}"
    decision = _open(folder / DECISION_FILE, "decision", Decision, bytes.fromhex(campaign.decision_key))
    total, cohorts = read_total(folder / file), read_cohorts(folder / cohorts_file)
    totals = cohorts.totals if cohorts else (total,)
    try:
        combined = combined_total(campaign, kind, totals)
    except (LocalProtocolError, ConfigError) as error:
        msg = f"{folder / file}: no devices could have made this sum: {error}"
        raise ReplayError(msg) from None
    if combined != total:
        msg = f"{folder / file}: it is not what the cohorts beside it come to"
        raise ReplayError(msg)
    return Trial(decision, kind, totals)


def _check_decided(run: Path, campaign: Campaign, rulings: Sequence[Ruling], step: Step) -> None:
    """Only levels may have been decided that the search has asked for."""
    if campaign.acceptance is None:
        return
    asked = {ruling.level for ruling in rulings} | ({step.level} if step.act is Act.TRY else set())
    for path in sorted(run.glob(f"{LEVEL_FOLDER}*")):
        if path.name not in {f"{LEVEL_FOLDER}{level}" for level in asked}:
            raise _disagrees(path, "level", f"one of {sorted(asked)}", path.name)


def _replay_level(folder: Path, directory: Path, promoted: Mapping[int, bool]) -> ReplayedDecision:
    campaign_signed, campaign = _read_campaign(folder.parent / CAMPAIGN_FILE)
    decision_path = folder / DECISION_FILE
    decision = _open(decision_path, "decision", Decision, bytes.fromhex(campaign.decision_key))
    if folder.name != f"{LEVEL_FOLDER}{decision.level}":
        raise _disagrees(decision_path, "level", folder.name, f"{LEVEL_FOLDER}{decision.level}")
    vote_total = read_total(folder / SUM_FILE)
    _compare(decision_path, _recomputed(folder / SUM_FILE, vote_total, campaign, decision.level), decision)
    slim_base = _check_slim_base(folder / SLIM_BASE_FILE, campaign, decision)
    _check_steering(folder / STEERING_FILE, vote_total, campaign, decision, slim_base)
    _check_outcome(folder / OUTCOME_FILE, campaign)
    return ReplayedDecision(
        path=decision_path.relative_to(directory).as_posix(),
        campaign_id=decision.campaign_id,
        level=decision.level,
        widths=decision.widths,
        num_devices=decision.num_devices,
        fingerprint=decision.fingerprint,
        public_key_digest=digest(campaign_signed.public_key),
        margins_milli=margins_milli(campaign, vote_total, decision),
        is_promoted=promoted.get(decision.level),
    )


def _read_campaign(path: Path) -> tuple[SignedDocument, Campaign]:
    signed = read_signed(path)
    campaign = _open(path, "campaign", Campaign, signed.public_key)
    why = why_campaign_impossible(campaign)
    if why:
        msg = f"{path}: {why}"
        raise ReplayError(msg)
    return signed, campaign


def _open(path: Path, kind: str, document_type: type[T], trusted_key: bytes) -> T:
    try:
        return open_document(read_signed(path), kind, document_type, trusted_key)
    except RemoteProtocolError as error:
        msg = f"{path}: {error}"
        raise ReplayError(msg) from None


def _recomputed(sum_path: Path, total: Total, campaign: Campaign, level: int) -> Decision:
    cohorts = read_cohorts(sum_path.with_name(COHORTS_FILE))
    try:
        if cohorts and combined_total(campaign, SessionKind.VOTE, cohorts.totals) != total:
            msg = f"{sum_path}: it is not what the cohorts beside it come to by rule {campaign.cohort.combination}"
            raise ReplayError(msg)
        return decide(campaign, total, level, cohorts.totals if cohorts else ())
    except (LocalProtocolError, ConfigError) as error:
        msg = f"{sum_path}: no decision follows from it: {error}"
        raise ReplayError(msg) from None


def _compare(path: Path, expected: Decision | Ruling, got: Decision | Ruling) -> None:
    for field in dataclasses.fields(expected):
        wanted, found = getattr(expected, field.name), getattr(got, field.name)
        if wanted != found:
            raise _disagrees(path, field.name, wanted, found)


def _check_slim_base(path: Path, campaign: Campaign, decision: Decision) -> SlimBase | None:
    if not path.exists():
        return None  # the trainer has not answered yet
    slim_base = _open(path, "slim_base", SlimBase, bytes.fromhex(campaign.slim_base_key))
    for name, wanted, found in (
        ("campaign_id", decision.campaign_id, slim_base.campaign_id),
        ("level", decision.level, slim_base.level),
        ("decision_fingerprint", decision.fingerprint, slim_base.decision_fingerprint),
    ):
        if wanted != found:
            raise _disagrees(path, name, wanted, found)
    return slim_base


def _check_steering(
    path: Path, vote_total: Total, campaign: Campaign, decision: Decision, slim_base: SlimBase | None
) -> None:
    if not path.exists():
        return  # it stays with the operator, unless somebody wants it checked
    try:
        record = read_document_file(path, SteeringRecord)
    except InputError as error:
        raise ReplayError(str(error)) from None
    if slim_base and slim_base.steering_digest != record_digest(record):
        raise _disagrees(path, "digest", slim_base.steering_digest, record_digest(record))
    outcomes = [read_total(stored) for stored in sorted(path.parent.parent.glob(f"{LEVEL_FOLDER}*/{OUTCOME_FILE}"))]
    why = why_record_wrong(campaign, decision, vote_total, record, outcomes)
    if why:
        msg = f"{path}: {why}"
        raise ReplayError(msg)


def _check_outcome(path: Path, campaign: Campaign) -> None:
    if not path.exists():
        return  # not measured yet
    total = read_total(path)
    why = why_total_impossible(campaign, SessionKind.OUTCOME, total)
    if why:
        msg = f"{path}: no devices could have made this sum: {why}"
        raise ReplayError(msg)


def _disagrees(path: Path, field: str, expected: object, got: object) -> ReplayError:
    wanted, found = _shortened(expected, got)
    return ReplayError(f"{path}: {field} does not follow from what is stored: expected {wanted}, got {found}")


def _shortened(expected: object, got: object) -> tuple[str, str]:
    """Both as text; long ones cut to a window around the place where they begin to differ."""
    wanted, found = str(expected), str(got)
    if max(len(wanted), len(found)) <= _SHOWN_CHARACTERS:
        return wanted, found
    pairs = enumerate(zip(wanted, found, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(wanted), len(found)))
    window = slice(max(0, first - _SHOWN_CHARACTERS // 2), first + _SHOWN_CHARACTERS // 2)
    return f"…{wanted[window]}…", f"…{found[window]}…"
