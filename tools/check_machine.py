"""Before installing: is this Python, venv and disk good enough? Says what is missing and what to do; stdlib only."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

MIN_PYTHON = (3, 11)
MIN_FREE_GB = 4.0
"""torch's CPU build takes about 1 GB installed; the default Linux build several more."""


def problems(venv: Path) -> list[str]:
    """One sentence per thing that is missing; empty when all is well."""
    found = []
    if sys.version_info < MIN_PYTHON:
        got, needed = sys.version.split()[0], ".".join(map(str, MIN_PYTHON))
        found.append(f"Python {needed} or newer is needed, this is {got}; try: make PYTHON=python3.11 ...")
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        found.append("the venv module is missing; on Debian and Ubuntu: apt-get install python3-venv")
    free_gb = shutil.disk_usage(venv.resolve().parent).free / 1e9
    if free_gb < MIN_FREE_GB:
        found.append(
            f"{free_gb:.1f} GB are free beside {venv}, {MIN_FREE_GB:.0f} GB are needed; free some or set VENV="
        )
    return found


def main() -> int:
    """Exit code 0 when the machine will do, 2 otherwise."""
    found = problems(Path(sys.argv[1] if len(sys.argv) > 1 else ".venv"))
    for sentence in found:
        sys.stderr.write(f"cannot install: {sentence}\n")
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main())
