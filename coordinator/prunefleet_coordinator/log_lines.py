"""The server's log: one line per event on stderr, ``key=value``, UTC; for people to read and for machines to split.

::

    time=2026-03-01T09:30:00.123Z level=info kind=joined campaign=5f2a… device_id=camera-3 phase=voting …

Never a vector, a tally or a key: what an event may say is listed in ``watch``.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from prunefleet_coordinator.watch import Fact

_log = logging.getLogger(__name__)
_BARE = re.compile(r"[A-Za-z0-9_.:/+-]+")
_PAIRS = re.compile(r"\w+=[^\s=]*( \w+=[^\s=]*)*")
_FACTS = "facts"


class KeyValueFormatter(logging.Formatter):
    """Makes one line of a record, whatever is in it; a traceback becomes one quoted value."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as ``key=value`` pairs."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        facts: Mapping[str, Fact] | None = getattr(record, _FACTS, None)
        line = f"time={when} level={record.levelname.lower()} {_as_pairs(facts) if facts else _told(record)}"
        if record.exc_info:
            line += f" traceback={_value(self.formatException(record.exc_info))}"
        return line


def log_to_stderr() -> None:
    """Send the log of this process to stderr, one line per record; a second call changes nothing."""
    logger = logging.getLogger()
    if any(isinstance(handler.formatter, KeyValueFormatter) for handler in logger.handlers):
        return
    handler = logging.StreamHandler()
    handler.setFormatter(KeyValueFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def log_event(campaign_id: str, kind: str, facts: Mapping[str, Fact]) -> None:
    """Log what ``watch`` tells of a campaign; of the devices still awaited only how many (``campaign status`` has ids).

    Args:
        campaign_id: Which.
        kind: What happened.
        facts: What ``watch.describe`` says of it.
    """
    told: dict[str, Fact] = {"kind": kind, "campaign": campaign_id}
    for name, fact in facts.items():
        if isinstance(fact, list):
            told[f"num_{name}"] = len(fact)
        else:
            told[name] = fact
    _log.info("%s", kind, extra={_FACTS: told})


def _told(record: logging.LogRecord) -> str:
    """What others logged: as it is when they wrote pairs, else as one value."""
    message = record.getMessage()
    return message if _PAIRS.fullmatch(message) else _as_pairs({"message": message})


def _as_pairs(facts: Mapping[str, Fact]) -> str:
    return " ".join(f"{key}={_value(fact)}" for key, fact in facts.items())


def _value(fact: Fact) -> str:
    if isinstance(fact, bool):
        return "true" if fact else "false"
    text = ",".join(fact) if isinstance(fact, list) else str(fact)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=True)
