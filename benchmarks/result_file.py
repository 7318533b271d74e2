"""A benchmark's results: rows that are added one at a time, so that what was run is never lost, and run once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prunefleet_shared.document_file import write_whole
from prunefleet_simulation.simulate import versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Row = dict[str, Any]


def cache_folder() -> Path:
    """Where networks go that are worth keeping between runs; never in the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "prunefleet" / "benchmarks"
    path.mkdir(parents=True, exist_ok=True)
    return path


class ResultFile:
    """``benchmarks/results/<name>.json``: ``runs`` (machine, versions, command), ``rows``, ``summary``.

    Args:
        path: The file.
        command: What was called, relative to the repository's root.
        settings: Anything else a reader needs to know.
        key: Columns that say which row it is; a row that is there already is not run again.
        summarise: From rows to the summary.
    """

    def __init__(
        self,
        path: Path,
        command: str,
        settings: Row,
        key: Sequence[str],
        summarise: Callable[[list[Row]], Row],
    ) -> None:
        self._path, self._key, self._summarise = path, tuple(key), summarise
        self._document: Row = {"about": settings, "runs": [], "summary": {}, "rows": []}
        if path.exists():
            self._document |= json.loads(path.read_text(encoding="utf-8"))
        self._document["about"] = settings
        self._run = {"command": command, "versions": versions()}
        self._known = {self._key_of(row) for row in self.rows}

    @property
    def rows(self) -> list[Row]:
        """All rows so far."""
        return self._document["rows"]

    def has(self, **key: object) -> bool:
        """True when that row is there."""
        return self._key_of(key) in self._known

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows and write the file, whole or not at all."""
        runs = self._document["runs"]
        if self._run not in runs:
            runs.append(self._run)
        for row in rows:
            if self._key_of(row) not in self._known:
                self._known.add(self._key_of(row))
                self.rows.append({**row, "run": runs.index(self._run)})
        self.rows.sort(key=lambda row: [str(value) for value in self._key_of(row)])
        self._document["summary"] = self._summarise(self.rows)
        write_whole(self._path, (_dumps(self._document) + "\n").encode(), 0o644)

    def _key_of(self, row: Row) -> tuple[object, ...]:
        return tuple(row[name] for name in self._key)


def _dumps(document: Row) -> str:
    """JSON with one row a line: a diff shows what was added."""
    rows = ",\n".join("    " + json.dumps(row) for row in document["rows"])
    head = json.dumps({name: value for name, value in document.items() if name != "rows"}, indent=2)
    return f'{head[:-2]},\n  "rows": [\n{rows}\n  ]\n}}'
