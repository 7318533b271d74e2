"""The audit for the owner's eyes: every message in words, with sizes, totals and the head to note down."""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from dataclasses import asdict, dataclass
from pathlib import Path

from prunefleet_edge.audit import CUT_LINE, AuditEntry, AuditError, read_audit
from prunefleet_shared.errors import ConfigError


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit holds.

    Attributes:
        entries: The last ones, as many as were asked for.
        messages: Messages of each kind.
        payload_bytes: What they said, in bytes, of each kind.
        head: Hash of the last line.
        problem: Where the chain breaks, or which head is missing; None when all is well.
    """

    entries: tuple[AuditEntry, ...]
    messages: dict[str, int]
    payload_bytes: dict[str, int]
    head: str
    problem: str | None


def report_audit(folder: Path, *, last: int | None = None, expected_head: str | None = None) -> AuditReport:
    """Read and check the audit in ``folder``.

    Args:
        folder: The device's state folder.
        last: How many entries to keep, from the end; None for all.
        expected_head: A head noted earlier, or the first 8 or more digits of it.

    Raises:
        ConfigError: There is no audit, or it cannot be read.
    """
    entries: deque[AuditEntry] = deque(maxlen=last)
    messages: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    head, problem, is_expected_there = "", None, expected_head is None
    try:
        for entry in read_audit(folder):
            entries.append(entry)
            head = entry.hash
            is_expected_there = is_expected_there or head.startswith(str(expected_head))
            if entry.kind != CUT_LINE:
                messages[entry.kind] += 1
                num_bytes[entry.kind] += entry.payload_bytes
    except AuditError as error:
        problem = str(error)
    if problem is None and not is_expected_there:
        problem = f"the head {expected_head} is not in the chain: lines were cut off its end, or it was begun anew"
    return AuditReport(tuple(entries), dict(messages), dict(num_bytes), head, problem)


def audit_json(report: AuditReport) -> str:
    """The report for machines."""
    entries = [{**asdict(entry), "hash": entry.hash} for entry in report.entries]
    facts = asdict(report) | {"entries": entries, "is_intact": report.problem is None}
    return json.dumps(facts, indent=2)


def audit_text(report: AuditReport) -> str:
    """The report for people."""
    lines = [_line(entry) for entry in report.entries]
    total = sum(report.messages.values())
    lines.append("")
    lines.append(f"{total:,} messages left this device, {sum(report.payload_bytes.values()):,} bytes of content:")
    lines += [f"  {kind}: {n:,} messages, {report.payload_bytes[kind]:,} bytes" for kind, n in report.messages.items()]
    if report.problem is None:
        lines.append(f"The chain is whole. Its head, to note down: {report.head}")
    return "\n".join(lines)


def _line(entry: AuditEntry) -> str:
    if entry.kind == CUT_LINE:
        return f"{entry.seq:>6}  {entry.when}  -- {entry.words}"
    size = f"{entry.payload_bytes:,} bytes"
    return f"{entry.seq:>6}  {entry.when}  {entry.kind:<11}  {size:>14}  {entry.words}  sha256 {entry.digest[:16]}"


def check_head(text: str) -> str:
    """A head as the owner noted it, ready to compare.

    Raises:
        ConfigError: Not 8 to 64 hex digits (the owner's to mend).
    """
    if re.fullmatch(r"[0-9a-f]{8,64}", text.strip().lower()) is None:
        msg = f"expect: expected the 64 hex digits of a head (8 are enough), got {text!r}"
        raise ConfigError(msg)
    return text.strip().lower()
